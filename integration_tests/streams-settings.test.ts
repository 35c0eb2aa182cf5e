/** Settings of every update method: what is listed, what may be read, how much at once, how often a state. */
import { expect, test } from 'vitest';
import { run } from './connector.ts';
import { createDatabase, type Database, until } from './database.ts';
import { createRoles } from './roles.ts';
import { atEachState, connectTo, DAY_ZERO, sessions } from './scenario.ts';

const STANDARD = { replication_method: { method: 'Standard' } };
const IN_FULL = { syncMode: 'full_refresh' } as const;

async function discovered(
  db: Database,
  overrides: object,
): Promise<readonly (readonly [string, string, readonly string[], boolean])[]> {
  const config = db.config({ ...STANDARD, ...overrides });
  const { streams } = (await run('discover', { config })).succeeded().catalog();
  return streams.map((it) => [
    it.namespace,
    it.name,
    Object.keys(it.json_schema['properties'] as object),
    it.supported_sync_modes.includes('incremental'),
  ]);
}

test('schemas and names are told apart by their case', async () => {
  await using db = await createDatabase();
  await db.query(`
    CREATE SCHEMA "Data"; CREATE SCHEMA data;
    CREATE TABLE "Data"."Orders" ("Id" int PRIMARY KEY, "Changed" int, changed int);
    CREATE TABLE data.orders (id int PRIMARY KEY);
    INSERT INTO "Data"."Orders" VALUES (1, 1, 9), (2, 2, 8)`);
  expect(await discovered(db, { schemas: ['Data'] })).toEqual([
    ['Data', 'Orders', ['Id', 'Changed', 'changed'], true],
  ]);
  expect((await discovered(db, { schemas: ['data'] })).map(([schema]) => schema)).toEqual(['data']);
  expect(await discovered(db, { schemas: ['DATA'] })).toEqual([]);
  expect(await discovered(db, {})).toHaveLength(2);
  const choice = { cursorField: 'Changed', columns: ['Id'] };
  const connection = await connectTo(db, choice, { ...STANDARD, schemas: ['Data'] });
  (await connection.sync()).succeeded();
  await db.query(`INSERT INTO "Data"."Orders" VALUES (3, 3, 0)`);
  const second = (await connection.sync()).succeeded();
  // Nothing but the columns that are selected; the cursor need not be one of them.
  expect(second.records().map(({ data }) => data)).toEqual([{ Id: 2 }, { Id: 3 }]);
});

test('check_privileges: only what may be read is listed, and that is read by every method', async () => {
  await using roles = await createRoles();
  await using db = await createDatabase();
  const role = await roles.create('LOGIN');
  await db.query(`
    CREATE TABLE open (id int PRIMARY KEY, note text);
    CREATE TABLE part (id int PRIMARY KEY, secret text, note text);
    CREATE TABLE closed (id int PRIMARY KEY);
    INSERT INTO open VALUES (1, 'a'); INSERT INTO part VALUES (1, 'secret', 'a'), (2, 'secret', 'b');
    GRANT SELECT ON open TO ${role}; GRANT SELECT (id, note) ON part TO ${role}`);
  const as = { username: role };
  expect(await discovered(db, as)).toEqual([
    ['public', 'open', ['id', 'note'], true],
    ['public', 'part', ['id', 'note'], true],
  ]);
  const all = await discovered(db, { ...as, check_privileges: false });
  expect(all.map(([, name]) => name)).toEqual(['closed', 'open', 'part']);
  expect(all[2]?.[2]).toEqual(['id', 'secret', 'note']);

  for (const [choice, method] of [
    [IN_FULL, STANDARD],
    [{ cursorField: 'id' }, STANDARD],
    [{}, { replication_method: { method: 'Xmin' } }],
  ] as const) {
    const connection = await connectTo(db, choice, { ...method, ...as });
    (await connection.sync()).succeeded();
    (await connection.sync()).succeeded();
    await connection.expectEqual('open', 'part');
  }
  // What a row was written by is not a column that was granted.
  const byXmin = await discovered(db, { ...as, replication_method: { method: 'Xmin' } });
  expect(byXmin.map(([, name, , incremental]) => [name, incremental])).toEqual([
    ['open', true],
    ['part', false],
  ]);
  const unchecked = await connectTo(db, IN_FULL, { ...STANDARD, ...as, check_privileges: false });
  const refused = await unchecked.attempt();
  expect(refused.errors()[0]).toMatchObject({ failure_type: 'config_error' });
  expect(refused.errors()[0]?.message).toMatch(/privilege/);
});

test('max_db_connections: so many sessions, and no more', async () => {
  await using db = await createDatabase();
  await db.query(`
    CREATE TABLE metrics (time timestamptz NOT NULL, id int, note text);
    SELECT create_hypertable('metrics', 'time', chunk_time_interval => interval '1 day');
    INSERT INTO metrics SELECT '${DAY_ZERO}'::timestamptz + d * interval '1 day', i, repeat('x', 500)
      FROM generate_series(0, 5) d, generate_series(1, 1000) i`);
  for (const [limit, readers] of [
    [2, 1],
    [4, 3],
    [null, 4],
  ] as const) {
    const overrides = {
      ...STANDARD,
      timescaledb_max_concurrent_chunks: 4,
      ...(limit === null ? {} : { max_db_connections: limit }),
    };
    const connection = await connectTo(db, IN_FULL, overrides);
    let found: string[] = [];
    // One may still be connecting when the first chunk is read.
    const result = await connection.sync(
      atEachState(async () => {
        const now = (await sessions(db)).map(({ purpose }) => purpose);
        if (now.length > found.length) found = now;
      }),
    );
    expect(result.succeeded().records()).toHaveLength(6000);
    expect(found.filter((purpose) => purpose === 'rows')).toHaveLength(readers);
    expect(found.length).toBe(readers + 1);
    await until('the sessions have ended', async () => (await sessions(db)).length === 0);
  }
});

test('checkpoint_target_interval_seconds: a short one makes small slices, each with a state', async () => {
  await using db = await createDatabase();
  await db.query(`CREATE TABLE orders (id int PRIMARY KEY, note text);
                  INSERT INTO orders SELECT i, repeat('x', 900) FROM generate_series(1, 3000) i`);
  const pages = await db.value<number>(
    `SELECT (pg_relation_size('orders') / current_setting('block_size')::int)::int`,
  );
  for (const seconds of [1, 2, 300]) {
    const overrides = { ...STANDARD, checkpoint_target_interval_seconds: seconds };
    const result = await (await connectTo(db, IN_FULL, overrides)).attempt();
    const slices = Math.ceil(pages / (128 * seconds));
    // Where one is not enough a last step brings what was written meanwhile.
    expect(result.succeeded().states()).toHaveLength(slices > 1 ? slices + 1 : 1);
  }
});
