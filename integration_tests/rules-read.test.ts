/** R1 and R2: what must be in place before the first row is read, and a chunk is read whole or not at all. */
import type { Client } from 'pg';
import { expect, test } from 'vitest';
import { createDatabase, type Database, hasCompression, until } from './database.ts';
import type { RunResult } from './run-result.ts';
import {
  type Connection,
  connectTo,
  DAY_ZERO,
  sessions,
  stopWhen,
  untilWaiting,
  atEachState,
} from './scenario.ts';

/** One chunk at a time, so that a test knows which one is next. */
/** No session is left for a look at new chunks in between, which would take its turn when the machine is slow. */
const ONE_BY_ONE = { timescaledb_max_concurrent_chunks: 1, max_db_connections: 3 };

/** The first chunk is larger than what the pipe and its reader hold: a stopped process is still in the midst of it. */
const FIRST_CHUNK_ROWS = 3000;
const NEXT_CHUNK_ROWS = 24;

/** Two chunks (or more) of a table without a key, where each row counts. */
async function fillReadings(db: Database, chunks = 2): Promise<void> {
  await db.query(`
    CREATE TABLE readings (time timestamptz NOT NULL, device int, note text);
    SELECT create_hypertable('readings', 'time', chunk_time_interval => interval '1 day');
    ALTER TABLE readings REPLICA IDENTITY FULL;
    INSERT INTO readings
      SELECT '${DAY_ZERO}'::timestamptz + i * interval '1 second', i, repeat('x', 200)
        FROM generate_series(1, ${FIRST_CHUNK_ROWS}) i;
    INSERT INTO readings
      SELECT '${DAY_ZERO}'::timestamptz + day * interval '1 day' + i * interval '1 minute', i, 'day ' || day
        FROM generate_series(1, ${chunks - 1}) day, generate_series(1, ${NEXT_CHUNK_ROWS}) i`);
}

type ChunkName = { readonly oid: number; readonly name: string; readonly short: string };

/** The nth chunk by time, from 0. */
async function chunk(db: Database, n: number): Promise<ChunkName> {
  const chunks = await db.query<ChunkName>(
    `SELECT (quote_ident(chunk_schema) || '.' || quote_ident(chunk_name))::regclass::oid::int8::int AS oid,
            quote_ident(chunk_schema) || '.' || quote_ident(chunk_name) AS name, chunk_name AS short
       FROM timescaledb_information.chunks WHERE hypertable_name = 'readings' ORDER BY range_start`,
  );
  const found = chunks[n];
  if (found === undefined) throw new Error(`no chunk ${n}`);
  return found;
}

/**
 * A first sync of which the second chunk is changed between its place in the list and its read: `before` runs while the
 * process is stopped in the midst of the first chunk, in an open transaction; `whileWaiting` when the reading session
 * waits for it, and the transaction is committed behind that.
 */
async function changedBeforeRead(
  connection: Connection,
  before: (session: Client) => Promise<unknown>,
  whileWaiting: (session: Client) => Promise<unknown> = () => Promise.resolve(),
): Promise<RunResult> {
  const { db } = connection;
  const session = await db.client();
  // No other session can plan a query while this one holds the system catalog.
  const watch = {
    query: async <R>(sql: string) => {
      await session.query('SELECT pg_stat_clear_snapshot()');
      return (await session.query(sql)).rows as R[];
    },
  };
  let waited: Promise<unknown> | undefined;
  const commit = async (): Promise<void> => {
    await untilWaiting(watch, 'rows');
    await whileWaiting(session);
    await session.query('COMMIT');
  };
  try {
    const result = await connection.sync({
      timeoutSeconds: 60,
      ...stopWhen(isRecord, async () => {
        await session.query('BEGIN');
        await before(session);
        waited = commit();
        // Awaited below: until then a failure of it is nobody's.
        waited.catch(() => undefined);
      }),
    });
    await waited;
    return result.succeeded();
  } finally {
    await session.end();
  }
}

/** Waits, without keeping the test from going on, until the chunk before this one is read; then nobody can plan. */
function lockCatalog(session: Client): Promise<unknown> {
  const locked = session.query('LOCK TABLE _timescaledb_catalog.chunk IN ACCESS EXCLUSIVE MODE');
  // Where it fails, all that follows in its transaction fails as well.
  locked.catch(() => undefined);
  return Promise.resolve();
}

function isRecord(message: { readonly type: string }): boolean {
  return message.type === 'RECORD';
}

test('way 3: R1: a transaction that wrote before the first sync and commits while it runs is there once', async () => {
  await using db = await createDatabase();
  await fillReadings(db);
  const connection = await connectTo(db);
  const writer = await db.client();
  try {
    await writer.query('BEGIN');
    await writer.query(`INSERT INTO readings VALUES ('${DAY_ZERO}', -1, 'before the publication')`);
    const running = connection.sync();
    // Published by now: what follows is sent, what came before is not. Only the transaction as a whole may count.
    await until('the tables are published', async () => (await publishedTables(db)) === 3);
    await writer.query(`INSERT INTO readings VALUES ('${DAY_ZERO}', -2, 'behind the publication')`);
    await writer.query('COMMIT');
    (await running).succeeded();
  } finally {
    await writer.end();
  }
  await connection.expectEqual('readings');
});

test('case F33: way 3: R1: rows of a transaction that straddles the publication of its chunk are there once', async () => {
  await using db = await createDatabase();
  await fillReadings(db);
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  const row = (device: number): string =>
    `INSERT INTO readings VALUES ('${DAY_ZERO}'::timestamptz + interval '9 days', ${device}, 'new chunk')`;
  await db.query(row(-1));
  const writer = await db.client();
  try {
    await writer.query(`BEGIN; ${row(-2)}`);
    let ended = false;
    const running = connection.sync().finally(() => {
      ended = true;
    });
    await until('the chunk is published', async () => (await publishedTables(db)) === 4);
    await writer.query(row(-3));
    // A read that did not wait would be over some time, without these rows.
    await until('the sync waits for the writer', async () => ended || (await asksForWriters(db)));
    await writer.query('COMMIT');
    (await running).succeeded();
  } finally {
    await writer.end();
  }
  await connection.expectEqual('readings');
});

async function asksForWriters(db: Database): Promise<boolean> {
  return (await sessions(db)).some(({ query }) => /FROM pg_catalog\.pg_locks/.test(query));
}

/** The hypertable and its chunks. */
function publishedTables(db: Database): Promise<number> {
  return db.value<number>('SELECT count(*)::int FROM pg_publication_rel');
}

test('case A1: R1: publication, then slot, then the first record', async () => {
  await using db = await createDatabase();
  await fillReadings(db);
  await db.query('CREATE TABLE elsewhere (id int)');
  const connection = await connectTo(db, { streams: ['readings'] });
  const writer = await db.client();
  const atFirstRecord: unknown[] = [];
  try {
    // It does not touch what is published, so nothing but the slot's creation waits for it.
    await writer.query('BEGIN; INSERT INTO elsewhere VALUES (1)');
    const running = connection.sync({
      onMessage: async (message) => {
        if (message.type === 'RECORD' && atFirstRecord.length === 0) {
          atFirstRecord.push(...(await persistentSlots(db)));
        }
      },
    });
    await until('the slot is being created', async () =>
      (await sessions(db)).some(({ query }) => /create_logical_replication_slot/.test(query)),
    );
    expect(await publishedTables(db)).toBe(3);
    await writer.query('COMMIT');
    (await running).succeeded();
  } finally {
    await writer.end();
  }
  expect(atFirstRecord).toMatchObject([{ name: db.slot }]);
});

async function persistentSlots(db: Database): Promise<unknown[]> {
  return (await db.slots()).filter(({ temporary }) => !temporary);
}

test('way 8: R1: no transaction of a reading session spans two chunks', async () => {
  await using db = await createDatabase();
  await fillReadings(db, 8);
  // More than a socket holds: else the server is through with a chunk when the process stops.
  await db.query(`
    INSERT INTO readings
      SELECT '${DAY_ZERO}'::timestamptz + day * interval '1 day' + i * interval '1 second', i, repeat('x', 500)
        FROM generate_series(0, 7) day, generate_series(1, 25000) i`);
  const connection = await connectTo(db);
  const seen = new Map<string, Set<string>>();
  let samples = 0;
  const result = await connection.sync(
    atEachState(async () => {
      for (const { transaction, relation } of await readLocks(db)) {
        samples += 1;
        seen.set(transaction, (seen.get(transaction) ?? new Set()).add(relation));
      }
    }),
  );
  result.succeeded();
  expect(samples).toBeGreaterThan(3);
  for (const [transaction, chunks] of seen) expect([...chunks], transaction).toHaveLength(1);
});

/** Which chunks the transactions of the reading sessions hold. */
function readLocks(
  db: Database,
): Promise<{ readonly transaction: string; readonly relation: string }[]> {
  return db.query(
    `SELECT a.pid || ' ' || a.xact_start AS transaction, l.relation::regclass::text AS relation
       FROM pg_stat_activity a JOIN pg_locks l USING (pid) JOIN pg_inherits i ON i.inhrelid = l.relation
      WHERE a.datname = current_database() AND a.application_name = 'source-timescaledb: rows'`,
  );
}

test('way 9: R2: a chunk whose catalog row changes between snapshot and plan is read again', async () => {
  await using db = await createDatabase();
  await fillReadings(db);
  const connection = await connectTo(db, {}, ONE_BY_ONE);
  const { oid, name, short } = await chunk(db, 1);
  const condition = await isChunk(db);
  const result = await changedBeforeRead(connection, lockCatalog, async (session) => {
    await session.query(
      `INSERT INTO ${name} VALUES ('${DAY_ZERO}'::timestamptz + interval '1 day', 0, 'new')`,
    );
    await session.query(
      `UPDATE _timescaledb_catalog.chunk SET status = status WHERE ${condition}`,
      [oid],
    );
  });
  await connection.expectEqual('readings');
  // The row that came in between is in the read, which therefore began after it.
  expect(readLog(result, short)).toBe(NEXT_CHUNK_ROWS + 1);
});

/** A condition on the chunk catalog for one relation; its columns changed with 2.29. */
async function isChunk(db: Database): Promise<string> {
  const byOid = await db.value<boolean>(
    `SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = '_timescaledb_catalog.chunk'::regclass AND attname = 'relid')`,
  );
  if (byOid) return 'relid = $1::oid';
  return `(schema_name, table_name) = (SELECT nspname, relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE c.oid = $1::oid)`;
}

/** How many rows the log says were read from a chunk. */
function readLog(result: RunResult, name: string): number | undefined {
  const line = result.logs().find((text) => text.includes(`chunk ${name} read, `));
  const rows = /read, (\d+) rows/.exec(line ?? '')?.[1];
  return rows === undefined ? undefined : Number(rows);
}

test('case A8: way 9: R2: a partial chunk that is recompressed between snapshot and plan loses no row', async (context) => {
  await using db = await createDatabase();
  if (!(await hasCompression(db))) context.skip('only the full build compresses');
  await fillReadings(db);
  await db.query(
    `ALTER TABLE readings SET (timescaledb.compress, timescaledb.compress_orderby = 'time')`,
  );
  const { name, short } = await chunk(db, 1);
  await db.query(`SELECT compress_chunk('${name}')`);
  await db.query(
    `INSERT INTO readings VALUES ('${DAY_ZERO}'::timestamptz + interval '1 day', 0, 'in the heap')`,
  );
  const connection = await connectTo(db, {}, ONE_BY_ONE);
  const result = await changedBeforeRead(connection, async (session) => {
    await session.query(`SELECT compress_chunk('${name}')`);
    await lockCatalog(session);
  });
  expect(readLog(result, short)).toBe(NEXT_CHUNK_ROWS + 1);
  await connection.expectEqual('readings');
});

test('R2: a chunk that is locked longer than we wait is read in the end', async () => {
  await using db = await createDatabase();
  await fillReadings(db);
  const connection = await connectTo(db, {}, ONE_BY_ONE);
  const { name, short } = await chunk(db, 1);
  const result = await changedBeforeRead(
    connection,
    (session) => session.query(`LOCK TABLE ${name} IN ACCESS EXCLUSIVE MODE`),
    async () => {
      await until('the wait is given up', async () => !(await isWaiting(db)));
      await untilWaiting(db, 'rows');
    },
  );
  expect(readLog(result, short)).toBe(NEXT_CHUNK_ROWS);
  await connection.expectEqual('readings');
});

async function isWaiting(db: Database): Promise<boolean> {
  return (await sessions(db)).some(({ purpose, waiting }) => purpose === 'rows' && waiting);
}

test('case A8: R2: a chunk that is dropped while its lock is awaited is forgotten', async () => {
  await using db = await createDatabase();
  await fillReadings(db, 3);
  const connection = await connectTo(db, {}, ONE_BY_ONE);
  const { name, short } = await chunk(db, 1);
  const result = await changedBeforeRead(connection, (session) =>
    session.query(`DROP TABLE ${name}`),
  );
  expect(result.logs().join('\n')).toContain(`chunk ${short} is gone`);
  await connection.expectEqual('readings');
});

test('way 19: R2: a chunk that is renamed between its place in the list and its read is read', async () => {
  await using db = await createDatabase();
  await fillReadings(db);
  const connection = await connectTo(db, {}, ONE_BY_ONE);
  const { name } = await chunk(db, 1);
  const result = await connection.sync(
    stopWhen(isRecord, async () => {
      await db.query(`ALTER TABLE ${name} RENAME TO "An odd ""name"""`);
    }),
  );
  result.succeeded();
  await connection.expectEqual('readings');
});
