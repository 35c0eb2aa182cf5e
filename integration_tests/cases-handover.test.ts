/**
 * Losses that others have had at the hand-over from reading to streaming (cases A1 to A8). The table has no key, so each
 * row counts: one that is lost shows, and so does one that comes twice.
 */
import { expect, test } from 'vitest';
import { createDatabase, type Database, hasCompression, until } from './database.ts';
import type { Message } from './messages.ts';
import {
  type Connection,
  connectTo,
  DAY_ZERO,
  lsnOf,
  nthState,
  recordWhere,
  sessions,
  stopWhen,
} from './scenario.ts';

/** No session is left for a look at new chunks in between, which would take its turn when the machine is slow. */
const ONE_BY_ONE = { timescaledb_max_concurrent_chunks: 1, max_db_connections: 3 };
const VERIFY = { publication_management: 'verify only' };
const DAYS = 6;
/** More than the pipe and its reader hold: a stopped process is still in the midst of a chunk. */
const ROWS = 600;

async function fillReadings(db: Database, rows = ROWS): Promise<void> {
  await db.query(`
    CREATE TABLE readings (time timestamptz NOT NULL, day int, device int, note text);
    SELECT create_hypertable('readings', 'time', chunk_time_interval => interval '1 day');
    ALTER TABLE readings REPLICA IDENTITY FULL;
    INSERT INTO readings
      SELECT ${time('day')} + i * interval '1 second', day, i, repeat('x', 200)
        FROM generate_series(0, ${DAYS - 1}) day, generate_series(0, ${rows - 1}) i`);
}

function time(day: string | number): string {
  return `'${DAY_ZERO}'::timestamptz + interval '1 day' * ${day}`;
}

/** One of each kind of change in every day; `tag` makes the rows of each call others. */
function changes(tag: string): string {
  return `
    INSERT INTO readings SELECT ${time('day')}, day, -1, 'inserted ${tag}'
      FROM generate_series(0, ${DAYS - 1}) day;
    UPDATE readings SET note = 'updated ${tag}' WHERE device = 1;
    DELETE FROM readings WHERE device = 2;
    INSERT INTO readings SELECT ${time('day')}, day, 2, 'again ${tag}'
      FROM generate_series(0, ${DAYS - 1}) day;`;
}

async function chunks(db: Database): Promise<string[]> {
  const rows = await db.query<{ name: string }>(
    `SELECT quote_ident(chunk_schema) || '.' || quote_ident(chunk_name) AS name
       FROM timescaledb_information.chunks WHERE hypertable_name = 'readings' ORDER BY range_start`,
  );
  return rows.map(({ name }) => name);
}

/** Up to and with the nth STATE, from 1. */
function upToState(messages: readonly Message[], n: number): readonly Message[] {
  const at = messages.flatMap(({ type }, index) => (type === 'STATE' ? [index] : []))[n - 1];
  if (at === undefined) throw new Error(`there is no state ${n}`);
  return messages.slice(0, at + 1);
}

/** As somebody else does it, long before the first sync. */
async function makeSlot(db: Database): Promise<void> {
  await db.query(`CREATE PUBLICATION ${db.publication} FOR TABLE readings`);
  await db.query(`SELECT pg_create_logical_replication_slot('${db.slot}', 'pgoutput')`);
}

test('case A1: a position later than the slot’s consistent point would lose what commits behind it', async () => {
  await using db = await createDatabase();
  await fillReadings(db);
  await db.query('CREATE TABLE elsewhere (id int)');
  const connection = await connectTo(db, { streams: ['readings'] }, ONE_BY_ONE);
  const writer = await db.client();
  let made: unknown;
  try {
    // The slot's creation waits for it, and nothing else does.
    await writer.query('BEGIN; INSERT INTO elsewhere VALUES (1)');
    const running = connection.attempt({
      ...stopWhen(nthState(1), async () => {
        made = await db.value(
          'SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1',
          [db.slot],
        );
        await db.query(`BEGIN; ${changes('behind the slot')} COMMIT`);
      }),
      killAfterStates: 3,
    });
    await until('the slot is being made', async () =>
      (await sessions(db)).some(({ query }) => /create_logical_replication_slot/.test(query)),
    );
    await db.query(`BEGIN; ${changes('while the slot is made')} COMMIT`);
    await writer.query('COMMIT');
    const { messages } = await running;
    const kept = upToState(messages, 3);
    connection.destination.apply(kept);
    // Also behind two chunks: what was written meanwhile is still to be streamed.
    const positions = kept.flatMap((message) =>
      message.type === 'STATE' ? [lsnOf([message])] : [],
    );
    expect(positions).toEqual([made, made, made]);
  } finally {
    await writer.end();
  }
  (await connection.sync()).succeeded();
  await connection.expectEqual('readings');
});

test('case A2: between a slot made by the SQL function and the reads changes would be lost or doubled', async () => {
  await using db = await createDatabase();
  await fillReadings(db);
  await makeSlot(db);
  await db.query(`BEGIN; ${changes('before the sync')} COMMIT`);
  const connection = await connectTo(db, {}, { ...ONE_BY_ONE, ...VERIFY });
  const first = await connection.sync(
    stopWhen(nthState(1), async () => {
      await db.query(`BEGIN; ${changes('before the first row')} COMMIT`);
    }),
  );
  // Nothing is exported that could be older or newer than the slot: each read has a snapshot of its own.
  expect(first.succeeded().records('readings').length).toBeGreaterThanOrEqual(DAYS * ROWS);
  await connection.expectEqual('readings');
});

test('case A3: the first change behind the slot, and the first behind the last read, would be skipped', async () => {
  await using db = await createDatabase();
  await fillReadings(db, 20);
  await db.query(`CREATE TABLE notes (id int, note text);
                  ALTER TABLE notes REPLICA IDENTITY FULL;
                  INSERT INTO notes SELECT i, 'initial' FROM generate_series(1, 20) i`);
  const connection = await connectTo(db, {}, ONE_BY_ONE);
  let written = 0;
  const write = async (): Promise<void> => {
    written += 1;
    // One row alone: the first thing that the stream has for whoever looks next.
    await db.query(`INSERT INTO notes VALUES (${1000 + written}, 'one')`);
    await db.query(`INSERT INTO readings VALUES (${time(written % DAYS)}, 0, ${-written}, 'one')`);
  };
  const first = await connection.sync({
    onMessage: async ({ type }) => {
      if (type === 'STATE') await write();
    },
  });
  first.succeeded();
  await write();
  (await connection.sync()).succeeded();
  // The chunks, the table, one at the beginning and one at the end at least.
  expect(written).toBeGreaterThan(DAYS + 3);
  await connection.expectEqual('readings', 'notes');
});

test('case A4: a transaction begun before the position of a slot, and committed behind a read, would be torn', async () => {
  await using db = await createDatabase();
  await fillReadings(db);
  await makeSlot(db);
  const connection = await connectTo(db, {}, { ...ONE_BY_ONE, ...VERIFY });
  const writer = await db.client();
  try {
    await writer.query(`BEGIN; ${changes('before the sync')}`);
    let states = 0;
    const result = await connection.sync({
      onMessage: async ({ type }) => {
        if (type !== 'STATE') return;
        states += 1;
        if (states === 2) await writer.query(changes('behind the first chunk'));
        if (states === 4) await writer.query('COMMIT');
      },
    });
    result.succeeded();
  } finally {
    await writer.end();
  }
  await connection.expectEqual('readings');
});

test('case A6: rows of a first sync of which no more than the first state was stored would be lost', async () => {
  await using db = await createDatabase();
  await fillReadings(db, 20);
  const connection = await connectTo(db, {}, ONE_BY_ONE);
  // To its end, and nothing of it is kept: not even that there was a sync.
  (await connection.attempt()).succeeded();
  await db.query(`BEGIN; ${changes('behind a lost sync')} COMMIT`);
  const second = (await connection.attempt()).succeeded();
  connection.destination.apply(upToState(second.messages, 1));
  await db.query(`BEGIN; ${changes('behind another')} COMMIT`);
  (await connection.sync()).succeeded();
  await connection.expectEqual('readings');
});

test('case A7: chunks read at once, each with a snapshot of its own, would tear a transaction over all of them', async () => {
  await using db = await createDatabase();
  await fillReadings(db);
  const connection = await connectTo(db, {}, { timescaledb_max_concurrent_chunks: 4 });
  const writer = await db.client();
  let committed = 0;
  try {
    const result = await connection.sync({
      onMessage: async ({ type }) => {
        if (type !== 'STATE') return;
        // Each is open while some chunks are read, and commits while others are.
        if (committed > 0) await writer.query('COMMIT');
        await writer.query(`BEGIN; ${changes(`number ${committed}`)}`);
        committed += 1;
      },
    });
    result.succeeded();
    await writer.query('COMMIT');
  } finally {
    await writer.end();
  }
  expect(committed).toBeGreaterThan(DAYS);
  (await connection.sync()).succeeded();
  await connection.expectEqual('readings');
});

/** A chunk of compressed rows, and late ones beside them. */
async function compressPartly(db: Database, chunk: string, day: number): Promise<void> {
  await db.query(`SELECT compress_chunk('${chunk}')`);
  await db.query(`INSERT INTO readings SELECT ${time(day)} + interval '1 hour', ${day}, i, 'late'
                    FROM generate_series(5000, 5009) i`);
}

async function withColumnstore(db: Database): Promise<Connection> {
  await db.query(
    `ALTER TABLE readings SET (timescaledb.compress, timescaledb.compress_orderby = 'time')`,
  );
  return connectTo(db, {}, ONE_BY_ONE);
}

test('case A8: chunks compressed, decompressed and recompressed during a load would read as empty or doubled', async (context) => {
  await using db = await createDatabase();
  if (!(await hasCompression(db))) context.skip('only the full build compresses');
  await fillReadings(db);
  const connection = await withColumnstore(db);
  const [, second = '', third = '', fourth = '', fifth = ''] = await chunks(db);
  await db.query(`SELECT compress_chunk('${second}')`);
  await compressPartly(db, third, 2);
  await compressPartly(db, fifth, 4);
  const result = await connection.sync(
    stopWhen(nthState(1), async () => {
      // All of them are in the list of what is to be read; none is read yet.
      await db.query(`SELECT decompress_chunk('${second}')`);
      await db.query(`SELECT compress_chunk('${third}')`);
      await compressPartly(db, fourth, 3);
      await db.query(`SELECT decompress_chunk('${fifth}'); SELECT compress_chunk('${fifth}')`);
      await compressPartly(db, second, 1);
    }),
  );
  result.succeeded();
  await connection.expectEqual('readings');
});

test('case A8: a chunk recompressed in the midst of its read would lose the rest of it', async (context) => {
  await using db = await createDatabase();
  if (!(await hasCompression(db))) context.skip('only the full build compresses');
  await fillReadings(db);
  const connection = await withColumnstore(db);
  const [first = ''] = await chunks(db);
  await db.query(`SELECT compress_chunk('${first}')`);
  // More than the sockets between server and process hold.
  await db.query(`INSERT INTO readings SELECT ${time(0)} + interval '2 hours', 0, i, repeat('y', 4000)
                    FROM generate_series(10000, 15999) i`);
  let whileReading = 0;
  const result = await connection.sync(
    stopWhen(
      recordWhere(({ day }) => day === 0),
      async () => {
        whileReading = (await sessions(db)).filter(
          ({ purpose, state }) => purpose === 'rows' && state === 'active',
        ).length;
        await db.query(`SELECT compress_chunk('${first}')`);
        await db.query(`INSERT INTO readings VALUES (${time(0)}, 0, -1, 'behind it')`);
      },
    ),
  );
  result.succeeded();
  // Its statement still ran when the rows moved.
  expect(whileReading).toBe(1);
  await connection.expectEqual('readings');
});

test('case A8: chunks dropped during a load would end it, or take other rows with them', async () => {
  await using db = await createDatabase();
  await fillReadings(db);
  const connection = await connectTo(db, {}, ONE_BY_ONE);
  const result = await connection.sync(
    stopWhen(nthState(1), async () => {
      // The first one is being read: the drop of the last three has nothing to do with it.
      await db.query(`SELECT drop_chunks('readings', newer_than => ${time(3)})`);
      await db.query(`INSERT INTO readings VALUES (${time(4)}, 4, -1, 'in a chunk made anew')`);
    }),
  );
  result.succeeded();
  expect(result.records('readings')).toHaveLength(3 * ROWS + 1);
  await connection.expectEqual('readings');
});
