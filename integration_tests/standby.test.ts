/** A hot standby as the source, and as the server that takes over. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { JsonObject } from '../src/airbyte/protocol.ts';
import { run } from './connector.ts';
import { createDatabase, Database, until } from './database.ts';
import { expectRefused } from './refusals.ts';
import { connectTo, DAY_ZERO } from './scenario.ts';
import { type Standby, startOwnServer, type TimescaleServer } from './server.ts';

let server: TimescaleServer | undefined;
let reason = '';

beforeAll(async () => {
  try {
    server = await startOwnServer();
    if (server.standby === undefined)
      reason = `no standby can be made of a server by ${server.how}`;
  } catch (error) {
    reason = `a standby needs a server of its own, and none can be started: ${String(error)}`;
  }
});

afterAll(() => server?.stop());

async function fill(db: Database): Promise<void> {
  await db.query(`
    CREATE TABLE metrics (time timestamptz NOT NULL, device int NOT NULL, value float8, PRIMARY KEY (time, device));
    SELECT create_hypertable('metrics', 'time', chunk_time_interval => interval '1 day');
    INSERT INTO metrics SELECT '${DAY_ZERO}'::timestamptz + i * interval '1 hour', i % 3, i FROM generate_series(0, 239) i;
    CREATE TABLE orders (id int PRIMARY KEY, note text);
    INSERT INTO orders SELECT i, 'first' FROM generate_series(1, 100) i`);
}

/** The same database on the standby; dropping it is left to the primary. */
function onStandby(db: Database, standby: Standby): Database {
  return new Database(standby.url, db.name);
}

async function caughtUp(db: Database, standby: Database): Promise<void> {
  const lsn = await db.value<string>('SELECT pg_current_wal_insert_lsn()::text');
  await until('the standby has caught up', () =>
    standby.value<boolean>(`SELECT pg_last_wal_replay_lsn() >= $1::pg_lsn`, [lsn]),
  );
}

test('a standby is read by queries, chunk by chunk; changes are refused with the reason', async (context) => {
  if (server?.standby === undefined) context.skip(reason);
  await using db = await createDatabase(server?.url);
  await fill(db);
  const standby = await server!.standby!();
  const there = onStandby(db, standby);
  try {
    await caughtUp(db, there);
    const method = { replication_method: { method: 'Standard' } };
    const full = await connectTo(there, { syncMode: 'full_refresh' }, method);
    (await full.sync()).succeeded();
    await full.expectEqual('metrics', 'orders');
    const cursor = await connectTo(there, { cursorField: 'time', streams: ['metrics'] }, method);
    (await cursor.sync()).succeeded();
    const byXmin = await connectTo(
      there,
      { streams: ['metrics', 'orders'] },
      { replication_method: { method: 'Xmin' } },
    );
    const writer = await db.client();
    await writer.query(`BEGIN; INSERT INTO orders VALUES (1000, 'runs meanwhile')`);
    await db.query(`INSERT INTO orders VALUES (1001, 'later'); SELECT pg_log_standby_snapshot()`);
    await caughtUp(db, there);
    (await byXmin.sync()).succeeded();
    await writer.query('COMMIT');
    await writer.end();
    await db.query(
      `INSERT INTO metrics VALUES ('${DAY_ZERO}'::timestamptz + interval '20 days', 1, 1)`,
    );
    await caughtUp(db, there);
    (await cursor.sync()).succeeded();
    await cursor.expectEqual('metrics');
    (await byXmin.sync()).succeeded();
    await byXmin.expectEqual('metrics', 'orders');

    const cdc = await connectTo(there);
    expectRefused(await cdc.attempt(), 'config_error', /is a standby/);
    const check = await run('check', { config: there.config() });
    expect(check.connectionStatus()).toMatchObject({ status: 'FAILED' });
    expect(check.connectionStatus().message).toContain('is a standby');
  } finally {
    await standby.stop();
  }
});

test('case C18: a server that took over, on another timeline and without the slot, is not gone on with', async (context) => {
  if (server?.standby === undefined) context.skip(reason);
  await using db = await createDatabase(server?.url);
  await fill(db);
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  await db.query(`INSERT INTO orders SELECT i, 'before' FROM generate_series(101, 110) i`);
  const standby = await server!.standby!();
  const there = onStandby(db, standby);
  try {
    await caughtUp(db, there);
    await standby.promote();
    await there.query(`INSERT INTO orders SELECT i, 'after' FROM generate_series(111, 120) i`);
    const { hostname, port } = new URL(standby.url);
    const moved: JsonObject = { ...connection.config, host: hostname, port: Number(port) };
    const { catalog, destination } = connection;
    const attempt = { config: moved, catalog, state: destination.state };
    const refused = await run('read', attempt);
    expectRefused(refused, 'config_error', /timeline/);

    const resync = {
      ...moved,
      replication_method: {
        ...(moved['replication_method'] as object),
        invalid_cdc_cursor_position_behavior: 'Re-sync data',
      },
    };
    const anew = (await run('read', { ...attempt, config: resync })).succeeded();
    expect(anew.logs().join()).toContain('timeline');
    destination.apply(anew.messages);
    expect(anew.records('orders')).toHaveLength(120);
    expect(anew.records('metrics')).toHaveLength(240);
    await there.query(`DELETE FROM orders WHERE id = 1`);
    const next = (
      await run('read', { ...attempt, config: resync, state: anew.lastState() })
    ).succeeded();
    expect(next.records()).toHaveLength(1);
  } finally {
    await there.query(
      'SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active',
    );
    await standby.stop();
  }
});
