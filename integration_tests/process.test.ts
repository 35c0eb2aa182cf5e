/** How the process ends: with all that it wrote, quietly when nobody reads, and by the signal that stopped it. */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { constants } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { configuredCatalog, run } from './connector.ts';
import { createDatabase, type Database, until } from './database.ts';

const MAIN = fileURLToPath(new URL('../dist/main.js', import.meta.url));
const ROWS = 200_000;

/** A folder with the files of a read, and its arguments. */
async function prepare(db: Database, folder: string): Promise<readonly string[]> {
  await db.query(`
    CREATE TABLE readings (id bigint PRIMARY KEY, note text);
    INSERT INTO readings SELECT i, repeat('x', 100) FROM generate_series(1, ${ROWS}) i`);
  const config = db.config();
  const catalog = (await run('discover', { config })).succeeded().catalog();
  await writeFile(join(folder, 'config'), JSON.stringify(config));
  await writeFile(join(folder, 'catalog'), JSON.stringify(configuredCatalog(catalog)));
  return [MAIN, 'read', '--config', join(folder, 'config'), '--catalog', join(folder, 'catalog')];
}

async function inFolder(work: (folder: string) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'process-'));
  try {
    await work(folder);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

it('a reader that goes away is a stop: no word on stderr, no session left', async () => {
  await using db = await createDatabase();
  await inFolder(async (folder) => {
    const args = await prepare(db, folder);
    const command = [process.execPath, ...args].map((word) => `'${word}'`).join(' ');
    const piped = spawnSync('sh', ['-c', `${command} | head -n 5`], { encoding: 'utf8' });
    expect(piped.stderr).toBe('');
    expect(piped.stdout.trimEnd().split('\n')).toHaveLength(5);
  });
  await until('no session of the connector is left', async () => {
    const rows = await db.query(
      `SELECT FROM pg_stat_activity WHERE application_name LIKE 'source-timescaledb%' AND datname = current_database()`,
    );
    return rows.length === 0;
  });
});

it('stdout blocks where the reader is slow: a pipe that does not costs a nap whenever it is full', async () => {
  await using db = await createDatabase();
  await inFolder(async (folder) => {
    const args = await prepare(db, folder);
    const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'ignore'] });
    await once(child.stdout, 'readable');
    const descriptor = await readFile(`/proc/${child.pid}/fdinfo/1`, 'utf8');
    const flags = Number.parseInt(/^flags:\s*(\d+)/m.exec(descriptor)?.[1] ?? '', 8);
    expect(flags & constants.O_NONBLOCK).toBe(0);
    child.stdout.resume();
    expect(await once(child, 'close')).toEqual([0, null]);
  });
});

it('a signal ends it as the signal would, after a TRACE that says so', async () => {
  await using db = await createDatabase();
  await inFolder(async (folder) => {
    const args = await prepare(db, folder);
    const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'ignore'] });
    let output = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      if (output === '') child.kill('SIGTERM');
      output += text;
    });
    const [code, signal] = await once(child, 'close');
    expect([code, signal]).toEqual([null, 'SIGTERM']);
    const lines = output.split('\n');
    expect(lines.pop()).toBe('');
    const last = JSON.parse(lines.at(-1) ?? '');
    expect(last.trace.error).toMatchObject({
      failure_type: 'transient_error',
      message: expect.stringContaining('SIGTERM'),
    });
  });
});

it('all that was written arrives, however late it is read', async () => {
  await using db = await createDatabase();
  await inFolder(async (folder) => {
    const args = await prepare(db, folder);
    const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'ignore'] });
    child.stdout.pause();
    let records = 0;
    let rest = '';
    // Nobody reads until the process has filled the pipe and waits.
    await until('the process waits for its reader', async () => {
      const rows = await db.query(
        `SELECT FROM pg_stat_activity WHERE application_name = 'source-timescaledb: rows'
            AND datname = current_database() AND wait_event = 'ClientWrite'`,
      );
      return rows.length > 0;
    });
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      const lines = (rest + text).split('\n');
      rest = lines.pop() ?? '';
      records += lines.filter((line) => line.startsWith('{"type":"RECORD"')).length;
    });
    child.stdout.resume();
    const [code] = await once(child, 'close');
    expect(code).toBe(0);
    expect(rest).toBe('');
    expect(records).toBe(ROWS);
  });
});
