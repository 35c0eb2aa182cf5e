/**
 * Airbyte's platform as far as a source meets it. It does not call an image's entry point: it replaces the container's
 * command by a shell that runs `eval "$AIRBYTE_ENTRYPOINT <command> ..."` in a folder of its own, and a read writes into
 * named pipes that another process reads at its own pace, or no longer.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { closeSync, constants, existsSync, open, openSync, readFileSync } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { JsonObject } from '../src/airbyte/protocol.ts';
import { type ConfiguredCatalog, type Message, parseMessage } from './messages.ts';
import { RunChecker } from './protocol-checks.ts';
import { RunResult } from './run-result.ts';

const openDescriptor = promisify(open);

const MAIN = fileURLToPath(new URL('../dist/main.js', import.meta.url));

/** As an image sets it: words for a shell, good in any folder. */
const ENTRYPOINT = `'${process.execPath}' '${MAIN}'`;

/** What the platform sets for every source, whether it wants it or not. */
const ENVIRONMENT = {
  DEPLOYMENT_MODE: 'OSS',
  WORKER_CONNECTOR_IMAGE: 'source-timescaledb:0.1.0',
  WORKER_JOB_ID: '17',
  WORKER_JOB_ATTEMPT: '0',
  USE_STREAM_CAPABLE_STATE: 'true',
  USE_FILE_TRANSFER: 'false',
  CONCURRENT_SOURCE_STREAM_READ: 'false',
  LOG_LEVEL: 'INFO',
  JAVA_OPTS: '-Xmx1g',
  AIRBYTE_ENABLE_UNSAFE_CODE: 'false',
  DATA_CHANNEL_MEDIUM: 'STDIO',
  DATA_CHANNEL_FORMAT: 'JSONL',
};

const READ = [
  'arguments="read --config $PWD/connectorConfig.json --catalog $PWD/catalog.json"',
  'if [ -f inputState.json ]; then arguments="$arguments --state $PWD/inputState.json"; fi',
  'eval "$AIRBYTE_ENTRYPOINT $arguments" 2> stderr > stdout',
].join('\n');

/** The operation in a subshell; beside it a watch for the file that says that nobody needs it any more. */
function podScript(operation: string): string {
  return `
[ -n "$AIRBYTE_ENTRYPOINT" ] || exit 127
(
${operation}
) &
operation=$!
(
  while [ ! -f TERMINATED ]; do sleep 0.2; done
  kill $operation
) > /dev/null 2>&1 &
wait $operation
code=$?
echo $code > exitCode.new
mv exitCode.new exitCode.txt
exit $code`;
}

/** A pod's folder and its shell. */
class Pod {
  readonly folder: string;
  readonly #shell: ChildProcess;
  /** The shell's exit code, which is that of the connector. */
  readonly ended: Promise<number>;

  constructor(folder: string, operation: string) {
    this.folder = folder;
    // A group of its own: whatever it started can be ended together.
    this.#shell = spawn('sh', ['-c', podScript(operation)], {
      cwd: folder,
      env: { ...process.env, ...ENVIRONMENT, AIRBYTE_ENTRYPOINT: ENTRYPOINT },
      stdio: 'ignore',
      detached: true,
    });
    this.ended = new Promise((resolve, reject) => {
      this.#shell.once('error', reject);
      this.#shell.once('exit', (code) => {
        resolve(code ?? -1);
      });
    });
  }

  /** The process of the connector itself. @throws Error when there is none. */
  connector(): number {
    const found = descendants(this.#shell.pid ?? 0).find((pid) => commandLine(pid).includes(MAIN));
    if (found === undefined) throw new Error('the connector does not run');
    return found;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      process.kill(-(this.#shell.pid ?? 0), 'SIGKILL');
    } catch {
      // Nothing of it is left.
    }
    await rm(this.folder, { recursive: true, force: true });
  }
}

/** The answer of a pod for spec, check or discover: the file that is read once the process has ended. */
export async function runJob(
  command: 'spec' | 'check' | 'discover',
  config?: JsonObject,
): Promise<RunResult> {
  const folder = await podFolder({ 'connectorConfig.json': config });
  const started = performance.now();
  const file = config === undefined ? '' : ' --config connectorConfig.json';
  await using pod = new Pod(
    folder,
    `eval "$AIRBYTE_ENTRYPOINT ${command}${file}" > jobOutput.json 2> stderr`,
  );
  const exitCode = await pod.ended;
  const checker = new RunChecker(command, null);
  const lines = wholeLines(await readFile(join(folder, 'jobOutput.json'), 'utf8'));
  const messages = lines.map((line) => {
    const message = parseMessage(line);
    checker.see(line, message);
    return message;
  });
  const stderr = await readFile(join(folder, 'stderr'), 'utf8');
  const result = resultOf({ exitCode, lines, messages, stderr, inputState: [], started });
  checker.finish(result);
  return result;
}

export type ReadFiles = {
  readonly config: JsonObject;
  readonly catalog: ConfiguredCatalog;
  readonly state?: readonly unknown[];
};

/** Starts a read; nothing is read of its output yet but what fits into a buffer. */
export async function startRead(files: ReadFiles): Promise<PlatformRead> {
  const state = files.state ?? [];
  const folder = await podFolder({
    'connectorConfig.json': files.config,
    'catalog.json': files.catalog,
    'inputState.json': state.length === 0 ? undefined : state,
  });
  const pipes = [join(folder, 'stderr'), join(folder, 'stdout')] as const;
  execFileSync('mkfifo', pipes);
  const pod = new Pod(folder, READ);
  // As many as are still waiting for a writer that will never come.
  void pod.ended.then(() => {
    for (const pipe of pipes) releaseReader(pipe);
  });
  const [stderr, stdout] = await Promise.all(pipes.map((pipe) => openPipe(pipe)));
  return new PlatformRead(pod, files.catalog, state, { stderr: stderr!, stdout: stdout! });
}

/** A read that runs. Its output is read when the test says so. */
export class PlatformRead implements AsyncDisposable {
  readonly #pod: Pod;
  readonly #checker: RunChecker;
  readonly #inputState: readonly unknown[];
  readonly #stdout: Socket;
  readonly #errors: Promise<string>;
  readonly #lines: AsyncGenerator<string>;
  readonly #seen: string[] = [];
  readonly #messages: Message[] = [];
  readonly #started = performance.now();

  constructor(
    pod: Pod,
    catalog: ConfiguredCatalog,
    inputState: readonly unknown[],
    pipes: { readonly stdout: Socket; readonly stderr: Socket },
  ) {
    this.#pod = pod;
    this.#inputState = inputState;
    this.#checker = new RunChecker('read', catalog);
    this.#stdout = pipes.stdout;
    this.#errors = textOf(pipes.stderr);
    this.#lines = linesOf(pipes.stdout);
  }

  /** Reads up to a message, at a pace if one is given. @returns false when the output ended before. */
  async readUntil(
    isTime: (message: Message) => boolean,
    bytesPerSecond = Infinity,
  ): Promise<boolean> {
    for (;;) {
      const { value: line, done } = await this.#lines.next();
      if (done === true) return false;
      const message = parseMessage(line);
      this.#checker.see(line, message);
      this.#seen.push(line);
      this.#messages.push(message);
      if (isTime(message)) return true;
      // In portions: a timer for each line would be slower than any reader.
      if (Number.isFinite(bytesPerSecond) && this.#seen.length % 100 === 0) {
        await delay((100 * line.length * 1000) / bytesPerSecond);
      }
    }
  }

  /** Reads all that comes. @throws Error when the protocol was violated. */
  async finish(bytesPerSecond = Infinity): Promise<RunResult> {
    await this.readUntil(() => false, bytesPerSecond);
    const result = await this.result();
    this.#checker.finish(result);
    return result;
  }

  /** How it ended, with what was read of it; the order of its end is not checked. */
  async result(): Promise<RunResult> {
    const exitCode = await this.#pod.ended;
    return resultOf({
      exitCode,
      lines: this.#seen,
      messages: this.#messages,
      stderr: await this.#errors,
      inputState: this.#inputState,
      started: this.#started,
    });
  }

  /** The process that reads has gone: what is written from now on meets a broken pipe. */
  closeReader(): void {
    this.#stdout.destroy();
  }

  /** The other container of the pod has ended, or the sync was cancelled. */
  terminate(): Promise<void> {
    return writeFile(join(this.#pod.folder, 'TERMINATED'), '');
  }

  /** SIGKILL to the connector itself, as when memory runs out. */
  kill(): void {
    process.kill(this.#pod.connector(), 'SIGKILL');
  }

  get connector(): number {
    return this.#pod.connector();
  }

  /** The shell's exit code once it is there. */
  get ended(): Promise<number> {
    return this.#pod.ended;
  }

  /** What the platform finds in the folder afterwards. */
  exitCodeFile(): string {
    return readFileSync(join(this.#pod.folder, 'exitCode.txt'), 'utf8').trim();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stdout.destroy();
    await this.#pod[Symbol.asyncDispose]();
  }
}

/** The most memory that a process ever had, in KiB; it must still run. */
export function peakMemory(pid: number): number {
  const peak = /^VmHWM:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
  if (peak === undefined) throw new Error('this system does not tell how much memory was used');
  return Number(peak);
}

/** Whether a process is there, and not just its exit code. */
export function isRunning(pid: number): boolean {
  if (!existsSync(`/proc/${pid}/status`)) return false;
  return !/^State:\s+[ZX]/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
}

async function podFolder(files: Readonly<Record<string, unknown>>): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'platform-'));
  for (const [name, content] of Object.entries(files)) {
    if (content === undefined) continue;
    await writeFile(join(folder, name), JSON.stringify(content), { mode: 0o444 });
  }
  return folder;
}

function resultOf(run: {
  readonly exitCode: number;
  readonly lines: readonly string[];
  readonly messages: readonly Message[];
  readonly stderr: string;
  readonly inputState: readonly unknown[];
  readonly started: number;
}): RunResult {
  const { exitCode, started, ...rest } = run;
  return new RunResult({
    ...rest,
    exitCode,
    // What a shell makes of a process that a signal ended.
    signal: exitCode === 128 + 9 ? 'SIGKILL' : exitCode === 128 + 15 ? 'SIGTERM' : null,
    seconds: (performance.now() - started) / 1000,
    maxRssKb: undefined,
    killedAfterMs: undefined,
  });
}

/** Waits, in a thread of its own, until the shell opens the other end. */
async function openPipe(pipe: string): Promise<Socket> {
  const fd = await openDescriptor(pipe, constants.O_RDONLY);
  return new Socket({ fd, readable: true, writable: false });
}

function releaseReader(pipe: string): void {
  try {
    closeSync(openSync(pipe, constants.O_WRONLY | constants.O_NONBLOCK));
  } catch {
    // Nobody waits there, or the folder is gone.
  }
}

async function textOf(pipe: Socket): Promise<string> {
  const parts: Buffer[] = [];
  for await (const part of pipe as AsyncIterable<Buffer>) parts.push(part);
  return Buffer.concat(parts).toString();
}

/** Whole lines; what has no end was cut by the end of its writer and is no line. */
async function* linesOf(pipe: Socket): AsyncGenerator<string> {
  let rest: Buffer = Buffer.alloc(0);
  for await (const part of pipe as AsyncIterable<Buffer>) {
    const lines = Buffer.concat([rest, part]);
    let start = 0;
    for (let end = lines.indexOf(0x0a); end >= 0; end = lines.indexOf(0x0a, start)) {
      yield lines.subarray(start, end).toString();
      start = end + 1;
    }
    rest = lines.subarray(start);
  }
}

function wholeLines(text: string): string[] {
  return text.split('\n').slice(0, -1);
}

function descendants(pid: number): number[] {
  const list = readOrEmpty(`/proc/${pid}/task/${pid}/children`);
  const children = list.split(' ').flatMap((text) => (text === '' ? [] : [Number(text)]));
  return children.flatMap((child) => [child, ...descendants(child)]);
}

function commandLine(pid: number): string {
  return readOrEmpty(`/proc/${pid}/cmdline`);
}

function readOrEmpty(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return '';
  }
}
