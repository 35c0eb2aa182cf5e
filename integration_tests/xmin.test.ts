/** Incremental reading by xmin: what was written since the last pass, whoever was writing meanwhile, and nothing less. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { run } from './connector.ts';
import { createDatabase, type Database, hasCompression, until } from './database.ts';
import { Destination } from './destination.ts';
import { type Connection, connectTo, DAY_ZERO } from './scenario.ts';
import type { RunResult } from './run-result.ts';
import { isComparable, writtenSinceSql } from '../src/postgres/transaction-ids.ts';

const XMIN = { replication_method: { method: 'Xmin' } };
/** Slices of 128 pages. */
const IN_SLICES = { ...XMIN, checkpoint_target_interval_seconds: 1 };

let db: Database;

beforeAll(async () => {
  db = await createDatabase();
});

afterAll(async () => {
  await db[Symbol.asyncDispose]();
});

type Xmin = { readonly horizon: string | null; readonly next: string | null };

/** Of the only stream. */
function stored(connection: Connection): Xmin {
  const [state] = connection.destination.state as readonly {
    readonly stream: { readonly stream_state: Xmin };
  }[];
  if (state === undefined) throw new Error('no state');
  return state.stream.stream_state;
}

function ids(result: RunResult): number[] {
  return result
    .succeeded()
    .records()
    .map(({ data }) => Number(data['id']))
    .toSorted((a, b) => a - b);
}

/** The ids of the rows that the next pass is to bring: written by the horizon's transaction or a later one. */
async function due(connection: Connection, table: string): Promise<number[]> {
  const rows = await db.query<{ id: number }>(
    `SELECT id FROM ${table} WHERE xmin::text::bigint >= $1 ORDER BY id`,
    [stored(connection).horizon],
  );
  return rows.map(({ id }) => id);
}

test('which streams it can follow, as discover says', async () => {
  await db.query(`
    CREATE SCHEMA kinds;
    CREATE TABLE kinds.plain (id int PRIMARY KEY);
    CREATE VIEW kinds.a_view AS SELECT * FROM kinds.plain;
    CREATE MATERIALIZED VIEW kinds.materialized AS SELECT * FROM kinds.plain;
    CREATE TABLE kinds.partitioned (id int) PARTITION BY RANGE (id);
    CREATE TABLE kinds.metrics (time timestamptz NOT NULL);
    SELECT create_hypertable('kinds.metrics', 'time');
    CREATE EXTENSION IF NOT EXISTS postgres_fdw;
    CREATE SERVER nowhere FOREIGN DATA WRAPPER postgres_fdw;
    CREATE FOREIGN TABLE kinds.far (id int) SERVER nowhere`);
  const compression = await hasCompression(db);
  if (compression) {
    await db.query(`CREATE TABLE kinds.packed (time timestamptz NOT NULL);
                    SELECT create_hypertable('kinds.packed', 'time');
                    ALTER TABLE kinds.packed SET (timescaledb.compress)`);
  }
  const config = db.config({ ...XMIN, schemas: ['kinds'] });
  const { streams } = (await run('discover', { config })).succeeded().catalog();
  const found = streams.map((it) => [
    it.name,
    it.supported_sync_modes.includes('incremental'),
    it.source_defined_cursor,
    it.default_cursor_field,
  ]);
  const expected = [
    ['a_view', false, false, []],
    ['far', false, false, []],
    ['materialized', true, true, []],
    ['metrics', true, true, []],
    ...(compression ? [['packed', false, false, []]] : []),
    ['partitioned', true, true, []],
    ['plain', true, true, []],
  ];
  expect(found).toEqual(expected);
  expect((await run('check', { config })).connectionStatus()).toEqual({ status: 'SUCCEEDED' });
});

test('a table: a first load that goes on from each of its states, then what was written since', async () => {
  await db.query(`
    CREATE TABLE orders (id int PRIMARY KEY, note text);
    INSERT INTO orders SELECT i, repeat('x', 900) FROM generate_series(1, 3000) i`);
  const connection = await connectTo(db, { streams: ['orders'] }, IN_SLICES);
  const { messages } = (await connection.sync()).succeeded();
  await connection.expectEqual('orders');
  const stateAt = messages.flatMap(({ type }, index) => (type === 'STATE' ? [index] : []));
  expect(stateAt.length).toBeGreaterThan(3);
  for (const at of stateAt.slice(0, -1)) {
    const resumed = await connectTo(db, { streams: ['orders'] }, IN_SLICES);
    resumed.destination.apply(messages.slice(0, at + 1));
    const before = resumed.destination.stream('orders').records;
    expect(before + (await resumed.sync()).succeeded().records().length).toBe(3000);
    await resumed.expectEqual('orders');
  }
  await db.query(`
    INSERT INTO orders VALUES (3001, 'new'); UPDATE orders SET note = 'changed' WHERE id IN (1, 2999);
    BEGIN; SAVEPOINT a; INSERT INTO orders VALUES (3002, 'nested'); RELEASE a; COMMIT`);
  const expected = await due(connection, 'orders');
  expect(expected).toEqual(expect.arrayContaining([1, 2999, 3001, 3002]));
  expect(ids(await connection.sync())).toEqual(expected);
  await connection.expectEqual('orders');
  const again = await due(connection, 'orders');
  expect(ids(await connection.sync())).toEqual(again);
});

test('what a transaction writes that runs during a pass comes with the next one', async () => {
  await db.query(`CREATE TABLE events (id int PRIMARY KEY); INSERT INTO events VALUES (1)`);
  const connection = await connectTo(db, { streams: ['events'] }, XMIN);
  const writer = await db.client();
  try {
    await writer.query(
      'BEGIN; INSERT INTO events VALUES (2); SAVEPOINT a; INSERT INTO events VALUES (3)',
    );
    await db.query('INSERT INTO events VALUES (4)');
    expect(ids(await connection.sync())).toEqual([1, 4]);
    await db.query('INSERT INTO events VALUES (5)');
    // What is younger than the open transaction comes again.
    const second = await due(connection, 'events');
    expect(second).toEqual(expect.arrayContaining([4, 5]));
    expect(ids(await connection.sync())).toEqual(second);
    await writer.query('SAVEPOINT b; INSERT INTO events VALUES (6); COMMIT');
    const third = await due(connection, 'events');
    expect(third).toEqual(expect.arrayContaining([2, 3, 5, 6]));
    expect(ids(await connection.sync())).toEqual(third);
    await connection.expectEqual('events');
  } finally {
    await writer.end();
  }
});

test('a hypertable, chunk by chunk: new rows in old chunks, new chunks', async () => {
  await db.query(`
    CREATE TABLE metrics (time timestamptz NOT NULL, id int, PRIMARY KEY (time, id));
    SELECT create_hypertable('metrics', 'time', chunk_time_interval => interval '1 day');
    INSERT INTO metrics SELECT '${DAY_ZERO}'::timestamptz + i * interval '1 hour', i FROM generate_series(0, 95) i`);
  const connection = await connectTo(db, { streams: ['public.metrics'] }, XMIN);
  const first = (await connection.sync()).succeeded();
  expect(first.states()).toHaveLength(5);
  await connection.expectEqual('public.metrics');
  for (const kept of [1, 3]) {
    const at = first.messages.findIndex(
      (message, index) =>
        message.type === 'STATE' &&
        first.messages.slice(0, index).filter(({ type }) => type === 'STATE').length === kept - 1,
    );
    const resumed = await connectTo(db, { streams: ['public.metrics'] }, XMIN);
    resumed.destination.apply(first.messages.slice(0, at + 1));
    (await resumed.sync()).succeeded();
    await resumed.expectEqual('public.metrics');
  }
  await db.query(`
    INSERT INTO metrics VALUES ('${DAY_ZERO}'::timestamptz + interval '1 minute', 1000),
                               ('${DAY_ZERO}'::timestamptz + interval '9 days', 1001);
    UPDATE metrics SET id = 1002 WHERE id = 30`);
  const expected = await due(connection, 'metrics');
  expect(expected).toEqual(expect.arrayContaining([1000, 1001, 1002]));
  expect(ids(await connection.sync())).toEqual(expected);
  await db.query('DELETE FROM metrics WHERE id = 1002');
  connection.destination = new Destination(connection.catalog);
  (await connection.sync()).succeeded();
  await connection.expectEqual('public.metrics');
});

test('a partitioned table: a partition that is attached later comes whole, however old its rows', async () => {
  await db.query(`
    CREATE TABLE sales (id int NOT NULL) PARTITION BY RANGE (id);
    CREATE TABLE sales_1 PARTITION OF sales FOR VALUES FROM (0) TO (100);
    CREATE TABLE sales_2 (id int NOT NULL);
    INSERT INTO sales VALUES (1), (2);
    INSERT INTO sales_2 VALUES (101), (102)`);
  await until('every transaction is younger than these rows', () =>
    db.value<boolean>(
      `SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint > max(xmin::text::bigint) FROM sales_2`,
    ),
  );
  const connection = await connectTo(db, { streams: ['sales'] }, XMIN);
  expect(ids(await connection.sync())).toEqual([1, 2]);
  const horizon = stored(connection).horizon;
  expect(
    await db.value('SELECT count(*)::int FROM sales_2 WHERE xmin::text::bigint < $1', [horizon]),
  ).toBe(2);
  await db.query('ALTER TABLE sales ATTACH PARTITION sales_2 FOR VALUES FROM (100) TO (200)');
  await db.query('INSERT INTO sales VALUES (3)');
  const found = ids(await connection.sync());
  expect(found).toEqual(expect.arrayContaining([3, 101, 102]));
  await db.query('INSERT INTO sales VALUES (103)');
  expect(ids(await connection.sync())).toContain(103);
});

test('transaction ids that mean nothing here: another table, another server, a server that was set back', async () => {
  await db.query(`CREATE TABLE swapped (id int PRIMARY KEY); INSERT INTO swapped VALUES (1), (2);
                  CREATE TABLE other (id int PRIMARY KEY); INSERT INTO other VALUES (3), (4)`);
  const connection = await connectTo(db, { streams: ['swapped'] }, XMIN);
  expect(ids(await connection.sync())).toEqual([1, 2]);
  const text = JSON.stringify(connection.destination.state);
  for (const [from, to, reason] of [
    [/"system_identifier":"\d+"/, '"system_identifier":"1"', /another server/],
    [/"timeline":\d+/, '"timeline":99', /another server/],
    [/"horizon":"\d+"/, '"horizon":"99999999999999"', /not come as far/],
  ] as const) {
    expect(text).toMatch(from);
    const state = JSON.parse(text.replace(from, to)) as readonly unknown[];
    const again = await connection.attempt({ state });
    expect(ids(again)).toEqual([1, 2]);
    expect(again.logs().join('\n')).toMatch(reason);
  }
  await db.query(`ALTER TABLE swapped RENAME TO gone; ALTER TABLE other RENAME TO swapped`);
  const swapped = await connection.sync();
  expect(ids(swapped)).toEqual([3, 4]);
  expect(swapped.logs().join('\n')).toMatch(/another table under the same name/);
});

test('a change between the methods without a log begins anew, and says so', async () => {
  await db.query(`CREATE TABLE either (id int PRIMARY KEY); INSERT INTO either VALUES (1), (2)`);
  const choice = { streams: ['either'], cursorField: 'id' };
  const byXmin = await connectTo(db, choice, XMIN);
  const byCursor = await connectTo(db, choice, { replication_method: { method: 'Standard' } });
  for (const [before, after] of [
    [byXmin, byCursor],
    [byCursor, byXmin],
  ] as const) {
    const state = (await before.attempt({ state: [] })).succeeded().lastState();
    const anew = await after.attempt({ state });
    expect(ids(anew)).toEqual([1, 2]);
    expect(anew.logs().join('\n')).toMatch(/public\.either is read from the beginning/);
  }
});

test('a stream whose rows have no xmin is read in full, and says so', async () => {
  await db.query(`CREATE TABLE base (id int); INSERT INTO base VALUES (1), (2);
                  CREATE VIEW seen AS SELECT * FROM base`);
  const connection = await connectTo(db, { streams: ['seen'] }, XMIN);
  const [entry] = connection.catalog.streams;
  const catalog = { streams: [{ ...entry!, sync_mode: 'incremental' as const }] };
  const config = db.config(XMIN);
  const first = await run('read', { config, catalog });
  expect(first.logs().join('\n')).toMatch(/public\.seen is read in full: its rows have no xmin/);
  const second = await run('read', { config, catalog, state: first.lastState() });
  expect(ids(second)).toEqual([1, 2]);
});

const EPOCH = 2n ** 32n;

test('ids are compared over the end of 32 bits', async () => {
  // As on a server one round further on: what rows carry, and the age that the server computes, are the same there.
  const real = BigInt(
    await db.value<string>('SELECT pg_snapshot_xmax(pg_current_snapshot())::text'),
  );
  const next = real + EPOCH;
  const distances = [1n, 100n, real - 3n, real + 5n, 2n ** 30n, 2n ** 31n - 10n];
  // The first ids of a round are no transaction's, but may be what a snapshot begins with.
  for (const horizon of [...distances, real - 2n, real - 1n, real]) {
    const sql = writtenSinceSql(next - horizon, next, 'x');
    // The last two are of rows that were frozen long ago.
    for (const distance of [...distances, 2n ** 31n + 10n, EPOCH - 1_000_000n]) {
      // Other sessions take ids meanwhile: both move by the same, so what is compared does not change.
      const xid = String(BigInt.asUintN(32, next - distance));
      const since = await db.value<boolean>(`SELECT ${sql} FROM (SELECT $1::xid AS x) it`, [xid]);
      expect(since, `${distance} against ${horizon}`).toBe(distance <= horizon);
    }
  }
  expect(isComparable(next - 2n ** 31n, next)).toBe(false);
  expect(writtenSinceSql(next - 2n ** 31n, next)).toBeNull();
});
