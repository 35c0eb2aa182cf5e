/**
 * As the platform runs a source: a shell in a foreign folder, named pipes, and a process at their other end that may be
 * slow, go away or be cancelled. Whatever it does, the next sync goes on from the last state that it has read.
 */
import { expect, test } from 'vitest';
import { createDatabase, type Database, until } from './database.ts';
import { isRunning, peakMemory, type PlatformRead, runJob, startRead } from './platform.ts';
import type { RunResult } from './run-result.ts';
import { type Connection, connectTo, nthState, sessions } from './scenario.ts';

/** Text that passes any buffer many times over: 8 chunks of 10 MB. */
const DAYS = 8;
const ROWS_A_DAY = 5000;

async function fill(db: Database, rowsADay = ROWS_A_DAY, noteLength = 2000): Promise<void> {
  await db.query(`
    CREATE TABLE metrics (time timestamptz NOT NULL, device int NOT NULL, note text,
                          PRIMARY KEY (time, device));
    SELECT create_hypertable('metrics', 'time', chunk_time_interval => interval '1 day');
    INSERT INTO metrics
      SELECT '2026-01-01Z'::timestamptz + day * interval '1 day' + i * interval '1 second', i,
             repeat('x', ${noteLength})
        FROM generate_series(0, ${DAYS - 1}) day, generate_series(1, ${rowsADay}) i;
    CREATE TABLE devices (id int PRIMARY KEY, name text);
    INSERT INTO devices SELECT i, 'device ' || i FROM generate_series(1, 50) i`);
}

function start({ config, catalog, destination }: Connection): Promise<PlatformRead> {
  return startRead({ config, catalog, state: destination.state });
}

/** A sync on the platform, kept in the destination. */
async function sync(connection: Connection): Promise<RunResult> {
  await using read = await start(connection);
  const result = (await read.finish()).succeeded();
  connection.destination.apply(result.messages);
  return result;
}

/** Nothing of a sync that was broken off is left, and the next one brings what it lacked and what happened since. */
async function expectGoesOn(connection: Connection, broken: RunResult): Promise<void> {
  const { db } = connection;
  await until('no session of the connector is left', async () => (await sessions(db)).length === 0);
  expect(await db.slots()).toMatchObject([{ name: db.slot, temporary: false, active: false }]);
  connection.destination.apply(broken.messages);
  await db.query(`
    UPDATE metrics SET note = 'changed' WHERE device = 7;
    DELETE FROM metrics WHERE device = 8;
    DELETE FROM devices WHERE id > 40`);
  await sync(connection);
  await connection.expectEqual('metrics', 'devices');
}

test('spec, check and discover leave their answer in a file of a foreign folder', async () => {
  await using db = await createDatabase();
  await fill(db, 10);
  const spec = (await runJob('spec')).succeeded();
  // The platform looks for it in the first lines only.
  expect(spec.messages[0]?.type).toBe('SPEC');
  expect(spec.lines[0]?.length).toBeLessThan(2 ** 21);
  const check = (await runJob('check', db.config())).succeeded();
  expect(check.connectionStatus().status).toBe('SUCCEEDED');
  const failed = (await runJob('check', db.config({ database: 'nowhere' }))).succeeded();
  expect(failed.connectionStatus().status).toBe('FAILED');
  const discovered = (await runJob('discover', db.config())).succeeded();
  expect(discovered.catalog().streams.map(({ name }) => name)).toEqual(['devices', 'metrics']);
  const lost = await runJob('discover', db.config({ database: 'nowhere' }));
  expect(lost.exitCode).toBe(1);
  expect(lost.errors()).toMatchObject([{ failure_type: 'config_error' }]);
  const all = [spec, check, failed, discovered, lost];
  expect(all.map(({ stderr }) => stderr)).toEqual(all.map(() => ''));
});

test('two syncs through named pipes: all rows, then what has changed', async () => {
  await using db = await createDatabase();
  await fill(db, 20);
  const connection = await connectTo(db);
  const first = await sync(connection);
  expect(first.records()).toHaveLength(20 * DAYS + 50);
  expect(first.stderr).toBe('');
  await connection.expectEqual('metrics', 'devices');
  await db.query(`
    INSERT INTO metrics VALUES ('2026-02-01Z', 1, 'new chunk');
    UPDATE devices SET name = 'renamed' WHERE id = 3;
    DELETE FROM metrics WHERE device = 5`);
  expect((await sync(connection)).records()).toHaveLength(2 + DAYS);
  await connection.expectEqual('metrics', 'devices');
});

test('a slow reader: the connector waits, and what it holds does not grow', async () => {
  await using db = await createDatabase();
  await fill(db);
  const connection = await connectTo(db);
  await using read = await start(connection);
  await until('the server waits for the connector', async () => {
    const rows = await db.query(
      `SELECT FROM pg_stat_activity WHERE application_name = 'source-timescaledb: rows'
          AND datname = current_database() AND wait_event = 'ClientWrite'`,
    );
    return rows.length > 0;
  });
  const { connector } = read;
  const held = peakMemory(connector);
  await read.readUntil(nthState(DAYS), 20_000_000);
  // 80 MB have passed by then: a queue of them would show.
  expect(peakMemory(connector)).toBeLessThan(held + 30_000);
  const result = (await read.finish()).succeeded();
  expect(read.exitCodeFile()).toBe('0');
  connection.destination.apply(result.messages);
  await connection.expectEqual('metrics', 'devices');
});

test('a reader that goes away: a stop without a word, and the next sync goes on', async () => {
  await using db = await createDatabase();
  await fill(db);
  const connection = await connectTo(db);
  await using read = await start(connection);
  expect(await read.readUntil(nthState(3))).toBe(true);
  const { connector } = read;
  read.closeReader();
  expect(await read.ended).toBe(1);
  expect(isRunning(connector)).toBe(false);
  const broken = await read.result();
  expect(broken.stderr).toBe('');
  expect(broken.records().length).toBeLessThan(DAYS * ROWS_A_DAY);
  await expectGoesOn(connection, broken);
});

test('TERMINATED: the signal goes to the shell, the connector ends by its pipe', async () => {
  await using db = await createDatabase();
  await fill(db);
  const connection = await connectTo(db);
  await using read = await start(connection);
  expect(await read.readUntil(nthState(3))).toBe(true);
  const { connector } = read;
  await read.terminate();
  expect(await read.ended).toBe(128 + 15);
  // Nobody told it: it waits for its reader.
  expect(isRunning(connector)).toBe(true);
  read.closeReader();
  await until('the connector has ended', () => Promise.resolve(!isRunning(connector)));
  const broken = await read.result();
  expect(broken.stderr).toBe('');
  await expectGoesOn(connection, broken);
});

test('SIGKILL in the midst of rows: what was read counts, and the next sync goes on', async () => {
  await using db = await createDatabase();
  await fill(db);
  const connection = await connectTo(db);
  await using read = await start(connection);
  expect(await read.readUntil(nthState(3))).toBe(true);
  read.kill();
  const broken = await read.finish();
  expect(broken.signal).toBe('SIGKILL');
  expect(read.exitCodeFile()).toBe('137');
  expect(broken.records().length).toBeLessThan(DAYS * ROWS_A_DAY);
  await expectGoesOn(connection, broken);
});

test('SIGKILL in the midst of changes: what was read counts, and the next sync goes on', async () => {
  await using db = await createDatabase();
  await fill(db);
  const connection = await connectTo(db);
  await sync(connection);
  await db.query(`UPDATE metrics SET note = repeat('y', 2000) WHERE device > 1000`);
  await using read = await start(connection);
  let changes = 0;
  const afterSome = await read.readUntil(({ type }) => type === 'RECORD' && ++changes === 500);
  expect(afterSome).toBe(true);
  read.kill();
  const broken = await read.finish();
  expect(broken.signal).toBe('SIGKILL');
  expect(broken.records().length).toBeLessThan(DAYS * (ROWS_A_DAY - 1000));
  await expectGoesOn(connection, broken);
});
