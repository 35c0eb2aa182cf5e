/**
 * Whom a full read of a hypertable keeps waiting, beside the read of the same rows in a single snapshot:
 *
 *   npm run locks [-- --rows N] [--days D] [--rate MB_PER_SECOND] [--concurrent N]
 *
 * While it is read, somebody writes, somebody alters the table, the oldest chunks are dropped, and, where the build has
 * it, chunks are compressed and decompressed. A session of its own looks at locks and transactions every few
 * milliseconds. Both readers hand their rows to a destination that takes so many megabytes a second.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { createDatabase, type Database, hasCompression } from './database.ts';
import { type Held, type LockReport, watchLocks } from './lock-watch.ts';
import { connectTo } from './scenario.ts';
import { startServer } from './server.ts';

type Sizes = {
  readonly rows: number;
  readonly days: number;
  /** Bytes a second. */
  readonly rate: number;
  readonly concurrent: number;
};

/** The longest that one statement of each kind took, in milliseconds. */
type Waits = Map<string, number>;

type Outcome = { readonly seconds: number; readonly report: LockReport; readonly waits: Waits };

/** The oldest days are there to be dropped. */
const DROPPED_DAYS = 10;
const DEADLOCK = '40P01';

async function prepare(db: Database, { rows, days }: Sizes): Promise<void> {
  await db.query(`
    CREATE TABLE readings (time timestamptz NOT NULL, device int NOT NULL, note text, PRIMARY KEY (time, device));
    SELECT create_hypertable('readings', 'time', chunk_time_interval => interval '1 day');
    INSERT INTO readings
      SELECT timestamptz '2026-01-01' + (i::float8 / ${rows} * ${days}) * interval '1 day', i, repeat('x', 60)
        FROM generate_series(0, ${rows - 1}) i`);
  if (await hasCompression(db)) {
    await db.query(
      `ALTER TABLE readings SET (timescaledb.compress, timescaledb.compress_orderby = 'time')`,
    );
  }
}

/** Runs statements again and again, each kind in a session of its own, until told to stop. */
class Beside {
  readonly waits: Waits = new Map();
  readonly #sessions: Promise<void>[] = [];
  readonly #db: Database;
  #over = false;

  constructor(db: Database) {
    this.#db = db;
  }

  /** @param sql of the nth time; null: there is nothing more to do. @param pause between two, in milliseconds. */
  start(kind: string, pause: number, sql: (n: number) => string | null): void {
    this.waits.set(kind, 0);
    this.#sessions.push(this.#run(kind, pause, sql));
  }

  async #run(kind: string, pause: number, sql: (n: number) => string | null): Promise<void> {
    const session = await this.#db.client();
    try {
      for (let n = 0; !this.#over; n += 1) {
        const statement = sql(n);
        if (statement === null) return;
        const begun = performance.now();
        // DDL and writers come into each other's way; whoever loses has waited as well.
        await session.query(statement).catch((error: { readonly code?: string }) => {
          if (error.code !== DEADLOCK) throw error;
        });
        const took = performance.now() - begun;
        this.waits.set(kind, Math.max(this.waits.get(kind) ?? 0, took));
        await delay(pause);
      }
    } finally {
      await session.end();
    }
  }

  async stop(): Promise<void> {
    this.#over = true;
    await Promise.all(this.#sessions);
  }
}

async function disturb(db: Database, { days }: Sizes): Promise<Beside> {
  const beside = new Beside(db);
  const day = (n: number): string => `timestamptz '2026-01-01' + interval '${n} days'`;
  beside.start(
    'INSERT, UPDATE',
    20,
    (
      n,
    ) => `INSERT INTO readings SELECT ${day(days - 1)} + random() * interval '23 hours', -${n} - 1, 'new';
            UPDATE readings SET note = 'changed' WHERE device = ${n}
               AND time >= ${day(DROPPED_DAYS + (n % (days - DROPPED_DAYS)))}
               AND time < ${day(DROPPED_DAYS + 1 + (n % (days - DROPPED_DAYS)))}`,
  );
  beside.start('ALTER TABLE', 500, () => `ALTER TABLE readings ALTER COLUMN note SET DEFAULT ''`);
  beside.start('drop_chunks', 500, (n) =>
    n < DROPPED_DAYS ? `SELECT drop_chunks('readings', older_than => ${day(n + 1)})` : null,
  );
  if (!(await hasCompression(db))) return beside;
  const rows = await db.query<{ name: string }>(
    `SELECT show_chunks('readings', newer_than => ${day(DROPPED_DAYS)})::text AS name`,
  );
  beside.start('compress_chunk', 200, (n) => {
    const { name } = rows[(n >> 1) % rows.length] ?? { name: '' };
    return n % 2 === 0
      ? `SELECT compress_chunk('${name}', true)`
      : `SELECT decompress_chunk('${name}', true)`;
  });
  return beside;
}

/** Fills a database, and reads it by these means while it is in use. */
async function measure(
  sizes: Sizes,
  sessions: string,
  begin: (db: Database) => Promise<() => Promise<unknown>>,
): Promise<Outcome> {
  await using db = await createDatabase();
  await prepare(db, sizes);
  const read = await begin(db);
  const beside = await disturb(db, sizes);
  try {
    const begun = performance.now();
    const { report } = await watchLocks(db, sessions, read);
    return { seconds: (performance.now() - begun) / 1000, report, waits: beside.waits };
  } finally {
    await beside.stop();
  }
}

/** A first sync with CDC. */
async function connector(sizes: Sizes): Promise<Outcome> {
  return measure(sizes, 'source-timescaledb: %', async (db) => {
    const settings = { timescaledb_max_concurrent_chunks: sizes.concurrent };
    const connection = await connectTo(db, {}, settings);
    return async () =>
      (
        await connection.attempt({
          keepMessages: false,
          slowReader: { bytesPerSecond: sizes.rate },
          timeoutSeconds: 600,
        })
      ).succeeded();
  });
}

/** One transaction, one snapshot, a cursor over the hypertable: what readers that know nothing of chunks do. */
async function snapshot(sizes: Sizes): Promise<Outcome> {
  return measure(sizes, 'single snapshot', async (db) => {
    const session = await db.client();
    await session.query(`SET application_name = 'single snapshot'`);
    return async () => {
      await session.query(`BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
        DECLARE all_rows NO SCROLL CURSOR FOR SELECT row_to_json(r)::text AS line FROM readings r`);
      for (;;) {
        const { rows } = await session.query<{ line: string }>('FETCH 5000 FROM all_rows');
        if (rows.length === 0) break;
        // What the connector puts around a row's values.
        const bytes = rows.reduce((sum, { line }) => sum + line.length + 250, 0);
        await delay((bytes / sizes.rate) * 1000);
      }
      await session.query('COMMIT');
      await session.end();
    };
  });
}

const READING = /: rows$|^single snapshot$/;

/** The greatest of a figure over the sessions that read rows, or over the others. */
function most(
  { report }: Outcome,
  reading: boolean,
  figure: 'longestTransaction' | 'longestChunkLock' | 'mostChunksAtOnce',
): number {
  const of = [...report.held].filter(([session]) => READING.test(session) === reading);
  return Math.max(0, ...of.map(([, held]: readonly [string, Held]) => held[figure]));
}

function print(connected: Outcome, single: Outcome): void {
  const time = (milliseconds = 0): string => `${(milliseconds / 1000).toFixed(2)} s`;
  const lines: readonly (readonly [string, (outcome: Outcome) => string])[] = [
    ['the whole read', ({ seconds }) => `${seconds.toFixed(1)} s`],
    ['longest transaction that reads rows', (it) => time(most(it, true, 'longestTransaction'))],
    ['its longest lock on a chunk', (it) => time(most(it, true, 'longestChunkLock'))],
    ['chunks that it locks at once', (it) => String(most(it, true, 'mostChunksAtOnce'))],
    ['longest other transaction', (it) => time(most(it, false, 'longestTransaction'))],
    ['its longest lock on a chunk (publishing)', (it) => time(most(it, false, 'longestChunkLock'))],
    ['longest that somebody waited for any', ({ report }) => time(report.longestWait)],
    ...[...connected.waits.keys()].map((kind): readonly [string, (outcome: Outcome) => string] => [
      `longest ${kind}`,
      ({ waits }) => time(waits.get(kind)),
    ]),
  ];
  console.log('|     | the connector | a single snapshot |');
  console.log('| --- | --- | --- |');
  for (const [what, value] of lines)
    console.log(`| ${what} | ${value(connected)} | ${value(single)} |`);
}

async function main(): Promise<boolean> {
  const { values } = parseArgs({
    options: {
      rows: { type: 'string', default: '1000000' },
      days: { type: 'string', default: '60' },
      rate: { type: 'string', default: '15' },
      concurrent: { type: 'string', default: '2' },
    },
  });
  const sizes = {
    rows: Number(values.rows),
    days: Number(values.days),
    rate: Number(values.rate) * 1024 * 1024,
    concurrent: Number(values.concurrent),
  };
  const server = await startServer({ log: (line) => console.log(line) });
  process.env['TIMESCALEDB_URL'] = server.url;
  try {
    const connected = await connector(sizes);
    const single = await snapshot(sizes);
    print(connected, single);
    const longest = (outcome: Outcome): number => most(outcome, true, 'longestTransaction');
    return most(connected, true, 'mostChunksAtOnce') === 1 && longest(connected) < longest(single);
  } finally {
    await server.stop();
  }
}

process.exitCode = (await main()) ? 0 : 1;
