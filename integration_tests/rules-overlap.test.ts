/** R3 and R4: what a read has seen is not streamed again, and what is not read yet is not streamed before. */
import { Client } from 'pg';
import { expect, test } from 'vitest';
import { createDatabase, type Database, until } from './database.ts';
import type { Message } from './messages.ts';
import { connectTo, DAY_ZERO, lsnOf, nthState, stopWhen } from './scenario.ts';

/** No session is left for a look at new chunks in between, which would take its turn when the machine is slow. */
const ONE_BY_ONE = { timescaledb_max_concurrent_chunks: 1, max_db_connections: 3 };
/** As in the connector: so many chunks are read before the stream catches up. */
const ROUND_CHUNKS = 40;

/**
 * Chunks of a day each, in a table without a key: each row counts, once. The first row of each chunk is never changed, so
 * a read of the chunk begins with it.
 */
async function fillReadings(db: Database, chunks: number, rows: number): Promise<void> {
  await db.query(`
    CREATE TABLE readings (time timestamptz NOT NULL, day int, device int, note text);
    SELECT create_hypertable('readings', 'time', chunk_time_interval => interval '1 day');
    ALTER TABLE readings REPLICA IDENTITY FULL;
    INSERT INTO readings
      SELECT ${time('day')}, day, i, CASE i WHEN 0 THEN 'first' ELSE repeat('x', 200) END
        FROM generate_series(0, ${chunks - 1}) day, generate_series(0, ${rows - 1}) i`);
}

function time(day: string | number): string {
  return `'${DAY_ZERO}'::timestamptz + interval '1 day' * ${day}`;
}

/** One of each kind of change in a day; `tag` makes the rows of each call others. */
function changes(day: number, tag: string): string {
  return `
    INSERT INTO readings VALUES (${time(day)}, ${day}, -1, 'inserted ${tag}');
    UPDATE readings SET note = 'updated ${tag}' WHERE day = ${day} AND device = 1;
    DELETE FROM readings WHERE day = ${day} AND device = 2;
    INSERT INTO readings VALUES (${time(day)}, ${day}, 2, 'again ${tag}');`;
}

test('case A5: R3: changes to read and unread chunks while the process stands still come exactly once', async () => {
  await using db = await createDatabase();
  await fillReadings(db, 6, 600);
  const connection = await connectTo(db, {}, ONE_BY_ONE);
  const result = await connection.sync(
    // The one at the beginning, and those of two chunks.
    stopWhen(nthState(3), async () => {
      for (let day = 0; day < 6; day += 1) {
        await db.query(`BEGIN; ${changes(day, 'at once')} COMMIT`);
        await db.query(`BEGIN; ${changes(day, 'never')} ROLLBACK`);
      }
    }),
  );
  result.succeeded();
  await connection.expectEqual('readings');
});

test('case A4: way 18: R3: a transaction that is open while chunks are read comes exactly once', async () => {
  await using db = await createDatabase();
  await fillReadings(db, 8, 600);
  const connection = await connectTo(db, {}, ONE_BY_ONE);
  const writer = await db.client();
  const everyDay = Array.from({ length: 8 }, (_, day) => changes(day, 'open')).join('');
  try {
    let states = 0;
    const result = await connection.sync({
      onMessage: async (message) => {
        if (message.type !== 'STATE') return;
        states += 1;
        // Chunks that are read before, while and after it is open.
        if (states === 2) await writer.query(`BEGIN; ${everyDay}`);
        if (states === 6) await writer.query('COMMIT');
      },
    });
    result.succeeded();
  } finally {
    await writer.end();
  }
  await connection.expectEqual('readings');
});

test('R3: the state remembers what each read has seen', async () => {
  await using db = await createDatabase();
  await fillReadings(db, 6, 600);
  const connection = await connectTo(db, {}, ONE_BY_ONE);
  // Of these changes the reads of the chunks behind the second one have seen all.
  const { messages } = await connection.attempt({
    ...stopWhen(nthState(2), async () => {
      for (let day = 0; day < 6; day += 1) {
        await db.query(`BEGIN; ${changes(day, 'seen by some')} COMMIT`);
      }
    }),
    killAfterStates: 6,
  });
  const stateAt = messages.flatMap(({ type }, index) => (type === 'STATE' ? [index] : []));
  // One chunk at a time: the sixth state tells of all that came before it.
  connection.destination.apply(messages.slice(0, stateAt[5]! + 1));
  (await connection.sync()).succeeded();
  await connection.expectEqual('readings');
});

test('way 18: R3, R4: a commit that waits for a synchronous standby is neither lost nor doubled', async (context) => {
  await using db = await createDatabase();
  const superuser = await db.value('SELECT rolsuper FROM pg_roles WHERE rolname = current_user');
  if (superuser !== true) context.skip('only a superuser may make commits wait for a standby');
  // More chunks than one round reads: the stream delivers the transaction before the last of them is read.
  const last = ROUND_CHUNKS + 4;
  await fillReadings(db, last + 1, 3);
  const connection = await connectTo(db, {}, ONE_BY_ONE);
  const writer = await db.client();
  const turn = await serverTurn();
  try {
    await writer.query('SET synchronous_commit = on');
    // Everybody else on the server goes on without waiting, as soon as the statement at hand is over.
    await reconfigure(db, 'synchronous_commit', 'local');
    await othersTookNotice(db);
    await reconfigure(db, 'synchronous_standby_names', 'nobody');
    let ended = false;
    const isTime = nthState(1);
    let writing: Promise<unknown> | undefined;
    let waited: Promise<void> | undefined;
    const result = await connection
      .sync({
        onMessage: async (message) => {
          if (writing !== undefined || !isTime(message)) return;
          writing = writer.query(
            `INSERT INTO readings VALUES (${time(0)}, 0, -1, 'waits'), (${time(last)}, ${last}, -1, 'waits')`,
          );
          await until('the commit waits', () => waitsForStandby(db));
          const position = await db.value<string>('SELECT pg_current_wal_insert_lsn()::text');
          // Until the stream has delivered it, or there is nothing to wait for any more.
          waited = until(
            'the stream passes the commit',
            async () => ended || (await passed(db, position)),
          ).then(() => reconfigure(db, 'synchronous_standby_names', null));
        },
      })
      .finally(() => {
        ended = true;
      });
    await waited;
    await writing;
    result.succeeded();
  } finally {
    await reconfigure(db, 'synchronous_standby_names', null);
    await reconfigure(db, 'synchronous_commit', null);
    await turn.end();
    await writer.end();
  }
  await connection.expectEqual('readings');
});

/** The settings are the server's: another run of this test there has to wait. Held until the session ends. */
async function serverTurn(): Promise<Client> {
  const session = new Client(process.env['TIMESCALEDB_URL']);
  await session.connect();
  await session.query(`SELECT pg_advisory_lock(hashtext('synchronous standby'))`);
  return session;
}

/** A session looks at a changed setting when it begins a statement. */
async function othersTookNotice(db: Database): Promise<void> {
  const now = await db.value<string>('SELECT clock_timestamp()::text');
  await until('older statements are over', () =>
    db.value<boolean>(
      `SELECT NOT EXISTS (SELECT FROM pg_stat_activity
          WHERE backend_type = 'client backend' AND state = 'active' AND query_start < $1::timestamptz
            AND application_name NOT LIKE 'source-timescaledb: %')`,
      [now],
    ),
  );
}

/** Sets, or resets, a setting of the server, and waits until it holds. */
async function reconfigure(db: Database, name: string, value: string | null): Promise<void> {
  await db.query(
    value === null ? `ALTER SYSTEM RESET ${name}` : `ALTER SYSTEM SET ${name} = '${value}'`,
  );
  await db.query('SELECT pg_reload_conf()');
  await until(`${name} holds`, async () => {
    const session = await db.client();
    try {
      const { rows } = await session.query<{ source: string }>(
        'SELECT source FROM pg_settings WHERE name = $1',
        [name],
      );
      return (rows[0]?.source === 'configuration file') === (value !== null);
    } finally {
      await session.end();
    }
  });
}

function waitsForStandby(db: Database): Promise<boolean> {
  return db.value<boolean>(
    `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'SyncRep')`,
  );
}

/** Whether the copy of the slot that a sync reads is beyond a position. */
function passed(db: Database, position: string): Promise<boolean> {
  return db.value<boolean>(
    `SELECT EXISTS (SELECT FROM pg_replication_slots
                     WHERE database = current_database() AND temporary AND confirmed_flush_lsn >= $1::pg_lsn)`,
    [position],
  );
}

test('R4: in a long load the position moves on, and changes of unread chunks wait for their read', async () => {
  await using db = await createDatabase();
  const chunks = 2 * ROUND_CHUNKS + 10;
  await fillReadings(db, chunks, 4);
  const connection = await connectTo(db);
  let written = 0;
  const result = await connection.sync({
    // While the reader waits for a writer, the process goes on reading chunks.
    onMessage: async (message) => {
      if (message.type !== 'STATE' || written >= 60) return;
      written += 1;
      const day = (written * 37) % chunks;
      await db.query(`BEGIN; ${changes(day, `number ${written}`)} COMMIT`);
    },
  });
  result.succeeded();
  expect(written).toBe(60);
  await connection.expectEqual('readings');

  const firstOfDay = new Map<unknown, unknown>();
  const positions = new Set<string>();
  for (const message of result.messages) {
    if (message.type === 'STATE') positions.add(lsnOf([message]));
    const data = rowOf(message);
    if (data !== null && !firstOfDay.has(data['day'])) firstOfDay.set(data['day'], data['note']);
  }
  expect([...firstOfDay.values()].filter((note) => note !== 'first')).toEqual([]);
  expect(firstOfDay.size).toBe(chunks);
  // The slot's, that behind the first round at least, and the last one.
  expect(positions.size).toBeGreaterThanOrEqual(3);
  const visibilities = result
    .states()
    .map((state) => JSON.stringify(state).match(/"visibility"/g)?.length ?? 0);
  expect(Math.max(...visibilities)).toBeLessThanOrEqual(ROUND_CHUNKS);
});

function rowOf(message: Message): Readonly<Record<string, unknown>> | null {
  return message.type === 'RECORD' ? message.record.data : null;
}
