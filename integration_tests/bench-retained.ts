/** `retained`: the WAL that the server keeps while a first load is read and others write, in one sync and in several. */
import type { ChildProcess } from 'node:child_process';
import { setTimeout as delay } from 'node:timers/promises';
import { movableClock } from './clock.ts';
import type { BenchOptions } from './bench-options.ts';
import { fixed } from './bench-rounds.ts';
import { createDatabase, type Database } from './database.ts';
import { count, type Printer } from './demo-print.ts';
import { type Connection, connectTo, lsnOf } from './scenario.ts';

const CHUNKS = 40;
const ROWS_PER_CHUNK = 10_000;
/** A destination that takes so much makes the load last. */
const BYTES_PER_SECOND = 2_000_000;
const SYNC_SECONDS = 8;
const SAMPLE_SECONDS = 4;
/** More than `initial_load_timeout_hours` can be set to. */
const HOURS = 25;

type Sample = { readonly seconds: number; readonly megabytes: number };

type Load = {
  readonly syncs: number;
  readonly seconds: number;
  readonly samples: readonly Sample[];
};

/** Each way in a database of its own. */
export async function benchRetained(
  _: Database,
  options: BenchOptions,
  out: Printer,
): Promise<void> {
  await idle(out);
  const one = await load(options, out, 'one sync', null);
  const several = await load(options, out, 'several syncs', SYNC_SECONDS);
  out.endProgress();
  out.section('WAL that the server keeps for the slot (MB)', 'a first load beside writers');
  const at = (samples: readonly Sample[], seconds: number): string => {
    const sample = samples.find((it) => it.seconds >= seconds);
    return sample === undefined ? '-' : fixed(sample.megabytes, 0);
  };
  const last = Math.max(one.seconds, several.seconds);
  const rows = Array.from({ length: Math.ceil(last / SAMPLE_SECONDS) }, (__, index) => {
    const seconds = (index + 1) * SAMPLE_SECONDS;
    return [String(seconds), at(one.samples, seconds), at(several.samples, seconds)];
  });
  out.table(['seconds', 'in one sync', `in syncs of ${SYNC_SECONDS} s`], rows);
  const peak = ({ samples }: Load): number => Math.max(...samples.map((it) => it.megabytes));
  out.table(
    ['', 'syncs', 'seconds', 'most WAL (MB)'],
    [
      ['in one sync', one.syncs, fixed(one.seconds, 0), fixed(peak(one), 0)],
      ['in several', several.syncs, fixed(several.seconds, 0), fixed(peak(several), 0)],
    ],
  );
  out.result(peak(several) < peak(one), 'less is kept where the load is spread over syncs');
}

const IDLE_SYNCS = 6;

/** A database without changes beside one that writes, on one server. */
async function idle(out: Printer): Promise<void> {
  await using db = await createDatabase();
  await using other = await createDatabase();
  await db.query(
    'CREATE TABLE orders (id int PRIMARY KEY); INSERT INTO orders VALUES (1); SELECT pg_log_standby_snapshot()',
  );
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  const once = `once_${db.name}`;
  const never = `never_${db.name}`;
  await db.query(
    'SELECT pg_copy_logical_replication_slot($1::text, $2), pg_copy_logical_replication_slot($1::text, $3)',
    [db.slot, once, never],
  );
  const rows: (string | number)[][] = [];
  for (let syncs = 1; syncs <= IDLE_SYNCS; syncs += 1) {
    out.progress(`an idle database: sync ${syncs}`);
    for (let n = 0; n < 5; n += 1) {
      await other.query(
        `SELECT pg_logical_emit_message(false, 'fill', repeat('x', 1000000)) FROM generate_series(1, 2)`,
      );
      await other.query('SELECT pg_log_standby_snapshot()');
    }
    const handedIn = lsnOf(connection.destination.state);
    (await connection.sync()).succeeded();
    await db.query('SELECT pg_replication_slot_advance($1, $2::pg_lsn)', [once, handedIn]);
    rows.push([
      syncs,
      await retainedMb(db, db.slot),
      await retainedMb(db, once),
      await retainedMb(db, never),
    ]);
  }
  out.endProgress();
  out.section(
    'WAL that the server keeps for the slot of a database without changes (MB)',
    'before each sync another database writes 10 MB',
  );
  out.table(['sync', 'the connector', 'moved once a sync', 'moved by changes only'], rows);
}

async function retainedMb(db: Database, slot: string): Promise<string> {
  const bytes = await db.value<number>(
    `SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::float8
       FROM pg_replication_slots WHERE slot_name = $1`,
    [slot],
  );
  return fixed(bytes / 1e6, 1);
}

/** @param syncSeconds after which each sync's time to load is over; null: never. */
async function load(
  options: BenchOptions,
  out: Printer,
  name: string,
  syncSeconds: number | null,
): Promise<Load> {
  await using db = await createDatabase();
  const rows = Math.round((ROWS_PER_CHUNK * options.rowsPercent) / 100);
  out.progress(`${name}: making ${count(CHUNKS * rows)} rows`);
  await db.query(`
    CREATE TABLE metrics (time timestamptz NOT NULL, id int NOT NULL, note text, PRIMARY KEY (time, id));
    SELECT create_hypertable('metrics', 'time', chunk_time_interval => interval '1 day');
    CREATE TABLE elsewhere (note text);
    INSERT INTO metrics SELECT '2026-01-01Z'::timestamptz + d * interval '1 day', i, repeat('x', 60)
      FROM generate_series(0, ${CHUNKS - 1}) d, generate_series(1, ${rows}) i`);
  const connection = await connectTo(db, { streams: ['metrics'] });
  const meter = new Meter(db);
  const begun = performance.now();
  const writing = meter.run();
  let syncs = 0;
  for (let left = true; left;) {
    syncs += 1;
    out.progress(`${name}: sync ${syncs}`);
    left = await sync(connection, syncSeconds);
  }
  const seconds = (performance.now() - begun) / 1000;
  meter.stop();
  await writing;
  // What was written behind the last one.
  (await connection.sync()).succeeded();
  await connection.expectEqual('metrics');
  return { syncs, seconds, samples: meter.samples };
}

/** @returns whether the next one goes on with the load. */
async function sync(connection: Connection, seconds: number | null): Promise<boolean> {
  const clock = movableClock(HOURS * 3600);
  const over = (child: ChildProcess): void => {
    if (seconds === null) return;
    setTimeout(() => {
      if (child.exitCode === null) clock.putForward(child);
    }, seconds * 1000).unref();
  };
  const result = await connection.sync({
    env: clock.env,
    onStart: over,
    slowReader: { bytesPerSecond: BYTES_PER_SECOND },
    timeoutSeconds: 600,
  });
  return result
    .succeeded()
    .logs()
    .some((line) => line.includes('goes on in the next sync'));
}

/** Writes to the hypertable and elsewhere, and measures what is kept meanwhile. */
class Meter {
  readonly samples: Sample[] = [];
  readonly #db: Database;
  #stopping = false;

  constructor(db: Database) {
    this.#db = db;
  }

  stop(): void {
    this.#stopping = true;
  }

  async run(): Promise<void> {
    const begun = performance.now();
    for (let n = 1; !this.#stopping; n += 1) {
      await this.#db.query(`
        INSERT INTO metrics SELECT '2026-01-01Z'::timestamptz + i * interval '1 day', ${1_000_000 + n}, 'new'
          FROM generate_series(0, ${CHUNKS - 1}) i;
        INSERT INTO elsewhere SELECT repeat('x', 1000) FROM generate_series(1, 1000)`);
      // A server writes it every 15 s. Here a second stands for many: decoding can begin from such a place only.
      if (n % 4 === 0) await this.#db.query('SELECT pg_log_standby_snapshot()');
      const bytes = await this.#db.query<{ bytes: number }>(
        `SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::float8 AS bytes
           FROM pg_replication_slots WHERE slot_name = $1`,
        [this.#db.slot],
      );
      const seconds = (performance.now() - begun) / 1000;
      for (const { bytes: kept } of bytes) this.samples.push({ seconds, megabytes: kept / 1e6 });
      await delay(250);
    }
  }
}
