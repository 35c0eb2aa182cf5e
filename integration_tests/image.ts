/**
 * Builds the connector's image and tries it: all four commands in a container, against a real TimescaleDB, started as
 * Airbyte's platform starts them. With Docker where an engine answers, otherwise with buildah (Debian, root).
 *
 *   npm run image [-- --engine docker|buildah]
 */
import { readFileSync } from 'node:fs';
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { homedir, tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { expectEqual } from './comparison.ts';
import { configuredCatalog } from './connector.ts';
import { createDatabase, type Database } from './database.ts';
import { count, Printer } from './demo-print.ts';
import { Destination } from './destination.ts';
import { type Engine, findEngine, IMAGE } from './image-engine.ts';
import { runInContainer, shell } from './image-platform.ts';
import { startServer } from './server.ts';

const CHECKOUT = fileURLToPath(new URL('..', import.meta.url));
const STARTS = 7;

const out = new Printer(process.stdout);

function log(line: string): void {
  out.line(line);
}

/** A word of package.json. */
function version(): string {
  const text = readFileSync(join(CHECKOUT, 'package.json'), 'utf8');
  return (JSON.parse(text) as { readonly version: string }).version;
}

async function lookAtConfiguration(engine: Engine): Promise<void> {
  const { entrypoint, env, labels, user } = await engine.facts();
  const words = entrypoint.join(' ');
  out.result(
    words !== '' && env.includes(`AIRBYTE_ENTRYPOINT=${words}`),
    `AIRBYTE_ENTRYPOINT equals the entry point: ${words}`,
  );
  const named = labels['io.airbyte.name'] === 'source-timescaledb';
  const dated = labels['io.airbyte.version'] === version();
  out.result(named && dated, `labels io.airbyte.name and io.airbyte.version: ${version()}`);
  out.result(/^1000(:1000)?$/.test(user), `the user is a number that is not root: ${user}`);
}

async function lookInside(engine: Engine): Promise<void> {
  const script = `
    id -un; node --version; which sh sleep mv kill mkfifo | wc -l
    ls /airbyte/integration_code/node_modules | grep -c -E '^(typescript|vitest|tsx|prettier|oxlint)$'
    touch /airbyte/written && rm /airbyte/written && echo writable
    du -skx --exclude=/source --exclude=/proc --exclude=/sys --exclude=/dev / 2>/dev/null | cut -f1
    du -sk /airbyte/integration_code | cut -f1`;
  const answers = (await inFolder((folder) => shell(engine, folder, script))).trim().split('\n');
  const [user, node = '', tools, development, writable, kb, ourKb] = answers;
  out.result(user === 'airbyte', `user 1000 is ${user}, with a home it can write: ${writable}`);
  out.result(node.startsWith('v24.'), `Node ${node}`);
  out.result(Number(tools) >= 4, 'a shell with what the platform needs');
  out.result(development === '0', 'no package of development');
  const compressed = await engine.compressedBytes();
  const mb = (bytes: number): string => `${count(Math.round(bytes / 1e6))} MB`;
  const ours = `${(Number(ourKb) / 1000).toFixed(1)} MB`;
  out.result(
    compressed < 150e6,
    `size: ${mb(Number(kb) * 1024)} unpacked, of which the connector is ${ours}; ${mb(compressed)} compressed`,
  );
}

/** From the shell to the end of `spec`, inside the container: no engine's own time in it. */
async function startTime(engine: Engine): Promise<void> {
  const script = `for i in $(seq ${STARTS}); do
    a=$(date +%s%N); eval "$AIRBYTE_ENTRYPOINT spec" > /dev/null; b=$(date +%s%N); echo $(((b - a) / 1000000))
  done`;
  const printed = await inFolder((folder) => shell(engine, folder, script));
  const all = printed.trim().split('\n').map(Number);
  const sorted = all.toSorted((a, b) => a - b);
  const median = sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
  out.result(
    median < 5000,
    `start time: spec takes ${median} ms (the median of ${STARTS}; the best ${sorted[0]} ms)`,
  );
}

async function inFolder<T>(work: (folder: string) => Promise<T>): Promise<T> {
  const folder = await mkdtemp(join(tmpdir(), 'source-'));
  await chmod(folder, 0o777);
  try {
    return await work(folder);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function heapLimits(engine: Engine): Promise<void> {
  const script = `
    mkdir cgroup && echo 268435456 > cgroup/memory.max && export SOURCE_TIMESCALEDB_CGROUP=/source/cgroup
    echo '{"timescaledb_max_memory_mb": 100}' > config.json
    mkdir bin && printf '#!/bin/sh\\necho "$@"\\n' > bin/node && chmod +x bin/node && PATH=/source/bin:$PATH
    eval "$AIRBYTE_ENTRYPOINT spec"; eval "$AIRBYTE_ENTRYPOINT check --config config.json"`;
  const printed = await inFolder((folder) => shell(engine, folder, script));
  const [spec = '', check = ''] = printed.split('\n');
  out.result(
    spec.includes('--max-old-space-size=192 '),
    'the heap is 3/4 of the container: 192 of 256 MB',
  );
  out.result(
    check.includes('--max-old-space-size=75 '),
    'or of timescaledb_max_memory_mb: 75 of 100 MB',
  );
}

async function prepare(db: Database): Promise<void> {
  await db.query(`
    CREATE TABLE metrics (time timestamptz NOT NULL, device int, value float8, PRIMARY KEY (time, device));
    SELECT create_hypertable('metrics', 'time', chunk_time_interval => interval '1 day');
    INSERT INTO metrics SELECT timestamptz '2026-01-01Z' + i * interval '1 minute', i % 7, i FROM generate_series(1, 20000) i;
    CREATE TABLE devices (id int PRIMARY KEY, name text);
    INSERT INTO devices SELECT i, 'device ' || i FROM generate_series(1, 100) i`);
}

async function fourCommands(engine: Engine, db: Database): Promise<void> {
  // The smallest heap that can be asked for.
  const config = db.config({ timescaledb_max_memory_mb: 64 });
  const spec = (await runInContainer(engine, 'spec')).succeeded();
  out.result(true, `spec      one SPEC message, ${spec.seconds.toFixed(1)} s with the container`);
  const { status, message = '' } = (
    await runInContainer(engine, 'check', { config })
  ).connectionStatus();
  out.result(status === 'SUCCEEDED', `check     ${status} ${message}`);
  const discovered = (await runInContainer(engine, 'discover', { config })).succeeded().catalog();
  const names = discovered.streams.map(({ name }) => name).toSorted();
  out.result(names.join() === 'devices,metrics', `discover  ${names.join(', ')}`);
  const catalog = configuredCatalog(discovered);
  const destination = new Destination(catalog);
  const read = async (what: string): Promise<void> => {
    const { state } = destination;
    const result = await runInContainer(engine, 'read', { config, catalog, state });
    destination.apply(result.succeeded().messages);
    await expectEqual(db, destination, 'metrics');
    await expectEqual(db, destination, 'devices');
    const { length } = result.records();
    out.result(length > 0, `${what}: ${count(length)} records; the destination equals the tables`);
  };
  await read('read      existing rows');
  await db.query(`
    UPDATE metrics SET value = -1 WHERE device = 3;
    DELETE FROM devices WHERE id > 90;
    INSERT INTO metrics VALUES ('2026-06-01Z', 1, 1)`);
  await read('read      changes');
}

async function main(): Promise<void> {
  const { values } = parseArgs({ options: { engine: { type: 'string', default: '' } } });
  const configured = process.env['SOURCE_TIMESCALEDB_CACHE'] ?? '';
  const cache = configured === '' ? join(homedir(), '.cache', 'source-timescaledb') : configured;
  const engine = await findEngine(values.engine, resolve(cache), log);
  out.title(`The image ${IMAGE}`, `built and run by ${engine.name}`);
  try {
    out.section('Build', 'By the Dockerfile.');
    const begun = performance.now();
    await engine.build(CHECKOUT, log);
    out.result(true, `built in ${Math.round((performance.now() - begun) / 1000)} s`);
    out.section('What is in it', 'As the platform and its acceptance tests look at it.');
    await lookAtConfiguration(engine);
    await lookInside(engine);
    await startTime(engine);
    await heapLimits(engine);
    out.section('The four commands', 'As user 1000 in /source, through AIRBYTE_ENTRYPOINT.');
    const server = await startServer({ log });
    try {
      await using db = await createDatabase(server.url);
      await prepare(db);
      await fourCommands(engine, db);
    } finally {
      await server.stop();
    }
  } finally {
    await engine.close();
  }
  out.end(
    out.failures === 0 ? 'The image is as it should be.' : `${out.failures} results are not.`,
  );
  if (out.failures > 0) process.exitCode = 1;
}

await main();
