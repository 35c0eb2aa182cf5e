/** Tables that are read in slices of pages without changes to follow: rows that move meanwhile, rewrites, interruptions. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createDatabase, type Database, until } from './database.ts';
import { Destination } from './destination.ts';
import { type Connection, connectTo, nthState, stopWhen } from './scenario.ts';

/** Slices of 128 pages. */
const STANDARD = {
  replication_method: { method: 'Standard' },
  checkpoint_target_interval_seconds: 1,
};
const IN_FULL = { syncMode: 'full_refresh' } as const;
const BY_CURSOR = { cursorField: 'changed' } as const;

let db: Database;

beforeAll(async () => {
  db = await createDatabase();
});

afterAll(async () => {
  await db[Symbol.asyncDispose]();
});

/** 2900 rows in more than three slices, with room in the first one. */
async function fill(table: string): Promise<void> {
  await db.query(`
    CREATE TABLE ${table} (id int PRIMARY KEY, changed int, note text) WITH (autovacuum_enabled = off);
    INSERT INTO ${table} SELECT i, i, repeat('x', 900) FROM generate_series(1, 3000) i;
    DELETE FROM ${table} WHERE id <= 100`);
  // Whoever has a snapshot at this moment, such as the server's own analyze, keeps it from making room.
  await until('the rows have made room', async () => {
    await db.query(`VACUUM ${table}`);
    return db.value<boolean>(`SELECT pg_stat_get_dead_tuples('${table}'::regclass) = 0`);
  });
}

/** Moves the last rows to where the reader has been, without a change of the cursor, and adds one. */
async function move(table: string): Promise<void> {
  await db.query(`UPDATE ${table} SET note = repeat('y', 900) WHERE id > 2950;
                  INSERT INTO ${table} VALUES (3001, 3000, 'new')`);
  const moved = `SELECT count(*)::int FROM ${table} WHERE note LIKE 'y%' AND (ctid::text::point)[0] < 100`;
  expect(await db.value(moved)).toBe(50);
}

test.each([
  ['in full', 'in_full', IN_FULL],
  ['by a cursor', 'by_cursor', BY_CURSOR],
])('%s: rows that move behind the reader come once, like all others', async (_, table, choice) => {
  await fill(table);
  const connection = await connectTo(db, { ...choice, streams: [table] }, STANDARD);
  const result = await connection.sync(stopWhen(nthState(1), () => move(table)));
  expect(result.succeeded().records()).toHaveLength(2901);
  await connection.expectEqual(table);
});

test.each([
  ['in full', 'in_full_again', IN_FULL],
  ['by a cursor', 'by_cursor_again', BY_CURSOR],
])('%s: a load that was interrupted goes on from any state', async (_, table, choice) => {
  await fill(table);
  const connection = await connectTo(db, { ...choice, streams: [table] }, STANDARD);
  const { messages } = (await connection.attempt()).succeeded();
  const stateAt = messages.flatMap(({ type }, index) => (type === 'STATE' ? [index] : []));
  expect(stateAt.length).toBeGreaterThan(3);
  for (const at of stateAt.slice(0, -1)) {
    connection.destination = new Destination(connection.catalog);
    connection.destination.apply(messages.slice(0, at + 1));
    const before = connection.destination.stream(table).records;
    const rest = (await connection.sync()).succeeded();
    expect(before + rest.records().length).toBe(2900);
    await connection.expectEqual(table);
  }
  connection.destination = new Destination(connection.catalog);
  connection.destination.apply(messages.slice(0, stateAt[0]! + 1));
  await move(table);
  (await connection.sync()).succeeded();
  await connection.expectEqual(table);
});

test('a table that is rewritten meanwhile is read again, a partition like a table', async () => {
  await fill('rewritten');
  await db.query(`
    CREATE TABLE parts (id int NOT NULL, note text) PARTITION BY RANGE (id);
    CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (1500);
    CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (1500) TO (3000);
    INSERT INTO parts SELECT i, repeat('x', 900) FROM generate_series(0, 2999) i`);
  for (const [table, part] of [
    ['rewritten', 'rewritten'],
    ['parts', 'parts_2'],
  ] as const) {
    const connection: Connection = await connectTo(db, { ...IN_FULL, streams: [table] }, STANDARD);
    await connection.sync({ killAfterStates: table === 'parts' ? 3 : 1 });
    await db.query(`VACUUM FULL ${part}`);
    await db.query(`UPDATE ${table} SET note = 'late' WHERE id = 2999`);
    const result = await connection.sync();
    expect(result.succeeded().logs().join('\n')).toMatch(/was rewritten while it was read/);
    const found = connection.destination.stream(table);
    expect(found.rows.size).toBeGreaterThanOrEqual(2900);
    if (found.primaryKey !== null) await connection.expectEqual(table);
    const last = result.records().findLast(({ data }) => data['id'] === 2999);
    expect(last?.data['note']).toBe('late');
  }
});

async function foreignTable(): Promise<void> {
  const { hostname, port, username, password } = new URL(db.url);
  await db.query(`
    CREATE EXTENSION postgres_fdw;
    CREATE SERVER here FOREIGN DATA WRAPPER postgres_fdw
      OPTIONS (host '${hostname}', port '${port === '' ? '5432' : port}', dbname '${db.name}');
    CREATE USER MAPPING FOR CURRENT_USER SERVER here
      OPTIONS (user '${username}', password '${password}', password_required 'false');
    CREATE FOREIGN TABLE far (id int, changed int) SERVER here OPTIONS (schema_name 'public', table_name 'near')`);
}

const KINDS = ['near', 'a_view', 'materialized', 'far', 'split'];

test('by a cursor: views, materialized views, foreign and partitioned tables', async () => {
  await db.query(`
    CREATE TABLE near (id int PRIMARY KEY, changed int);
    CREATE TABLE split (id int, changed int) PARTITION BY LIST (id);
    CREATE TABLE split_odd PARTITION OF split FOR VALUES IN (1, 3, 5, 7);
    CREATE TABLE split_even PARTITION OF split FOR VALUES IN (2, 4, 6, 8);
    CREATE VIEW a_view AS SELECT * FROM near;
    INSERT INTO near VALUES (1, 10), (2, 20), (3, NULL); INSERT INTO split SELECT * FROM near;
    CREATE MATERIALIZED VIEW materialized AS SELECT * FROM near`);
  await foreignTable();
  const connection = await connectTo(db, { streams: KINDS, cursorField: 'changed' }, STANDARD);
  const first = (await connection.sync()).succeeded();
  for (const name of KINDS) expect(first.records(name), name).toHaveLength(3);
  await db.query(`
    INSERT INTO near VALUES (4, 20), (5, 30), (6, NULL); INSERT INTO split VALUES (4, 20), (5, 30), (6, NULL);
    UPDATE near SET changed = 31 WHERE id = 1; UPDATE split SET changed = 31 WHERE id = 1;
    REFRESH MATERIALIZED VIEW materialized`);
  const second = (await connection.sync()).succeeded();
  for (const name of KINDS) {
    const found = second.records(name).map(({ data }) => [Number(data['id']), data['changed']]);
    expect(
      found.toSorted(([a], [b]) => Number(a) - Number(b)),
      name,
    ).toEqual([
      [1, 31],
      [2, 20],
      [4, 20],
      [5, 30],
    ]);
    const cursors = found.map(([, changed]) => Number(changed));
    expect(cursors, name).toEqual(cursors.toSorted((a, b) => a - b));
  }
});

test('in full: a materialized view that is refreshed between two slices, and one that is not', async () => {
  await fill('base');
  await db.query('CREATE MATERIALIZED VIEW copied AS SELECT * FROM base');
  const connection = await connectTo(db, { ...IN_FULL, streams: ['copied'] }, STANDARD);
  await connection.sync({ killAfterStates: 1 });
  await db.query(`UPDATE base SET note = 'late' WHERE id = 150; REFRESH MATERIALIZED VIEW copied`);
  const result = await connection.sync();
  expect(result.succeeded().logs().join('\n')).toMatch(/was rewritten while it was read/);
  expect(new Set(result.records().map(({ data }) => data['id'])).size).toBe(2900);
  expect(result.records().findLast(({ data }) => data['id'] === 150)?.data['note']).toBe('late');
  const quiet = (await connection.attempt({ state: [] })).succeeded();
  expect(quiet.records()).toHaveLength(2900);
});
