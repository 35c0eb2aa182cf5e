/**
 * Shows that the connector's memory does not grow: `npm run memory [-- --rows N --changes M]`.
 * A hypertable of 5 million rows is read to a slow reader, then one transaction of a million rows is read from the WAL,
 * again to a slow reader. Prints the process's resident memory over time, and fails above the limit.
 */
import { spawn } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath, URL } from 'node:url';
import { parseArgs } from 'node:util';
import { configuredCatalog, run } from './connector.ts';
import { createDatabase, type Database } from './database.ts';
import { startServer } from './server.ts';

const MAIN = fileURLToPath(new URL('../dist/main.js', import.meta.url));
const LIMIT_MB = 200;
/** Slower than the connector by far, so that every buffer on the way is full. */
const BYTES_PER_SECOND = 60 * 1024 * 1024;

type Measured = {
  readonly records: number;
  readonly seconds: number;
  /** Resident memory in MB, sampled over the run. */
  readonly samples: readonly number[];
  readonly peakMb: number;
  readonly lastState: unknown;
};

async function measure(folder: string, args: readonly string[]): Promise<Measured> {
  const begun = performance.now();
  const child = spawn(process.execPath, [MAIN, 'read', ...args], {
    cwd: folder,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const samples: number[] = [];
  let peakMb = 0;
  const sampler = setInterval(() => {
    void memoryOf(child.pid ?? 0).then((memory) => {
      if (memory === null) return;
      samples.push(memory.residentMb);
      peakMb = memory.peakMb;
    });
  }, 250);
  let records = 0;
  let lastState: unknown = null;
  let rest = '';
  for await (const chunk of child.stdout as AsyncIterable<Buffer>) {
    const lines = (rest + chunk.toString('latin1')).split('\n');
    rest = lines.pop() ?? '';
    for (const line of lines) {
      if (line.startsWith('{"type":"RECORD"')) records += 1;
      else if (line.startsWith('{"type":"STATE"')) lastState = JSON.parse(line).state;
    }
    await delay((chunk.length / BYTES_PER_SECOND) * 1000);
  }
  const code = await new Promise<number | null>((resolve) => {
    if (child.exitCode !== null) resolve(child.exitCode);
    else child.once('exit', resolve);
  });
  clearInterval(sampler);
  if (code !== 0) throw new Error(`read ended with ${code}`);
  return { records, seconds: (performance.now() - begun) / 1000, samples, peakMb, lastState };
}

async function memoryOf(
  pid: number,
): Promise<{ readonly residentMb: number; readonly peakMb: number } | null> {
  try {
    const status = await readFile(`/proc/${pid}/status`, 'utf8');
    const kilobytes = (name: string): number =>
      Number(new RegExp(`${name}:\\s+(\\d+) kB`).exec(status)?.[1] ?? 0);
    return { residentMb: kilobytes('VmRSS') / 1024, peakMb: kilobytes('VmHWM') / 1024 };
  } catch {
    return null;
  }
}

async function prepare(db: Database, rows: number): Promise<void> {
  await db.query(`
    CREATE TABLE metrics (time timestamptz NOT NULL, device int NOT NULL, value double precision);
    SELECT create_hypertable('metrics', 'time', chunk_time_interval => interval '1 day');
    ALTER TABLE metrics REPLICA IDENTITY FULL;
    INSERT INTO metrics
    SELECT timestamptz '2026-01-01' + i * interval '1 second', i % 100, random()
      FROM generate_series(1, ${rows}) i`);
}

function describe(what: string, expected: number, measured: Measured): boolean {
  const { records, seconds, samples, peakMb } = measured;
  const tenths = Array.from({ length: 10 }, (_, index) =>
    Math.round(samples[Math.floor((index * samples.length) / 10)] ?? 0),
  );
  console.log(`\n${what}`);
  console.log(`  records             ${records} (expected ${expected})`);
  console.log(`  seconds             ${seconds.toFixed(1)}`);
  console.log(`  resident MB, over time  ${tenths.join('  ')}`);
  console.log(`  peak resident MB    ${peakMb.toFixed(0)} (limit ${LIMIT_MB})`);
  return records === expected && peakMb < LIMIT_MB;
}

async function main(): Promise<boolean> {
  const { values } = parseArgs({
    options: {
      rows: { type: 'string', default: '5000000' },
      changes: { type: 'string', default: '1000000' },
    },
  });
  const rows = Number(values.rows);
  const changes = Number(values.changes);
  const server = await startServer({ log: (line) => console.log(line) });
  process.env['TIMESCALEDB_URL'] = server.url;
  const folder = await mkdtemp(join(tmpdir(), 'memory-'));
  try {
    await using db = await createDatabase();
    console.log(`Filling a hypertable with ${rows} rows ...`);
    await prepare(db, rows);
    const config = db.config();
    const { messages } = await run('discover', { config });
    const found = messages.find((message) => message.type === 'CATALOG');
    if (found?.type !== 'CATALOG') throw new Error('discover found nothing');
    await writeFile(join(folder, 'config'), JSON.stringify(config));
    const catalog = configuredCatalog(found.catalog, { syncMode: 'incremental' });
    await writeFile(join(folder, 'catalog'), JSON.stringify(catalog));
    const files = ['--config', 'config', '--catalog', 'catalog'];
    const load = await measure(folder, files);
    const loaded = describe('Existing rows, to a slow reader', rows, load);
    await db.query(`
      INSERT INTO metrics SELECT timestamptz '2026-01-01' + i * interval '1 second', -1, random()
        FROM generate_series(1, ${changes}) i`);
    await writeFile(join(folder, 'state'), JSON.stringify([load.lastState]));
    const stream = await measure(folder, [...files, '--state', 'state']);
    const streamed = describe('One transaction in the WAL, to a slow reader', changes, stream);
    return loaded && streamed;
  } finally {
    await rm(folder, { recursive: true, force: true });
    await server.stop();
  }
}

process.exitCode = (await main()) ? 0 : 1;
