/** Rows written or deleted straight in the columnstore, which no change in the WAL tells of. */
import { expect, test, type TestContext } from 'vitest';
import { isAtLeast } from '../src/timescaledb/hypertables.ts';
import { run } from './connector.ts';
import { createDatabase, type Database, hasCompression } from './database.ts';
import { connectTo, DAY_ZERO } from './scenario.ts';

const DAY = `'${DAY_ZERO}'::timestamptz`;
const DIRECT = `
  SET timescaledb.enable_direct_compress_insert = on;
  SET timescaledb.enable_direct_compress_copy = on`;
/** A chunk that is published at its birth would need no read. */
const PUBLISHED = 'SET timescaledb.enable_chunk_auto_publication = on';

async function skipWithoutDirectWrites(db: Database, context: TestContext): Promise<void> {
  if (!(await hasCompression(db))) context.skip('only the full build compresses');
  const version = await db.value<string>(
    `SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'`,
  );
  if (!isAtLeast(version, 2, 25)) {
    context.skip(
      'INSERT ... SELECT writes directly from 2.23 on, chunks publish themselves from 2.25 on',
    );
  }
}

async function createMetrics(db: Database): Promise<void> {
  await db.query(`
    CREATE TABLE metrics (time timestamptz NOT NULL, device int NOT NULL, value float8);
    SELECT create_hypertable('metrics', 'time', chunk_time_interval => interval '1 day');
    ALTER TABLE metrics REPLICA IDENTITY FULL;
    ALTER TABLE metrics SET (timescaledb.compress, timescaledb.compress_segmentby = 'device');
    INSERT INTO metrics SELECT ${DAY} + i * interval '1 minute', i % 4, i FROM generate_series(0, 2879) i`);
}

/** Rows that go around the chunk's heap. */
async function writeDirectly(db: Database, day: number, device: number): Promise<void> {
  const client = await db.client();
  try {
    await client.query(DIRECT);
    await client.query(PUBLISHED);
    await client.query(
      `INSERT INTO metrics SELECT ${DAY} + interval '${day} days' + i * interval '1 second', ${device}, i
         FROM generate_series(1, 500) i`,
    );
  } finally {
    await client.end();
  }
}

test('way 16: rows written directly to a chunk that was read are found by their traces, and it is read again', async (context) => {
  await using db = await createDatabase();
  await skipWithoutDirectWrites(db, context);
  await createMetrics(db);
  await db.query(`SELECT compress_chunk(c) FROM show_chunks('metrics') c`);
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  await connection.expectEqual('metrics');

  await writeDirectly(db, 0, 50);
  const second = (await connection.sync()).succeeded();
  expect(second.logs().join()).toContain('directly in compressed form');
  // The whole chunk: what it had before comes a second time.
  expect(second.records()).toHaveLength(1440 + 500);
  expect(second.records().filter(({ data }) => data['device'] === 50)).toHaveLength(500);

  expect((await connection.sync()).succeeded().records()).toEqual([]);
  // Later ones change nothing in the system catalog.
  await writeDirectly(db, 0, 51);
  const again = (await connection.sync()).succeeded();
  expect(again.records().filter(({ data }) => data['device'] === 51)).toHaveLength(500);
  expect((await connection.sync()).succeeded().records()).toEqual([]);
});

test('way 16: a chunk that direct writes make is read, whole and once', async (context) => {
  await using db = await createDatabase();
  await skipWithoutDirectWrites(db, context);
  await createMetrics(db);
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  await writeDirectly(db, 30, 60);
  await db.query(`INSERT INTO metrics VALUES (${DAY} + interval '30 days 5 hours', 61, 1)`);
  expect((await connection.sync()).succeeded().records()).toHaveLength(501);
  await connection.expectEqual('metrics');
  expect((await connection.sync()).succeeded().records()).toEqual([]);
});

test('way 16: with a row trigger nothing is written directly, and each row comes once', async (context) => {
  await using db = await createDatabase();
  await skipWithoutDirectWrites(db, context);
  await createMetrics(db);
  await db.query(`
    CREATE FUNCTION guard() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
    CREATE TRIGGER guard AFTER DELETE ON metrics FOR EACH ROW EXECUTE FUNCTION guard();
    SELECT compress_chunk(c) FROM show_chunks('metrics') c`);
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  await writeDirectly(db, 0, 70);
  await db.query('DELETE FROM metrics WHERE device = 1');
  expect((await connection.sync()).succeeded().records()).toHaveLength(500 + 720);
  await connection.expectEqual('metrics');
});

test('way 15: each sync says that deletions of whole batches may be missing, and check how to prevent it', async (context) => {
  await using db = await createDatabase();
  await skipWithoutDirectWrites(db, context);
  await createMetrics(db);
  await db.query(`SELECT compress_chunk(c) FROM show_chunks('metrics') c`);
  const connection = await connectTo(db);
  const said = 'Deletes of whole compressed batches';
  expect((await connection.sync()).succeeded().logs().join()).toContain(said);
  const check = await run('check', { config: connection.config });
  expect(check.logs().join()).toContain('CREATE TRIGGER source_timescaledb_guard AFTER DELETE');
  // Whole segments: nothing of it is in the WAL, so what the connector can do is to have said so.
  await db.query('DELETE FROM metrics WHERE device = 1');
  const silent = (await connection.sync()).succeeded();
  expect(silent.records()).toEqual([]);
  expect(silent.logs().join()).toContain(said);
});
