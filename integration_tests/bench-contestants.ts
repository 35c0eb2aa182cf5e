/** Who runs against whom: each contestant as a program, with what is needed to read its output again. */
import { execFileSync } from 'node:child_process';
import { copyFileSync, existsSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { AirbyteCatalog, JsonObject } from '../src/airbyte/protocol.ts';
import type { Program } from './bench-process.ts';
import { configuredCatalog, run } from './connector.ts';
import type { Database } from './database.ts';
import { rootFolder } from './server-debian.ts';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const MAIN = join(ROOT, 'dist', 'main.js');
/** Beside the packages, so that compiled programs find them. */
const COMPILED = join(ROOT, 'node_modules', '.cache', 'source-timescaledb-bench');

/** What a contestant writes: lines of JSON records, COPY's two formats, or pgoutput's messages. */
type Format = 'records' | 'copy-text' | 'copy-binary' | 'pgoutput';

export type Contestant = {
  readonly name: string;
  readonly format: Format;
  readonly program: Program;
  /** Run before each measured run, unmeasured. */
  readonly prepare?: () => Promise<void>;
  /** Run after it. */
  readonly tidy?: () => Promise<void>;
};

/**
 * Compiles the programs beside this file, as the connector is compiled: a loader of TypeScript would count against them.
 */
export function compilePrograms(...names: readonly string[]): void {
  const flags = [
    '--ignoreConfig',
    '--noCheck',
    '--skipLibCheck',
    '--rewriteRelativeImportExtensions',
  ];
  const target = [
    '--target',
    'es2023',
    '--module',
    'nodenext',
    '--types',
    'node',
    '--resolveJsonModule',
  ];
  execFileSync(
    process.execPath,
    [
      join(ROOT, 'node_modules', 'typescript', 'bin', 'tsc'),
      ...flags,
      ...target,
      '--rootDir',
      ROOT,
      '--outDir',
      COMPILED,
      ...names.map((name) => join(ROOT, 'integration_tests', `${name}.ts`)),
    ],
    { stdio: ['ignore', 'inherit', 'inherit'], cwd: ROOT },
  );
  copyFileSync(join(ROOT, 'spec.json'), join(COMPILED, 'spec.json'));
}

/** One of our programs. */
export function ownProgram(name: string, args: readonly string[]): Program {
  const file = join(COMPILED, 'integration_tests', `${name}.js`);
  return { command: process.execPath, args: [file, ...args] };
}

/**
 * A program of PostgreSQL: from the PATH, or out of the Debian root that servers are started from.
 * @returns null where there is none.
 */
export function postgresProgram(name: string, args: readonly string[]): Program | null {
  const paths = (process.env['PATH'] ?? '').split(':').map((folder) => join(folder, name));
  const found = paths.find((path) => existsSync(path));
  if (found !== undefined) return { command: found, args };
  const inside = `/usr/lib/postgresql/17/bin/${name}`;
  const root = rootFolder('trixie');
  if (!existsSync(join(root, inside))) return null;
  return { command: 'chroot', args: [root, inside, ...args] };
}

/** `psql -c 'COPY (SELECT ...) TO STDOUT'`. */
export function psqlCopy(
  db: Database,
  table: string,
  format: 'text' | 'binary',
): Contestant | null {
  const sql = `COPY (SELECT * FROM ${table}) TO STDOUT (FORMAT ${format})`;
  const program = postgresProgram('psql', ['-X', '-q', '-d', db.url, '-c', sql]);
  if (program === null) return null;
  const env = { PGTZ: 'UTC', PGCLIENTENCODING: 'UTF8' };
  return { name: `psql COPY ${format}`, format: `copy-${format}`, program: { ...program, env } };
}

export type Files = { readonly config: string; readonly catalog: string };

/** Configuration and catalog of the given tables in a new folder. */
export async function connectorFiles(
  db: Database,
  folder: string,
  tables: readonly string[],
  overrides: JsonObject,
  syncMode: 'full_refresh' | 'incremental',
): Promise<Files> {
  const config = db.config(overrides);
  const discovered: AirbyteCatalog = (await run('discover', { config })).succeeded().catalog();
  const catalog = configuredCatalog(discovered, { streams: tables, syncMode });
  await mkdir(folder, { recursive: true });
  const files = { config: join(folder, 'config.json'), catalog: join(folder, 'catalog.json') };
  await writeFile(files.config, JSON.stringify(config));
  await writeFile(files.catalog, JSON.stringify(catalog));
  return files;
}

/** The connector as its users start it. @param profile a folder for `--cpu-prof`. */
export function connectorProgram(
  files: Files,
  profile: string | undefined,
  more: readonly string[] = [],
): Program {
  const profiling = profile === undefined ? [] : ['--cpu-prof', '--cpu-prof-dir', profile];
  const args = ['read', '--config', files.config, '--catalog', files.catalog, ...more];
  return { command: process.execPath, args: [...profiling, MAIN, ...args] };
}
