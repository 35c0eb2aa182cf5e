/** `check` on server, roles, slots and settings. Where a failure offers SQL, that SQL is run and must mend it. */
import pg from 'pg';
import { expect, test, vi } from 'vitest';
import type { JsonObject } from '../src/airbyte/protocol.ts';
import { check } from '../src/check.ts';
import { loadSpec, parseConfig } from '../src/config.ts';
import { checked, fill, lineAbout, reader, sqlIn } from './check-answer.ts';
import { configuredCatalog, run } from './connector.ts';
import { createDatabase, type Database, hasCompression, until } from './database.ts';
import { createRoles } from './roles.ts';

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
  lineAbout(answer.warnings, /Owner: new chunks are looked for and published by this role/);
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

test('a columnstore without the guard trigger: the SQL mends it', async ({ skip }) => {
  await using db = await createDatabase();
  skip(!(await hasCompression(db)), 'the Apache-only build has no columnstore');
  await fill(db);
  expect((await checked(db)).text).not.toContain('compressed');
  await db.query('ALTER TABLE metrics SET (timescaledb.compress)');
  const line = lineAbout((await checked(db)).warnings, /in the changes of public\.metrics\./);
  await db.query(sqlIn(line));
  expect((await checked(db)).text).not.toContain('compressed');
  // TimescaleDB 2.19 refuses ALTER TABLE ... DISABLE TRIGGER where there is a columnstore.
  await db.query(`UPDATE pg_trigger SET tgenabled = 'D' WHERE tgname = 'source_timescaledb_guard'`);
  lineAbout((await checked(db)).warnings, /in the changes of public\.metrics\./);
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
    expect(lineAbout(answer.warnings, /in use by server process \d+ \(/)).toContain(
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

test('a schema that does not exist is named', async () => {
  await using db = await createDatabase();
  await fill(db);
  const answer = await checked(db, {
    schemas: ['Nowhere'],
  });
  lineAbout(answer.failures, /schema "Nowhere" does not exist/);
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
  type Query = (...input: readonly unknown[]) => Promise<pg.QueryResult<Record<string, unknown>>>;
  const query: Query = Reflect.get(pg.Client.prototype, 'query');
  const spy = vi.spyOn(pg.Client.prototype as { query: Query }, 'query');
  spy.mockImplementation(async function (this: pg.Client, ...input: readonly unknown[]) {
    const result = await Reflect.apply(query, this, input);
    for (const row of result.rows ?? []) {
      for (const [name, value] of Object.entries(changes)) if (name in row) row[name] = value;
    }
    return result;
  });
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
  const changes = { markers: 'off', license: 'timescale', limit: 2 ** 33, safe: 2 ** 20 };
  const { failures, warnings } = await checkedWith(db, changes);
  expect(failures).toEqual([]);
  lineAbout(warnings, /enable_compression_wal_markers is off/);
  lineAbout(warnings, /is lost after another 1\.0 MB of WAL/);
});
