/** By a cursor: hypertables of which several chunks share the latest time, or hold the greatest value. */
import { expect, test } from 'vitest';
import { createDatabase, type Database, hasCompression } from './database.ts';
import { connectTo, DAY_ZERO } from './scenario.ts';
import { chunkReads, expectFirstSync, expectStream, type TableName } from './shapes.ts';

const STANDARD = { replication_method: { method: 'Standard' } };

function day(n: number): string {
  return `('${DAY_ZERO}'::timestamptz + interval '${n} days')`;
}

test('space partitions: by a cursor', async () => {
  await using db = await createDatabase();
  const stream: TableName = ['public', 'metrics'];
  await db.query(`
    CREATE TABLE metrics (time timestamptz NOT NULL, device int NOT NULL, note text, PRIMARY KEY (time, device));
    SELECT create_hypertable('metrics', by_range('time', interval '1 day'));
    SELECT add_dimension('metrics', by_hash('device', 4));
    INSERT INTO metrics SELECT ${day(0)} + d * interval '1 day' + i * interval '1 minute', i, 'initial'
      FROM generate_series(0, 2) d, generate_series(1, 40) i`);
  const connection = await connectTo(db, {}, STANDARD);
  expectStream(
    connection,
    {
      stream,
      dimensions: [
        { column: 'time', type: 'timestamp with time zone', interval: '1 day' },
        { column: 'device', type: 'integer', partitions: 4 },
      ],
    },
    12,
  );
  await expectFirstSync(connection, stream);
  // One after another, so that each partition of the last time is the one with the latest row once.
  for (let minute = 100; minute < 110; minute += 1) {
    await db.query(
      `INSERT INTO metrics VALUES (${day(2)} + interval '${minute} minutes', ${minute}, 'later')`,
    );
    const next = (await connection.sync()).succeeded();
    expect(chunkReads(next)).toHaveLength(4);
    await connection.expectEqual('metrics');
  }
});

test.for(['time', 'batch'])('two open dimensions: by a cursor over %s', async (cursorField) => {
  await using db = await createDatabase();
  const stream: TableName = ['public', 'metrics'];
  await db.query(`
      CREATE TABLE metrics (time timestamptz NOT NULL, batch bigint NOT NULL, note text, PRIMARY KEY (time, batch));
      SELECT create_hypertable('metrics', by_range('time', interval '1 day'));
      SELECT add_dimension('metrics', by_range('batch', 100));
      INSERT INTO metrics SELECT ${day(0)} + d * interval '1 day' - batch * interval '1 second', batch, 'initial'
        FROM generate_series(0, 2) d, generate_series(-150, 250, 50) batch`);
  const connection = await connectTo(db, { cursorField }, STANDARD);
  await expectFirstSync(connection, stream);
  await db.query(`INSERT INTO metrics VALUES (${day(2)} + interval '1 hour', 1000, 'later')`);
  (await connection.sync()).succeeded();
  await db.query(`INSERT INTO metrics VALUES (${day(2)} + interval '2 hours', 1001, 'later')`);
  (await connection.sync()).succeeded();
  await connection.expectEqual('metrics');
});

const INTEGERS = [
  {
    type: 'bigint',
    interval: 100_000,
    least: '-9223372036854775808',
    greatest: '9223372036854775807',
  },
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

async function fillMetrics(db: Database): Promise<void> {
  await db.query(`
    CREATE TABLE metrics (time timestamptz NOT NULL, device int NOT NULL, note text, PRIMARY KEY (time, device));
    SELECT create_hypertable('metrics', 'time', chunk_time_interval => interval '1 day');
    INSERT INTO metrics SELECT ${day(0)} + d * interval '1 day', i, 'initial'
      FROM generate_series(0, 2) d, generate_series(1, 10) i`);
}

/** A chunk in what stands for object storage: a table of the same database behind a foreign one. */
async function attachTiered(db: Database): Promise<void> {
  const { hostname, port, username, password } = new URL(db.url);
  await db.query(`
    CREATE SCHEMA storage;
    CREATE TABLE storage.old (time timestamptz NOT NULL, device int NOT NULL, note text);
    INSERT INTO storage.old SELECT ${day(-9)} + i * interval '1 minute', i, 'tiered' FROM generate_series(1, 10) i;
    CREATE EXTENSION postgres_fdw;
    CREATE SERVER storage FOREIGN DATA WRAPPER postgres_fdw
      OPTIONS (host '${hostname}', port '${port === '' ? '5432' : port}', dbname '${db.name}');
    CREATE USER MAPPING FOR CURRENT_USER SERVER storage
      OPTIONS (user '${username}', password '${password}', password_required 'false');
    CREATE FOREIGN TABLE tiered (time timestamptz NOT NULL, device int NOT NULL, note text)
      SERVER storage OPTIONS (schema_name 'storage', table_name 'old');
    SELECT _timescaledb_functions.attach_osm_table_chunk('metrics', 'tiered')`);
}

test('a tiered chunk beside newer ones, the newest of them empty', async (context) => {
  await using db = await createDatabase();
  if (!(await hasCompression(db)))
    context.skip('only the full build takes a foreign table for a chunk');
  await fillMetrics(db);
  await db.query(
    `INSERT INTO metrics VALUES (${day(5)}, 1, 'gone'); DELETE FROM metrics WHERE time = ${day(5)}`,
  );
  await attachTiered(db);
  const stream: TableName = ['public', 'metrics'];
  const connection = await connectTo(db, {}, { ...STANDARD, schemas: ['public'] });
  await expectFirstSync(connection, stream);
  await db.query(`INSERT INTO metrics VALUES (${day(9)}, 1, 'new chunk')`);
  (await connection.sync()).succeeded();
  await connection.expectEqual('metrics');
});
