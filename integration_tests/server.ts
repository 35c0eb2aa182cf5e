/**
 * A running TimescaleDB for tests and for trying things out.
 *
 *   tsx integration_tests/server.ts [--release trixie|sid]
 *     prints TIMESCALEDB_URL=... and serves until it is interrupted
 *   tsx integration_tests/server.ts [--release trixie|sid] -- COMMAND ARGUMENTS...
 *     runs the command with TIMESCALEDB_URL set, and ends with its exit code
 *
 * Either ends, with its server, when the process that started it is gone.
 */
import { spawn } from 'node:child_process';
import { realpathSync } from 'node:fs';
import { constants } from 'node:os';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { startInDocker } from './server-docker.ts';
import { startOnDebian } from './server-debian.ts';

/** `trixie`: PostgreSQL 17 and TimescaleDB 2.19; `sid`: PostgreSQL 18 and TimescaleDB 2.31. */
export type Release = 'trixie' | 'sid';

export type RestartMode = 'fast' | 'immediate';

export type Log = (line: string) => void;

export type TimescaleServer = {
  /** Logs in as a superuser. */
  readonly url: string;
  readonly how: 'url' | 'docker' | 'debian';
  /** Stops what was started, which for `url` is nothing; may be called more than once. */
  readonly stop: () => Promise<void>;
  /** Stops the server in this mode and starts it again at the same URL. */
  readonly restart?: (mode: RestartMode) => Promise<void>;
  /** Starts a hot standby of it. */
  readonly standby?: () => Promise<Standby>;
};

export type Standby = {
  readonly url: string;
  /** Makes it a primary, on a timeline of its own. */
  readonly promote: () => Promise<void>;
  readonly stop: () => Promise<void>;
};

/**
 * A server that nobody else uses, whatever is at `TIMESCALEDB_URL`: for settings of the whole server.
 * @throws Error when none can be started.
 */
export async function startOwnServer(release: Release = 'trixie'): Promise<TimescaleServer> {
  const given = process.env['TIMESCALEDB_URL'];
  delete process.env['TIMESCALEDB_URL'];
  try {
    return await startServer({ release });
  } finally {
    if (given !== undefined) process.env['TIMESCALEDB_URL'] = given;
  }
}

/**
 * Gives a running TimescaleDB with `wal_level=logical`, by the first way that works: the server
 * at `TIMESCALEDB_URL` (whatever its release), Docker, Debian's packages. What was started runs
 * until `stop`; if this process goes away without that, it is stopped and removed nevertheless.
 *
 * @throws Error with the reason of each way, when none works.
 */
export async function startServer(
  options: { readonly release?: Release; readonly log?: Log } = {},
): Promise<TimescaleServer> {
  const { release = 'trixie', log = () => undefined } = options;
  const url = process.env['TIMESCALEDB_URL'] ?? '';
  if (url !== '') return { url, how: 'url', stop: () => Promise.resolve() };
  const reasons: string[] = [];
  for (const start of [startInDocker, startOnDebian]) {
    try {
      return await start(release, log);
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      log(reason);
      reasons.push(reason);
    }
  }
  throw new Error(
    'No TimescaleDB could be started: set TIMESCALEDB_URL to the URL of a running one, ' +
      `with a superuser's name (${reasons.join('; ')})`,
  );
}

type Signal = 'SIGINT' | 'SIGTERM';

/** Returns the exit code. */
async function runScript(args: readonly string[]): Promise<number> {
  const { release, command } = readArguments(args);
  // Until the server is there, to exit is enough: what has been started by then ends with us.
  let interrupt = (signal: Signal): void => process.exit(exitCodeOf(signal));
  process.on('SIGINT', () => {
    interrupt('SIGINT');
  });
  process.on('SIGTERM', () => {
    interrupt('SIGTERM');
  });
  // A parent that was killed outright, such as tsx, can't pass on a signal.
  const parent = process.ppid;
  setInterval(() => {
    if (process.ppid !== parent) interrupt('SIGTERM');
  }, 2000);
  const log = (line: string): void => void process.stderr.write(`${line}\n`);
  const server = await startServer({ release, log });
  try {
    const [program, ...programArgs] = command;
    if (program !== undefined) {
      return await runCommand(program, programArgs, server.url, (forward) => {
        interrupt = forward;
      });
    }
    process.stdout.write(`TIMESCALEDB_URL=${server.url}\n`);
    await new Promise<void>((resolve) => {
      interrupt = () => {
        resolve();
      };
    });
    return 0;
  } finally {
    await server.stop();
  }
}

function readArguments(args: readonly string[]): { release: Release; command: string[] } {
  const separator = args.indexOf('--');
  const own = separator === -1 ? args : args.slice(0, separator);
  const command = separator === -1 ? [] : args.slice(separator + 1);
  const { values } = parseArgs({ args: [...own], options: { release: { type: 'string' } } });
  const release = values.release ?? 'trixie';
  if (release !== 'trixie' && release !== 'sid') {
    throw new Error(`--release is trixie or sid, not ${release}`);
  }
  return { release, command };
}

function runCommand(
  program: string,
  args: readonly string[],
  url: string,
  onInterrupt: (forward: (signal: Signal) => void) => void,
): Promise<number> {
  return new Promise((resolve, reject) => {
    const env = { ...process.env, TIMESCALEDB_URL: url };
    const child = spawn(program, args, { stdio: 'inherit', env });
    onInterrupt((signal) => {
      // Ctrl-C in a terminal goes to the command as well as to us.
      if (signal === 'SIGINT' && process.stdin.isTTY) return;
      child.kill(signal);
    });
    child.once('error', reject);
    child.once('close', (code, signal) => {
      resolve(code ?? (signal === null ? 1 : exitCodeOf(signal)));
    });
  });
}

function exitCodeOf(signal: NodeJS.Signals): number {
  return 128 + constants.signals[signal];
}

const script = process.argv[1];
if (script !== undefined && realpathSync(script) === fileURLToPath(import.meta.url)) {
  try {
    process.exit(await runScript(process.argv.slice(2)));
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
    process.exit(1);
  }
}
