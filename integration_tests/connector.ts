/**
 * Runs the built connector as Airbyte does: a process in a foreign folder, its arguments in files there, its stdout a
 * named pipe that is read line by line.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { closeSync, constants, openSync, readFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { AirbyteCatalog, JsonObject, SyncMode } from '../src/airbyte/protocol.ts';
import {
  type Command,
  type ConfiguredCatalog,
  type ConfiguredEntry,
  type Message,
  parseMessage,
} from './messages.ts';
import { RunChecker } from './protocol-checks.ts';
import { RunResult } from './run-result.ts';

const MAIN = fileURLToPath(new URL('../dist/main.js', import.meta.url));

/** A run that takes longer hangs. */
const DEFAULT_TIMEOUT_SECONDS = 110;

export type RunOptions = {
  /** A text is written to the file as it is, for files that are not what they should be. */
  readonly config?: JsonObject | string;
  readonly catalog?: ConfiguredCatalog | string;
  readonly state?: readonly unknown[] | string;
  readonly args?: readonly string[];
  readonly env?: NodeJS.ProcessEnv;
  /** Gets the process, to stop it, look at it or kill it. */
  readonly onStart?: (child: ChildProcess) => void;
  /** Sees each message as it arrives; while it works, nothing more is read. */
  readonly onMessage?: (message: Message) => void | Promise<void>;
  /** False for runs too large to keep. */
  readonly keepMessages?: boolean;
  /** SIGKILL as soon as this many STATE lines were read; what the pipe holds by then is still delivered. */
  readonly killAfterStates?: number;
  /** SIGKILL at a random moment within so many milliseconds from the start. */
  readonly killAtRandomMs?: number;
  readonly slowReader?: { readonly bytesPerSecond: number };
  readonly timeoutSeconds?: number;
  /** True leaves out the checks of the protocol that every run is subject to. */
  readonly unchecked?: boolean;
};

/**
 * Runs a command to its end, and checks what it printed against the protocol (see protocol-checks.ts).
 * @throws Error when the protocol is violated, or when the process does not end in time.
 */
export async function run(command: Command, options: RunOptions = {}): Promise<RunResult> {
  const folder = await mkdtemp(join(tmpdir(), 'connector-'));
  try {
    return await runIn(folder, command, options);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function runIn(folder: string, command: Command, options: RunOptions): Promise<RunResult> {
  const process = startProcess(folder, [command, ...(await writeFiles(folder, options))], options);
  const { child, ended } = process;
  options.onStart?.(child);
  const watch = new Watch(child, options);
  const checker = new RunChecker(command, catalogOf(options));
  const messages: Message[] = [];
  const lines: string[] = [];
  let states = 0;
  let tail = '';
  try {
    for await (const line of readLines(
      process.stdout,
      options.slowReader,
      (rest) => (tail = rest),
    )) {
      const message = tryParse(line);
      checker.see(line, message);
      if (options.keepMessages !== false) lines.push(line);
      if (message === null) continue;
      if (options.keepMessages !== false) messages.push(message);
      if (message.type === 'STATE') {
        states += 1;
        if (states === options.killAfterStates) child.kill('SIGKILL');
      }
      await options.onMessage?.(message);
    }
    const { code, signal } = await ended;
    const stderr = readFileSync(join(folder, 'stderr'), 'utf8');
    watch.throwIfTimedOut(lines, stderr);
    const result = new RunResult({
      exitCode: code,
      signal,
      messages,
      lines,
      stderr,
      inputState: Array.isArray(options.state) ? options.state : [],
      ...watch.measured(),
    });
    if (tail !== '' && signal === null) throw new Error(`the last line does not end: ${tail}`);
    if (options.unchecked !== true) checker.finish(result);
    return result;
  } finally {
    watch.stop();
    child.kill('SIGKILL');
  }
}

function catalogOf(options: RunOptions): ConfiguredCatalog | null {
  return typeof options.catalog === 'object' ? options.catalog : null;
}

async function writeFiles(folder: string, options: RunOptions): Promise<string[]> {
  const args: string[] = [];
  for (const name of ['config', 'catalog', 'state'] as const) {
    const content = options[name];
    if (content === undefined) continue;
    const file = `${name}.json`;
    const text = typeof content === 'string' ? content : JSON.stringify(content);
    await writeFile(join(folder, file), text, { mode: 0o444 });
    args.push(`--${name}`, file);
  }
  return [...args, ...(options.args ?? [])];
}

type Process = {
  readonly child: ChildProcess;
  readonly stdout: Socket;
  readonly ended: Promise<{ readonly code: number | null; readonly signal: NodeJS.Signals | null }>;
};

/** A pipe made by Node is a socket, with other buffers; Airbyte's is a named pipe of 64 KiB. */
function startProcess(folder: string, args: readonly string[], options: RunOptions): Process {
  const pipe = join(folder, 'stdout');
  execFileSync('mkfifo', [pipe]);
  const readEnd = openSync(pipe, constants.O_RDONLY | constants.O_NONBLOCK);
  const writeEnd = openSync(pipe, 'w');
  const errors = openSync(join(folder, 'stderr'), 'w');
  const child = spawn(process.execPath, [MAIN, ...args], {
    cwd: folder,
    env: { ...process.env, ...options.env },
    stdio: ['ignore', writeEnd, errors],
  });
  closeSync(writeEnd);
  closeSync(errors);
  const ended = new Promise<Awaited<Process['ended']>>((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (code, signal) => {
      resolve({ code, signal });
    });
  });
  return { child, ended, stdout: new Socket({ fd: readEnd, readable: true, writable: false }) };
}

/** Whole lines; what follows the last line end is handed to `onRest`. */
async function* readLines(
  stdout: Socket,
  slow: RunOptions['slowReader'],
  onRest: (rest: string) => void,
): AsyncGenerator<string> {
  let parts: Buffer[] = [];
  for await (const chunk of stdout as AsyncIterable<Buffer>) {
    let start = 0;
    for (let end = chunk.indexOf(0x0a); end >= 0; end = chunk.indexOf(0x0a, start)) {
      parts.push(chunk.subarray(start, end));
      yield (parts.length === 1 ? chunk.subarray(start, end) : Buffer.concat(parts)).toString();
      parts = [];
      start = end + 1;
    }
    if (start < chunk.length) parts.push(chunk.subarray(start));
    if (slow !== undefined) await delay((chunk.length / slow.bytesPerSecond) * 1000);
  }
  onRest(Buffer.concat(parts).toString());
}

function tryParse(line: string): Message | null {
  try {
    return parseMessage(line);
  } catch {
    return null;
  }
}

/** Watches over a process: its memory, its time, its random end. */
class Watch {
  readonly #child: ChildProcess;
  readonly #timers: NodeJS.Timeout[] = [];
  readonly #started = performance.now();
  readonly #timeoutSeconds: number;
  #timedOut = false;
  #maxRssKb: number | undefined;
  #killedAfterMs: number | undefined;

  constructor(child: ChildProcess, options: RunOptions) {
    this.#child = child;
    this.#timeoutSeconds = options.timeoutSeconds ?? DEFAULT_TIMEOUT_SECONDS;
    this.#timers.push(
      setInterval(() => {
        this.#maxRssKb = maxRssKb(child.pid) ?? this.#maxRssKb;
      }, 100),
      setTimeout(() => {
        this.#timedOut = true;
        child.kill('SIGKILL');
      }, this.#timeoutSeconds * 1000),
    );
    if (options.killAtRandomMs !== undefined) {
      const wait = Math.random() * options.killAtRandomMs;
      this.#timers.push(
        setTimeout(() => {
          this.#killedAfterMs = wait;
          this.#child.kill('SIGKILL');
        }, wait),
      );
    }
  }

  measured(): {
    readonly seconds: number;
    readonly maxRssKb: number | undefined;
    readonly killedAfterMs: number | undefined;
  } {
    return {
      seconds: (performance.now() - this.#started) / 1000,
      maxRssKb: this.#maxRssKb,
      killedAfterMs: this.#killedAfterMs,
    };
  }

  throwIfTimedOut(lines: readonly string[], stderr: string): void {
    if (!this.#timedOut) return;
    const last = lines.slice(-20).map((line) => line.slice(0, 500));
    throw new Error(
      `no end within ${this.#timeoutSeconds} s; the last lines:\n${last.join('\n')}\n${stderr}`,
    );
  }

  stop(): void {
    for (const timer of this.#timers) clearTimeout(timer);
  }
}

/** The most memory that the process ever had, where the system says so (Linux). */
function maxRssKb(pid: number | undefined): number | undefined {
  try {
    const status = readFileSync(`/proc/${pid}/status`, 'utf8');
    const peak = /^VmHWM:\s+(\d+) kB/m.exec(status)?.[1];
    return peak === undefined ? undefined : Number(peak);
  } catch {
    return undefined;
  }
}

export type CatalogChoice = {
  /** `name` or `schema.name`; all unless given. */
  readonly streams?: readonly string[];
  /** Incremental unless given; a stream that cannot is read by full refresh. */
  readonly syncMode?: SyncMode;
  readonly cursorField?: string;
  /** The columns that a user selected; all unless given. */
  readonly columns?: readonly string[];
  /** Names the refresh that the platform is at: another number means to begin anew. */
  readonly generationId?: number;
};

/**
 * The catalog as the platform hands it back.
 * @throws Error when a chosen stream was not discovered.
 */
export function configuredCatalog(
  catalog: AirbyteCatalog,
  choice: CatalogChoice = {},
): ConfiguredCatalog {
  const chosen = (choice.streams ?? []).map((name) => {
    const found = catalog.streams.find(
      (stream) => stream.name === name || `${stream.namespace}.${stream.name}` === name,
    );
    if (found === undefined) throw new Error(`no stream ${name} was discovered`);
    return found;
  });
  const streams = choice.streams === undefined ? catalog.streams : chosen;
  return { streams: streams.map((stream) => configuredEntry(stream, choice)) };
}

function configuredEntry(
  stream: AirbyteCatalog['streams'][number],
  choice: CatalogChoice,
): ConfiguredEntry {
  const wanted = choice.syncMode ?? 'incremental';
  const mode = stream.supported_sync_modes.includes(wanted) ? wanted : 'full_refresh';
  const keyed = stream.source_defined_primary_key.length > 0;
  const cursor = choice.cursorField === undefined ? null : [choice.cursorField];
  return {
    stream: { ...stream, json_schema: selectColumns(stream.json_schema, choice.columns) },
    sync_mode: mode,
    cursor_field: cursor ?? stream.default_cursor_field,
    destination_sync_mode:
      mode === 'full_refresh' ? 'overwrite' : keyed ? 'append_dedup' : 'append',
    primary_key: stream.source_defined_primary_key,
    generation_id: choice.generationId ?? 1,
    minimum_generation_id: mode === 'full_refresh' ? (choice.generationId ?? 1) : 0,
    sync_id: 1,
  };
}

function selectColumns(schema: JsonObject, columns: readonly string[] | undefined): JsonObject {
  if (columns === undefined) return schema;
  const properties = Object.entries(schema['properties'] as JsonObject);
  return {
    ...schema,
    properties: Object.fromEntries(properties.filter(([name]) => columns.includes(name))),
  };
}
