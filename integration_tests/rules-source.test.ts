/** R10 and R11: neither our memory nor the source suffers. */
import type { ChildProcess } from 'node:child_process';
import { expect, test } from 'vitest';
import { createDatabase, type Database, until } from './database.ts';
import { atEachState, connectTo, DAY_ZERO, nthState, sessions, stopWhen } from './scenario.ts';

const MEMORY_KB = 200 * 1024;

async function fillMetrics(db: Database, days: number, rows: number): Promise<void> {
  await db.query(`
    CREATE TABLE metrics (time timestamptz NOT NULL, device int NOT NULL, note text,
                          PRIMARY KEY (time, device));
    SELECT create_hypertable('metrics', 'time', chunk_time_interval => interval '1 day');
    INSERT INTO metrics
      SELECT '${DAY_ZERO}'::timestamptz + day * interval '1 day' + i * interval '1 millisecond', i, repeat('x', 150)
        FROM generate_series(0, ${days - 1}) day, generate_series(1, ${rows}) i`);
}

test('R10: memory stays flat while rows are read faster than the reader takes them', async () => {
  await using db = await createDatabase();
  await fillMetrics(db, 2, 100_000);
  const connection = await connectTo(db);
  const result = await connection.sync({
    keepMessages: false,
    slowReader: { bytesPerSecond: 10_000_000 },
  });
  expect(result.succeeded().maxRssKb).toBeLessThan(MEMORY_KB);
});

test('case E30: R10: memory stays flat while a large transaction is read from the WAL', async () => {
  await using db = await createDatabase();
  await fillMetrics(db, 1, 1);
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  await db.query(`INSERT INTO metrics SELECT '${DAY_ZERO}', i, repeat('x', 150)
                    FROM generate_series(1, 300000) i`);
  let records = 0;
  const result = await connection.sync({
    keepMessages: false,
    onMessage: (message) => {
      if (message.type === 'RECORD') records += 1;
    },
  });
  expect(result.succeeded().maxRssKb).toBeLessThan(MEMORY_KB);
  expect(records).toBe(300_000);
});

test('way 7: R11: the publication names its tables, and statements on tables without a key still work', async () => {
  await using db = await createDatabase();
  await fillMetrics(db, 2, 5);
  await db.query(`
    CREATE TABLE logs (time timestamptz NOT NULL, line text);
    SELECT create_hypertable('logs', 'time', chunk_time_interval => interval '1 day');
    INSERT INTO logs SELECT '${DAY_ZERO}'::timestamptz + i * interval '12 hours', i FROM generate_series(1, 6) i;
    CREATE TABLE notes (line text);
    INSERT INTO notes VALUES ('one'), ('two')`);
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  const publications = await db.query<{ all: boolean }>(
    'SELECT puballtables AS all FROM pg_publication',
  );
  expect(publications.length).toBeGreaterThan(0);
  expect(publications.filter(({ all }) => all)).toEqual([]);
  expect(await db.value('SELECT count(*)::int FROM pg_publication_namespace')).toBe(0);
  await db.query(`UPDATE logs SET line = 'changed'; DELETE FROM logs WHERE time > '2026-01-03Z';
                  UPDATE notes SET line = 'changed'; DELETE FROM notes WHERE line = 'two';
                  CREATE TABLE later (time timestamptz NOT NULL);
                  SELECT create_hypertable('later', 'time');
                  INSERT INTO logs VALUES ('2026-01-03Z', 'new')`);
  const second = (await connection.sync()).succeeded();
  // Of such tables only inserts can be seen.
  expect(second.records('logs').map(({ data }) => data['line'])).toEqual(['new']);
  await connection.expectEqual('metrics');
});

test('R11: while reading, our sessions hold no lock but ACCESS SHARE', async () => {
  await using db = await createDatabase();
  await fillMetrics(db, 4, 2000);
  // More than a socket holds: else the server is through with a chunk when the process stops.
  await db.query(`UPDATE metrics SET note = repeat('x', 5000);
                  CREATE TABLE orders (id int PRIMARY KEY);
                  INSERT INTO orders SELECT generate_series(1, 10000)`);
  const connection = await connectTo(db);
  const modes = new Set<string>();
  for (let syncs = 0; syncs < 2; syncs += 1) {
    const result = await connection.sync(
      atEachState(async () => {
        for (const mode of await userLocks(db)) modes.add(mode);
      }),
    );
    result.succeeded();
    await db.query(
      `UPDATE metrics SET note = 'changed' WHERE device = 1; DELETE FROM orders WHERE id = 1`,
    );
  }
  expect([...modes]).toEqual(['AccessShareLock']);
});

/** Modes of the locks that our sessions hold on tables of the user. */
async function userLocks(db: Database): Promise<string[]> {
  const rows = await db.query<{ mode: string }>(
    `SELECT DISTINCT l.mode FROM pg_stat_activity a JOIN pg_locks l USING (pid) JOIN pg_class c ON c.oid = l.relation
      WHERE a.datname = current_database() AND a.application_name LIKE 'source-timescaledb: %'
        AND c.relnamespace IN ('public'::regnamespace, '_timescaledb_internal'::regnamespace)`,
  );
  return rows.map(({ mode }) => mode);
}

test('R11: sessions end when the process is killed while it reads, and no slot but the configured one is left', async () => {
  await using db = await createDatabase();
  await fillMetrics(db, 4, 3000);
  const connection = await connectTo(db);
  const killed = await connection.sync(
    stopWhen(nthState(2), async (child) => {
      expect((await sessions(db)).length).toBeGreaterThan(2);
      child.kill('SIGKILL');
      await until('the sessions are gone', async () => (await sessions(db)).length === 0, 10);
    }),
  );
  expect(killed.signal).toBe('SIGKILL');
  expect(await db.slots()).toEqual([{ name: db.slot, temporary: false, active: false }]);
});

test('case C20: R11: sessions end when the process is killed while one of them waits for a lock', async () => {
  await using db = await createDatabase();
  await fillMetrics(db, 1, 5);
  await db.query('CREATE TABLE elsewhere (id int)');
  const connection = await connectTo(db, { streams: ['metrics'] });
  const writer = await db.client();
  try {
    // The slot's creation waits for it.
    await writer.query('BEGIN; INSERT INTO elsewhere VALUES (1)');
    let child: ChildProcess | undefined;
    const running = connection.sync({
      onStart: (started) => {
        child = started;
      },
    });
    await until('a session waits', async () => (await sessions(db)).some(({ waiting }) => waiting));
    child?.kill('SIGKILL');
    await running;
    await until('the sessions are gone', async () => (await sessions(db)).length === 0, 10);
    expect(await db.slots()).toEqual([]);
  } finally {
    await writer.end();
  }
});
