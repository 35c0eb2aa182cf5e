/** `check`, requirement by requirement. Where a failure offers SQL, that SQL is run and must mend it. */
import pg from 'pg';
import { expect, test, vi } from 'vitest';
import type { JsonObject } from '../src/airbyte/protocol.ts';
import { check } from '../src/check.ts';
import { loadSpec, parseConfig } from '../src/config.ts';
import { configuredCatalog, run } from './connector.ts';
import { createDatabase, type Database, hasCompression, until } from './database.ts';
import { createRoles, type Roles } from './roles.ts';

type Answer = {
  readonly succeeded: boolean;
  readonly failures: readonly string[];
  readonly warnings: readonly string[];
  readonly text: string;
};

async function checked(db: Database, overrides: JsonObject = {}): Promise<Answer> {
  const result = await run('check', { config: db.config(overrides) });
  const { status, message } = result.connectionStatus();
  expect(result.exitCode).toBe(0);
  return {
    succeeded: status === 'SUCCEEDED',
    failures: message?.split('\n') ?? [],
    warnings: result.logs().filter((line) => line.startsWith('WARN ')),
    text: result.lines.join('\n'),
  };
}

/** The one line that says it. */
function lineAbout(lines: readonly string[], pattern: RegExp): string {
  const found = lines.filter((line) => pattern.test(line));
  expect(found, `${pattern} in\n${lines.join('\n')}`).toHaveLength(1);
  return found[0] ?? '';
}

/** The SQL that a line offers: from its first statement to its last semicolon. */
function sqlIn(line: string): string {
  const sql = /(?:ALTER (?:TABLE|ROLE|PUBLICATION)|CREATE|SELECT|DROP) [^]*;/.exec(line)?.[0];
  expect(sql, line).toBeDefined();
  return sql ?? '';
}

/** Two hypertables' worth of chunks, and a table: all with keys. */
async function fill(db: Database, owner = 'postgres'): Promise<void> {
  await db.query(`
    CREATE TABLE metrics (time timestamptz NOT NULL, device int NOT NULL, value float8,
                          PRIMARY KEY (time, device));
    SELECT create_hypertable('metrics', 'time', chunk_time_interval => interval '1 day');
    INSERT INTO metrics SELECT '2026-01-01Z'::timestamptz + day * interval '1 day', 1, day
                          FROM generate_series(0, 3) day;
    CREATE TABLE devices (id int PRIMARY KEY, name text);
    ALTER TABLE metrics OWNER TO ${owner};
    ALTER TABLE devices OWNER TO ${owner}`);
}

async function reader(roles: Roles, db: Database): Promise<string> {
  const role = await roles.create('LOGIN REPLICATION');
  await db.query(`GRANT SELECT ON ALL TABLES IN SCHEMA public TO ${role}`);
  return role;
}

function cdc(db: Database, settings: JsonObject = {}): JsonObject {
  return {
    method: 'CDC',
    replication_slot: db.slot,
    publication: db.publication,
    ...settings,
  };
}

const VERIFY = { publication_management: 'verify only' } as const;

test('a superuser has all it needs, and check changes nothing', async () => {
  await using db = await createDatabase();
  await fill(db);
  const answer = await checked(db);
  expect(answer.failures).toEqual([]);
  expect(answer.succeeded).toBe(true);
  expect(answer.warnings).toHaveLength(1);
  lineAbout(answer.warnings, /New chunks are looked for and published by this role/);
  expect(await db.slots()).toEqual([]);
  expect(await db.value('SELECT count(*)::int FROM pg_publication')).toBe(0);
});

test('check works in read-only transactions', async () => {
  await using roles = await createRoles();
  await using db = await createDatabase();
  const owner = await roles.create('LOGIN REPLICATION');
  await db.query(`GRANT CREATE ON DATABASE ${db.name} TO ${owner}`);
  await fill(db, owner);
  await db.query(`ALTER ROLE ${owner} SET default_transaction_read_only = on`);
  expect((await checked(db, { username: owner })).failures).toEqual([]);
});

test('an owner who may create publications has all it needs, and without CREATE is told so', async () => {
  await using roles = await createRoles();
  await using db = await createDatabase();
  const owner = await roles.create('LOGIN REPLICATION');
  await fill(db, owner);
  const before = await checked(db, { username: owner });
  const line = lineAbout(before.failures, /publication "pub_\w+" does not exist/);
  expect(before.failures).toHaveLength(1);
  const grant = /GRANT CREATE ON DATABASE [^;]*;/.exec(line)?.[0] ?? '';
  await db.query(grant);
  expect((await checked(db, { username: owner })).failures).toEqual([]);
  // What check promises a read must be able to do.
  const config = db.config({ username: owner });
  const catalog = configuredCatalog((await run('discover', { config })).succeeded().catalog());
  (await run('read', { config, catalog })).succeeded();
  expect((await checked(db, { username: owner })).failures).toEqual([]);
});

test('without REPLICATION: the SQL mends it', async () => {
  await using roles = await createRoles();
  await using db = await createDatabase();
  const owner = await roles.create('LOGIN');
  await db.query(`GRANT CREATE ON DATABASE ${db.name} TO ${owner}`);
  await fill(db, owner);
  const answer = await checked(db, { username: owner });
  expect(answer.failures).toHaveLength(1);
  const line = lineAbout(answer.failures, /may not use replication slots/);
  await db.query(/ALTER ROLE [^;]*;/.exec(line)?.[0] ?? '');
  expect((await checked(db, { username: owner })).succeeded).toBe(true);
});

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
  lineAbout(covered.warnings, /New chunks of public\.metrics are seen but nobody publishes them/);

  await db.query(`INSERT INTO metrics VALUES ('2026-02-01Z', 1, 1), ('2026-03-01Z', 1, 1)`);
  const lacking = await checked(db, { username: role });
  expect(lacking.failures).toEqual([]);
  const chunks = lineAbout(lacking.warnings, /lacks 2 chunks of public\.metrics/);
  expect(sqlIn(chunks)).toMatch(/ADD TABLE ONLY "_timescaledb_internal"\."[^"]+", ONLY /);
  await db.query(sqlIn(chunks));
  expect((await checked(db, { username: role })).warnings).toHaveLength(1);
});

test('verify only: every failure at once, each with its SQL', async () => {
  await using roles = await createRoles();
  await using db = await createDatabase();
  await fill(db);
  const role = await roles.create('LOGIN');
  await db.query(`GRANT SELECT ON ALL TABLES IN SCHEMA public TO ${role}`);
  const overrides = { ...VERIFY, username: role, schemas: ['public', 'Nowhere'] };
  const answer = await checked(db, overrides);
  expect(answer.failures).toHaveLength(4);
  lineAbout(answer.failures, /schema "Nowhere" does not exist/);
  const sql = [
    lineAbout(answer.failures, /publication "pub_\w+" does not exist/),
    lineAbout(answer.failures, /slot "slot_\w+" does not exist/),
  ].map(sqlIn);
  expect(sql[0]).toContain('"public"."devices"');
  expect(sql[0]).toContain('"public"."metrics"');
  expect(sql[1]).toContain(`pg_create_logical_replication_slot('${db.slot}', 'pgoutput')`);
  const grant = lineAbout(answer.failures, /may not use replication slots/);
  await db.query(/ALTER ROLE [^;]*;/.exec(grant)?.[0] ?? '');
  for (const statement of sql) await db.query(statement);
  expect((await checked(db, { ...overrides, schemas: ['public'] })).failures).toEqual([]);
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

test('publications of everything are warned about', async () => {
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

test('a continuous aggregate in the publication: refreshes fail, and the SQL mends it', async ({
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

test('a columnstore without the guard trigger: the SQL mends it', async ({ skip }) => {
  await using db = await createDatabase();
  skip(!(await hasCompression(db)), 'the Apache-only build has no columnstore');
  await fill(db);
  expect((await checked(db)).text).not.toContain('compressed');
  await db.query('ALTER TABLE metrics SET (timescaledb.compress)');
  const line = lineAbout((await checked(db)).warnings, /in the changes of public\.metrics\./);
  await db.query(sqlIn(line));
  expect((await checked(db)).text).not.toContain('compressed');
  await db.query('ALTER TABLE metrics DISABLE TRIGGER source_timescaledb_guard');
  lineAbout((await checked(db)).warnings, /in the changes of public\.metrics\./);
});

test('the event trigger that publishes new chunks is recognised', async () => {
  await using db = await createDatabase();
  await fill(db);
  await db.query(`
    CREATE FUNCTION add_chunk() RETURNS event_trigger LANGUAGE plpgsql AS $$
      BEGIN IF false THEN EXECUTE 'ALTER PUBLICATION p ADD TABLE c'; END IF; END $$;
    CREATE EVENT TRIGGER add_chunk ON ddl_command_end EXECUTE FUNCTION add_chunk()`);
  const answer = await checked(db);
  expect(answer.warnings).toHaveLength(1);
  lineAbout(answer.warnings, /published by the event trigger "add_chunk"/);
});

test('a slot of another plugin, and a slot in use', async () => {
  await using db = await createDatabase();
  await fill(db);
  await db.query(`CREATE PUBLICATION ${db.publication} FOR TABLE devices`);
  await db.query(`SELECT pg_create_logical_replication_slot('${db.slot}', 'test_decoding')`);
  lineAbout((await checked(db)).failures, /uses the plugin test_decoding, not pgoutput/);
  await db.query(`SELECT pg_drop_replication_slot('${db.slot}');
                  SELECT pg_create_logical_replication_slot('${db.slot}', 'pgoutput')`);
  expect((await checked(db)).failures).toEqual([]);

  const consumer = new pg.Client({ connectionString: db.url, replication: 'database' } as object);
  consumer.on('error', () => undefined);
  await consumer.connect();
  const streaming = consumer
    .query(
      `START_REPLICATION SLOT ${db.slot} LOGICAL 0/0 (proto_version '1', publication_names '${db.publication}')`,
    )
    .catch(() => undefined);
  try {
    await until('the slot is in use', async () => (await db.slots())[0]?.active === true);
    const pid = await db.value('SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1', [
      db.slot,
    ]);
    const answer = await checked(db);
    expect(answer.failures).toEqual([]);
    expect(lineAbout(answer.warnings, /in use by another consumer/)).toContain(
      `server process ${pid as number}`,
    );
  } finally {
    await db.query(
      'SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1',
      [db.slot],
    );
    await streaming;
    await consumer.end().catch(() => undefined);
  }
});

test('a slot of another database', async () => {
  await using db = await createDatabase();
  await using other = await createDatabase();
  await fill(db);
  await other.query(`SELECT pg_create_logical_replication_slot('${other.slot}', 'pgoutput')`);
  const answer = await checked(db, {
    replication_method: cdc(db, { replication_slot: other.slot }),
  });
  lineAbout(answer.failures, new RegExp(`belongs to the database ${other.name}`));
});

test('Standard: something must be readable; nothing of replication is asked for', async () => {
  await using roles = await createRoles();
  await using db = await createDatabase();
  await fill(db);
  const role = await roles.create('LOGIN');
  const overrides = { username: role, replication_method: { method: 'Standard' } };
  const answer = await checked(db, overrides);
  expect(answer.failures).toHaveLength(1);
  lineAbout(answer.failures, /There are 2, but the role "\w+" may read none of them: GRANT/);
  const unchecked = await checked(db, { ...overrides, check_privileges: false });
  lineAbout(unchecked.failures, /may read none of them/);
  await db.query(`GRANT SELECT ON devices TO ${role}`);
  expect(await checked(db, overrides)).toMatchObject({ succeeded: true, warnings: [] });
  const some = await checked(db, { ...overrides, check_privileges: false });
  expect(some.succeeded).toBe(true);
  lineAbout(some.warnings, /may not select from public\.metrics\./);
});

test('row level security is warned about', async () => {
  await using roles = await createRoles();
  await using db = await createDatabase();
  await fill(db);
  const role = await reader(roles, db);
  await db.query('ALTER TABLE devices ENABLE ROW LEVEL SECURITY');
  await db.query(`CREATE PUBLICATION ${db.publication} FOR TABLE devices, metrics`);
  const { warnings } = await checked(db, { username: role });
  lineAbout(warnings, /Row level security on "public\.devices"/);
});

test('without the extension only ordinary tables are read, which is worth a line', async () => {
  await using db = await createDatabase();
  await db.query('DROP EXTENSION timescaledb');
  await db.query('CREATE TABLE devices (id int PRIMARY KEY)');
  const answer = await checked(db);
  expect(answer.succeeded).toBe(true);
  expect(answer.warnings).toHaveLength(1);
  lineAbout(answer.warnings, /TimescaleDB is not installed in the database/);
  expect((await checked(db, { timescaledb_support: false })).warnings).toEqual([]);
});

test('settings that are not there yet are refused, and warned about where they only tune', async () => {
  await using db = await createDatabase();
  await fill(db);
  const answer = await checked(db, {
    replication_method: { method: 'Xmin' },
    schemas: ['Nowhere'],
    timescaledb_max_memory_mb: 100,
  });
  lineAbout(answer.failures, /Xmin is not supported/);
  lineAbout(answer.failures, /schema "Nowhere" does not exist/);
  lineAbout(answer.warnings, /timescaledb_max_memory_mb/);
  // Without its tunnel a host is another host: nothing is sent there.
  const tunnelled = await checked(db, {
    port: 1,
    tunnel_method: {
      tunnel_method: 'SSH_PASSWORD_AUTH',
      tunnel_host: 'bastion',
      tunnel_port: 22,
      tunnel_user: 'me',
      tunnel_user_password: 'geheim',
    },
  });
  expect(tunnelled.failures).toHaveLength(1);
  lineAbout(tunnelled.failures, /tunnel_method/);
  expect(tunnelled.text).not.toContain('geheim');
});

test('the number of queries does not grow with tables and chunks', async () => {
  await using db = await createDatabase();
  await fill(db);
  const config = parseConfig(db.config(), await loadSpec());
  const query = vi.spyOn(pg.Client.prototype, 'query');
  const count = async (): Promise<number> => {
    query.mockClear();
    expect((await check(config)).failures).toEqual([]);
    return query.mock.calls.length;
  };
  try {
    const few = await count();
    await db.query(`
      INSERT INTO metrics SELECT '2027-01-01Z'::timestamptz + day * interval '1 day', 1, day
                            FROM generate_series(0, 30) day;
      DO $$ BEGIN FOR i IN 10..40 LOOP
        EXECUTE format('CREATE TABLE t%s (id int)', i);
      END LOOP; END $$`);
    query.mockClear();
    expect(await count()).toBe(few);
    expect(few).toBeGreaterThan(10);
  } finally {
    query.mockRestore();
  }
});

/** Runs check in this process, on a server that says something else about itself. */
async function checkedWith(
  db: Database,
  changes: JsonObject,
  overrides: JsonObject = {},
): Promise<Awaited<ReturnType<typeof check>>> {
  const { query } = pg.Client.prototype;
  const spy = vi.spyOn(pg.Client.prototype, 'query');
  spy.mockImplementation(async function (this: pg.Client, ...input: readonly unknown[]) {
    const result = (await Reflect.apply(query, this, input)) as pg.QueryResult<JsonObject>;
    for (const row of result.rows ?? []) {
      for (const [name, value] of Object.entries(changes)) if (name in row) row[name] = value;
    }
    return result;
  } as typeof query);
  try {
    return await check(parseConfig(db.config(overrides), await loadSpec()));
  } finally {
    spy.mockRestore();
  }
}

test('servers that cannot serve changes: all that is wrong with them at once', async () => {
  await using db = await createDatabase();
  await fill(db);
  const changes = { standby: true, walLevel: 'replica', slotsUsed: 59, slots: 60 };
  const { failures } = await checkedWith(db, changes);
  expect(failures).toEqual([
    expect.stringMatching(/is a standby/),
    expect.stringMatching(/wal_level is "replica"/),
    expect.stringMatching(/has 1 free replication slots, and 2 are needed/),
  ]);
  const standard = { replication_method: { method: 'Standard' } };
  expect((await checkedWith(db, changes, standard)).failures).toEqual([]);
});

test('on servers that are too old nothing else is asked', async () => {
  await using db = await createDatabase();
  const changes = { version: 130018, versionText: '13.18', timescaleVersion: '2.12.0' };
  const { failures } = await checkedWith(db, changes, { schemas: ['Nowhere'] });
  expect(failures).toEqual([
    expect.stringMatching(/PostgreSQL 13\.18/),
    expect.stringMatching(/TimescaleDB is 2\.12\.0/),
  ]);
});

test('compression without markers, and a slot about to be lost, are warned about', async () => {
  await using db = await createDatabase();
  await fill(db);
  await db.query(`SELECT pg_create_logical_replication_slot('${db.slot}', 'pgoutput')`);
  const changes = { markers: 'off', license: 'timescale', slotLimit: 2 ** 33, safe: 2 ** 20 };
  const { failures, warnings } = await checkedWith(db, changes);
  expect(failures).toEqual([]);
  lineAbout(warnings, /enable_compression_wal_markers is off/);
  lineAbout(warnings, /is lost after another 0\.00 GB/);
});
