/**
 * Runs a program and measures what it cost: its seconds from start to exit, its CPU, its memory, the CPU of the
 * server's backends that worked for it, and what it wrote. Its output goes through a named pipe of 64 KiB, as on
 * Airbyte's platform, to `wc`, which does no more than to count lines and bytes.
 */
import { execFileSync, spawn } from 'node:child_process';
import { closeSync, constants, openSync, readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ServerCpu } from './bench-server.ts';

export type Program = {
  readonly command: string;
  readonly args: readonly string[];
  readonly cwd?: string;
  readonly env?: NodeJS.ProcessEnv;
};

export type Cost = {
  readonly seconds: number;
  readonly cpuSeconds: number;
  /** Undefined where the server's processes cannot be seen. */
  readonly serverCpuSeconds: number | undefined;
  readonly peakMb: number | undefined;
  readonly lines: number;
  readonly bytes: number;
};

/** `times` of the shell tells the CPU of children that have ended; POSIX, and without their cooperation. */
const WRAPPER = `"$@" 3>&- & echo $! >&3; wait $!; code=$?; times >&3; exit $code`;

const SAMPLE_MS = 20;

/** @throws Error when the program fails, with the end of what it said on stderr. */
export async function measure(program: Program, server: ServerCpu): Promise<Cost> {
  const folder = await mkdtemp(join(tmpdir(), 'bench-'));
  const ends = openPipe(join(folder, 'stdout'));
  try {
    const counting = collect('wc', ['-lc'], ends.read);
    closeSync(ends.read);
    const measured = await runMeasured(program, ends.write, server);
    const [lines = 0, bytes = 0] = (await counting).trim().split(/\s+/).map(Number);
    return { ...measured, lines, bytes };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** Runs a program and hands on its output, in pieces. @throws Error when it fails. */
export async function* outputOf(program: Program): AsyncGenerator<Buffer> {
  const child = spawn(program.command, program.args, {
    ...inFolder(program),
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let errors = '';
  child.stderr.on('data', (chunk: Buffer) => {
    errors = (errors + chunk.toString()).slice(-2000);
  });
  const ended = new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  for await (const chunk of child.stdout as AsyncIterable<Buffer>) yield chunk;
  const code = await ended;
  if (code !== 0) throw new Error(`${nameOf(program)} ended with ${code}: ${errors}`);
}

function inFolder(program: Program): { cwd?: string; env: NodeJS.ProcessEnv } {
  return {
    ...(program.cwd === undefined ? {} : { cwd: program.cwd }),
    env: { ...process.env, ...program.env },
  };
}

/** Both ends, blocking: opening one end waits for the other, so a third opens the way. */
function openPipe(path: string): { readonly read: number; readonly write: number } {
  execFileSync('mkfifo', [path]);
  const opener = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  const write = openSync(path, 'w');
  const read = openSync(path, 'r');
  closeSync(opener);
  return { read, write };
}

type Measured = Omit<Cost, 'lines' | 'bytes'>;

async function runMeasured(program: Program, stdout: number, server: ServerCpu): Promise<Measured> {
  server.begin();
  const begun = performance.now();
  const child = spawn('sh', ['-c', WRAPPER, 'sh', program.command, ...program.args], {
    ...inFolder(program),
    stdio: ['ignore', stdout, 'pipe', 'pipe'],
  });
  closeSync(stdout);
  let report = '';
  let errors = '';
  let peakMb: number | undefined;
  child.stdio[3]?.on('data', (chunk: Buffer) => (report += chunk.toString()));
  child.stderr?.on('data', (chunk: Buffer) => (errors = (errors + chunk.toString()).slice(-2000)));
  const sampler = setInterval(() => {
    server.sample();
    peakMb = peakOf(report.split('\n', 1)[0] ?? '') ?? peakMb;
  }, SAMPLE_MS);
  let exited = begun;
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', () => (exited = performance.now()));
    child.once('close', resolve);
  });
  clearInterval(sampler);
  if (code !== 0) throw new Error(`${nameOf(program)} ended with ${code}: ${errors}`);
  return {
    seconds: (exited - begun) / 1000,
    cpuSeconds: childrenCpu(report),
    serverCpuSeconds: server.end(),
    peakMb,
  };
}

/** A file of its own, so that no option of the shell is needed; the answer is what it printed. */
function collect(command: string, args: readonly string[], stdin: number): Promise<string> {
  const child = spawn(command, args, { stdio: [stdin, 'pipe', 'inherit'] });
  let text = '';
  child.stdout?.on('data', (chunk: Buffer) => (text += chunk.toString()));
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', () => {
      resolve(text);
    });
  });
}

/** The second line of `times`: user and system time of the children, as `0m1.250s 0m0.310s`. */
function childrenCpu(report: string): number {
  const last = report.trim().split('\n').at(-1) ?? '';
  const times = [...last.matchAll(/(\d+)m([\d.]+)s/g)];
  if (times.length !== 2) throw new Error(`not the output of times: ${report}`);
  return times.reduce(
    (sum, [, minutes, seconds]) => sum + Number(minutes) * 60 + Number(seconds),
    0,
  );
}

/** The most memory that a process ever had, where the system says so (Linux). */
function peakOf(pid: string): number | undefined {
  if (pid === '') return undefined;
  try {
    const kilobytes = /^VmHWM:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
    return kilobytes === undefined ? undefined : Number(kilobytes) / 1024;
  } catch {
    return undefined;
  }
}

function nameOf({ command, args }: Program): string {
  return `${command} ${args.slice(0, 2).join(' ')}`;
}
