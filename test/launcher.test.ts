/** The image's entry point: which heap the connector gets. */
import { spawnSync } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, expect, it } from 'vitest';

const LAUNCHER = fileURLToPath(new URL('../docker/source-timescaledb', import.meta.url));

const folder = mkdtempSync(join(tmpdir(), 'launcher-'));
const bin = join(folder, 'bin');
mkdirSync(bin);
writeFileSync(join(bin, 'node'), '#!/bin/sh\nfor word in "$@"; do echo "$word"; done\n');
chmodSync(join(bin, 'node'), 0o755);

afterAll(() => {
  rmSync(folder, { recursive: true });
});

type Limits = {
  /** What the file holds; the form of cgroup 2 unless `old`. */
  readonly container?: string;
  readonly old?: boolean;
  readonly config?: string;
  readonly nodeOptions?: string;
};

/** The words that node is started with. */
function words(
  { container, old = false, config, nodeOptions = '' }: Limits,
  ...args: string[]
): string[] {
  const cgroup = mkdtempSync(join(folder, 'cgroup-'));
  if (container !== undefined) {
    mkdirSync(join(cgroup, 'memory'));
    const file = old ? 'memory/memory.limit_in_bytes' : 'memory.max';
    writeFileSync(join(cgroup, file), `${container}\n`);
  }
  if (config !== undefined) writeFileSync(join(folder, 'config.json'), config);
  const env = {
    PATH: `${bin}:${process.env['PATH'] ?? ''}`,
    NODE_OPTIONS: nodeOptions,
    SOURCE_TIMESCALEDB_CGROUP: cgroup,
  };
  const { stdout, stderr, status } = spawnSync(LAUNCHER, args, {
    cwd: folder,
    env,
    encoding: 'utf8',
  });
  expect(stderr).toBe('');
  expect(status).toBe(0);
  return stdout.split('\n').slice(0, -1);
}

function heap(limits: Limits, ...args: string[]): string | undefined {
  const word = words(limits, ...args).find((each) => each.startsWith('--max-old-space-size='));
  return word?.split('=')[1];
}

const GB = String(1024 ** 3);

it('three quarters of what the container may use, however its kernel says it', () => {
  expect(heap({ container: GB })).toBe('768');
  expect(heap({ container: GB, old: true })).toBe('768');
});

it('no limit of ours where the container has none', () => {
  expect(heap({ container: 'max' })).toBeUndefined();
  expect(heap({ container: '9223372036854771712', old: true })).toBeUndefined();
  expect(heap({})).toBeUndefined();
});

it.each([
  ['--config config.json'],
  ['--config=config.json'],
  ['--state s.json --config config.json'],
])('the smaller one of the container and of the setting (%s)', (text) => {
  const args = ['check', ...text.split(' ')];
  const config = (mb: number): string => `{ "host": "x",\n "timescaledb_max_memory_mb" :\t${mb} }`;
  expect(heap({ container: GB, config: config(100) }, ...args)).toBe('75');
  expect(heap({ container: GB, config: config(4096) }, ...args)).toBe('768');
  expect(heap({ config: config(100) }, ...args)).toBe('75');
  expect(heap({ container: GB, config: '{"timescaledb_max_memory_mb":null}' }, ...args)).toBe(
    '768',
  );
  expect(
    heap({ container: GB, config: 'no json "timescaledb_max_memory_mb":$(id)' }, ...args),
  ).toBe('768');
});

it('nothing where NODE_OPTIONS says it, or the file cannot be read', () => {
  expect(heap({ container: GB, nodeOptions: '--max-old-space-size=50' })).toBeUndefined();
  expect(heap({ container: GB }, 'check', '--config', 'nowhere.json')).toBe('768');
  expect(heap({ container: GB }, 'check', '--config')).toBe('768');
});

it('all arguments reach the connector as they are', () => {
  const args = ['read', '--config', 'a file', '--state', '*', ''];
  const all = words({ container: GB, config: '{}' }, ...args);
  expect(all.slice(-1 - args.length)).toEqual([
    expect.stringMatching(/\/dist\/main\.js$/),
    ...args,
  ]);
});
