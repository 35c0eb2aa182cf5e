/** Losses that others have had with slots, servers and publications (cases C16 to C21). */
import pg from 'pg';
import { expect, test } from 'vitest';
import type { JsonObject } from '../src/airbyte/protocol.ts';
import { movableClock } from './clock.ts';
import { run } from './connector.ts';
import { createDatabase, type Database, until } from './database.ts';
import { expectRefused } from './refusals.ts';
import type { RunResult } from './run-result.ts';
import { type Connection, connectTo, lsnOf, nthState, sessions, stopWhen } from './scenario.ts';
import { startOwnServer } from './server.ts';

/** A hypertable and a table with a first sync behind them; without a key, so that each row counts. */
async function synced(db: Database): Promise<Connection> {
  await db.query(`
    CREATE TABLE readings (time timestamptz NOT NULL, device int);
    SELECT create_hypertable('readings', 'time', chunk_time_interval => interval '1 day');
    ALTER TABLE readings REPLICA IDENTITY FULL;
    CREATE TABLE orders (id int PRIMARY KEY, note text);
    CREATE TABLE elsewhere (id int)`);
  await insert(db, 1);
  const connection = await connectTo(db, { streams: ['readings', 'orders'] });
  (await connection.sync()).succeeded();
  return connection;
}

/** Ten rows in each of three chunks and in the table; each `n` makes others. */
async function insert(db: Pick<Database, 'query'>, n: number): Promise<void> {
  await db.query(`
    INSERT INTO readings SELECT '2026-01-01Z'::timestamptz + day * interval '1 day', ${n} * 100 + i
      FROM generate_series(0, 2) day, generate_series(1, 10) i`);
  await db.query(`INSERT INTO orders SELECT ${n} * 100 + i, 'new' FROM generate_series(1, 10) i`);
}

const ROWS = 40;

/** The configuration that reads everything anew where slot and state do not fit. */
function resync(db: Database): JsonObject {
  return db.config({
    replication_method: {
      method: 'CDC',
      replication_slot: db.slot,
      publication: db.publication,
      invalid_cdc_cursor_position_behavior: 'Re-sync data',
    },
  });
}

/** Reads everything into a destination that begins anew. */
async function readAnew(connection: Connection): Promise<RunResult> {
  const { db, catalog, destination } = connection;
  const result = await run('read', { config: resync(db), catalog, state: destination.state });
  return result.succeeded();
}

test('case C16: a slot dropped and made again under its name would skip what lies between, in silence', async () => {
  await using db = await createDatabase();
  const connection = await synced(db);
  await insert(db, 2);
  await db.query(`SELECT pg_drop_replication_slot('${db.slot}')`);
  await db.query(`SELECT pg_create_logical_replication_slot('${db.slot}', 'pgoutput')`);
  await insert(db, 3);
  const refused = await connection.attempt();
  expectRefused(refused, 'config_error', /has moved to \S+, beyond the state at/);
  // Asked again it says the same: nothing was forgotten over the refusal.
  expectRefused(await connection.attempt(), 'config_error', /beyond the state at/);
  expect((await readAnew(connection)).records()).toHaveLength(3 * ROWS);
});

test('case C16: a slot dropped while a sync reads its changes would leave a state that goes on over the gap', async () => {
  await using db = await createDatabase();
  const connection = await synced(db);
  await insert(db, 2);
  const result = await connection.sync(
    stopWhen(nthState(1), async () => {
      await db.query(`SELECT pg_drop_replication_slot('${db.slot}')`);
    }),
  );
  result.succeeded();
  await connection.expectEqual('readings', 'orders');
  await insert(db, 3);
  expectRefused(await connection.attempt(), 'config_error', /slot \w+ does not exist any more/);
});

/** Writes WAL until the server has given up the slot. */
async function loseSlot(db: Database): Promise<void> {
  await db.query(`ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'`);
  await db.query('SELECT pg_reload_conf()');
  await until('the slot is lost', async () => {
    await db.query(`SELECT pg_logical_emit_message(false, 'fill', repeat('x', 1000000))`);
    await db.query('SELECT pg_switch_wal()');
    await db.query('CHECKPOINT');
    return db.value<boolean>(
      `SELECT wal_status = 'lost' FROM pg_replication_slots WHERE slot_name = $1`,
      [db.slot],
    );
  });
  await db.query('ALTER SYSTEM RESET max_slot_wal_keep_size');
  await db.query('SELECT pg_reload_conf()');
}

test('case C17: behind a slot whose WAL is gone (max_slot_wal_keep_size) a sync would go on over the gap', async (context) => {
  const server = await startOwnServer().catch((error: unknown) => {
    context.skip(
      `the setting needs a server of its own, and none can be started: ${String(error)}`,
    );
    throw error;
  });
  try {
    await using db = await createDatabase(server.url);
    const connection = await synced(db);
    await insert(db, 2);
    await db.query('DELETE FROM orders WHERE id = 105');
    await loseSlot(db);
    expectRefused(await connection.attempt(), 'config_error', /slot \w+ is lost.*clear/);
    const anew = await readAnew(connection);
    expect(anew.records()).toHaveLength(2 * ROWS - 1);
    expect(anew.logs().join('\n')).toMatch(/is lost.*Every stream is read again/);
    // The slot was made again, and goes on from there.
    connection.destination.commit(anew.states());
    await insert(db, 3);
    expect((await connection.attempt()).succeeded().records()).toHaveLength(ROWS);
  } finally {
    await server.stop();
  }
});

test('case C19: a position that moves on while nothing of ours commits would pass an open transaction', async () => {
  await using db = await createDatabase();
  const connection = await synced(db);
  const writer = await db.client();
  try {
    await writer.query('BEGIN');
    await insert(writer, 2);
    const positions = [lsnOf(connection.destination.state)];
    for (let syncs = 0; syncs < 3; syncs += 1) {
      // WAL of others, of which nothing is published.
      await db.query('INSERT INTO elsewhere SELECT generate_series(1, 10000)');
      expect((await connection.sync()).succeeded().records()).toEqual([]);
      positions.push(lsnOf(connection.destination.state));
    }
    // The slot is confirmed beyond what the transaction has written, at the start of each sync.
    expect(new Set(positions).size).toBe(4);
    await writer.query('COMMIT');
  } finally {
    await writer.end();
  }
  expect((await connection.sync()).succeeded().records()).toHaveLength(ROWS);
  await connection.expectEqual('readings', 'orders');
});

test('case C20: a slot whose making a long transaction holds up would be left behind half made', async () => {
  await using db = await createDatabase();
  const connection = await synced(db);
  await connection.clear();
  const writer = await db.client();
  try {
    await writer.query('BEGIN; INSERT INTO elsewhere VALUES (1)');
    const running = connection.attempt();
    await until('the slot is being made', async () =>
      (await sessions(db)).some(({ query }) => /create_logical_replication_slot/.test(query)),
    );
    // As the time that is configured for it would: two minutes at least.
    await db.query(`SELECT pg_cancel_backend(pid) FROM pg_stat_activity
                     WHERE datname = current_database() AND query LIKE '%create_logical_replication_slot%'
                       AND pid <> pg_backend_pid()`);
    const refused = await running;
    expectRefused(refused, 'transient_error', /could not be created within.*pg_stat_activity/);
    expect(await db.slots()).toEqual([]);
    await insert(db, 2);
    await writer.query('COMMIT');
  } finally {
    await writer.end();
  }
  (await connection.sync()).succeeded();
  await connection.expectEqual('readings', 'orders');
});

/** A sync waits for whoever uses the slot. */
async function whenAsking(db: Database): Promise<void> {
  await until('a sync asks who uses the slot', async () =>
    (await sessions(db)).some(
      ({ purpose, query }) =>
        purpose === 'system catalog' && query.includes('FROM pg_replication_slots s'),
    ),
  );
}

test('case C20: a walsender that still holds the slot would make a sync skip, or confirm for it', async () => {
  await using db = await createDatabase();
  const connection = await synced(db);
  // Its state is beyond what the slot has confirmed, so that the next sync has something to confirm.
  await insert(db, 2);
  (await connection.sync()).succeeded();
  await insert(db, 3);
  const zombie = new pg.Client({
    connectionString: db.url,
    application_name: 'zombie',
    replication: 'database',
  } as object);
  zombie.on('error', () => undefined);
  await zombie.connect();
  const streaming = zombie
    .query(
      `START_REPLICATION SLOT ${db.slot} LOGICAL 0/0 (proto_version '1', publication_names '${db.publication}')`,
    )
    .catch(() => undefined);
  try {
    await until('the slot is in use', async () => (await db.slots())[0]?.active === true);
    const clock = movableClock(61);
    const message = expectRefused(
      await connection.attempt({
        env: clock.env,
        onStart: (child) =>
          void whenAsking(db).then(() => {
            clock.putForward(child);
          }),
      }),
      'transient_error',
      /slot \w+ is in use by server process/,
    );
    const [slot] = await db.query<{ pid: number }>(
      'SELECT active_pid AS pid FROM pg_replication_slots WHERE slot_name = $1',
      [db.slot],
    );
    expect(message).toContain(`server process ${slot?.pid} (application_name "zombie", from `);
  } finally {
    await db.query(
      'SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1',
      [db.slot],
    );
    await streaming;
    await zombie.end().catch(() => undefined);
  }
  await until('the slot is free', async () => (await db.slots())[0]?.active === false);
  expect((await connection.sync()).succeeded().records()).toHaveLength(ROWS);
  await connection.expectEqual('readings', 'orders');
});

test('case C21: a publication dropped between two syncs would hide what was written before it is made again', async () => {
  await using db = await createDatabase();
  const connection = await synced(db);
  await insert(db, 2);
  await db.query(`DROP PUBLICATION ${db.publication}`);
  await insert(db, 3);
  const handedIn = lsnOf(connection.destination.state);
  // Up to PostgreSQL 17 the server would not decode what is older than the publication; later ones leave it out.
  const result = await connection.sync();
  expectRefused(result, 'config_error', /was made again/);
  expect(result.records()).toEqual([]);
  expect(lsnOf(connection.destination.state)).toBe(handedIn);
  expectRefused(await connection.attempt(), 'config_error', /was made again/);
  const anew = await readAnew(connection);
  expect(anew.records('orders')).toHaveLength(30);
  expect(anew.records('readings')).toHaveLength(90);
});

test('case C21: a table and a chunk taken out of the publication would have a gap in their changes', async () => {
  await using db = await createDatabase();
  const connection = await synced(db);
  const chunk = await db.value<string>(`SELECT min(c::text) FROM show_chunks('readings') c`);
  await db.query(`ALTER PUBLICATION ${db.publication} DROP TABLE orders, ONLY ${chunk}`);
  await insert(db, 2);
  await db.query(`UPDATE orders SET note = 'changed' WHERE id = 105`);
  const result = (await connection.sync()).succeeded();
  expect(result.logs().join('\n')).toMatch(/orders was not in the publication any more/);
  await connection.expectEqual('orders');
  // The chunk is read again as a whole, beside the changes of the other two.
  expect(result.records('readings')).toHaveLength(20 + 20);
  await insert(db, 3);
  expect((await connection.sync()).succeeded().records()).toHaveLength(ROWS);
  await connection.expectEqual('orders');
});
