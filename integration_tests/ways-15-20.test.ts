/** Ways 15 to 20 to lose or invent rows: compressed relations, and chunks that change places. More of way 18 and 19 is where the rules are tested. */
import { expect, test } from 'vitest';
import { createDatabase, type Database, requires } from './database.ts';
import { expectEqual } from './comparison.ts';
import { type Connection, connectTo } from './scenario.ts';
import {
  CHUNK_ROWS,
  changes,
  chunkNames,
  day,
  fillReadings,
  ONE_BY_ONE,
  useColumnstore,
} from './ways.ts';

async function synced(db: Database): Promise<Connection> {
  const connection = await connectTo(db, { streams: ['readings'] });
  (await connection.sync()).succeeded();
  return connection;
}

/** What stores the rows of a compressed chunk: up to 2.28 a chunk of an internal hypertable. */
async function compressedRelation(db: Database, chunk: string): Promise<string> {
  return db.value<string>(
    'SELECT compress_relid::regclass::text FROM _timescaledb_catalog.compression_settings WHERE relid = $1::regclass',
    [chunk],
  );
}

/** How many messages of a kind are to come. @param kind the letter that pgoutput begins them with. */
function messages(db: Database, kind: string): Promise<number> {
  return db.value<number>(
    `SELECT count(*)::int FROM pg_logical_slot_peek_binary_changes($1, NULL, NULL,
       'proto_version', '1', 'publication_names', $2, 'messages', 'true')
      WHERE get_byte(data, 0) = ascii($3)`,
    [db.slot, db.publication, kind],
  );
}

test('way 17: taken for rows, what compaction writes to published compressed relations would invent all rows again', async (context) => {
  await using db = await createDatabase();
  const compact = `_timescaledb_functions.compact_chunk(regclass, integer)`;
  await requires(context, db, 'compact_chunk');
  if ((await db.value('SELECT to_regprocedure($1)', [compact])) === null) {
    context.skip('chunks are compacted from 2.29 on');
  }
  await fillReadings(db, 2);
  await db.query(
    `ALTER TABLE readings SET (timescaledb.compress, timescaledb.compress_orderby = 'time')`,
  );
  // Batches that overlap, for compaction to have something to do.
  for (const from of [0, 50]) {
    await db.query(`
      SET timescaledb.enable_direct_compress_insert = on;
      INSERT INTO readings SELECT ${day(5)} + i * interval '1 minute', i, 'batch ${from}'
        FROM generate_series(${from}, ${from + 99}) i;
      RESET timescaledb.enable_direct_compress_insert`);
  }
  const chunk = (await chunkNames(db)).at(-1) ?? '';
  const relation = await compressedRelation(db, chunk);
  const connection = await synced(db);
  await connection.expectEqual('readings');
  await db.query(`ALTER TABLE ${relation} REPLICA IDENTITY FULL;
                  ALTER PUBLICATION ${db.publication} ADD TABLE ${relation}`);
  await db.query(`SELECT _timescaledb_functions.compact_chunk('${chunk}')`);
  // Unmarked: nothing but the relation tells that these are no rows.
  expect(await messages(db, 'I')).toBeGreaterThan(0);
  expect(await messages(db, 'M')).toBe(0);
  expect((await connection.sync()).succeeded().records()).toEqual([]);
  await connection.expectEqual('readings');
});

test('way 19: rows that a split moves to a new chunk would be read again, or changes of them lost', async (context) => {
  await using db = await createDatabase();
  await requires(context, db, 'split_chunk');
  await fillReadings(db, 3);
  const connection = await synced(db);
  const [, second = ''] = await chunkNames(db);
  // As a server does that publishes new chunks by itself.
  const session = await db.client();
  try {
    await session.query('SET timescaledb.enable_chunk_auto_publication = on');
    await session.query(
      `CALL split_chunk('${second}', split_at => ${day(1)} + interval '6 hours')`,
    );
  } finally {
    await session.end();
  }
  expect(await chunkNames(db)).toHaveLength(4);
  await db.query(changes(1, 'changed'));
  await db.query(
    `DELETE FROM readings WHERE device = 20 AND time > ${day(1)} AND time < ${day(2)}`,
  );
  expect((await connection.sync()).succeeded().records()).toHaveLength(4 + 1);
  await connection.expectEqual('readings');
});

test('way 19: rows that a split moves while the load goes on would be lost with their old chunk', async (context) => {
  await using db = await createDatabase();
  await requires(context, db, 'split_chunk');
  await db.query(`
    CREATE TABLE readings (time timestamptz NOT NULL, device int, note text, PRIMARY KEY (time, device));
    SELECT create_hypertable('readings', 'time', chunk_time_interval => interval '1 day');
    INSERT INTO readings SELECT ${day(0)} + i * interval '1 hour', i, 'old' FROM generate_series(0, 95) i`);
  const connection = await connectTo(db, {}, ONE_BY_ONE);
  const killed = await connection.attempt({ killAfterStates: 3 });
  const last = killed.messages.findIndex((message) => message === killed.states()[2]);
  connection.destination.apply(killed.messages.slice(0, last + 1));
  const [, read = '', unread = ''] = await chunkNames(db);
  await db.query(`CALL split_chunk('${read}', split_at => ${day(1)} + interval '6 hours')`);
  await db.query(`CALL split_chunk('${unread}', split_at => ${day(2)} + interval '6 hours')`);
  await db.query(`UPDATE readings SET note = 'changed' WHERE device % 3 = 0`);
  (await connection.sync()).succeeded();
  await connection.expectEqual('readings');
});

test('way 19: rows that lie in a table before it is attached would never be seen', async (context) => {
  await using db = await createDatabase();
  await requires(context, db, 'attach_chunk');
  await fillReadings(db, 2);
  const connection = await synced(db);
  await db.query(`
    CREATE TABLE extern (note text, dropped int, time timestamptz NOT NULL, device int);
    INSERT INTO extern SELECT 'attached', 0, ${day(9)} + i * interval '1 hour', i FROM generate_series(0, 9) i;
    ALTER TABLE extern DROP COLUMN dropped`);
  await db.query('CREATE TABLE attached AS SELECT time, device, note FROM extern');
  await db.query(`ALTER TABLE attached ALTER COLUMN time SET NOT NULL`);
  await db.query(`CALL attach_chunk('readings', 'attached',
                    jsonb_build_object('time', jsonb_build_array(${day(9)}, ${day(10)})))`);
  await db.query(`INSERT INTO readings VALUES (${day(9)}, 100, 'after')`);
  expect((await connection.sync()).succeeded().records()).toHaveLength(11);
  await connection.expectEqual('readings');
  await db.query(changes(9, 'changed'));
  expect((await connection.sync()).succeeded().records()).toHaveLength(4);
  await connection.expectEqual('readings');
});

test('way 19: what is written to a detached chunk, which stays published, would be rows of the hypertable', async (context) => {
  await using db = await createDatabase();
  await requires(context, db, 'detach_chunk');
  await fillReadings(db, 3);
  const connection = await synced(db);
  const [, second = ''] = await chunkNames(db);
  await db.query(`CALL detach_chunk('${second}')`);
  await db.query(`INSERT INTO ${second} VALUES (${day(1)}, 100, 'not in the hypertable')`);
  await db.query(changes(2, 'changed'));
  const result = (await connection.sync()).succeeded();
  expect(result.records()).toHaveLength(4);
  // Detaching deletes no row.
  const found = await expectEqual(db, connection.destination, 'readings', {
    retained: ([, , note]) => note === 'day 1',
  });
  expect(found.retained).toBe(CHUNK_ROWS);
});

/** Chunks of an hour that are compressed into chunks of four. */
async function fillHours(db: Database): Promise<void> {
  await db.query(`
    CREATE TABLE readings (time timestamptz NOT NULL, device int, note text, PRIMARY KEY (time, device));
    SELECT create_hypertable('readings', 'time', chunk_time_interval => interval '1 hour');
    INSERT INTO readings SELECT ${day(0)} + i * interval '10 minutes', i, 'old' FROM generate_series(0, 47) i`);
  await useColumnstore(
    db,
    `, timescaledb.compress_segmentby = 'device', timescaledb.compress_chunk_time_interval = '4 hours'`,
  );
}

async function rollUp(db: Database): Promise<void> {
  for (const chunk of await chunkNames(db)) {
    const exists = await db.value<boolean>('SELECT to_regclass($1) IS NOT NULL', [chunk]);
    if (exists) await db.query(`SELECT compress_chunk('${chunk}')`);
  }
  expect(await chunkNames(db)).toHaveLength(2);
}

test('way 19: chunks that a roll-up has taken in would be read again, or their rows lost', async (context) => {
  await using db = await createDatabase();
  await requires(context, db);
  await fillHours(db);
  const connection = await synced(db);
  await db.query(`INSERT INTO readings VALUES (${day(0)} + interval '1 hour', 100, 'before')`);
  await rollUp(db);
  await db.query(`INSERT INTO readings VALUES (${day(0)} + interval '3 hours', 100, 'behind')`);
  await db.query(`UPDATE readings SET note = 'changed' WHERE device = 20`);
  await db.query(`DELETE FROM readings WHERE device IN (7, 13)`);
  (await connection.sync()).succeeded();
  await connection.expectEqual('readings');
  expect((await connection.sync()).succeeded().records()).toEqual([]);
});

test('way 19: rows of unread chunks that a roll-up takes into a chunk that is read would be lost', async (context) => {
  await using db = await createDatabase();
  await requires(context, db);
  await fillHours(db);
  const connection = await connectTo(db, {}, ONE_BY_ONE);
  const killed = await connection.attempt({ killAfterStates: 2 });
  const last = killed.messages.findIndex((message) => message === killed.states()[1]);
  connection.destination.apply(killed.messages.slice(0, last + 1));
  await rollUp(db);
  (await connection.sync()).succeeded();
  await connection.expectEqual('readings');
});

test('way 19: routed by name, rows of renamed and moved chunks would be lost or become rows of another hypertable', async () => {
  await using db = await createDatabase();
  await fillReadings(db, 3);
  await db.query(`
    CREATE TABLE others (time timestamptz NOT NULL, device int, note text);
    SELECT create_hypertable('others', 'time');
    ALTER TABLE others REPLICA IDENTITY FULL;
    INSERT INTO others VALUES (${day(0)}, 1, 'other')`);
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  const [first, second] = await chunkNames(db);
  const [other = ''] = await chunkNames(db, 'others');
  // As if it were one of the other hypertable.
  const name = other.replace(/^.*\./, '').replace(/_\d+_chunk/, '_99_chunk');
  await db.query(`ALTER TABLE ${first} RENAME TO ${name}`);
  await db.query(`CREATE SCHEMA elsewhere; ALTER TABLE ${second} SET SCHEMA elsewhere`);
  await db.query(`${changes(0, 'changed')} ${changes(1, 'changed')}`);
  const result = (await connection.sync()).succeeded();
  expect(result.records('readings')).toHaveLength(8);
  expect(result.records('others')).toEqual([]);
  await connection.expectEqual('readings', 'others');
});
