/**
 * Airbyte's own clients in Python against the built connector: PyAirbyte reads it into DuckDB, and the parsers of
 * Airbyte's Python packages read every line.
 *
 *   tsx integration_tests/clients.ts [--report FILE]
 *
 * The packages come from PyPI into a cache folder, once. Where there is no fitting Python, or PyPI does not answer, nothing
 * is run, which the report counts as skipped, with the reason.
 */
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { homedir, tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { startServer } from './server.ts';

const FOLDER = fileURLToPath(new URL('clients/', import.meta.url));
const MAIN = fileURLToPath(new URL('../dist/main.js', import.meta.url));
const REQUIREMENTS = join(FOLDER, 'requirements.txt');

/** PyAirbyte needs one of these. */
const PYTHONS = ['python3.12', 'python3.11', 'python3.10', 'python3'];

/** Why nothing can be run here. */
class Skipped extends Error {
  override readonly name = 'Skipped';
}

function log(line: string): void {
  process.stderr.write(`${line}\n`);
}

/** Runs a program to its end; null when there is none or it failed. */
function outputOf(program: string, args: readonly string[]): string | null {
  const done = spawnSync(program, args, { encoding: 'utf8' });
  return done.status === 0 ? done.stdout.trim() : null;
}

/** @throws Skipped when this machine has no Python that PyAirbyte runs with. */
function findPython(): { readonly program: string; readonly version: string } {
  const print = 'import sys, venv, ensurepip; print("%d.%d" % sys.version_info[:2])';
  for (const program of PYTHONS) {
    const version = outputOf(program, ['-c', print]);
    if (version !== null && /^3\.1[0-2]$/.test(version)) return { program, version };
  }
  throw new Skipped('there is no Python 3.10 to 3.12 with venv');
}

/** Asks for one small package. @throws Skipped when it does not come. */
function askPyPI(program: string): void {
  const folder = mkdtempSync(join(tmpdir(), 'pypi-'));
  try {
    const [, small = ''] =
      /^(airbyte-protocol\S+)$/m.exec(readFileSync(REQUIREMENTS, 'utf8')) ?? [];
    const quickly = ['--quiet', '--timeout', '15', '--retries', '1', '--no-cache-dir'];
    const args = ['-m', 'pip', 'download', ...quickly, '--no-deps', '--dest', folder, small];
    const { status, stderr } = spawnSync(program, args, { encoding: 'utf8' });
    const reason = stderr.trim().split('\n').at(-1) ?? '';
    if (status !== 0) throw new Skipped(`PyPI does not answer: ${reason}`);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/**
 * The Python of an environment with the packages, which is made unless it is there.
 * @throws Skipped when it cannot be made here; Error when the packages cannot be installed though PyPI answers.
 */
function environment(): string {
  const { program, version } = findPython();
  const configured = process.env['SOURCE_TIMESCALEDB_CACHE'] ?? '';
  const cache = resolve(
    configured === '' ? join(homedir(), '.cache', 'source-timescaledb') : configured,
  );
  const wanted = createHash('sha256').update(readFileSync(REQUIREMENTS)).digest('hex').slice(0, 12);
  const folder = join(cache, `python-${version}-${wanted}`);
  const python = join(folder, 'bin', 'python');
  if (existsSync(python)) return python;
  askPyPI(program);
  log(`installing Airbyte's Python packages into ${folder}`);
  mkdirSync(cache, { recursive: true });
  const partial = mkdtempSync(`${folder}.`);
  try {
    const pip = [
      '-m',
      'pip',
      'install',
      '--quiet',
      '--disable-pip-version-check',
      '--no-cache-dir',
    ];
    for (const [command, args] of [
      [program, ['-m', 'venv', partial]],
      [join(partial, 'bin', 'python'), [...pip, '--requirement', REQUIREMENTS]],
    ] as const) {
      const { status } = spawnSync(command, args, { stdio: ['ignore', 2, 2] });
      if (status !== 0) throw new Error(`${command} ${args.join(' ')} failed`);
    }
    putInPlace(partial, folder);
  } finally {
    rmSync(partial, { recursive: true, force: true });
  }
  return python;
}

/** Another run may have been first. */
function putInPlace(partial: string, folder: string): void {
  try {
    renameSync(partial, folder);
  } catch (error) {
    if (!existsSync(folder)) throw error;
  }
}

/** Runs the tests, which write the report. Returns the exit code. */
function runTests(python: string, url: string, report: string): Promise<number> {
  return new Promise((done, fail) => {
    const child = spawn(python, ['-B', join(FOLDER, 'run.py'), report], {
      stdio: ['ignore', 'inherit', 'inherit'],
      env: { ...process.env, TIMESCALEDB_URL: url, SOURCE_TIMESCALEDB: MAIN },
    });
    for (const signal of ['SIGINT', 'SIGTERM'] as const) {
      process.once(signal, () => child.kill(signal));
    }
    child.once('error', fail);
    child.once('close', (code) => {
      done(code ?? 1);
    });
  });
}

/** Returns the exit code: nothing that could be run is no failure. */
async function main(report: string): Promise<number> {
  let python: string;
  try {
    python = environment();
  } catch (error) {
    if (!(error instanceof Skipped)) throw error;
    log(`skipped: ${error.message}`);
    const counts = { numPassedTests: 0, numFailedTests: 0, numPendingTests: 1 };
    await writeFile(report, JSON.stringify({ ...counts, note: error.message }));
    return 0;
  }
  const server = await startServer({ log });
  try {
    return await runTests(python, server.url, report);
  } finally {
    await server.stop();
  }
}

function printCounts(report: string): void {
  const counts = JSON.parse(readFileSync(report, 'utf8')) as Readonly<Record<string, number>>;
  const { numPassedTests, numFailedTests, numPendingTests } = counts;
  process.stdout.write(
    `${numPassedTests} passed, ${numFailedTests} failed, ${numPendingTests} skipped\n`,
  );
}

const { values } = parseArgs({ options: { report: { type: 'string' } } });
const folder = mkdtempSync(join(tmpdir(), 'clients-'));
const report = values.report ?? join(folder, 'report.json');
try {
  process.exitCode = await main(report);
  printCounts(report);
} catch (error) {
  log(error instanceof Error ? error.message : String(error));
  process.exitCode = 1;
} finally {
  rmSync(folder, { recursive: true, force: true });
}
