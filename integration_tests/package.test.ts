/** The package that `npm pack` makes, installed into an empty folder as a new user would, and its commands for people. */
import { spawnSync, type SpawnSyncReturns } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createDatabase } from './database.ts';

const CHECKOUT = fileURLToPath(new URL('..', import.meta.url));

let folder = '';
let executable = '';

function npm(cwd: string, ...args: readonly string[]): string {
  const done = spawnSync('npm', args, { cwd, encoding: 'utf8' });
  if (done.status !== 0) throw new Error(`npm ${args.join(' ')}:\n${done.stderr}`);
  return done.stdout.trim();
}

/** Runs the installed executable in the empty folder. */
function run(...args: readonly string[]): SpawnSyncReturns<string> {
  const limit = 256 * 1024 * 1024;
  return spawnSync(executable, args, { cwd: folder, encoding: 'utf8', maxBuffer: limit });
}

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'package-'));
  const packed = join(folder, 'packed');
  await mkdir(packed);
  // The program is built by now; its source is not to be compiled under the other tests' feet.
  npm(CHECKOUT, 'pack', '--silent', '--ignore-scripts', '--pack-destination', packed);
  const [archive = ''] = await readdir(packed);
  // Its dependencies are in it: no registry is asked.
  npm(folder, 'install', '--offline', '--no-audit', '--no-fund', join(packed, archive));
  executable = join(folder, 'node_modules', '.bin', 'source-timescaledb');
}, 120_000);

afterAll(async () => {
  await rm(folder, { recursive: true, force: true });
});

describe('the installed executable', () => {
  it('prints its specification', () => {
    const { stdout, stderr, status } = run('spec');
    expect(status).toBe(0);
    expect(stderr).toBe('');
    const spec: unknown = JSON.parse(readFileSync(join(CHECKOUT, 'spec.json'), 'utf8'));
    expect(JSON.parse(stdout)).toEqual({ type: 'SPEC', spec });
    expect(stdout.trimEnd()).not.toContain('\n');
  });

  it('knows its version', () => {
    const { version } = JSON.parse(readFileSync(join(CHECKOUT, 'package.json'), 'utf8')) as {
      version: string;
    };
    expect(run('--version').stdout).toBe(`${version}\n`);
  });

  it('lists the commands of the protocol, and apart from them those beyond it', () => {
    const { stdout, status } = run('--help');
    expect(status).toBe(0);
    const groups = stdout.split(/^(?=\S.*:$)/m);
    const commands = (heading: string): string[] => {
      const group = groups.find((each) => each.startsWith(heading)) ?? '';
      return [...group.matchAll(/^ {2}([a-z][a-z-]+)/gm)].map(([, name = '']) => name);
    };
    expect(commands('Commands of the Airbyte protocol')).toEqual([
      'spec',
      'check',
      'discover',
      'read',
    ]);
    expect(commands('Commands beyond it')).toEqual(
      expect.arrayContaining(['sample-config', 'sample-catalog', 'last-state']),
    );
    for (const name of commands('Commands beyond it')) {
      expect(run(name, '--help').stdout).toContain(`Usage: source-timescaledb ${name}`);
    }
  });

  it.each([[[]], [['raed']], [['read']], [['spec', '--nonsense']]])(
    'says what is wrong with %j on stderr: nothing on stdout that a parser could take for a message',
    (args) => {
      const { stdout, stderr, status } = run(...args);
      expect(stdout).toBe('');
      expect(stderr).toContain('Usage: source-timescaledb');
      expect(status).toBe(1);
    },
  );

  it('is enough to sync twice, from nothing but its own samples', async () => {
    await using db = await createDatabase();
    await db.query(`
      CREATE TABLE metrics (time timestamptz NOT NULL, device int, PRIMARY KEY (time, device));
      SELECT create_hypertable('metrics', 'time');
      INSERT INTO metrics SELECT timestamptz '2026-01-01Z' + i * interval '1 day', i FROM generate_series(1, 20) i;
      CREATE TABLE other (id int PRIMARY KEY)`);
    const save = async (file: string, done: SpawnSyncReturns<string>): Promise<void> => {
      expect(done.stderr).toBe('');
      expect(done.status).toBe(0);
      await writeFile(join(folder, file), done.stdout);
    };
    const sample = JSON.parse(run('sample-config').stdout) as Record<string, unknown>;
    await writeFile(join(folder, 'config.json'), JSON.stringify({ ...sample, ...db.config() }));
    const config = ['--config', 'config.json'];
    await save('catalog.json', run('sample-catalog', ...config, 'public.metrics'));
    const read = ['read', ...config, '--catalog', 'catalog.json'];
    await save('first.jsonl', run(...read));
    await save('state.json', run('last-state', 'first.jsonl'));
    await db.query(`DELETE FROM metrics WHERE device = 7`);
    await save('second.jsonl', run(...read, '--state', 'state.json'));
    const records = (file: string): unknown[] =>
      readFileSync(join(folder, file), 'utf8')
        .split('\n')
        .filter((line) => line.startsWith('{"type":"RECORD"'))
        .map((line) => JSON.parse(line).record.data);
    expect(records('first.jsonl')).toHaveLength(20);
    expect(records('second.jsonl')).toEqual([
      expect.objectContaining({ device: 7, _ab_cdc_deleted_at: expect.any(String) }),
    ]);
  });

  it('says what it could not do', async () => {
    await writeFile(join(folder, 'broken.json'), '{');
    const { stdout, stderr, status } = run('sample-catalog', '--config', 'broken.json');
    expect(stdout).toBe('');
    expect(stderr).toBe('The config file is not valid JSON.\n');
    expect(status).toBe(1);
  });
});
