/**
 * A command of the connector in its container, started as Airbyte's platform starts it: the image's entry point is not
 * used but the variable AIRBYTE_ENTRYPOINT, by a shell, in /source; a read writes into named pipes.
 */
import { spawn } from 'node:child_process';
import { chmodSync, chownSync, createReadStream } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Engine } from './image-engine.ts';
import { type Command, type ConfiguredCatalog, type Message, parseMessage } from './messages.ts';
import { RunChecker } from './protocol-checks.ts';
import { RunResult } from './run-result.ts';

type Files = {
  readonly config?: unknown;
  readonly catalog?: ConfiguredCatalog;
  readonly state?: readonly unknown[];
};

const FILES = { config: 'connectorConfig', catalog: 'catalog', state: 'inputState' } as const;

const PREFACE = `
if [ -z "$AIRBYTE_ENTRYPOINT" ]; then echo 'AIRBYTE_ENTRYPOINT is empty' >&2; exit 127; fi
[ "$(id -u):$(id -g) $(pwd)" = '1000:1000 /source' ] || { id; pwd; exit 126; }
`;

function answerScript(command: Command, args: string): string {
  return `${PREFACE}
eval "$AIRBYTE_ENTRYPOINT ${command} ${args}" > stdout 2> stderr
echo $? > exitCode.txt`;
}

function readScript(args: string): string {
  return `${PREFACE}
(eval "$AIRBYTE_ENTRYPOINT read ${args}" 2> stderr > stdout) &
CHILD_PID=$!
(while true; do
  if [ -f TERMINATED ]; then kill $CHILD_PID; exit 0; fi
  sleep 10
done) > /dev/null &
LOOP_PID=$!
wait $CHILD_PID
EXIT_CODE=$?
kill $LOOP_PID
echo $EXIT_CODE > TMP_EXIT_CODE.txt
mv TMP_EXIT_CODE.txt exitCode.txt
exit $EXIT_CODE`;
}

/** Runs a command to its end. @throws Error when the protocol is violated. */
export async function runInContainer(
  engine: Engine,
  command: Command,
  files: Files = {},
): Promise<RunResult> {
  const folder = await mkdtemp(join(tmpdir(), 'source-'));
  try {
    const args: string[] = [];
    for (const name of ['config', 'catalog', 'state'] as const) {
      if (files[name] === undefined) continue;
      const file = `${FILES[name]}.json`;
      await writeFile(join(folder, file), JSON.stringify(files[name]));
      args.push(`--${name} /source/${file}`);
    }
    chmodSync(folder, 0o777);
    if (process.getuid?.() === 0) chownSync(folder, 1000, 1000);
    return await runIn(engine, folder, command, args.join(' '), files);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function runIn(
  engine: Engine,
  folder: string,
  command: Command,
  args: string,
  files: Files,
): Promise<RunResult> {
  const read = command === 'read';
  const started = performance.now();
  const pipe = join(folder, 'stdout');
  if (read) await shell(engine, folder, 'mkfifo stdout stderr');
  // Both ends of a named pipe wait for each other.
  const stdout = read ? linesOf(pipe) : null;
  const stderr = read ? linesOf(join(folder, 'stderr')) : null;
  const ended = shell(engine, folder, read ? readScript(args) : answerScript(command, args));
  // A container that cannot start would leave us with pipes that nobody opens.
  if (read) void ended.catch(() => shell(engine, folder, ': > stdout; : > stderr'));
  const [lines, errors] = await Promise.all([stdout, stderr, ended.catch(() => undefined)]);
  const said = read ? (errors ?? []).join('\n') : await readFile(join(folder, 'stderr'), 'utf8');
  const printed = lines ?? (await readFile(pipe, 'utf8')).split('\n').slice(0, -1);
  const exitCode = Number(await readFile(join(folder, 'exitCode.txt'), 'utf8'));
  return checked(command, files, printed, said, exitCode, (performance.now() - started) / 1000);
}

function checked(
  command: Command,
  files: Files,
  lines: readonly string[],
  stderr: string,
  exitCode: number,
  seconds: number,
): RunResult {
  const checker = new RunChecker(command, files.catalog ?? null);
  const messages: Message[] = [];
  for (const line of lines) {
    const message = parsed(line);
    checker.see(line, message);
    if (message !== null) messages.push(message);
  }
  const result = new RunResult({
    exitCode,
    signal: null,
    messages,
    lines,
    stderr,
    inputState: files.state ?? [],
    seconds,
    maxRssKb: undefined,
    killedAfterMs: undefined,
  });
  checker.finish(result);
  return result;
}

function parsed(line: string): Message | null {
  try {
    return parseMessage(line);
  } catch {
    return null;
  }
}

async function linesOf(file: string): Promise<string[]> {
  const lines: string[] = [];
  for await (const line of createInterface({ input: createReadStream(file) })) lines.push(line);
  return lines;
}

/** Runs a script in the container. @returns what it prints. @throws Error when it fails. */
export function shell(engine: Engine, folder: string, script: string): Promise<string> {
  const [program = '', ...args] = engine.command(folder, script);
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    let output = '';
    let errors = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => (output += text));
    child.stderr.setEncoding('utf8').on('data', (text: string) => (errors += text));
    child.once('error', reject);
    child.once('close', (code) => {
      if (code === 0) resolve(output);
      else reject(new Error(`the container's shell ended with ${code}: ${output}${errors}`));
    });
  });
}
