/** What only TimescaleDB does to chunks, between two syncs and during one (cases F33 to F35). Needs the full build. */
import { expect, test } from 'vitest';
import { createDatabase, type Database, requires } from './database.ts';
import { type Connection, connectTo, DAY_ZERO, nthState, stopWhen } from './scenario.ts';

/** No session is left for a look at new chunks in between, which would take its turn when the machine is slow. */
const ONE_BY_ONE = { timescaledb_max_concurrent_chunks: 1, max_db_connections: 3 };
const DAYS = 4;
const ROWS = 48;

/** Chunks of a day each, with a columnstore and with the trigger that shows what it deletes. */
async function createMetrics(db: Database): Promise<void> {
  await db.query(`
    CREATE TABLE metrics (time timestamptz NOT NULL, device int NOT NULL, value float8, note text,
                          PRIMARY KEY (time, device));
    SELECT create_hypertable('metrics', 'time', chunk_time_interval => interval '1 day');
    INSERT INTO metrics
      SELECT ${time('day')} + i * interval '1 minute', i % 4, i, repeat('x', 2000)
        FROM generate_series(0, ${DAYS - 1}) day, generate_series(1, ${ROWS}) i;
    ALTER TABLE metrics SET (timescaledb.compress, timescaledb.compress_segmentby = 'device');
    CREATE FUNCTION guard() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
    CREATE TRIGGER guard AFTER DELETE ON metrics FOR EACH ROW EXECUTE FUNCTION guard()`);
}

function time(day: string | number): string {
  return `('${DAY_ZERO}'::timestamptz + interval '1 day' * ${day})`;
}

async function chunks(db: Database): Promise<string[]> {
  const rows = await db.query<{ name: string }>(
    `SELECT quote_ident(chunk_schema) || '.' || quote_ident(chunk_name) AS name
       FROM timescaledb_information.chunks WHERE hypertable_name = 'metrics' ORDER BY range_start`,
  );
  return rows.map(({ name }) => name);
}

async function synced(db: Database): Promise<Connection> {
  await createMetrics(db);
  const connection = await connectTo(db, {}, ONE_BY_ONE);
  (await connection.sync()).succeeded();
  return connection;
}

/** A late row, one that is there already, one changed, one deleted: of a day, whatever its chunk is by now. */
async function change(db: Database, day: number, n: number): Promise<void> {
  const at = `${time(day)} + interval '1 minute' *`;
  await db.query(`INSERT INTO metrics VALUES (${at} 0.5, ${n}, ${n}, 'late')`);
  await db.query(`INSERT INTO metrics VALUES (${at} 1, 1, ${n}, 'upserted')
                    ON CONFLICT (time, device) DO UPDATE SET value = excluded.value, note = 'upserted'`);
  await db.query(`UPDATE metrics SET value = -${n} WHERE time = ${at} 2`);
  await db.query(`DELETE FROM metrics WHERE time = ${at} ${2 + n}`);
}

const CHANGES = 4;

test('case F35: recompression by segments would show its moves as deletions of late rows', async (context) => {
  await using db = await createDatabase();
  await requires(context, db);
  const connection = await synced(db);
  const [first = ''] = await chunks(db);
  await db.query(`SELECT compress_chunk('${first}')`);
  for (let n = 1; n <= 3; n += 1) {
    await change(db, 0, n);
    // Only the segments that have rows beside them.
    await db.query(`SELECT compress_chunk('${first}', recompress => ${n === 3})`);
  }
  expect((await connection.sync()).succeeded().records()).toHaveLength(3 * CHANGES);
  await connection.expectEqual('metrics');
});

test('case F35: compression that deletes instead of truncating would show its moves as deletions', async (context) => {
  await using db = await createDatabase();
  await requires(context, db);
  const connection = await synced(db);
  const [first = '', second = ''] = await chunks(db);
  const session = await db.client();
  try {
    await session.query(`SET timescaledb.compress_truncate_behaviour = 'truncate_disabled'`);
    await session.query(`SELECT compress_chunk('${first}')`);
    await change(db, 0, 1);
    await session.query(`SELECT compress_chunk('${first}')`);
    await session.query(
      `BEGIN; SELECT compress_chunk('${second}'); INSERT INTO metrics VALUES (${time(1)}, 9, 9, 'with it'); COMMIT`,
    );
  } finally {
    await session.end();
  }
  expect((await connection.sync()).succeeded().records()).toHaveLength(CHANGES + 1);
  await connection.expectEqual('metrics');
});

test('case F35: chunks compressed by deletes while they wait for their read would read as empty', async (context) => {
  await using db = await createDatabase();
  await requires(context, db);
  await createMetrics(db);
  const connection = await connectTo(db, {}, ONE_BY_ONE);
  const [, , third = '', fourth = ''] = await chunks(db);
  const session = await db.client();
  try {
    await session.query(`SET timescaledb.compress_truncate_behaviour = 'truncate_disabled'`);
    const result = await connection.sync(
      stopWhen(nthState(1), async () => {
        await session.query(`SELECT compress_chunk('${third}')`);
        await session.query(`SELECT compress_chunk('${fourth}')`);
        await change(db, 3, 1);
      }),
    );
    result.succeeded();
  } finally {
    await session.end();
  }
  await connection.expectEqual('metrics');
});

test('case F35: a split would lose the rows of the half that has a new chunk, or what happens to them', async (context) => {
  await using db = await createDatabase();
  await requires(context, db, 'split_chunk');
  const connection = await synced(db);
  const [first = ''] = await chunks(db);
  await change(db, 0, 1);
  await db.query(`CALL split_chunk('${first}', split_at => ${time(0)} + interval '3 minutes')`);
  (await connection.sync()).succeeded();
  await connection.expectEqual('metrics');
  // Half of it in the new chunk, which is published by now.
  await change(db, 0, 2);
  expect((await connection.sync()).succeeded().records()).toHaveLength(CHANGES);
  await connection.expectEqual('metrics');
});

test('case F35: chunks merged and then changed would keep what their rows were in the chunk that is gone', async (context) => {
  await using db = await createDatabase();
  await requires(context, db, 'merge_chunks');
  const connection = await synced(db);
  const [first = '', second = '', third = ''] = await chunks(db);
  await change(db, 1, 1);
  await db.query(`CALL merge_chunks('${first}', '${second}')`);
  await change(db, 1, 2);
  await change(db, 0, 3);
  await db.query(`CALL merge_chunks('${first}', '${third}')`);
  await change(db, 2, 4);
  (await connection.sync()).succeeded();
  await connection.expectEqual('metrics');
  await change(db, 1, 5);
  expect((await connection.sync()).succeeded().records()).toHaveLength(CHANGES);
  await connection.expectEqual('metrics');
});

test('case F35: reordering and rewriting a chunk would show as changes, or hide those that follow', async (context) => {
  await using db = await createDatabase();
  await requires(context, db);
  const connection = await synced(db);
  const [first = '', second = ''] = await chunks(db);
  await change(db, 0, 1);
  await db.query(`SELECT reorder_chunk('${first}', 'metrics_time_idx')`);
  await db.query(`VACUUM FULL ${second}`);
  await change(db, 0, 2);
  await change(db, 1, 1);
  expect((await connection.sync()).succeeded().records()).toHaveLength(3 * CHANGES);
  await connection.expectEqual('metrics');
});

test('case F35: a chunk detached and attached again would be lost, or be read as another one', async (context) => {
  await using db = await createDatabase();
  await requires(context, db, 'attach_chunk');
  const connection = await synced(db);
  const [first = ''] = await chunks(db);
  await change(db, 0, 1);
  await db.query(`CALL detach_chunk('${first}')`);
  await db.query(`UPDATE ${first} SET note = 'while it was apart' WHERE device = 3`);
  await db.query(`CALL attach_chunk('metrics', '${first}',
                    jsonb_build_object('time', jsonb_build_array(${time(0)}, ${time(1)})))`);
  await change(db, 0, 2);
  (await connection.sync()).succeeded();
  await connection.expectEqual('metrics');
  await change(db, 0, 3);
  expect((await connection.sync()).succeeded().records()).toHaveLength(CHANGES);
  await connection.expectEqual('metrics');
});

test('case F33: a chunk born, compressed and added to before anybody has seen it would lack its compressed rows', async (context) => {
  await using db = await createDatabase();
  await requires(context, db);
  const connection = await synced(db);
  await db.query(`INSERT INTO metrics SELECT ${time(DAYS)} + i * interval '1 minute', i % 4, i, 'new'
                    FROM generate_series(1, ${ROWS}) i`);
  const born = (await chunks(db)).at(-1) ?? '';
  await db.query(`SELECT compress_chunk('${born}')`);
  await change(db, DAYS, 1);
  expect((await connection.sync()).succeeded().records()).toHaveLength(ROWS);
  await connection.expectEqual('metrics');
  await change(db, DAYS, 2);
  expect((await connection.sync()).succeeded().records()).toHaveLength(CHANGES);
  await connection.expectEqual('metrics');
});
