/** `idle`: a sync with nothing to do, and `plan`: what grows with chunks and streams. */
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { connectorFiles, connectorProgram, type Files } from './bench-contestants.ts';
import type { BenchOptions } from './bench-options.ts';
import { type Cost, measure, type Program } from './bench-process.ts';
import { QueryCounter } from './bench-queries.ts';
import { fixed, median } from './bench-rounds.ts';
import { ServerCpu } from './bench-server.ts';
import { run } from './connector.ts';
import type { Database } from './database.ts';
import type { Cell, Printer } from './demo-print.ts';

const GOAL_SECONDS = 1;
const GOAL_QUERIES = 25;

/** A first load of ten thousand chunks on a busy machine. */
const FIRST_SYNC_SECONDS = 1800;

export type IdleCase = {
  readonly name: string;
  readonly hypertables: number;
  readonly chunks: number;
};

/** What one command of the connector costs. */
type Measured = {
  readonly costs: readonly Cost[];
  readonly connections: number;
  readonly queries: number;
  readonly texts: readonly string[];
};

export type IdleResult = {
  readonly name: string;
  readonly discover: Measured;
  readonly sync: Measured;
  readonly stateBytes: number;
};

export async function benchIdle(db: Database, options: BenchOptions, out: Printer): Promise<void> {
  const chunks = Math.max(10, Math.round(10 * options.rowsPercent));
  const result = await idleCase(db, { name: 'idle', hypertables: 1, chunks }, options, out);
  out.endProgress();
  out.section('A sync with nothing to do', `1 hypertable of ${chunks} chunks, from start to exit`);
  printIdle(out, [result]);
  for (const text of result.sync.texts) out.line(text.replaceAll(/\s+/g, ' ').trim().slice(0, 84));
  const seconds = median(result.sync.costs.map((cost) => cost.seconds));
  out.result(seconds < GOAL_SECONDS, `under ${GOAL_SECONDS} s: ${fixed(seconds, 2)} s`);
  const { queries } = result.sync;
  out.result(queries <= GOAL_QUERIES, `at most ${GOAL_QUERIES} queries: ${queries}`);
}

/** Makes the tables, syncs them once, then measures discover and further syncs. */
export async function idleCase(
  db: Database,
  item: IdleCase,
  options: BenchOptions,
  out: Printer,
): Promise<IdleResult> {
  out.progress(`${item.name}: making ${item.hypertables} x ${item.chunks} chunks`);
  const names = await createTables(db, item);
  const folder = join(options.folder, item.name);
  await mkdir(folder, { recursive: true });
  const files = await connectorFiles(db, folder, names, {}, 'incremental');
  out.progress(`${item.name}: the first sync`);
  const state = await firstState(files);
  const stateFile = join(folder, 'state.json');
  await writeFile(stateFile, JSON.stringify(state));
  const server = await ServerCpu.of(db);
  const measured = async (name: string, args: (config: Files) => Program): Promise<Measured> => {
    out.progress(`${item.name}: ${name}`);
    const costs: Cost[] = [];
    for (let i = 0; i < options.rounds; i += 1) costs.push(await measure(args(files), server));
    return { costs, ...(await counted(db, folder, files, args, server)) };
  };
  return {
    name: item.name,
    discover: await measured('discover', (config) => discoverProgram(config)),
    sync: await measured('an idle sync', (config) =>
      connectorProgram(config, options.profile, ['--state', stateFile]),
    ),
    stateBytes: JSON.stringify(state).length,
  };
}

async function createTables(db: Database, { hypertables, chunks }: IdleCase): Promise<string[]> {
  const names = Array.from({ length: hypertables }, (_, index) => `h${index + 1}`);
  for (const name of names) {
    await db.query(`CREATE TABLE ${name} (t bigint PRIMARY KEY, v int);
      SELECT create_hypertable('${name}', 't', chunk_time_interval => 10)`);
    // Some at a time: each takes a lock, and a transaction may hold only so many.
    for (let from = 0; from < chunks; from += 500) {
      const to = Math.min(chunks, from + 500) - 1;
      await db.query(`INSERT INTO ${name} SELECT i * 10, i FROM generate_series(${from}, ${to}) i`);
    }
  }
  return names;
}

async function firstState(files: Files): Promise<readonly unknown[]> {
  const result = await run('read', {
    config: JSON.parse(await readFile(files.config, 'utf8')),
    catalog: JSON.parse(await readFile(files.catalog, 'utf8')),
    timeoutSeconds: FIRST_SYNC_SECONDS,
  });
  return result.succeeded().lastState();
}

function discoverProgram(files: Files): Program {
  const { command, args } = connectorProgram(files, undefined);
  const [main = ''] = args;
  return { command, args: [main, 'discover', '--config', files.config] };
}

/** Once more, through the counter. */
async function counted(
  db: Database,
  folder: string,
  files: Files,
  args: (config: Files) => Program,
  server: ServerCpu,
): Promise<Omit<Measured, 'costs'>> {
  await using counter = await QueryCounter.start(db.url);
  const config = join(folder, 'counted.json');
  const host = { host: '127.0.0.1', port: counter.port };
  await writeFile(config, JSON.stringify(db.config(host)));
  await measure(args({ ...files, config }), server);
  const { connections, queries, texts } = counter;
  return { connections, queries, texts: [...texts] };
}

export function printIdle(out: Printer, results: readonly IdleResult[]): void {
  const heading = [
    '',
    's',
    'its CPU s',
    'server CPU s',
    'peak MB',
    'sessions',
    'queries',
    'state bytes',
  ];
  const row = (name: string, { costs, connections, queries }: Measured, bytes: Cell): Cell[] => {
    const middle = (value: (cost: Cost) => number | undefined): number =>
      median(costs.map((cost) => value(cost) ?? Number.NaN));
    return [
      name,
      fixed(
        middle((cost) => cost.seconds),
        2,
      ),
      fixed(
        middle((cost) => cost.cpuSeconds),
        2,
      ),
      fixed(
        middle((cost) => cost.serverCpuSeconds),
        2,
      ),
      fixed(
        middle((cost) => cost.peakMb),
        0,
      ),
      connections,
      queries,
      bytes,
    ];
  };
  out.table(
    heading,
    results.flatMap(({ name, discover, sync, stateBytes }) => [
      row(`${name}: discover`, discover, '-'),
      row(`${name}: idle sync`, sync, String(stateBytes)),
    ]),
  );
}
