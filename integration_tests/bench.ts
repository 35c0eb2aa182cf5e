/**
 * What the connector costs beside others that read the same rows: `npm run bench -- read|wal|idle|plan|retained|watcher`.
 *
 *   --rows-percent N   of the full sizes (100)      --rounds N   interleaved rounds (5)
 *   --only a,b         some of the tables or cases  --quick      fewer contestants
 *   --no-verify        without comparing rows       --profile F  the connector's CPU profiles, into the folder F
 *
 * Takes the server at `TIMESCALEDB_URL`, or starts one. Figures are for comparison within one run: quote the ratios.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { cpus, tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { compilePrograms } from './bench-contestants.ts';
import { benchIdle } from './bench-idle.ts';
import { benchPlan } from './bench-plan.ts';
import { benchRead } from './bench-read.ts';
import { benchRetained } from './bench-retained.ts';
import { benchWal } from './bench-wal.ts';
import { benchWatcher } from './bench-watcher.ts';
import { createDatabase, type Database } from './database.ts';
import { Printer } from './demo-print.ts';
import { startServer } from './server.ts';
import type { BenchOptions } from './bench-options.ts';

const BENCHMARKS: Readonly<
  Record<string, (db: Database, options: BenchOptions, out: Printer) => Promise<void>>
> = {
  read: benchRead,
  wal: benchWal,
  idle: benchIdle,
  plan: benchPlan,
  retained: benchRetained,
  watcher: benchWatcher,
};

const NAMES = Object.keys(BENCHMARKS).join(', ');

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    'rows-percent': { type: 'string', default: '100' },
    rounds: { type: 'string', default: '5' },
    only: { type: 'string' },
    quick: { type: 'boolean', default: false },
    'no-verify': { type: 'boolean', default: false },
    profile: { type: 'string' },
  },
});

const chosen = positionals.map((name) => {
  const benchmark = BENCHMARKS[name];
  if (benchmark === undefined) throw new Error(`no benchmark ${name}: ${NAMES}`);
  return benchmark;
});
if (chosen.length === 0) throw new Error(`choose of: ${NAMES}`);

const only = values.only?.split(',');
const out = new Printer(process.stdout);
const folder = await mkdtemp(join(tmpdir(), 'bench-'));
const server = await startServer({ log: (line) => void process.stderr.write(`${line}\n`) });
try {
  process.env['TIMESCALEDB_URL'] = server.url;
  compilePrograms('bench-program-naive', 'bench-program-snapshot', 'bench-program-replication');
  for (const benchmark of chosen) {
    await using db = await createDatabase(server.url);
    const versions = await db.value<string>(
      `SELECT 'PostgreSQL ' || current_setting('server_version') || ', TimescaleDB ' || extversion
         FROM pg_extension WHERE extname = 'timescaledb'`,
    );
    out.title(
      `Benchmark: ${benchmark.name}`,
      `${versions}, Node ${process.version}, ${cpus().length} cores, medians of ${values.rounds} rounds`,
    );
    await benchmark(
      db,
      {
        rowsPercent: Number(values['rows-percent']),
        rounds: Number(values.rounds),
        quick: values.quick,
        verify: !values['no-verify'],
        folder,
        profile: values.profile === undefined ? undefined : resolve(values.profile),
        wants: (name) => only === undefined || only.includes(name),
      },
      out,
    );
  }
  out.end('Ratios are medians of the ratios of each round.');
} finally {
  await server.stop();
  await rm(folder, { recursive: true, force: true });
}
