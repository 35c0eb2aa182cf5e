/** A hot standby as the source, and as the server that takes over. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { JsonObject } from '../src/airbyte/protocol.ts';
import { run } from './connector.ts';
import { createDatabase, Database, until } from './database.ts';
import { parseMetrics, valueOf } from './prometheus-text.ts';
import { expectRefused } from './refusals.ts';
import { connectTo, DAY_ZERO, stopWhen, untilWaiting } from './scenario.ts';
import { type Standby, startOwnServer, type TimescaleServer } from './server.ts';

let server: TimescaleServer | undefined;
/** One for all tests: the last of them makes it a primary. */
let standby: Standby | undefined;
/** In a database of the standby that is there from the beginning: those of the tests come with its recovery. */
let recovery: pg.Client | undefined;
let reason = '';

beforeAll(async () => {
  try {
    server = await startOwnServer();
    standby = await server.standby?.();
    if (standby === undefined) reason = `no standby can be made of a server by ${server.how}`;
    else {
      recovery = new pg.Client({ connectionString: standby.url });
      await recovery.connect();
    }
  } catch (error) {
    reason = `a standby needs a server of its own, and none can be started: ${String(error)}`;
  }
});

afterAll(async () => {
  await recovery?.end();
  await standby?.stop();
  await server?.stop();
});

async function fill(db: Database): Promise<void> {
  await db.query(`
    CREATE TABLE metrics (time timestamptz NOT NULL, device int NOT NULL, value float8, PRIMARY KEY (time, device));
    SELECT create_hypertable('metrics', 'time', chunk_time_interval => interval '1 day');
    INSERT INTO metrics SELECT '${DAY_ZERO}'::timestamptz + i * interval '1 hour', i % 3, i FROM generate_series(0, 239) i;
    CREATE TABLE orders (id int PRIMARY KEY, note text);
    INSERT INTO orders SELECT i, 'first' FROM generate_series(1, 100) i`);
}

/** The same database on the standby; dropping it is left to the primary. */
function onStandby(db: Database): Database {
  if (standby === undefined) throw new Error('no standby');
  return new Database(standby.url, db.name);
}

async function caughtUp(db: Database): Promise<void> {
  const lsn = await db.value<string>('SELECT pg_current_wal_insert_lsn()::text');
  await until('the standby has caught up', async () => {
    const replayed = await recovery?.query<{ enough: boolean }>(
      'SELECT pg_last_wal_replay_lsn() >= $1::pg_lsn AS enough',
      [lsn],
    );
    return replayed?.rows[0]?.enough === true;
  });
}

test('a standby is read by queries, chunk by chunk; changes are refused with the reason', async (context) => {
  if (standby === undefined) context.skip(reason);
  await using db = await createDatabase(server?.url);
  await fill(db);
  const there = onStandby(db);
  await caughtUp(db);
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
  await caughtUp(db);
  (await byXmin.sync()).succeeded();
  await writer.query('COMMIT');
  await writer.end();
  await db.query(
    `INSERT INTO metrics VALUES ('${DAY_ZERO}'::timestamptz + interval '20 days', 1, 1)`,
  );
  await caughtUp(db);
  (await cursor.sync()).succeeded();
  await cursor.expectEqual('metrics');
  (await byXmin.sync()).succeeded();
  await byXmin.expectEqual('metrics', 'orders');

  const cdc = await connectTo(there);
  expectRefused(await cdc.attempt(), 'config_error', /is a standby/);
  const check = await run('check', { config: there.config() });
  expect(check.connectionStatus()).toMatchObject({ status: 'FAILED' });
  expect(check.connectionStatus().message).toContain('is a standby');
});

describe('a standby that puts its recovery before our reads', () => {
  const method = {
    replication_method: { method: 'Standard' },
    timescaledb_max_concurrent_chunks: 1,
  };
  const TRIED_AGAIN = /from the last STATE/;
  let db: Database;
  let there: Database;
  let folder = '';

  beforeAll(async () => {
    if (standby === undefined) return;
    db = await createDatabase(server?.url);
    await fill(db);
    await db.query(`
      -- More than the sockets hold, however large they grow.
      CREATE TABLE wide (id int PRIMARY KEY, note text);
      INSERT INTO wide SELECT i, repeat('x', 2500) FROM generate_series(1, 16000) i;
      CREATE TABLE junk (id int);
      CREATE VIEW held AS SELECT o.id FROM orders o, (SELECT pg_advisory_lock_shared(42)) lock`);
    there = onStandby(db);
    await caughtUp(db);
    for (const setting of ['hot_standby_feedback = off', 'max_standby_streaming_delay = 0'])
      await there.query(`ALTER SYSTEM SET ${setting}`);
    await there.query('SELECT pg_reload_conf()');
    await until('no standby holds back what the primary vacuums', () =>
      db.value<boolean>('SELECT bool_and(xmin IS NULL) FROM pg_replication_slots'),
    );
    folder = mkdtempSync(join(tmpdir(), 'standby-'));
  });

  afterAll(async () => {
    await db?.[Symbol.asyncDispose]();
    rmSync(folder, { recursive: true, force: true });
  });

  /** Rows go that an open snapshot of the standby still sees. */
  async function vacuum(): Promise<void> {
    await db.query('INSERT INTO junk SELECT generate_series(1, 1000)');
    await db.query('DELETE FROM junk');
    await db.query('VACUUM junk');
  }

  test('a read that it cancels before the first row is begun again, without a new attempt of the sync', async (context) => {
    if (standby === undefined) context.skip(reason);
    await caughtUp(db);
    const connection = await connectTo(
      there,
      { syncMode: 'full_refresh', streams: ['held'] },
      method,
    );
    const holder = await there.client();
    try {
      await holder.query('SELECT pg_advisory_lock(42)');
      const file = join(folder, 'sync.prom');
      const syncing = connection.attempt({ args: ['--metrics-file', file] });
      await untilWaiting(there, 'rows');
      await vacuum();
      await until('the standby has cancelled it', () =>
        there.value<boolean>(
          'SELECT confl_snapshot > 0 FROM pg_stat_database_conflicts WHERE datname = current_database()',
        ),
      );
      await holder.query('SELECT pg_advisory_unlock(42)');
      const result = (await syncing).succeeded();
      expect(result.records()).toHaveLength(100);
      expect(result.logs().join()).not.toMatch(TRIED_AGAIN);
      const series = parseMetrics(readFileSync(file, 'utf8'));
      expect(valueOf(series, 'read_retries_total', { stream: 'held' })).toBeGreaterThan(0);
      expect(valueOf(series, 'retries_total')).toBe(0);
    } finally {
      await holder.end();
    }
  });

  test('one in the midst of a slice: the sync goes on from its last STATE', async (context) => {
    if (standby === undefined) context.skip(reason);
    await caughtUp(db);
    const choice = { syncMode: 'full_refresh', streams: ['orders', 'wide'] } as const;
    const connection = await connectTo(there, choice, method);
    const ofWide = (message: { type: string; record?: { stream: string } }): boolean =>
      message.type === 'RECORD' && message.record?.stream === 'wide';
    const stop = stopWhen(ofWide, async () => {
      await until('its recovery waits for us, or has ended our read', async () => {
        // Again and again: a session of the server's own, such as an ANALYZE, may have kept the rows.
        await vacuum();
        const lsn = await db.value<string>('SELECT pg_current_wal_lsn()::text');
        await until('the standby has received it', () =>
          there.value<boolean>('SELECT pg_last_wal_receive_lsn() >= $1::pg_lsn', [lsn]),
        );
        await delay(200);
        return there.value<boolean>(
          `SELECT pg_last_wal_replay_lsn() < $1::pg_lsn OR NOT EXISTS (
             SELECT FROM pg_stat_activity WHERE application_name LIKE '%: rows' AND state = 'active')`,
          [lsn],
        );
      });
    });
    const result = (await connection.sync(stop)).succeeded();
    expect(result.logs().join('\n')).toMatch(TRIED_AGAIN);
    expect(result.records('orders')).toHaveLength(100);
    await connection.expectEqual('wide', 'orders');
  });

  test('a lock that the primary holds is waited for', async (context) => {
    if (standby === undefined) context.skip(reason);
    const chunk = await db.value<string>(`SELECT show_chunks('metrics')::text LIMIT 1`);
    const session = await db.client();
    try {
      await session.query(`BEGIN; LOCK TABLE ${chunk} IN ACCESS EXCLUSIVE MODE`);
      // A lock alone is not flushed to the standby.
      await db.query('INSERT INTO junk VALUES (1)');
      await caughtUp(db);
      const connection = await connectTo(
        there,
        { syncMode: 'full_refresh', streams: ['metrics'] },
        method,
      );
      const syncing = connection.sync();
      await untilWaiting(there, 'rows');
      await session.query('INSERT INTO junk VALUES (1); COMMIT');
      expect((await syncing).succeeded().logs().join()).not.toMatch(TRIED_AGAIN);
      await connection.expectEqual('metrics');
    } finally {
      await session.end();
    }
  });

  test('check warns of it', async (context) => {
    if (standby === undefined) context.skip(reason);
    const check = await run('check', { config: there.config(method) });
    expect(check.connectionStatus()).toEqual({ status: 'SUCCEEDED' });
    expect(check.logs().join('\n')).toMatch(
      /WARN The server is a standby with hot_standby_feedback off: .*max_standby_streaming_delay \(0\)/,
    );
  });
});

test('case C18: a server that took over, on another timeline and without the slot, is not gone on with', async (context) => {
  if (standby === undefined) context.skip(reason);
  await using db = await createDatabase(server?.url);
  await fill(db);
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  await db.query(`INSERT INTO orders SELECT i, 'before' FROM generate_series(101, 110) i`);
  const there = onStandby(db);
  try {
    await caughtUp(db);
    await standby?.promote();
    await there.query(`INSERT INTO orders SELECT i, 'after' FROM generate_series(111, 120) i`);
    const { hostname, port } = new URL(there.url);
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
  }
});
