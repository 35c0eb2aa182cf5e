/** R5 and R6: rows that move between chunks or in and out of compression are neither lost nor taken for changes. */
import { expect, test } from 'vitest';
import { createDatabase, type Database, hasCompression } from './database.ts';
import { connectTo, DAY_ZERO } from './scenario.ts';

const COMPRESSION_START = marker('compression-start');
const COMPRESSION_END = marker('compression-end');
const DECOMPRESSION_START = marker('decompression-start');
const DECOMPRESSION_END = marker('decompression-end');

/** What TimescaleDB writes around the rows that it moves. */
function marker(name: string): string {
  return `SELECT pg_logical_emit_message(true, '::timescaledb-${name}', '')`;
}

async function fillMetrics(db: Database, days: number): Promise<void> {
  await db.query(`
    CREATE TABLE metrics (time timestamptz NOT NULL, device int NOT NULL, value float8,
                          PRIMARY KEY (time, device));
    SELECT create_hypertable('metrics', 'time', chunk_time_interval => interval '1 day');
    INSERT INTO metrics
      SELECT '${DAY_ZERO}'::timestamptz + day * interval '1 day' + i * interval '1 minute', i % 4, i
        FROM generate_series(0, ${days - 1}) day, generate_series(1, 48) i`);
}

async function chunks(db: Database): Promise<string[]> {
  const rows = await db.query<{ name: string }>(
    `SELECT quote_ident(chunk_schema) || '.' || quote_ident(chunk_name) AS name
       FROM timescaledb_information.chunks WHERE hypertable_name = 'metrics' ORDER BY range_start`,
  );
  return rows.map(({ name }) => name);
}

/** All rows of a table leave it and come back. */
function moveApart(table: string): string {
  return `CREATE TEMP TABLE moving ON COMMIT DROP AS SELECT * FROM ${table};
          DELETE FROM ${table}; INSERT INTO ${table} SELECT * FROM moving;`;
}

test('way 12: R6: rows that move between markers are no changes', async () => {
  await using db = await createDatabase();
  await fillMetrics(db, 2);
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  const [first = ''] = await chunks(db);
  await db.query(`BEGIN; ${COMPRESSION_START}; ${moveApart(first)} ${COMPRESSION_END}; COMMIT`);
  expect((await connection.sync()).succeeded().records()).toEqual([]);
  await connection.expectEqual('metrics');
});

test('way 13: R6: markers nest, and what comes after the last end is a change', async () => {
  await using db = await createDatabase();
  await fillMetrics(db, 2);
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  const [first = ''] = await chunks(db);
  await db.query(`
    BEGIN; ${COMPRESSION_START}; ${DECOMPRESSION_START}; INSERT INTO ${first} VALUES ('${DAY_ZERO}', 100, 0);
    ${DECOMPRESSION_END}; DELETE FROM ${first} WHERE device = 100; ${COMPRESSION_END};
    INSERT INTO metrics VALUES ('${DAY_ZERO}', 7, 7); DELETE FROM metrics WHERE device = 1 AND value < 10;
    COMMIT`);
  const second = (await connection.sync()).succeeded();
  // One insert; of the values below 10, those of device 1 are 1, 5 and 9, in both chunks.
  expect(second.records().map(({ data }) => data['device'])).toEqual([7, 1, 1, 1, 1, 1, 1]);
  await connection.expectEqual('metrics');
});

test('way 13: R6: an end without a start, and a start that was left open, end with their transaction', async () => {
  await using db = await createDatabase();
  await fillMetrics(db, 1);
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  await db.query(
    `BEGIN; ${COMPRESSION_END}; INSERT INTO metrics VALUES ('${DAY_ZERO}', 7, 7); COMMIT`,
  );
  await db.query(`BEGIN; ${COMPRESSION_START}; COMMIT`);
  await db.query(`INSERT INTO metrics VALUES ('${DAY_ZERO}', 8, 8)`);
  const [first = ''] = await chunks(db);
  await db.query(
    `BEGIN; ${COMPRESSION_END}; ${COMPRESSION_START}; ${moveApart(first)} ${COMPRESSION_END}; COMMIT`,
  );
  expect((await connection.sync()).succeeded().records()).toHaveLength(2);
  await connection.expectEqual('metrics');
});

test('R6: markers hide nothing of an ordinary table', async () => {
  await using db = await createDatabase();
  await fillMetrics(db, 1);
  await db.query(`CREATE TABLE orders (id int PRIMARY KEY, note text);
                  INSERT INTO orders SELECT i, 'initial' FROM generate_series(1, 5) i`);
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  await db.query(`
    BEGIN; ${COMPRESSION_START}; INSERT INTO orders VALUES (6, 'new'); UPDATE orders SET note = 'changed' WHERE id = 1;
    DELETE FROM orders WHERE id = 2; ${COMPRESSION_END}; COMMIT`);
  expect((await connection.sync()).succeeded().records('orders')).toHaveLength(3);
  await connection.expectEqual('orders', 'metrics');
});

test('case F35: way 12: R6: compress, decompress, recompress; changes of compressed rows are what they are', async (context) => {
  await using db = await createDatabase();
  if (!(await hasCompression(db))) context.skip('only the full build compresses');
  await fillMetrics(db, 3);
  await db.query(`
    ALTER TABLE metrics SET (timescaledb.compress, timescaledb.compress_segmentby = 'device');
    CREATE FUNCTION guard() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
    CREATE TRIGGER guard AFTER DELETE ON metrics FOR EACH ROW EXECUTE FUNCTION guard()`);
  const connection = await connectTo(db);
  const [first = '', second = '', third = ''] = await chunks(db);
  await db.query(`SELECT compress_chunk('${first}')`);
  (await connection.sync()).succeeded();
  await connection.expectEqual('metrics');

  // All these move rows and change none.
  await db.query(`SELECT compress_chunk('${second}')`);
  await db.query(`SELECT decompress_chunk('${first}'); SELECT compress_chunk('${first}')`);
  expect((await connection.sync()).succeeded().records()).toEqual([]);

  const day = `'${DAY_ZERO}'::timestamptz`;
  await db.query(`INSERT INTO metrics VALUES (${day}, 9, 9)`);
  await db.query(`INSERT INTO metrics VALUES (${day} + interval '1 minute', 1, -1)
                    ON CONFLICT (time, device) DO UPDATE SET value = excluded.value`);
  await db.query(`UPDATE metrics SET value = -2 WHERE time = ${day} + interval '2 minutes'`);
  await db.query(`DELETE FROM metrics WHERE time = ${day} + interval '3 minutes'`);
  // A whole segment: without the trigger its deletion would not be in the WAL.
  await db.query(`DELETE FROM metrics WHERE device = 0 AND time >= ${day} + interval '1 day'`);
  await db.query(`SELECT compress_chunk('${first}')`);
  await db.query(`SELECT compress_chunk('${third}')`);
  const changed = (await connection.sync()).succeeded();
  // One insert, two updates, one delete, and 12 rows in each of two chunks.
  expect(changed.records()).toHaveLength(4 + 24);
  await connection.expectEqual('metrics');
});

test('case F35: way 19: R5: a chunk that has taken in the rows of another since it was read is read again', async (context) => {
  await using db = await createDatabase();
  if (!(await hasCompression(db))) {
    context.skip(
      'only the full build merges chunks; which ranges count as read is tested as a property',
    );
  }
  await fillMetrics(db, 3);
  const connection = await connectTo(db, {}, { timescaledb_max_concurrent_chunks: 1 });
  // The state at the beginning and that of the first chunk; what came behind is lost.
  const killed = await connection.attempt({ killAfterStates: 2 });
  const until = killed.messages.findIndex((message) => message === killed.states()[1]);
  connection.destination.apply(killed.messages.slice(0, until + 1));
  const [first = '', second = ''] = await chunks(db);
  await db.query(`CALL merge_chunks('${first}', '${second}')`);
  (await connection.sync()).succeeded();
  await connection.expectEqual('metrics');
});
