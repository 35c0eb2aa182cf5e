/**
 * Shows that the connector stays under `timescaledb_max_memory_mb`:
 *
 *   npm run memory [-- --limits 64,96,160,512] [--rows N] [--changes M] [--tables T] [--wide-mb W]
 *
 * It is started as the image starts it, and its output goes to a reader that is slower than it. Rows of a hypertable, one
 * transaction of many changes, rows of 20 MB read and changed, and hundreds of tables; each under each limit. Prints the
 * peak of resident memory as a table, and fails where it is above a limit that is said to hold.
 */
import { spawn } from 'node:child_process';
import { copyFile, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath, URL } from 'node:url';
import { parseArgs } from 'node:util';
import type { JsonObject } from '../src/airbyte/protocol.ts';
import { configuredCatalog, run } from './connector.ts';
import { createDatabase, type Database } from './database.ts';
import { startServer } from './server.ts';

const CHECKOUT = fileURLToPath(new URL('..', import.meta.url));
/** Slower than the connector by far, so that every buffer on the way is full. */
const BYTES_PER_SECOND = 60 * 1024 * 1024;

type Measured = {
  readonly records: number;
  readonly seconds: number;
  readonly peakMb: number;
  readonly lastState: unknown;
};

/** What is done to the database, and how many records a read brings then. */
type Load = {
  readonly name: string;
  readonly prepare: (db: Database) => Promise<unknown>;
  readonly records: number;
  /** The lowest limit in MB that it is said to stay under (see docs/operations.md). */
  readonly holdsFrom: number;
};

const NARROW = 96;
const WIDE = 160;

type Sizes = {
  readonly rows: number;
  readonly changes: number;
  readonly tables: number;
  readonly wideMb: number;
};

/** Pairs: a first sync, and a sync of the changes after it. */
function scenarios({ rows, changes, tables, wideMb }: Sizes): readonly (readonly [Load, Load])[] {
  const cell = `repeat('0123456789abcdef', ${wideMb} * 65536)`;
  const eachTable = (sql: string): string =>
    `DO $$ BEGIN FOR i IN 1..${tables} LOOP ${sql} END LOOP; END $$`;
  return [
    [
      {
        name: `${rows} rows`,
        prepare: (db) =>
          db.query(`
            CREATE TABLE metrics (time timestamptz NOT NULL, device int NOT NULL, value double precision);
            SELECT create_hypertable('metrics', 'time', chunk_time_interval => interval '1 day');
            ALTER TABLE metrics REPLICA IDENTITY FULL;
            INSERT INTO metrics SELECT timestamptz '2026-01-01' + i * interval '1 second', i % 100, random()
              FROM generate_series(1, ${rows}) i`),
        records: rows,
        holdsFrom: NARROW,
      },
      {
        name: `one transaction of ${changes} changes`,
        prepare: (db) =>
          db.query(`INSERT INTO metrics SELECT timestamptz '2026-01-01' + i * interval '1 second', -1, random()
                      FROM generate_series(1, ${changes}) i`),
        records: changes,
        holdsFrom: NARROW,
      },
    ],
    [
      {
        name: `10 rows of ${wideMb} MB`,
        prepare: (db) =>
          db.query(`
            CREATE TABLE wide (time timestamptz PRIMARY KEY, note text);
            SELECT create_hypertable('wide', 'time', chunk_time_interval => interval '1 day');
            INSERT INTO wide SELECT timestamptz '2026-01-01' + i * interval '1 day', ${cell} FROM generate_series(1, 10) i`),
        records: 10,
        holdsFrom: WIDE,
      },
      {
        name: `one transaction of 10 rows of ${wideMb} MB`,
        prepare: (db) => db.query(`UPDATE wide SET note = note || 'x'`),
        records: 10,
        holdsFrom: WIDE,
      },
    ],
    [
      {
        name: `${tables} tables`,
        prepare: (db) =>
          db.query(
            eachTable(`EXECUTE format('CREATE TABLE t%s (id int PRIMARY KEY, a text, b text, c float8)', i);
                       EXECUTE format('INSERT INTO t%s SELECT n, n, n, n FROM generate_series(1, 100) n', i);`),
          ),
        records: tables * 100,
        holdsFrom: NARROW,
      },
      {
        name: `changes of ${tables} tables`,
        prepare: (db) =>
          db.query(eachTable(`EXECUTE format('UPDATE t%s SET a = b || id WHERE id <= 10', i);`)),
        records: tables * 10,
        holdsFrom: NARROW,
      },
    ],
  ];
}

async function measure(folder: string, args: readonly string[]): Promise<Measured> {
  const begun = performance.now();
  const child = spawn(join(folder, 'source-timescaledb'), ['read', ...args], {
    cwd: folder,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let peakMb = 0;
  const sampler = setInterval(() => {
    void peakOf(child.pid ?? 0).then((peak) => (peakMb = Math.max(peakMb, peak)));
  }, 50);
  let records = 0;
  let lastState: unknown = null;
  for await (const line of slowLines(child.stdout)) {
    if (line.startsWith('{"type":"RECORD"')) records += 1;
    else if (line.startsWith('{"type":"STATE"')) lastState = JSON.parse(line).state;
  }
  const code = await new Promise<number | null>((resolve) => {
    if (child.exitCode !== null || child.signalCode !== null) resolve(child.exitCode);
    else child.once('exit', resolve);
  });
  clearInterval(sampler);
  if (code !== 0) throw new Error(`read ended with ${code ?? child.signalCode}`);
  return { records, seconds: (performance.now() - begun) / 1000, peakMb, lastState };
}

/** Lines as far as they tell what they are; of a record of 20 MB the beginning is enough. */
async function* slowLines(stdout: AsyncIterable<Buffer>): AsyncGenerator<string> {
  let parts: string[] = [];
  for await (const chunk of stdout) {
    const [first = '', ...others] = chunk.toString('latin1').split('\n');
    const record = parts[0]?.startsWith('{"type":"RECORD"') === true;
    if (!record) parts.push(first);
    for (const other of others) {
      yield parts.join('');
      parts = [other];
    }
    await delay((chunk.length / BYTES_PER_SECOND) * 1000);
  }
}

/** In MB: the most that the process ever had. */
async function peakOf(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '');
  return Number(/VmHWM:\s+(\d+) kB/.exec(status)?.[1] ?? 0) / 1024;
}

/** Runs both loads of a scenario under a limit. @returns the two measurements. */
async function runPair(
  pair: readonly [Load, Load],
  limitMb: number,
): Promise<readonly [Measured, Measured]> {
  await using db = await createDatabase();
  const folder = await mkdtemp(join(tmpdir(), 'memory-'));
  try {
    const config: JsonObject = db.config({ timescaledb_max_memory_mb: limitMb });
    const files = ['--config', 'config', '--catalog', 'catalog'];
    await pair[0].prepare(db);
    const found = (await run('discover', { config })).succeeded().catalog();
    const catalog = configuredCatalog(found, { syncMode: 'incremental' });
    // Side by side, as in the image.
    await copyFile(join(CHECKOUT, 'docker/source-timescaledb'), join(folder, 'source-timescaledb'));
    await symlink(join(CHECKOUT, 'dist'), join(folder, 'dist'));
    await writeFile(join(folder, 'config'), JSON.stringify(config));
    await writeFile(join(folder, 'catalog'), JSON.stringify(catalog));
    const load = await measure(folder, files);
    await pair[1].prepare(db);
    await writeFile(join(folder, 'state'), JSON.stringify([load.lastState]));
    return [load, await measure(folder, [...files, '--state', 'state'])];
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function main(): Promise<boolean> {
  const { values } = parseArgs({
    options: {
      limits: { type: 'string', default: '64,96,160,512' },
      rows: { type: 'string', default: '2000000' },
      changes: { type: 'string', default: '1000000' },
      tables: { type: 'string', default: '500' },
      'wide-mb': { type: 'string', default: '20' },
    },
  });
  const limits = values.limits.split(',').map(Number);
  const sizes = {
    rows: Number(values.rows),
    changes: Number(values.changes),
    tables: Number(values.tables),
    wideMb: Number(values['wide-mb']),
  };
  const server = await startServer({ log: (line) => console.log(line) });
  process.env['TIMESCALEDB_URL'] = server.url;
  let good = true;
  try {
    console.log('| limit (MB) | what is read | records | seconds | peak resident (MB) | limit |');
    console.log('| --- | --- | --- | --- | --- | --- |');
    for (const limit of limits) {
      for (const pair of scenarios(sizes)) {
        const results = await runPair(pair, limit);
        results.forEach(({ records, seconds, peakMb }, index) => {
          const load = pair[index === 0 ? 0 : 1];
          const complete = records === load.records;
          const under = peakMb < limit;
          const due = limit >= load.holdsFrom;
          good &&= complete && (under || !due);
          const verdict = !complete
            ? `${load.records} records were due`
            : under
              ? 'under'
              : due
                ? 'ABOVE'
                : `above; holds from ${load.holdsFrom} on`;
          const cells = [limit, load.name, records, seconds.toFixed(1), peakMb.toFixed(0), verdict];
          console.log(`| ${cells.join(' | ')} |`);
        });
      }
    }
  } finally {
    await server.stop();
  }
  return good;
}

process.exitCode = (await main()) ? 0 : 1;
