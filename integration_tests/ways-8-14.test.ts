/** Ways 8 to 14 to lose or invent rows: reads of compressed and outermost chunks, and moves. Way 9 and more of 12 and 13 are where the rules are tested. */
import { expect, test } from 'vitest';
import { createDatabase, type Database, requires } from './database.ts';
import { connectTo, stopWhen } from './scenario.ts';
import {
  CHUNK_ROWS,
  changes,
  chunkNames,
  day,
  fillReadings,
  hasSetting,
  ONE_BY_ONE,
  useColumnstore,
} from './ways.ts';

const STANDARD = { replication_method: { method: 'Standard' } };

test('way 8: with one snapshot for the whole load, chunks that are decompressed or recompressed meanwhile would read as empty', async (context) => {
  await using db = await createDatabase();
  await requires(context, db);
  await fillReadings(db, 6);
  await useColumnstore(db);
  const [, decompressed, recompressed, both, compressed, partial] = await chunkNames(db);
  for (const chunk of [decompressed, recompressed, both, partial]) {
    await db.query(`SELECT compress_chunk('${chunk}')`);
  }
  await db.query(`INSERT INTO readings VALUES (${day(5)}, 100, 'in the heap')`);
  const connection = await connectTo(db, {}, ONE_BY_ONE);
  const first = await connection.sync(
    stopWhen(
      ({ type }) => type === 'RECORD',
      async () => {
        await db.query(`SELECT decompress_chunk('${decompressed}')`);
        await db.query(`SELECT compress_chunk('${recompressed}', recompress => true)`);
        await db.query(`SELECT decompress_chunk('${both}'); SELECT compress_chunk('${both}')`);
        // Compressed rows count as old ones, whoever looks: these would come from the future, and again as changes.
        await db.query(`INSERT INTO readings VALUES (${day(4)}, 100, 'new')`);
        await db.query(`SELECT compress_chunk('${compressed}')`);
        await db.query(`SELECT compress_chunk('${partial}')`);
      },
    ),
  );
  first.succeeded();
  await connection.expectEqual('readings');
  expect((await connection.sync()).succeeded().records()).toEqual([]);
});

/** A compressed chunk, a partial one, and one that is not compressed. */
async function fillCompressed(db: Database): Promise<void> {
  await fillReadings(db, 3);
  await useColumnstore(db);
  const [first, second] = await chunkNames(db);
  await db.query(`SELECT compress_chunk('${first}'); SELECT compress_chunk('${second}')`);
  await db.query(`INSERT INTO readings VALUES (${day(1)}, 100, 'in the heap')`);
}

for (const { what, mode, overrides } of [
  { what: 'with changes', mode: 'incremental', overrides: {} },
  { what: 'in full', mode: 'full_refresh', overrides: STANDARD },
  { what: 'by a cursor', mode: 'incremental', overrides: STANDARD },
] as const) {
  test(`way 10: read ${what} from ONLY the chunk, or with COPY, compressed rows would be missing`, async (context) => {
    await using db = await createDatabase();
    await requires(context, db);
    await fillCompressed(db);
    const connection = await connectTo(db, { syncMode: mode, cursorField: 'time' }, overrides);
    const first = (await connection.sync()).succeeded();
    expect(first.records('readings')).toHaveLength(await count(db));
    await connection.expectEqual('readings');
  });
}

function count(db: Database): Promise<number> {
  return db.value<number>('SELECT count(*)::int FROM readings');
}

/** The outermost chunks hold what lies beyond their range. */
async function fillOutermost(db: Database): Promise<void> {
  await db.query(`
    CREATE TABLE readings (time timestamptz NOT NULL, device int);
    SELECT create_hypertable('readings', 'time', chunk_time_interval => interval '1 day');
    ALTER TABLE readings REPLICA IDENTITY FULL;
    INSERT INTO readings VALUES ('infinity', 1), ('infinity', 2), (${day(0)}, 3), ('294246-12-31Z', 4);
    CREATE TABLE counters (n bigint NOT NULL, device int, PRIMARY KEY (n, device));
    SELECT create_hypertable('counters', 'n', chunk_time_interval => 1000);
    INSERT INTO counters VALUES (9223372036854775807, 1), (9223372036854775806, 2), (0, 3), (-9223372036854775808, 4)`);
}

for (const { what, mode, overrides } of [
  { what: 'with changes', mode: 'incremental', overrides: {} },
  { what: 'in full', mode: 'full_refresh', overrides: STANDARD },
] as const) {
  test(`way 11: read ${what} by the range of its chunk, infinities and the largest number would be missing`, async () => {
    await using db = await createDatabase();
    await fillOutermost(db);
    const connection = await connectTo(db, { syncMode: mode }, overrides);
    expect((await connection.sync()).succeeded().records()).toHaveLength(8);
    await connection.expectEqual('readings', 'counters');
  });
}

test('way 11: changes of rows beyond the range of their chunk would be lost', async () => {
  await using db = await createDatabase();
  await fillOutermost(db);
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  await db.query(`
    INSERT INTO readings VALUES ('infinity', 5); UPDATE readings SET device = 10 WHERE device = 1;
    DELETE FROM readings WHERE device = 2; INSERT INTO counters VALUES (9223372036854775807, 5);
    UPDATE counters SET device = 10 WHERE device = 1; DELETE FROM counters WHERE device IN (2, 4)`);
  // An update of a key, or without one, is a delete and an insert.
  expect((await connection.sync()).succeeded().records()).toHaveLength(4 + 5);
  await connection.expectEqual('readings', 'counters');
});

test('way 11: by a cursor, rows at the end of all ranges would be missing', async () => {
  await using db = await createDatabase();
  await fillOutermost(db);
  await db.query('DELETE FROM counters WHERE n > 0');
  const connection = await connectTo(db, { streams: ['counters'], cursorField: 'n' }, STANDARD);
  expect((await connection.sync()).succeeded().records()).toHaveLength(2);
  await db.query('INSERT INTO counters VALUES (9223372036854775807, 7), (9223372036854775806, 7)');
  // The row at the last cursor comes again.
  expect((await connection.sync()).succeeded().records()).toHaveLength(3);
  await connection.expectEqual('counters');
});

/** How many messages are to come that hold this. */
function messages(db: Database, condition: string): Promise<number> {
  return db.value<number>(
    `SELECT count(*)::int FROM pg_logical_slot_peek_binary_changes($1, NULL, NULL,
       'proto_version', '1', 'publication_names', $2, 'messages', 'true') WHERE ${condition}`,
    [db.slot, db.publication],
  );
}

const INSERTS = `get_byte(data, 0) = ascii('I')`;
const DELETES = `get_byte(data, 0) = ascii('D')`;

test('way 12: without its markers, what compression and decompression move would be deleted or invented', async (context) => {
  await using db = await createDatabase();
  await requires(context, db);
  await fillReadings(db, 3);
  await useColumnstore(db);
  const [, second, third] = await chunkNames(db);
  await db.query(`SELECT compress_chunk('${second}'); SELECT compress_chunk('${third}')`);
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  await db.query(`INSERT INTO readings VALUES (${day(1)}, 100, 'in the heap')`);
  await db.query(`SELECT compress_chunk('${second}')`);
  expect(await messages(db, DELETES)).toBe(1);
  await db.query(`SELECT decompress_chunk('${second}')`);
  expect(await messages(db, INSERTS)).toBe(1 + CHUNK_ROWS + 1);
  // Before a change of compressed rows their batch is decompressed.
  await db.query(changes(2, 'changed'));
  const inserts = 1 + CHUNK_ROWS + 1 + CHUNK_ROWS + 1;
  expect(await messages(db, INSERTS)).toBe(inserts);
  expect((await connection.sync()).succeeded().records()).toHaveLength(1 + 4);
  await connection.expectEqual('readings');
});

test('way 13: behind an inner end of nested markers, the rest of a full recompression would be deletes or inserts', async (context) => {
  await using db = await createDatabase();
  await requires(context, db);
  if (!(await hasSetting(db, 'timescaledb.enable_in_memory_recompression')))
    context.skip('before 2.20 chunks are compressed anew in another way');
  await fillReadings(db, 2);
  await useColumnstore(db);
  const [, second] = await chunkNames(db);
  await db.query(`SELECT compress_chunk('${second}')`);
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  await db.query(`BEGIN; SET LOCAL timescaledb.enable_in_memory_recompression = off;
                  SET LOCAL timescaledb.compress_truncate_behaviour = 'truncate_disabled';
                  SELECT compress_chunk('${second}', recompress => true); COMMIT`);
  // Decompressed inside of the compression, and deleted behind that.
  expect(await messages(db, `position('::timescaledb-decompression-end'::bytea IN data) > 0`)).toBe(
    1,
  );
  expect(await messages(db, INSERTS)).toBe(CHUNK_ROWS);
  expect(await messages(db, DELETES)).toBe(CHUNK_ROWS);
  expect((await connection.sync()).succeeded().records()).toEqual([]);
  await connection.expectEqual('readings');
});
