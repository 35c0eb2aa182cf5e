/** Shapes of hypertables, read by queries: in full, and by a cursor. */
import { expect, test } from 'vitest';
import { createDatabase, type Database } from './database.ts';
import { connectTo, DAY_ZERO } from './scenario.ts';
import { chunkReads, expectFirstSync, type TableName } from './shapes.ts';

const STANDARD = { replication_method: { method: 'Standard' } };
const IN_FULL = { syncMode: 'full_refresh' } as const;

function day(n: number): string {
  return `('${DAY_ZERO}'::timestamptz + interval '${n} days')`;
}

async function readInFull(db: Database, stream: TableName): Promise<void> {
  await expectFirstSync(await connectTo(db, IN_FULL, STANDARD), stream);
}

test('space partitions: in full', async () => {
  await using db = await createDatabase();
  const stream: TableName = ['public', 'metrics'];
  await db.query(`
    CREATE TABLE metrics (time timestamptz NOT NULL, device int NOT NULL, note text, PRIMARY KEY (time, device));
    SELECT create_hypertable('metrics', by_range('time', interval '1 day'));
    SELECT add_dimension('metrics', by_hash('device', 4));
    INSERT INTO metrics SELECT ${day(0)} + d * interval '1 day' + i * interval '1 minute', i, 'initial'
      FROM generate_series(0, 2) d, generate_series(1, 40) i`);
  await readInFull(db, stream);
});

test('two open dimensions: in full', async () => {
  await using db = await createDatabase();
  const stream: TableName = ['public', 'metrics'];
  await db.query(`
      CREATE TABLE metrics (time timestamptz NOT NULL, batch bigint NOT NULL, note text, PRIMARY KEY (time, batch));
      SELECT create_hypertable('metrics', by_range('time', interval '1 day'));
      SELECT add_dimension('metrics', by_range('batch', 100));
      INSERT INTO metrics SELECT ${day(0)} + d * interval '1 day' - batch * interval '1 second', batch, 'initial'
        FROM generate_series(0, 2) d, generate_series(-150, 250, 50) batch`);
  await readInFull(db, stream);
});

test('integer time in full: bigint, with the least and the greatest value', async () => {
  await using db = await createDatabase();
  await db.query(`
    CREATE TABLE ticks (tick bigint PRIMARY KEY, note text);
    SELECT create_hypertable('ticks', 'tick', chunk_time_interval => 100);
    INSERT INTO ticks SELECT i * 25, 'initial' FROM generate_series(-20, 20) i;
    INSERT INTO ticks VALUES ('-9223372036854775808', 'least'), ('9223372036854775807', 'greatest')`);
  await readInFull(db, ['public', 'ticks']);
});

const INTEGERS = [
  { type: 'smallint', interval: 1000, least: '-32768', greatest: '32767' },
  { type: 'integer', interval: 100_000, least: '-2147483648', greatest: '2147483647' },
];

test.for(INTEGERS)('integer time by a cursor: $type, up to the greatest value', async (it) => {
  const { type, interval, least, greatest } = it;
  await using db = await createDatabase();
  const stream: TableName = ['public', 'ticks'];
  await db.query(`
    CREATE TABLE ticks (tick ${type} NOT NULL, id int NOT NULL, PRIMARY KEY (tick, id));
    SELECT create_hypertable('ticks', 'tick', chunk_time_interval => ${interval});
    INSERT INTO ticks SELECT i * ${interval / 4}, 1 FROM generate_series(-20, 20) i;
    INSERT INTO ticks VALUES ('${least}', 1)`);
  await readInFull(db, stream);
  const connection = await connectTo(db, {}, STANDARD);
  await expectFirstSync(connection, stream);
  await db.query(`INSERT INTO ticks VALUES (${interval * 5}, 2), (${interval * 5 + 1}, 1)`);
  const second = (await connection.sync()).succeeded();
  // The row at the bound comes again.
  expect(second.records()).toHaveLength(3);
  expect(chunkReads(second)).toHaveLength(1);
  await connection.expectEqual('ticks');
  await db.query(`INSERT INTO ticks VALUES ('${greatest}', 1)`);
  expect((await connection.sync()).succeeded().records()).toHaveLength(2);
  await db.query(`INSERT INTO ticks VALUES ('${greatest}', 2)`);
  expect((await connection.sync()).succeeded().records()).toHaveLength(2);
  await connection.expectEqual('ticks');
});

test.for(['timestamptz', 'timestamp', 'date'])(
  'infinity in a %s: in full, and by a cursor',
  async (type) => {
    await using db = await createDatabase();
    const stream: TableName = ['public', 'events'];
    await db.query(`
    CREATE TABLE events (at ${type} NOT NULL, id int, note text);
    SELECT create_hypertable('events', 'at', chunk_time_interval => interval '1 day');
    INSERT INTO events SELECT ${day(0)} + i * interval '1 day', i, 'initial' FROM generate_series(0, 4) i;
    INSERT INTO events VALUES ('infinity', 100, 'the end'), ('infinity', 101, 'the end')`);
    await readInFull(db, stream);
    const connection = await connectTo(db, {}, STANDARD);
    await expectFirstSync(connection, stream);
    // Nothing is later than infinity, so it is no bound: its rows come with every pass.
    await db.query(
      `INSERT INTO events VALUES ('infinity', 102, 'the end'), (${day(9)}, 5, 'later')`,
    );
    const second = (await connection.sync()).succeeded();
    const ids = second.records().map(({ data }) => Number(data['id']));
    expect(ids.toSorted((a, b) => a - b)).toEqual([4, 5, 100, 101, 102]);
  },
);
