/** `watcher`: seconds from the commit that makes a chunk to its first record, by what tells of it, while another table is read. */
import type { BenchOptions } from './bench-options.ts';
import { fixed, median } from './bench-rounds.ts';
import { createDatabase, type Database, until } from './database.ts';
import type { Printer } from './demo-print.ts';
import { NO_SOURCE, untilPolled, WatchedConnection, watcherPid } from './watched-sync.ts';
import type { WatchOptions } from '../src/timescaledb/watcher.ts';

type Case = {
  readonly name: string;
  readonly watching: WatchOptions;
  /** SQL in the transaction that makes the chunk. */
  readonly also: (db: Database) => string;
};

const NOTIFY = `SELECT pg_notify('timescaledb_chunk_created', json_build_object(
    'hypertable_schema', 'public', 'hypertable_name', 'live', 'chunk_schema', n.nspname, 'chunk_name', c.relname)::text)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.oid = (SELECT max(s::oid) FROM show_chunks('live') s);`;

const PUBLISH = (db: Database): string => `
  DO $$ BEGIN EXECUTE format('ALTER PUBLICATION ${db.publication} ADD TABLE ONLY %s',
    (SELECT max(s::oid)::regclass FROM show_chunks('live') s)); END $$;`;

const CASES: readonly Case[] = [
  { name: 'published catalog', watching: { ...NO_SOURCE, catalog: true }, also: () => '' },
  { name: 'change stream', watching: NO_SOURCE, also: PUBLISH },
  { name: 'notification', watching: { ...NO_SOURCE, notifications: true }, also: () => NOTIFY },
  { name: 'poll', watching: { ...NO_SOURCE, polling: true }, also: () => '' },
];

/** Chunks of the table that is read meanwhile: enough for the whole of a round. */
const CHUNKS = 120;

export async function benchWatcher(
  _: Database,
  options: BenchOptions,
  out: Printer,
): Promise<void> {
  const rows: (string | number)[][] = [];
  for (const item of CASES) {
    if (!options.wants(item.name)) continue;
    const seconds: number[] = [];
    for (let round = 1; round <= options.rounds; round += 1) {
      out.progress(`${item.name}: round ${round}`);
      seconds.push(await oneRound(item, options.rowsPercent));
    }
    rows.push([
      item.name,
      fixed(Math.min(...seconds), 2),
      fixed(median(seconds), 2),
      fixed(Math.max(...seconds), 2),
    ]);
  }
  out.endProgress();
  out.section(
    'From a new chunk to its first record',
    `seconds from the commit, each source alone, while ${CHUNKS} chunks of another table are read`,
  );
  out.table(['source', 'least', 'median', 'most'], rows);
}

async function oneRound(item: Case, rowsPercent: number): Promise<number> {
  await using db = await createDatabase();
  const rows = Math.max(1, Math.round(20 * rowsPercent));
  await db.query(`
    CREATE TABLE live (time timestamptz NOT NULL, device int NOT NULL, PRIMARY KEY (time, device));
    SELECT create_hypertable('live', 'time', chunk_time_interval => interval '1 day');
    INSERT INTO live VALUES ('2026-01-01Z', 1);
    CREATE PUBLICATION ${db.publication} FOR TABLE live`);
  if (item.watching.catalog) {
    await db.query(`ALTER PUBLICATION ${db.publication} ADD TABLE _timescaledb_catalog.chunk`);
  }
  // What pg_dump would load before the tables are known: so that the first sync is one of `live` alone.
  await db.query(`CREATE TABLE load (time timestamptz NOT NULL, device int, value float8)`);
  await db.query(
    `SELECT create_hypertable('load', 'time', chunk_time_interval => interval '1 day')`,
  );
  const seen = { record: 0, chunks: 0 };
  const syncs = await WatchedConnection.to(db, {}, (message) => {
    if (message.type === 'RECORD' && message.record.stream === 'live' && seen.record === 0) {
      seen.record = performance.now();
    }
    if (message.type === 'LOG' && / chunk \S+ read, /.test(message.log.message)) seen.chunks += 1;
  });
  await syncs.sync(item.watching);
  for (let from = 0; from < CHUNKS; from += 20) {
    await db.query(`INSERT INTO load SELECT '2026-01-01Z'::timestamptz + day * interval '1 day' + i * interval '1 s', i, i
                      FROM generate_series(${from}, ${from + 19}) day, generate_series(1, ${rows}) i`);
  }
  seen.record = 0;
  seen.chunks = 0;
  const sync = syncs.sync(item.watching);
  if (item.watching.notifications || item.watching.polling) {
    await until('the watcher is there', async () => (await watcherPid(db)) !== null);
  }
  if (item.watching.polling) await untilPolled(db);
  await until('some chunks are read', async () => seen.chunks >= 5);
  await db.query(`BEGIN; INSERT INTO live VALUES ('2026-06-01Z', 1); ${item.also(db)}
                  INSERT INTO live VALUES ('2026-06-01Z', 2); COMMIT`);
  const committed = performance.now();
  const before = seen.record;
  await sync;
  if (before !== 0) throw new Error('a record of the new chunk before it was made');
  return (seen.record - committed) / 1000;
}
