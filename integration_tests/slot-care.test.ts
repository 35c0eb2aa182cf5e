/** What a slot costs its server and what threatens it, on servers of their own: settings and WAL are the whole server's. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { checked, lineAbout } from './check-answer.ts';
import { createDatabase, type Database, until } from './database.ts';
import { connectTo, DAY_ZERO, nthState, stopWhen, untilWaiting } from './scenario.ts';
import { startOwnServer, type TimescaleServer } from './server.ts';

let server: TimescaleServer | undefined;
let reason = '';

beforeAll(async () => {
  try {
    server = await startOwnServer();
  } catch (error) {
    reason = `a server of its own is needed, and none can be started: ${String(error)}`;
  }
});

afterAll(() => server?.stop());

async function fill(db: Database): Promise<void> {
  await db.query(`
    CREATE TABLE metrics (time timestamptz NOT NULL, id int NOT NULL, PRIMARY KEY (time, id));
    SELECT create_hypertable('metrics', 'time', chunk_time_interval => interval '1 day');
    INSERT INTO metrics SELECT '${DAY_ZERO}'::timestamptz + d * interval '1 day', i
      FROM generate_series(0, 4) d, generate_series(1, 1000) i`);
}

/** WAL that has nothing to do with any slot's tables, with the records from which decoding may begin. */
async function writeElsewhere(db: Database, megabytes: number): Promise<void> {
  for (let written = 0; written < megabytes; written += 2) {
    await db.query(
      `SELECT pg_logical_emit_message(false, 'fill', repeat('x', 1000000)), pg_logical_emit_message(false, 'fill', repeat('x', 1000000))`,
    );
    await db.query('SELECT pg_log_standby_snapshot()');
  }
}

async function retained(db: Database, slot: string): Promise<number> {
  return db.value<number>(
    `SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::float8 FROM pg_replication_slots WHERE slot_name = $1`,
    [slot],
  );
}

const MB = 1_000_000;

test('a database without changes beside one that writes: what the server keeps is what was written since the last sync', async (context) => {
  if (server === undefined) context.skip(reason);
  await using db = await createDatabase(server?.url);
  await using other = await createDatabase(server?.url);
  await fill(db);
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  // Beside it one that is only told of what was emitted.
  await db.query(`SELECT pg_copy_logical_replication_slot($1::text, 'unmoved_' || $1::text)`, [
    db.slot,
  ]);
  const kept: number[] = [];
  const logs: string[] = [];
  for (let syncs = 0; syncs < 4; syncs += 1) {
    await writeElsewhere(other, 10);
    logs.push(...(await connection.sync()).succeeded().logs());
    kept.push(await retained(db, db.slot));
  }
  expect(await retained(db, `unmoved_${db.slot}`)).toBeGreaterThan(40 * MB);
  // The state of a sync is confirmed by the next one: so much is kept for the destination's sake, and no more.
  for (const bytes of kept.slice(1)) expect(bytes).toBeLessThan(12 * MB);
  expect(logs.join('\n')).toMatch(
    /At the start the server keeps (19|2\d)\.\d MB of WAL for the replication slot/,
  );
  expect(logs.join('\n')).toMatch(
    /At the end the server keeps (9|1\d)\.\d MB of WAL .*; (9|1\d)\.\d MB are not confirmed/,
  );
});

async function setServer(db: Database, setting: string, value: string | null): Promise<void> {
  await db.query(
    value === null ? `ALTER SYSTEM RESET ${setting}` : `ALTER SYSTEM SET ${setting} = '${value}'`,
  );
  await db.query('SELECT pg_reload_conf()');
  await until(`${setting} is set`, async () =>
    db.value<boolean>(
      `SELECT source = 'default' OR $1::text IS NOT NULL FROM pg_settings WHERE name = '${setting}'`,
      [value],
    ),
  );
}

test('max_slot_wal_keep_size: told by sync and check before it bites, and what a sync in the middle does when it does', async (context) => {
  if (server === undefined) context.skip(reason);
  await using db = await createDatabase(server?.url);
  await fill(db);
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  await setServer(db, 'max_slot_wal_keep_size', '128MB');
  try {
    expect((await connection.sync()).succeeded().logs().join('\n')).not.toContain('is lost after');
    await writeElsewhere(db, 90);
    const sentence =
      /lost after another \d+\.\d MB of WAL, which the server writes in .*: \d\d % of max_slot_wal_keep_size \(128\.0 MB\)/;
    lineAbout((await checked(db)).warnings, sentence);
    const told = (await connection.sync()).succeeded().logs();
    expect(told.filter((line) => sentence.test(line))).not.toEqual([]);

    await db.query(
      `INSERT INTO metrics SELECT '${DAY_ZERO}'::timestamptz + interval '9 days', i FROM generate_series(1, 100) i`,
    );
    const lost = stopWhen(nthState(1), () => loseSlot(db));
    const result = await connection.sync(lost);
    // It may have read its changes by then; if not, it says so. Every later one does.
    if (result.exitCode === 0) expect(result.records()).toHaveLength(100);
    else expect(result.errors()[0]?.message).toMatch(/slot \w+ is lost/);
    const refused = await connection.attempt();
    expect(refused.errors()[0]?.message).toMatch(/slot \w+ is lost \(wal_removed\)/);
    lineAbout((await checked(db)).failures, /is lost \(wal_removed\)/);
  } finally {
    await setServer(db, 'max_slot_wal_keep_size', null);
  }
});

async function loseSlot(db: Database): Promise<void> {
  await until('the slot is lost', async () => {
    await writeElsewhere(db, 50);
    await db.query('SELECT pg_switch_wal()');
    await db.query('CHECKPOINT');
    return db.value<boolean>(
      `SELECT wal_status = 'lost' FROM pg_replication_slots WHERE slot_name = $1`,
      [db.slot],
    );
  });
}

test('idle_replication_slot_timeout: a sync that lasts longer keeps its slot', async (context) => {
  let latest: TimescaleServer;
  try {
    latest = await startOwnServer('sid');
  } catch (error) {
    context.skip(`PostgreSQL 18 is needed on a server of its own: ${String(error)}`);
    throw error;
  }
  try {
    await using db = await createDatabase(latest.url);
    await fill(db);
    await setServer(db, 'idle_replication_slot_timeout', '4s');
    const connection = await connectTo(db);
    const holder = await db.client();
    try {
      // Somebody keeps a chunk from being read.
      const chunk = await db.value<string>(`SELECT max(c::text) FROM show_chunks('metrics') c`);
      const stop = stopWhen(nthState(1), async () => {
        await holder.query(`BEGIN; LOCK TABLE ${chunk} IN ACCESS EXCLUSIVE MODE`);
      });
      const running = connection.sync(stop);
      await untilWaiting(db, 'rows');
      await until('the slot is touched', () =>
        db.value<boolean>(
          `SELECT inactive_since > now() - interval '1 second' FROM pg_replication_slots WHERE slot_name = $1`,
          [db.slot],
        ),
      );
      const begun = Date.now();
      await until('the timeout has passed', async () => {
        await db.query('CHECKPOINT');
        return Date.now() - begun > 6000;
      });
      await holder.query('COMMIT');
      (await running).succeeded();
    } finally {
      await holder.end();
    }
    await connection.expectEqual('metrics');
    expect(
      await db.value('SELECT invalidation_reason FROM pg_replication_slots WHERE slot_name = $1', [
        db.slot,
      ]),
    ).toBeNull();
  } finally {
    await latest.stop();
  }
});
