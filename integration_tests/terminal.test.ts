/** What a person at a terminal sees: a line that moves and a summary, on stderr alone, and only if that is a terminal. */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { type CatalogChoice, configuredCatalog, run } from './connector.ts';
import { createDatabase, type Database } from './database.ts';

const MAIN = fileURLToPath(new URL('../dist/main.js', import.meta.url));

/** It gives a command a terminal; others of the same name take other options. */
const script = spawnSync('script', ['--version'], { encoding: 'utf8' });
const hasScript = script.status === 0 && script.stdout.includes('util-linux');

const REASON = hasScript ? '' : ' (left out: no `script` of util-linux here)';

// oxlint-disable-next-line no-control-regex -- this is what it looks for
const COLOUR = /\u001B\[\d+m/;
const START_OF_LINE = '\r\u001B[K';

const CHUNKS = 6;
const ROWS = 120;

type Typed = {
  /** All that the terminal shows. */
  readonly shown: string;
  readonly stdout: string;
  readonly code: number | null;
};

type Options = {
  readonly env?: NodeJS.ProcessEnv;
  /** Where stdout goes; a file unless given. */
  readonly redirect?: string;
  /** Sees what the terminal shows, as it grows. */
  readonly onShown?: (shown: string) => void;
};

/** Runs a command of the connector at a terminal of 100 columns. */
async function atTerminal(
  folder: string,
  args: readonly string[],
  { env = {}, redirect = '> stdout', onShown }: Options = {},
): Promise<Typed> {
  const command = [process.execPath, MAIN, ...args].map((word) => `'${word}'`).join(' ');
  const child = spawn(
    'script',
    ['-q', '-e', '-c', `stty cols 100; ${command} ${redirect}`, '/dev/null'],
    {
      cwd: folder,
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, TERM: 'xterm', ...env },
    },
  );
  let shown = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    shown += text;
    onShown?.(shown);
  });
  const [code] = await once(child, 'close');
  const stdout = await readFile(join(folder, 'stdout'), 'utf8').catch(() => '');
  return { shown: shown.replaceAll('\r\n', '\n'), stdout, code };
}

/** The arguments of a read of a hypertable and a table, in a folder that holds their files. */
async function withRead(
  db: Database,
  work: (folder: string, args: readonly string[]) => Promise<void>,
  choice: CatalogChoice = {},
): Promise<void> {
  await db.query(`
    CREATE TABLE metrics (time timestamptz NOT NULL, device int, PRIMARY KEY (time, device));
    SELECT create_hypertable('metrics', 'time', chunk_time_interval => interval '1 day');
    INSERT INTO metrics
      SELECT timestamptz '2026-01-01Z' + i * interval '${CHUNKS} days' / ${ROWS}, i FROM generate_series(0, ${ROWS - 1}) i;
    CREATE TABLE devices (id int PRIMARY KEY);
    INSERT INTO devices VALUES (1), (2)`);
  const config = db.config();
  const discovered = (await run('discover', { config })).succeeded().catalog();
  const catalog = configuredCatalog(discovered, choice);
  const folder = await mkdtemp(join(tmpdir(), 'terminal-'));
  try {
    await writeFile(join(folder, 'config'), JSON.stringify(config));
    await writeFile(join(folder, 'catalog'), JSON.stringify(catalog));
    await work(folder, ['read', '--config', 'config', '--catalog', 'catalog']);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

function recordsIn(stdout: string): number {
  const types = stdout
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line).type);
  return types.filter((type) => type === 'RECORD').length;
}

describe.skipIf(!hasScript)(`at a terminal${REASON}`, () => {
  it('a read shows how far it is, then a summary, and stdout holds messages alone', async () => {
    await using db = await createDatabase();
    const watched = async (folder: string, args: readonly string[]): Promise<void> => {
      // The last chunk waits until the line has told of the others.
      const last = await db.value<string>(
        `SELECT format('%I.%I', chunk_schema, chunk_name) FROM timescaledb_information.chunks
          ORDER BY range_start DESC LIMIT 1`,
      );
      const holder = await db.client();
      // It holds up every new slot of the server, so it ends by itself where this test does not end it.
      await holder.query(
        `SET idle_in_transaction_session_timeout = '60s'; BEGIN; LOCK TABLE ${last}`,
      );
      let released: Promise<unknown> | undefined;
      const { shown, stdout, code } = await atTerminal(folder, args, {
        onShown: (text) => {
          if (text.includes(`${CHUNKS - 1} of ${CHUNKS} chunks`)) released ??= holder.end();
        },
      });
      await released;
      expect(code).toBe(0);
      expect(recordsIn(stdout)).toBe(ROWS + 2);
      const frames = shown.split(START_OF_LINE);
      const summary = frames.pop() ?? '';
      expect(frames.length).toBeGreaterThan(1);
      const line = frames.findLast((frame) => frame.includes(`${CHUNKS - 1} of ${CHUNKS} chunks`));
      expect(line).toMatch(/█.*░.* rows {2}[\d,]+\/s {2}about \d+ s left$/);
      expect(line).toMatch(COLOUR);
      const plain = summary.replaceAll(new RegExp(COLOUR, 'g'), '');
      expect(plain).toMatch(new RegExp(`^✓ ${ROWS + 2} records in [\\d.]+ m?s`));
      expect(plain).toContain(`public.metrics  ${ROWS} rows of ${CHUNKS} chunks\n`);
      expect(plain).toContain('public.devices    2 rows of 1 slice\n');
      const states = stdout.match(/^\{"type":"STATE"/gm)?.length;
      expect(plain).toContain(`${states} states; the last one is for the next read\n`);
    };
    // Not by CDC: a slot is not made while somebody holds such a lock.
    await withRead(db, watched, { syncMode: 'full_refresh' });
  });

  it('NO_COLOR takes the colours away, nothing else', async () => {
    await using db = await createDatabase();
    await withRead(db, async (folder, args) => {
      const { shown } = await atTerminal(folder, args, { env: { NO_COLOR: '1' } });
      expect(shown).not.toMatch(COLOUR);
      expect(shown).toContain(START_OF_LINE);
      expect(shown).toContain(`✓ ${ROWS + 2} records`);
    });
  });

  it('nothing moves between records on the same terminal', async () => {
    await using db = await createDatabase();
    await withRead(db, async (folder, args) => {
      const { shown } = await atTerminal(folder, args, { redirect: '' });
      expect(shown).not.toContain('\u001B[K');
      expect(shown.match(/^\{"type":"RECORD".*\}$/gm)).toHaveLength(ROWS + 2);
      expect(shown).toContain(`${ROWS + 2} records in`);
    });
  });

  it('a failure is told there as well as in the TRACE', async () => {
    await using db = await createDatabase();
    await withRead(db, async (folder, args) => {
      await db.query('DROP TABLE devices');
      const { shown, stdout, code } = await atTerminal(folder, args);
      expect(code).toBe(1);
      expect(shown).toMatch(/✗.*Stopped after/);
      expect(shown).toContain('public.devices cannot be read');
      expect(stdout).toContain('public.devices cannot be read');
      const other = await atTerminal(folder, ['discover', '--config', 'catalog']);
      expect(other.code).toBe(1);
      expect(other.shown).toContain('The configuration is not valid');
    });
  });

  it('a reader that goes away leaves no word', async () => {
    await using db = await createDatabase();
    await withRead(db, async (folder, args) => {
      const { shown } = await atTerminal(folder, args, { redirect: '| head -n 1 > stdout' });
      expect(shown.split(START_OF_LINE).at(-1)).toBe('');
    });
  });
});

it('nothing is said where stderr is no terminal', async () => {
  await using db = await createDatabase();
  await withRead(db, async (folder, args) => {
    const done = spawnSync(process.execPath, [MAIN, ...args], { cwd: folder, encoding: 'utf8' });
    expect(done.stderr).toBe('');
    expect(recordsIn(done.stdout)).toBe(ROWS + 2);
  });
});
