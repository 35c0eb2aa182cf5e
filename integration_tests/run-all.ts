/**
 * Everything that `npm test` runs; a step that fails does not stop the others.
 *
 *   tsx integration_tests/run-all.ts [--all-servers] [--clients]
 *
 * Integration tests run on PostgreSQL 17 with TimescaleDB 2.19; with `--all-servers`, or where `CI` is set, also on
 * PostgreSQL 18 with TimescaleDB 2.31, at the same time: much of a test is waiting. With `--clients` Airbyte's own clients in Python follow. The last line of the output
 * counts the tests: `N passed, N failed, N skipped`.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { type Release, startServer, type TimescaleServer } from './server.ts';

const CHECKOUT = fileURLToPath(new URL('..', import.meta.url));

type Counts = {
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
  /** Why tests were skipped. */
  readonly note?: string;
};

type Step = {
  readonly name: string;
  readonly seconds: number;
  /** Null for a step that was left out. */
  readonly ok: boolean | null;
  readonly note: string;
  readonly tests: Counts | null;
};

/** A server, and what it is called. */
type Running = { readonly release: Release; readonly server: TimescaleServer };

const NO_TESTS: Counts = { passed: 0, failed: 0, skipped: 0 };

class Runner {
  readonly steps: Step[] = [];
  readonly #reports = mkdtempSync(join(tmpdir(), 'test-reports-'));
  readonly #children = new Set<ChildProcess>();
  readonly #servers = new Set<TimescaleServer>();
  #report = 0;

  /** Runs a script of package.json. */
  async script(name: string, script: string): Promise<boolean> {
    const started = this.#begin(name);
    const ok = await this.#npm(script, []);
    return this.#end(name, started, ok, ok ? '' : 'failed');
  }

  /** Runs a script of package.json that calls vitest, and counts its tests. */
  async tests(name: string, script: string, release?: Running): Promise<boolean> {
    const started = this.#begin(name);
    const report = this.#reportFile();
    const reporters = ['--reporter=default', '--reporter=json', `--outputFile.json=${report}`];
    const ok = await this.#npm(script, ['--', ...reporters], release);
    return this.#endTests(name, started, ok, report);
  }

  /** Runs Airbyte's clients, which count their tests in the same way. */
  async clients(): Promise<boolean> {
    const started = this.#begin('clients');
    const report = this.#reportFile();
    const ok = await this.#npm('clients', ['--', '--report', report]);
    return this.#endTests('clients', started, ok, report);
  }

  /** Runs the integration tests on servers that live as long as they do, on all of them at once. */
  async onServers(releases: readonly Release[]): Promise<void> {
    const running: Running[] = [];
    for (const release of releases) {
      const started = this.#begin(`server, ${release}`);
      try {
        const server = await startServer({ release, log: print });
        this.#servers.add(server);
        running.push({ release, server });
      } catch (error) {
        const reason = error instanceof Error ? error.message : String(error);
        this.#end(`integration, ${release}`, started, false, reason);
      }
    }
    await Promise.all(
      running.map(async (item) => {
        try {
          await this.tests(`integration, ${item.release}`, 'test:integration', item);
        } finally {
          this.#servers.delete(item.server);
          await item.server.stop();
        }
      }),
    );
  }

  skip(name: string, note: string): void {
    this.steps.push({ name, seconds: 0, ok: null, note, tests: null });
  }

  /** Ends what runs. */
  async stop(): Promise<void> {
    for (const child of this.#children) child.kill('SIGTERM');
    await Promise.all([...this.#servers].map((server) => server.stop()));
    this.cleanUp();
  }

  cleanUp(): void {
    rmSync(this.#reports, { recursive: true, force: true });
  }

  #reportFile(): string {
    this.#report += 1;
    return join(this.#reports, `${this.#report}.json`);
  }

  #begin(name: string): number {
    print(`\n── ${name} ${'─'.repeat(Math.max(3, 70 - name.length))}`);
    return performance.now();
  }

  #end(name: string, started: number, ok: boolean, note: string, tests?: Counts): boolean {
    const seconds = (performance.now() - started) / 1000;
    this.steps.push({ name, seconds, ok, note, tests: tests ?? null });
    return ok;
  }

  #endTests(name: string, started: number, ok: boolean, report: string): boolean {
    const tests = readReport(report);
    const note = ok ? (tests?.note ?? '') : tests === null ? 'no report' : 'failed';
    return this.#end(name, started, ok && tests !== null, note, tests ?? NO_TESTS);
  }

  #npm(script: string, args: readonly string[], running?: Running): Promise<boolean> {
    return new Promise((resolve) => {
      const child = spawn('npm', ['run', '--silent', script, ...args], {
        cwd: CHECKOUT,
        stdio:
          running === undefined ? ['ignore', 'inherit', 'inherit'] : ['ignore', 'pipe', 'pipe'],
        env: {
          ...process.env,
          ...(running === undefined ? {} : { TIMESCALEDB_URL: running.server.url }),
        },
      });
      this.#children.add(child);
      // Two of them write at once: each line says whose it is.
      for (const stream of [child.stdout, child.stderr]) {
        if (stream === null || running === undefined) continue;
        createInterface(stream).on('line', (line) => print(`${running.release} | ${line}`));
      }
      child.once('error', (error) => {
        print(`npm cannot be run: ${error.message}`);
        resolve(false);
      });
      child.once('close', (code) => {
        this.#children.delete(child);
        resolve(code === 0);
      });
    });
  }
}

type Report = Readonly<Record<string, number>> & { readonly note?: string };

/** The counts in vitest's json report; null when there is none. */
function readReport(file: string): Counts | null {
  try {
    const report = JSON.parse(readFileSync(file, 'utf8')) as Report;
    return {
      passed: report['numPassedTests'] ?? 0,
      failed: report['numFailedTests'] ?? 0,
      skipped: (report['numPendingTests'] ?? 0) + (report['numTodoTests'] ?? 0),
      ...(report.note === undefined ? {} : { note: report.note }),
    };
  } catch {
    return null;
  }
}

async function runSteps(
  runner: Runner,
  { allServers, clients }: { readonly allServers: boolean; readonly clients: boolean },
): Promise<void> {
  await runner.script('format', 'format');
  await runner.script('lint', 'lint');
  await runner.script('types', 'typecheck');
  const built = await runner.script('build', 'build');
  await runner.tests('unit tests', 'test:unit');
  await runner.script('dead code', 'deadcode');
  // A server that is given is the only one.
  const given = (process.env['TIMESCALEDB_URL'] ?? '') !== '';
  const releases: readonly Release[] = allServers && !given ? ['trixie', 'sid'] : ['trixie'];
  if (built) await runner.onServers(releases);
  else for (const release of releases) runner.skip(`integration, ${release}`, 'nothing was built');
  if (clients && built) await runner.clients();
  else if (clients) runner.skip('clients', 'nothing was built');
}

/** Prints the table of the steps and the last line. Returns the exit code. */
function summarise(steps: readonly Step[]): number {
  print('');
  let [passed, failed, skipped] = [0, 0, 0];
  for (const { name, seconds, ok, note, tests } of steps) {
    const mark = ok === null ? '-' : ok ? '✓' : '✗';
    const counts =
      tests === null
        ? ''
        : `${tests.passed} passed, ${tests.failed} failed, ${tests.skipped} skipped`;
    const [remark = ''] = note.split('\n');
    const cells = [mark, name.padEnd(22), `${seconds.toFixed(1).padStart(7)} s `, counts, remark];
    print(cells.join(' ').trimEnd());
    passed += tests?.passed ?? 0;
    skipped += tests?.skipped ?? 0;
    // A step whose tests failed counts as those tests.
    failed += tests !== null && tests.failed > 0 ? tests.failed : ok === false ? 1 : 0;
  }
  const executed = steps
    .filter(({ name }) => name.startsWith('integration'))
    .reduce((sum, { tests }) => sum + (tests?.passed ?? 0) + (tests?.failed ?? 0), 0);
  if (executed === 0) print('no integration test was executed');
  print(`${passed} passed, ${failed} failed, ${skipped} skipped`);
  return failed > 0 || executed === 0 ? 1 : 0;
}

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}

const { values } = parseArgs({
  options: { 'all-servers': { type: 'boolean' }, clients: { type: 'boolean' } },
});
const runner = new Runner();
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, () => {
    void runner.stop().finally(() => process.exit(128 + constants.signals[signal]));
  });
}
await runSteps(runner, {
  allServers: values['all-servers'] === true || (process.env['CI'] ?? '') !== '',
  clients: values.clients === true,
});
runner.cleanUp();
process.exitCode = summarise(runner.steps);
