/**
 * Each source that tells of new chunks, alone: the sync is held at a chunk, a chunk is made meanwhile, and nothing else
 * could have told of it. A table of small chunks, read one at a time.
 */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import { createDatabase, type Database, until } from './database.ts';
import { expectEqual } from './comparison.ts';
import { NO_SOURCE, untilPolled, WatchedConnection, watcherPid } from './watched-sync.ts';

const ONE_READER = { timescaledb_max_concurrent_chunks: 1 } as const;
/** The server allows few connections: none is left for the watcher. */
const NO_SESSION = { ...ONE_READER, max_db_connections: 3 } as const;
const NEW_DAY = 20;

let db: Database;
beforeAll(async () => {
  db = await createDatabase();
});
afterAll(() => db[Symbol.asyncDispose]());

/** Six chunks, behind a table that takes a moment to read, all published, and the slot. */
beforeEach(async () => {
  await db.query(`
    CREATE TABLE metrics (time timestamptz NOT NULL, device int NOT NULL, PRIMARY KEY (time, device));
    SELECT create_hypertable('metrics', 'time', chunk_time_interval => interval '1 day');
    INSERT INTO metrics SELECT '2026-01-01Z'::timestamptz + day * interval '1 day', i
                          FROM generate_series(0, 5) day, generate_series(1, 20) i;
    CREATE TABLE before_metrics AS SELECT i AS id FROM generate_series(1, 50000) i;
    ALTER TABLE before_metrics ADD PRIMARY KEY (id);
    CREATE PUBLICATION ${db.publication} FOR TABLE metrics, before_metrics`);
  await db.query(`SELECT pg_create_logical_replication_slot('${db.slot}', 'pgoutput')`);
});
afterEach(async () => {
  await until('no slot is in use', async () => (await db.slots()).every(({ active }) => !active));
  await db.query(`SELECT pg_drop_replication_slot('${db.slot}')`);
  await db.query(`DROP PUBLICATION ${db.publication};
                  DROP PUBLICATION IF EXISTS ${db.publication}_inserts; DROP TABLE metrics; DROP TABLE before_metrics`);
});

async function chunkAt(position: number): Promise<string> {
  return db.value(`SELECT show_chunks('metrics')::text OFFSET ${position} LIMIT 1`);
}

const INSERT_NEW = `INSERT INTO metrics SELECT '2026-01-01Z'::timestamptz + ${NEW_DAY} * interval '1 day', i
                      FROM generate_series(1, 20) i`;

function newRows(syncs: WatchedConnection): number {
  return syncs.records('metrics').filter(({ time }) => String(time).startsWith('2026-01-21'))
    .length;
}

/** As the event trigger of setup-sql sends it. */
const NOTIFY = `SELECT pg_notify('timescaledb_chunk_created', json_build_object(
    'hypertable_schema', 'public', 'hypertable_name', 'metrics', 'chunk_schema', n.nspname, 'chunk_name', c.relname)::text)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.oid = (SELECT max(s::oid) FROM show_chunks('metrics') s)`;

describe('a chunk that is made while others are read', () => {
  it('is not seen without any source, and found by the next sync', async () => {
    const syncs = await WatchedConnection.to(db, ONE_READER);
    await syncs.syncHeldAt(await chunkAt(2), NO_SOURCE, async () => {
      await db.query(INSERT_NEW);
    });
    expect(newRows(syncs)).toBe(0);
    expect(syncs.records('metrics')).toHaveLength(120);
    await syncs.sync(NO_SOURCE);
    expect(newRows(syncs)).toBe(20);
    await expectEqual(db, syncs.destination, 'metrics');
  });

  it('is found by the published chunk catalog alone', async () => {
    await db.query(`ALTER PUBLICATION ${db.publication} ADD TABLE _timescaledb_catalog.chunk`);
    const syncs = await WatchedConnection.to(db, ONE_READER);
    await syncs.syncHeldAt(await chunkAt(2), { ...NO_SOURCE, catalog: true }, async () => {
      await db.query(INSERT_NEW);
    });
    expect(syncs.logs(/^Seen: new chunk public\.metrics \(published catalog\)/)).toHaveLength(1);
    expect(newRows(syncs)).toBe(20);
    await expectEqual(db, syncs.destination, 'metrics');
  });

  it('is found by the change stream alone, which announces what somebody has published', async () => {
    const syncs = await WatchedConnection.to(db, ONE_READER);
    await syncs.syncHeldAt(await chunkAt(2), NO_SOURCE, async () => {
      await db.query(INSERT_NEW);
      await db.query(`ALTER PUBLICATION ${db.publication} ADD TABLE ONLY ${await chunkAt(6)}`);
      await db.query(INSERT_NEW.replace('(1, 20)', '(21, 25)'));
    });
    expect(syncs.logs(/^Seen: new chunk _timesc\S+_chunk \(change stream\)/)).toHaveLength(1);
    expect(newRows(syncs)).toBe(25);
    await expectEqual(db, syncs.destination, 'metrics');
  });

  it('is found by a notification alone, on a session that comes back when it is ended', async () => {
    const syncs = await WatchedConnection.to(db, ONE_READER);
    const listening = { ...NO_SOURCE, notifications: true };
    await syncs.syncHeldAt(await chunkAt(2), listening, async () => {
      await until('the watcher listens', async () => syncs.logs(/^Listening/).length === 1);
      const first = await watcherPid(db);
      await db.query('SELECT pg_terminate_backend($1)', [first]);
      await until('the watcher listens again', async () => syncs.logs(/^Listening/).length === 2);
      expect(await watcherPid(db)).not.toBe(first);
      await db.query(`BEGIN; ${INSERT_NEW}; ${NOTIFY}; COMMIT`);
    });
    expect(syncs.logs(/listens for new chunks ended\..* opened again in 1 s/)).toHaveLength(1);
    expect(syncs.logs(/^Seen: new chunk _timesc\S+_chunk \(notification\)/)).toHaveLength(1);
    expect(newRows(syncs)).toBe(20);
    await expectEqual(db, syncs.destination, 'metrics');
    expect(await watcherPid(db)).toBeNull();
  });

  it('is found by polling alone', async () => {
    const syncs = await WatchedConnection.to(db, ONE_READER);
    const polling = { ...NO_SOURCE, polling: true };
    await syncs.syncHeldAt(await chunkAt(2), polling, async () => {
      await db.query('CREATE TABLE other (time timestamptz NOT NULL)');
      await db.query(`SELECT create_hypertable('other', 'time')`);
      await db.query(INSERT_NEW);
      await untilPolled(db);
    });
    await db.query('DROP TABLE other');
    expect(syncs.logs(/^Seen: new chunk of public\.metrics \(poll\)/)).toHaveLength(1);
    expect(syncs.logs(/^The hypertable public\.other is new \(poll\)/)).toHaveLength(1);
    expect(newRows(syncs)).toBe(20);
    await expectEqual(db, syncs.destination, 'metrics');
  });

  it('is no news in a later sync that has judged it, though its creation is still in the log', async () => {
    await db.query(`ALTER PUBLICATION ${db.publication} ADD TABLE _timescaledb_catalog.chunk`);
    const syncs = await WatchedConnection.to(db, ONE_READER);
    const reading = { ...NO_SOURCE, catalog: true };
    await syncs.sync(reading);
    await db.query(INSERT_NEW);
    await db.query(INSERT_NEW.replace(`${NEW_DAY} *`, '40 *'));
    await db.query(`SELECT drop_chunks('metrics', newer_than => '2026-02-01Z'::timestamptz)`);
    await syncs.sync(reading);
    expect(newRows(syncs)).toBe(20);
    // Of the one that is gone already only its creation tells.
    expect(syncs.logs(/^Seen:/)).toEqual(['Seen: new chunk public.metrics (published catalog).']);
    await db.query(`DELETE FROM metrics WHERE time < '2026-01-02Z'`);
    await syncs.sync(reading);
    expect(syncs.logs(/^Seen:/)).toEqual([]);
    await expectEqual(db, syncs.destination, 'metrics');
  });
});

describe('the list of chunks', () => {
  const POLLING = { ...NO_SOURCE, polling: true };
  const SELDOM = { timescaledb_chunk_discovery_interval_minutes: 60 } as const;
  const CASES = [
    ['is kept while it is young', { timescaledb_chunk_cache_ttl_minutes: 1440 }, false],
    ['is read anew when it is too old', { timescaledb_chunk_cache_ttl_minutes: 1 }, true],
    [
      'is read anew after each round without caching',
      { timescaledb_enable_chunk_caching: false, timescaledb_chunk_cache_ttl_minutes: 1440 },
      true,
    ],
  ] as const;

  it.each(CASES)('%s', async (_, settings, early) => {
    const syncs = await WatchedConnection.to(db, {
      ...NO_SESSION,
      ...SELDOM,
      ...settings,
      timescaledb_chunk_order: 'newest first',
    });
    const clock = vi.spyOn(Date, 'now');
    try {
      await syncs.syncHeldAt(await chunkAt(3), POLLING, async () => {
        await db.query(INSERT_NEW);
        // More than a round of reading may take, and than the shortest age limit.
        const later = Date.now() + 90_000 - performance.now();
        clock.mockImplementation(() => Math.round(later + performance.now()));
      });
    } finally {
      clock.mockRestore();
    }
    const newest = (await chunkAt(6)).split('.')[1] ?? '';
    const order = syncs
      .logs(/ chunk \S+ read, /)
      .map((line) => / chunk (\S+) read/.exec(line)?.[1]);
    expect(order).toHaveLength(7);
    // Three were read by then; the newest one is next, or last.
    expect(order.indexOf(newest)).toBe(early ? 3 : 6);
    await expectEqual(db, syncs.destination, 'metrics');
    expect(await watcherPid(db)).toBeNull();
  });
});
