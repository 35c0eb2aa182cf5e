/** Rows that maintenance moves without a marker in the WAL: only the table tells that they were neither deleted nor new. */
import { expect, test } from 'vitest';
import { createDatabase, type Database, hasCompression } from './database.ts';
import { connectTo, DAY_ZERO } from './scenario.ts';

const FULL_ONLY = 'only the full build compresses';
const DAY = `'${DAY_ZERO}'::timestamptz`;

async function fill(db: Database, key = ', PRIMARY KEY (time, device)'): Promise<void> {
  await db.query(`
    CREATE TABLE metrics (time timestamptz NOT NULL, device int NOT NULL, value float8 ${key});
    SELECT create_hypertable('metrics', 'time', chunk_time_interval => interval '1 day');
    ALTER TABLE metrics SET (timescaledb.compress, timescaledb.compress_segmentby = 'device');
    CREATE FUNCTION guard() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
    CREATE TRIGGER guard AFTER DELETE ON metrics FOR EACH ROW EXECUTE FUNCTION guard();
    INSERT INTO metrics SELECT ${DAY} + i * interval '1 minute', i % 4, i FROM generate_series(0, 2879) i`);
}

function firstChunk(db: Database): Promise<string> {
  return db.value<string>(`SELECT c::text FROM show_chunks('metrics') c ORDER BY c LIMIT 1`);
}

async function haveMarkers(db: Database): Promise<boolean> {
  const sql = `SELECT current_setting('timescaledb.enable_compression_wal_markers', true)`;
  return (await db.value(sql)) === 'on';
}

test('way 14: rows that are recompressed without a marker are not deleted', async (context) => {
  await using db = await createDatabase();
  if (!(await hasCompression(db))) context.skip(FULL_ONLY);
  await fill(db);
  const chunk = await firstChunk(db);
  await db.query(`SELECT compress_chunk('${chunk}')`);
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  await db.query(
    `INSERT INTO metrics SELECT ${DAY} + i * interval '1 minute', 9, i FROM generate_series(0, 1199) i`,
  );
  await db.query(`DELETE FROM metrics WHERE device = 9 AND value < 100`);
  await db.query(`SELECT _timescaledb_functions.recompress_chunk_segmentwise('${chunk}')`);
  const changes = (await connection.sync()).succeeded().records();
  expect(changes.filter(({ data }) => data['_ab_cdc_deleted_at'] === null)).toHaveLength(1200);
  expect(changes).toHaveLength(1200 + 100);
  await connection.expectEqual('metrics');
});

test('way 12: with markers off, streams with a key are right all the same', async (context) => {
  await using db = await createDatabase();
  if (!(await hasCompression(db))) context.skip(FULL_ONLY);
  if (await haveMarkers(db)) context.skip('the server marks what it moves');
  await fill(db);
  const chunk = await firstChunk(db);
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  await db.query(`SELECT compress_chunk('${chunk}')`);
  await db.query(
    `UPDATE metrics SET value = -1 WHERE device = 1 AND time < ${DAY} + interval '1 hour'`,
  );
  await db.query(`DELETE FROM metrics WHERE device = 2 AND time < ${DAY} + interval '1 hour'`);
  await db.query(`INSERT INTO metrics VALUES (${DAY} + interval '2 minutes', 2, 77)`);
  (await connection.sync()).succeeded();
  await connection.expectEqual('metrics');
  await db.query(`SELECT compress_chunk('${chunk}')`);
  await db.query(`SELECT decompress_chunk('${chunk}')`);
  const moved = (await connection.sync()).succeeded().records();
  expect(moved.filter(({ data }) => data['_ab_cdc_deleted_at'] !== null)).toEqual([]);
  await connection.expectEqual('metrics');
});

test('way 12: with markers off, a stream without a key is refused', async (context) => {
  await using db = await createDatabase();
  if (!(await hasCompression(db))) context.skip(FULL_ONLY);
  if (await haveMarkers(db)) context.skip('the server marks what it moves');
  await fill(db, '');
  const connection = await connectTo(db);
  const result = await connection.sync();
  expect(result.exitCode).toBe(1);
  expect(result.errors()[0]).toMatchObject({ failure_type: 'config_error' });
  expect(result.errors()[0]?.message).toContain('has no key');
});
