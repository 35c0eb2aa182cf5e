/** A sync that finds little to do: what it asks of the server does not grow with streams and chunks. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { QueryCounter } from './bench-queries.ts';
import { createDatabase, type Database } from './database.ts';
import { Connection, connectTo } from './scenario.ts';
import { startOwnServer, type TimescaleServer } from './server.ts';

const MOST_QUERIES = 25;

/** Of the same release. Log that other tests write is read as well, in windows of 64 MB with queries of their own. */
let server: TimescaleServer | null = null;

beforeAll(async () => {
  await using db = await createDatabase();
  const version = await db.value<number>(`SELECT current_setting('server_version_num')::int`);
  const release = version >= 180_000 ? 'sid' : 'trixie';
  // Where none can be started there is one to be had by its URL, which then is all there is.
  server = await startOwnServer(release).catch(() => null);
}, 120_000);

afterAll(async () => {
  await server?.stop();
});

async function createHypertables(db: Database, count: number, chunks: number): Promise<void> {
  for (let i = 1; i <= count; i += 1) {
    await db.query(`CREATE TABLE h${i} (t bigint PRIMARY KEY, v int);
      SELECT create_hypertable('h${i}', 't', chunk_time_interval => 10);
      INSERT INTO h${i} SELECT c * 10, c FROM generate_series(1, ${chunks}) c`);
  }
}

/** Asked until the server's log is on disk, which other work on the server delays. */
const WAIT_FOR_DISK = /pg_current_wal_flush_lsn|pg_logical_emit_message/;

/**
 * The queries of a sync after one row was written, over all its sessions. What is asked again at once is a question that is
 * repeated until the server has come as far; the wait for its disk counts as one.
 */
async function queriesOfSync(connection: Connection, counter: QueryCounter): Promise<number> {
  const { db } = connection;
  await db.query('UPDATE h1 SET v = v + 1 WHERE t = 10');
  counter.reset();
  const result = (await connection.sync()).succeeded();
  expect(result.records('h1'), counter.texts.join('\n')).toHaveLength(1);
  const asked = counter.texts.filter((text) => !WAIT_FOR_DISK.test(text));
  return 1 + asked.filter((text, index) => text !== asked[index - 1]).length;
}

test.each([
  ['one hypertable', 1, 3],
  ['a hundred chunks', 1, 100],
  ['twelve hypertables and an ordinary table', 12, 2],
])('%s: at most 25 queries', async (_, hypertables, chunks) => {
  await using db = await createDatabase(server?.url);
  await createHypertables(db, hypertables, chunks);
  if (hypertables > 1) await db.query('CREATE TABLE plain (id int PRIMARY KEY)');
  await using counter = await QueryCounter.start(db.url);
  const direct = await connectTo(db);
  (await direct.sync()).succeeded();
  const counted = new Connection(
    db,
    db.config({ host: '127.0.0.1', port: counter.port }),
    direct.catalog,
  );
  counted.destination = direct.destination;
  // Another one's state has no row to send and nothing to confirm yet.
  await queriesOfSync(counted, counter);
  const queries = await queriesOfSync(counted, counter);
  expect(queries, counter.texts.join('\n')).toBeLessThanOrEqual(MOST_QUERIES);
  await counted.expectEqual('h1');
});
