/** Streams that are read by queries: in full, unit by unit, and by a cursor column. */
import { expect, test } from 'vitest';
import { createDatabase, type Database } from './database.ts';
import { Destination } from './destination.ts';
import { connectTo, DAY_ZERO, recordWhere, stopWhen } from './scenario.ts';
import type { RunResult } from './run-result.ts';

const STANDARD = { replication_method: { method: 'Standard' } };
const IN_FULL = { syncMode: 'full_refresh' } as const;
const ONE_BY_ONE = { ...STANDARD, timescaledb_max_concurrent_chunks: 1 };

async function fillMetrics(db: Database, days: number, rows = 20): Promise<void> {
  await db.query(`
    CREATE TABLE metrics (time timestamptz NOT NULL, device int NOT NULL, note text,
                          PRIMARY KEY (time, device));
    SELECT create_hypertable('metrics', 'time', chunk_time_interval => interval '1 day');
    INSERT INTO metrics
      SELECT '${DAY_ZERO}'::timestamptz + day * interval '1 day' + i * interval '1 second', i, repeat('x', 200)
        FROM generate_series(0, ${days - 1}) day, generate_series(1, ${rows}) i`);
}

function chunkReads(result: RunResult): string[] {
  return result.logs().flatMap((line) => /chunk (\S+) read, \d+ rows/.exec(line)?.[1] ?? []);
}

async function chunkNames(db: Database): Promise<string[]> {
  const rows = await db.query<{ chunk_name: string }>(
    `SELECT chunk_name FROM timescaledb_information.chunks WHERE hypertable_name = 'metrics' ORDER BY range_start`,
  );
  return rows.map(({ chunk_name }) => chunk_name);
}

test('full refresh reads a hypertable chunk by chunk, with a state after each', async () => {
  await using db = await createDatabase();
  await fillMetrics(db, 6);
  const connection = await connectTo(db, IN_FULL, ONE_BY_ONE);
  const result = (await connection.sync()).succeeded();
  expect(chunkReads(result)).toEqual(await chunkNames(db));
  expect(result.states().length).toBeGreaterThanOrEqual(6);
  expect(result.records()).toHaveLength(120);
  await connection.expectEqual('metrics');
});

test('full refresh goes on from any state of the same refresh, and begins anew for another', async () => {
  await using db = await createDatabase();
  await fillMetrics(db, 4);
  const connection = await connectTo(db, IN_FULL, ONE_BY_ONE);
  const { messages } = (await connection.sync()).succeeded();
  const stateAt = messages.flatMap(({ type }, index) => (type === 'STATE' ? [index] : []));
  for (const at of stateAt) {
    connection.destination = new Destination(connection.catalog);
    connection.destination.apply(messages.slice(0, at + 1));
    const delivered = connection.destination.stream('metrics').records;
    const rest = (await connection.sync()).succeeded();
    expect(delivered + rest.records().length).toBe(80);
    await connection.expectEqual('metrics');
  }
  const anew = await connectTo(db, { ...IN_FULL, generationId: 2 }, ONE_BY_ONE);
  anew.destination.apply(messages.slice(0, stateAt[1]! + 1));
  expect((await anew.sync()).succeeded().records()).toHaveLength(80);
});

test('full refresh of tables and views, beside streams of changes and without them', async () => {
  await using db = await createDatabase();
  await db.query(`
    CREATE TABLE orders (id int PRIMARY KEY, note text);
    INSERT INTO orders SELECT i, 'order ' || i FROM generate_series(1, 50) i;
    CREATE VIEW large_orders AS SELECT * FROM orders WHERE id > 40;
    CREATE MATERIALIZED VIEW old_orders AS SELECT * FROM orders WHERE id <= 5;
    CREATE TABLE nothing (id int)`);
  for (const overrides of [STANDARD, {}]) {
    const connection = await connectTo(db, overrides === STANDARD ? IN_FULL : {}, overrides);
    const result = (await connection.sync()).succeeded();
    expect(result.records('large_orders')).toHaveLength(10);
    expect(result.records('old_orders')).toHaveLength(5);
    await connection.expectEqual('orders', 'large_orders', 'old_orders', 'nothing');
  }
});

test('by cursor: a later pass touches only the chunks that can hold newer values', async () => {
  await using db = await createDatabase();
  await fillMetrics(db, 5);
  const connection = await connectTo(db, {}, ONE_BY_ONE);
  const first = (await connection.sync()).succeeded();
  expect(first.records()).toHaveLength(100);
  expect(chunkReads(first)).toHaveLength(5);

  const newest = `'${DAY_ZERO}'::timestamptz + interval '4 days 20 seconds'`;
  await db.query(`
    INSERT INTO metrics VALUES (${newest}, 21, 'as late as the latest'), (${newest} + interval '1 second', 1, 'later');
    INSERT INTO metrics VALUES (${newest} + interval '3 days', 1, 'in a new chunk');
    INSERT INTO metrics VALUES ('${DAY_ZERO}', 99, 'too old to be seen')`);
  const second = (await connection.sync()).succeeded();
  expect(chunkReads(second)).toEqual((await chunkNames(db)).slice(4));
  // The row at the bound comes again: another of the same value could have come later, as one did.
  expect(second.records().map(({ data }) => data['note'])).toEqual([
    expect.stringMatching(/^x+$/),
    'as late as the latest',
    'later',
    'in a new chunk',
  ]);
  await db.query(`DELETE FROM metrics WHERE device = 99`);
  await connection.expectEqual('metrics');
});

test('by cursor: rows that come while a chunk is read belong to the next pass', async () => {
  await using db = await createDatabase();
  await fillMetrics(db, 2, 2000);
  const connection = await connectTo(db, {}, ONE_BY_ONE);
  const isFirst = recordWhere(() => true);
  const first = await connection.sync(
    stopWhen(isFirst, async () => {
      await db.query(`INSERT INTO metrics VALUES ('${DAY_ZERO}'::timestamptz + interval '1 day 1 hour', 0, 'meanwhile'),
                        ('${DAY_ZERO}'::timestamptz + interval '2 days', 0, 'in a new chunk')`);
    }),
  );
  expect(first.succeeded().records()).toHaveLength(4000);
  const second = (await connection.sync()).succeeded();
  expect(second.records().map(({ data }) => data['note'])).toEqual([
    expect.stringMatching(/^x+$/),
    'meanwhile',
    'in a new chunk',
  ]);
  await connection.expectEqual('metrics');
});

test('by cursor: a table; equal values at the bound repeat, rows without a value come once', async () => {
  await using db = await createDatabase();
  await db.query(`
    CREATE TABLE orders (id int PRIMARY KEY, changed timestamp, note text);
    INSERT INTO orders SELECT i, '2026-01-01'::timestamp + i * interval '1 hour', 'order ' || i FROM generate_series(1, 30) i;
    INSERT INTO orders VALUES (31, '2026-01-02 06:00', 'equal'), (32, NULL, 'never'), (33, NULL, 'never')`);
  const connection = await connectTo(db, { cursorField: 'changed' }, STANDARD);
  expect((await connection.sync()).succeeded().records()).toHaveLength(33);
  const ids = async (): Promise<number[]> =>
    (await connection.sync())
      .succeeded()
      .records()
      .map(({ data }) => Number(data['id']))
      .toSorted((a, b) => a - b);
  expect(await ids()).toEqual([30, 31]);
  await db.query(`INSERT INTO orders VALUES (34, '2026-01-02 06:00', 'equal'), (35, '2026-01-02 07:00', 'new');
                  UPDATE orders SET changed = '2026-01-02 08:00', note = 'changed' WHERE id = 3`);
  expect(await ids()).toEqual([3, 30, 31, 34, 35]);
  expect(await ids()).toEqual([3]);
  await connection.expectEqual('orders');
});

test('by cursor: an interrupted first pass goes on behind the chunks that it has read', async () => {
  await using db = await createDatabase();
  await fillMetrics(db, 5);
  const connection = await connectTo(db, {}, ONE_BY_ONE);
  const { messages } = (await connection.attempt()).succeeded();
  const stateAt = messages.flatMap(({ type }, index) => (type === 'STATE' ? [index] : []));
  for (const at of stateAt.slice(0, -1)) {
    connection.destination = new Destination(connection.catalog);
    connection.destination.apply(messages.slice(0, at + 1));
    const delivered = connection.destination.stream('metrics').records;
    const rest = (await connection.sync()).succeeded();
    expect(delivered + rest.records().length).toBe(100);
    await connection.expectEqual('metrics');
  }
});
