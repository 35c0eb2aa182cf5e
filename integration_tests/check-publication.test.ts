/** `check` on publications. Where a failure offers SQL, that SQL is run and must mend it. */
import { expect, test } from 'vitest';
import { type Answer, checked, fill, lineAbout, reader, sqlIn } from './check-answer.ts';
import { configuredCatalog, run } from './connector.ts';
import { createDatabase, type Database, hasCompression } from './database.ts';
import { createRoles } from './roles.ts';

const VERIFY = { publication_management: 'verify only' } as const;

test('a reader needs a publication made by somebody else, and is told which chunks it lacks', async () => {
  await using roles = await createRoles();
  await using db = await createDatabase();
  await fill(db);
  const role = await reader(roles, db);
  const before = await checked(db, { username: role });
  expect(before.failures).toHaveLength(1);
  const line = lineAbout(before.failures, /does not exist/);
  await db.query(sqlIn(line).replace(/ Or let .*$/, ''));
  const covered = await checked(db, { username: role });
  expect(covered.failures).toEqual([]);
  expect(covered.warnings).toHaveLength(1);
  lineAbout(
    covered.warnings,
    /Read only: new chunks of public\.metrics are seen but nobody publishes them/,
  );

  await db.query(`INSERT INTO metrics VALUES ('2026-02-01Z', 1, 1), ('2026-03-01Z', 1, 1)`);
  const lacking = await checked(db, { username: role });
  expect(lacking.failures).toEqual([]);
  const chunks = lineAbout(lacking.warnings, /lacks 2 chunks of public\.metrics/);
  expect(sqlIn(chunks)).toMatch(/ADD TABLE ONLY "_timescaledb_internal"\."[^"]+", ONLY /);
  await db.query(sqlIn(chunks));
  expect((await checked(db, { username: role })).warnings).toHaveLength(1);
});

test('verify only: uncovered tables are a warning, unless nothing is covered', async () => {
  await using db = await createDatabase();
  await fill(db);
  await db.query('CREATE TABLE events (note text)');
  await db.query(`CREATE PUBLICATION ${db.publication}`);
  await db.query(`SELECT pg_create_logical_replication_slot('${db.slot}', 'pgoutput')`);
  const none = await checked(db, VERIFY);
  expect(none.failures).toHaveLength(1);
  const all = lineAbout(
    none.failures,
    /does not cover public\.metrics, public\.devices, public\.events, and with/,
  );
  // A table without a key must not be published with updates before it has an identity.
  expect(sqlIn(all)).toMatch(/^ALTER TABLE "public"\."events" REPLICA IDENTITY FULL;/);

  await db.query(`ALTER PUBLICATION ${db.publication} ADD TABLE devices`);
  const some = await checked(db, VERIFY);
  expect(some.failures).toEqual([]);
  const line = lineAbout(some.warnings, /does not cover public\.metrics, public\.events, and/);
  await db.query(sqlIn(line));
  const mended = await checked(db, VERIFY);
  expect(mended.failures).toEqual([]);
  expect(mended.warnings.filter((warning) => /cover|lack/.test(warning))).toEqual([]);
  // The chunks too.
  expect(
    await db.value('SELECT count(*)::int FROM pg_publication_tables WHERE pubname = $1', [
      db.publication,
    ]),
  ).toBe(7);
});

test('a role that may make a publication, but owns only some of the tables', async () => {
  await using roles = await createRoles();
  await using db = await createDatabase();
  await fill(db);
  const role = await reader(roles, db);
  await db.query(`GRANT CREATE ON DATABASE ${db.name} TO ${role}`);
  const none = await checked(db, { username: role });
  expect(none.failures).toHaveLength(1);
  lineAbout(
    none.failures,
    /does not cover public\.metrics, public\.devices, and this role may not/,
  );
  await db.query(`ALTER TABLE devices OWNER TO ${role}`);
  const some = await checked(db, { username: role });
  expect(some.failures).toEqual([]);
  lineAbout(some.warnings, /does not cover public\.metrics, and this role may not add them/);
});

test('long lists are cut, and say so', async () => {
  await using db = await createDatabase();
  await db.query(`
    DO $$ BEGIN FOR i IN 10..34 LOOP
      EXECUTE format('CREATE TABLE t%s (id int PRIMARY KEY)', i);
    END LOOP; END $$`);
  await db.query(`CREATE PUBLICATION ${db.publication}`);
  const { failures } = await checked(db, VERIFY);
  const line = lineAbout(failures, /does not cover/);
  expect(line).toContain('public.t29 and 5 more, and');
  expect(line).toMatch(/ONLY "public"\."t29"; \/\* and 5 more \*\/$/);
  expect(line).not.toContain('t30');
});

test('a publication without deletes: the SQL mends it', async () => {
  await using db = await createDatabase();
  await fill(db);
  await db.query(`CREATE PUBLICATION ${db.publication} FOR TABLE devices
                  WITH (publish = 'insert, update')`);
  const answer = await checked(db);
  expect(answer.failures).toHaveLength(1);
  await db.query(sqlIn(lineAbout(answer.failures, /does not publish deletes/)));
  expect((await checked(db)).failures).toEqual([]);
});

test('tables without identity in a publication with updates: both ways out mend it', async () => {
  await using db = await createDatabase();
  await fill(db);
  await db.query(`
    CREATE TABLE events (note text);
    CREATE TABLE late (id int PRIMARY KEY DEFERRABLE);
    CREATE TABLE readings (time timestamptz NOT NULL);
    SELECT create_hypertable('readings', 'time');
    INSERT INTO readings VALUES ('2026-01-01Z'), ('2026-03-01Z');
    INSERT INTO events VALUES ('a');
    CREATE PUBLICATION ${db.publication} FOR TABLE events, late, readings, devices`);
  await expect(db.query(`UPDATE events SET note = 'b'`)).rejects.toThrow(/replica identity/);
  const answer = await checked(db);
  expect(answer.failures).toHaveLength(1);
  const line = lineAbout(answer.failures, /no replica identity/);
  expect(line).toContain('public.events, public.late, public.readings,');
  const [identity = '', removal = ''] = line.split(' Or take them out: ');
  expect((await checkedAfter(db, removal)).failures).toEqual([]);
  await db.query(`ALTER PUBLICATION ${db.publication} ADD TABLE events, late`);
  await db.query(`ALTER PUBLICATION ${db.publication} ADD TABLE readings`);
  expect((await checked(db)).failures).toHaveLength(1);
  expect((await checkedAfter(db, sqlIn(identity))).failures).toEqual([]);
  await db.query(`UPDATE events SET note = 'b'; UPDATE readings SET time = time`);
});

async function checkedAfter(db: Database, sql: string): Promise<Answer> {
  await db.query(sql);
  return checked(db);
}

test('tables without identity are published with inserts only, which check says', async () => {
  await using db = await createDatabase();
  await db.query(`
    CREATE TABLE events (note text);
    CREATE TABLE late (id int PRIMARY KEY DEFERRABLE);
    INSERT INTO late VALUES (1)`);
  const before = await checked(db);
  expect(before.failures).toEqual([]);
  lineAbout(before.warnings, /Updates and deletes of public\.events, public\.late are not seen/);
  const config = db.config();
  const catalog = configuredCatalog((await run('discover', { config })).succeeded().catalog());
  const first = (await run('read', { config, catalog })).succeeded();
  await db.query('UPDATE late SET id = 2');
  const after = await checked(db);
  expect(after.failures).toEqual([]);
  await db.query(sqlIn(lineAbout(after.warnings, /are not seen/)));
  const mended = await checked(db);
  expect(mended.failures).toEqual([]);
  expect(mended.warnings).toEqual([]);
  (await run('read', { config, catalog, state: first.lastState() })).succeeded();
  expect((await checked(db)).warnings).toEqual([]);
});

test('PostgreSQL 18: a full identity and a generated column: read gives advice that helps', async ({
  skip,
}) => {
  await using db = await createDatabase();
  const version = Number(await db.value('SHOW server_version_num'));
  skip(version < 180000, 'up to PostgreSQL 17 the full identity does');
  await db.query(`
    CREATE TABLE twice (id int NOT NULL, double int GENERATED ALWAYS AS (id * 2) STORED);
    ALTER TABLE twice REPLICA IDENTITY FULL;
    INSERT INTO twice VALUES (1);
    CREATE PUBLICATION ${db.publication} FOR TABLE twice`);
  await expect(db.query('UPDATE twice SET id = 2')).rejects.toThrow(/cannot update table/);
  const config = db.config();
  const catalog = configuredCatalog((await run('discover', { config })).succeeded().catalog());
  const message = (await run('read', { config, catalog })).errors()[0]?.message ?? '';
  expect(message).toMatch(/Give it a primary key, .* FULL does not do on PostgreSQL 18/);
  expect(message).not.toContain('ALTER TABLE');
  await db.query(/ALTER PUBLICATION [^;]*;/.exec(message)?.[0] ?? '');
  await db.query('UPDATE twice SET id = 2');
  (await run('read', { config, catalog })).succeeded();
});

test('way 7: publications of everything are warned about', async () => {
  await using db = await createDatabase();
  await fill(db);
  await db.query(`CREATE PUBLICATION ${db.publication} FOR ALL TABLES`);
  const all = await checked(db);
  lineAbout(all.warnings, /is FOR ALL TABLES/);
  // TimescaleDB's own relations without a key are not the user's to mend.
  expect(all.failures).toEqual([]);
  await db.query(`DROP PUBLICATION ${db.publication}`);
  await db.query(
    `CREATE PUBLICATION ${db.publication} FOR TABLES IN SCHEMA _timescaledb_internal, public`,
  );
  const schema = await checked(db);
  const line = lineAbout(schema.warnings, /holds the schema _timescaledb_internal/);
  await db.query(/ALTER PUBLICATION [^;]*;/.exec(line)?.[0] ?? '');
  expect((await checked(db)).warnings.join('\n')).not.toContain('_timescaledb_internal:');
});

test('way 7: a continuous aggregate in the publication: refreshes fail, and the SQL mends it', async ({
  skip,
}) => {
  await using db = await createDatabase();
  skip(!(await hasCompression(db)), 'the Apache-only build has no continuous aggregates');
  await fill(db);
  await db.query(`
    CREATE MATERIALIZED VIEW daily WITH (timescaledb.continuous) AS
      SELECT time_bucket('1 day', time) AS day, count(*) FROM metrics GROUP BY 1 WITH NO DATA`);
  await db.query(`CALL refresh_continuous_aggregate('daily', NULL, NULL)`);
  const table = await db.value<string>(
    `SELECT format('%I.%I', materialization_hypertable_schema, materialization_hypertable_name)
       FROM timescaledb_information.continuous_aggregates`,
  );
  await db.query(`CREATE PUBLICATION ${db.publication} FOR TABLE devices, ${table}`);
  const answer = await checked(db);
  expect(answer.failures).toHaveLength(1);
  const line = lineAbout(answer.failures, /public\.daily \(a continuous aggregate/);
  await db.query(sqlIn(line.split(' Or take')[0] ?? ''));
  expect((await checked(db)).failures).toEqual([]);
});

test('the event trigger that publishes new chunks is recognised', async () => {
  await using db = await createDatabase();
  await fill(db);
  await db.query(`
    CREATE FUNCTION add_chunk() RETURNS event_trigger LANGUAGE plpgsql AS $$
      BEGIN IF false THEN EXECUTE 'ALTER PUBLICATION p ADD TABLE c'; END IF; END $$;
    CREATE EVENT TRIGGER add_chunk ON ddl_command_end EXECUTE FUNCTION add_chunk()`);
  const answer = await checked(db);
  expect(answer.warnings).toEqual([]);
  expect(answer.text).toMatch(
    /"INFO","message":"Set up by a DBA: .*the event trigger \\"add_chunk/,
  );
});
