/** What the connector's reads lock, and whom they keep waiting; `npm run locks` measures it beside a single snapshot. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createDatabase, type Database } from './database.ts';
import { watchLocks } from './lock-watch.ts';
import { connectTo, DAY_ZERO, stopWhen } from './scenario.ts';

const CHUNKS = 8;
const LOCK_TIMEOUT_MS = 5000;
let db: Database;

beforeAll(async () => {
  db = await createDatabase();
  // Each chunk is larger than what the pipe, its reader and the sockets hold: 7 MB. Nobody else has a lock on one.
  await db.query(`
    CREATE TABLE readings (time timestamptz NOT NULL, device int NOT NULL, note text, PRIMARY KEY (time, device))
      WITH (autovacuum_enabled = off);
    SELECT create_hypertable('readings', 'time', chunk_time_interval => interval '1 day');
    INSERT INTO readings SELECT '${DAY_ZERO}'::timestamptz + day * interval '1 day' + i * interval '10 seconds', i, repeat('x', 2500)
      FROM generate_series(0, ${CHUNKS - 1}) day, generate_series(1, 3000) i`);
});

afterAll(() => db?.[Symbol.asyncDispose]());

type Lock = { readonly pid: number; readonly chunk: string; readonly mode: string };

/** What the connector's sessions have locked of the hypertable and its chunks. */
function held(): Promise<Lock[]> {
  return db.query<Lock>(
    `SELECT l.pid, l.relation::regclass::text AS chunk, l.mode
       FROM pg_locks l JOIN pg_stat_activity a USING (pid)
      WHERE a.datname = current_database() AND a.application_name LIKE 'source-timescaledb: %' AND l.locktype = 'relation'
        AND (l.relation = 'readings'::regclass
             OR l.relation IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'readings'::regclass))`,
  );
}

/** The chunks that nobody else has a lock on. */
async function lockable(): Promise<readonly string[]> {
  const names = await db.query<{ name: string }>(`SELECT show_chunks('readings')::text AS name`);
  const session = await db.client();
  const free: string[] = [];
  for (const { name } of names) {
    await session.query('BEGIN');
    const locked = await session
      .query(`LOCK TABLE ONLY ${name} IN ACCESS EXCLUSIVE MODE NOWAIT`)
      .then(() => true)
      .catch((error: { readonly code?: string }) => {
        expect(error.code).toBe('55P03');
        return false;
      });
    if (locked) free.push(name);
    await session.query('ROLLBACK');
  }
  await session.end();
  return free;
}

test('two chunks that are read at once: two sessions, one ACCESS SHARE lock each, and every other chunk is free', async () => {
  const connection = await connectTo(db, {}, { timescaledb_max_concurrent_chunks: 2 });
  let locks: readonly Lock[] = [];
  let free: readonly string[] = [];
  const stop = stopWhen(
    ({ type }) => type === 'RECORD',
    async () => {
      // What was sent before the process stopped, the server may still be about to do: once more, then.
      let before: readonly Lock[];
      do {
        before = await held();
        free = await lockable();
        locks = await held();
      } while (locks.length > before.length);
    },
  );
  (await connection.sync(stop)).succeeded();
  await connection.expectEqual('readings');
  const chunkLocks = locks.filter(({ chunk }) => chunk !== 'readings');
  const reading = new Set(chunkLocks.map(({ chunk }) => chunk));
  expect(locks.map(({ mode }) => mode)).toEqual(locks.map(() => 'AccessShareLock'));
  expect(reading.size).toBeGreaterThan(0);
  expect(reading.size).toBeLessThanOrEqual(2);
  const pids = chunkLocks.map(({ pid }) => pid);
  expect(new Set(pids).size).toBe(chunkLocks.length);
  // Each holds the hypertable as well: who alters it is next, before the chunks that are left.
  const roots = locks.filter(({ chunk }) => chunk === 'readings').map(({ pid }) => pid);
  expect(roots.toSorted((a, b) => a - b)).toEqual(pids.toSorted((a, b) => a - b));
  expect(free).toHaveLength(CHUNKS - reading.size);
});

test('over a whole sync beside writers and DDL: never two chunks in a transaction, and nobody waits for long', async () => {
  const connection = await connectTo(
    db,
    { syncMode: 'full_refresh' },
    { replication_method: { method: 'Standard' } },
  );
  const end = new AbortController();
  const beside = async (sql: string): Promise<number> => {
    const session = await db.client();
    let times = 0;
    for (; !end.signal.aborted; times += 1) await session.query(sql);
    await session.end();
    return times;
  };
  const { result, report } = await watchLocks(db, 'source-timescaledb: %', async () => {
    const others = Promise.all([
      beside(
        `UPDATE readings SET note = note || '' WHERE time < '${DAY_ZERO}'::timestamptz + interval '1 hour'`,
      ),
      beside(`ALTER TABLE readings ALTER COLUMN note SET DEFAULT ''`),
    ]);
    try {
      return await connection.sync({ slowReader: { bytesPerSecond: 30_000_000 } });
    } finally {
      end.abort();
      for (const times of await others) expect(times).toBeGreaterThan(0);
    }
  });
  result.succeeded();
  await connection.expectEqual('readings');
  const rows = report.held.get('source-timescaledb: rows');
  expect(rows?.chunks.size).toBeGreaterThan(CHUNKS / 2);
  expect(rows?.mostChunksAtOnce).toBe(1);
  expect([...(rows?.modes ?? [])]).toEqual(['AccessShareLock']);
  // Nothing is published for a full refresh: no other session touches a chunk.
  const all = [...report.held.values()];
  expect(all.filter(({ chunks }) => chunks.size > 0)).toEqual([rows]);
  expect(report.longestWait).toBeLessThan(LOCK_TIMEOUT_MS);
});

test('the measure: a single snapshot of the table has every chunk locked at once', async () => {
  const session = await db.client();
  const { report } = await watchLocks(db, 'one snapshot', async () => {
    await session.query(`SET application_name = 'one snapshot'; BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
                         DECLARE all_rows CURSOR FOR SELECT * FROM readings; FETCH 1 FROM all_rows; SELECT pg_sleep(0.1)`);
    await session.query('COMMIT');
  });
  await session.end();
  expect(report.held.get('one snapshot')?.mostChunksAtOnce).toBe(CHUNKS);
});
