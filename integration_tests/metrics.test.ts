/** `read --metrics-file`: the counters of the file against the messages that were written, and against the tables. */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { escapeIdentifier } from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { run } from './connector.ts';
import { createDatabase, type Database, until } from './database.ts';
import { parseMetrics, type Series, valueOf } from './prometheus-text.ts';
import { expectRefused } from './refusals.ts';
import type { RunResult } from './run-result.ts';
import {
  type Connection,
  connectTo,
  DAY_ZERO,
  lsnOf,
  nthState,
  sessions,
  stopWhen,
} from './scenario.ts';

/** No name that text formats like. */
const ODD = 'odd "name" \\ of\na table';
const ODD_SQL = escapeIdentifier(ODD);
const SECRET_VALUE = 'not for anybody else';

let db: Database;
let connection: Connection;
let folder = '';

beforeAll(async () => {
  db = await createDatabase();
  await db.query(`
    CREATE TABLE metrics (time timestamptz NOT NULL, device int NOT NULL, note text, PRIMARY KEY (time, device));
    SELECT create_hypertable('metrics', 'time', chunk_time_interval => interval '1 day');
    INSERT INTO metrics SELECT '${DAY_ZERO}'::timestamptz + i * interval '1 hour', i % 3, '${SECRET_VALUE}'
      FROM generate_series(0, 119) i;
    CREATE TABLE ${ODD_SQL} (id int PRIMARY KEY);
    INSERT INTO ${ODD_SQL} SELECT generate_series(1, 70);
    CREATE TABLE empty (id int PRIMARY KEY)`);
  connection = await connectTo(
    db,
    {},
    { timescaledb_max_concurrent_chunks: 1, password: 'guarded' },
  );
});

afterAll(() => db?.[Symbol.asyncDispose]());

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'metrics-'));
});

afterEach(() => {
  rmSync(folder, { recursive: true, force: true });
});

const file = (): string => join(folder, 'sync.prom');
const args = (): readonly string[] => ['--metrics-file', file()];
const written = (): readonly Series[] => parseMetrics(readFileSync(file(), 'utf8'));

function lsnNumber(text: string): number {
  const [high = '', low = ''] = text.split('/');
  return Number.parseInt(high, 16) * 2 ** 32 + Number.parseInt(low, 16);
}

type Lines = { readonly records: number; readonly bytes: number };

/** Records and their bytes, as the lines say. */
function linesOf(result: RunResult, stream: string): Lines {
  const head = `{"type":"RECORD","record":{"namespace":"public","stream":${JSON.stringify(stream)},`;
  const lines = result.lines.filter((line) => line.startsWith(head));
  const bytes = lines.reduce((sum, line) => sum + Buffer.byteLength(line) + 1, 0);
  return { records: lines.length, bytes };
}

/** What the file says of records, whether they came from rows or from changes. */
function recordsIn(series: readonly Series[], stream: string, from: string): Lines {
  const labels = { namespace: 'public', stream, from };
  return {
    records: valueOf(series, 'records_total', labels),
    bytes: valueOf(series, 'record_bytes_total', labels),
  };
}

const NONE = { records: 0, bytes: 0 };

describe('the file after a sync', () => {
  it('has what was written of each stream, and where the sync has come to', async () => {
    const begun = Date.now();
    const result = (await connection.sync({ args: args() })).succeeded();
    const series = written();
    expect(readdirSync(folder)).toEqual(['sync.prom']);
    for (const stream of ['metrics', ODD, 'empty']) {
      expect(recordsIn(series, stream, 'rows')).toEqual(linesOf(result, stream));
      expect(recordsIn(series, stream, 'changes')).toEqual(NONE);
    }
    const rows = await db.query<{ metrics: number; odd: number; chunks: number }>(
      `SELECT (SELECT count(*)::int FROM metrics) AS metrics, (SELECT count(*)::int FROM ${ODD_SQL}) AS odd,
              (SELECT count(*)::int FROM show_chunks('metrics')) AS chunks`,
    );
    expect({
      metrics: recordsIn(series, 'metrics', 'rows').records,
      odd: recordsIn(series, ODD, 'rows').records,
      chunks: valueOf(series, 'chunks_read_total', { stream: 'metrics' }),
    }).toEqual(rows[0]);
    expect(valueOf(series, 'chunks_left', { stream: 'metrics' })).toBe(0);
    expect(valueOf(series, 'slices_read_total', { stream: ODD })).toBe(1);
    expect(valueOf(series, 'slices_left', { stream: ODD })).toBe(0);
    expect(valueOf(series, 'states_total')).toBe(result.states().length);
    expect(valueOf(series, 'output_bytes_total')).toBe(
      result.lines.reduce((sum, line) => sum + Buffer.byteLength(line) + 1, 0),
    );
    expect(valueOf(series, 'wal_position_bytes')).toBe(lsnNumber(lsnOf(result.lastState())));
    expect(valueOf(series, 'wal_lag_bytes')).toBe(0);
    expect(valueOf(series, 'retries_total')).toBe(0);
    expect(valueOf(series, 'outcome', { outcome: 'succeeded' })).toBe(1);
    expect(valueOf(series, 'outcome', { outcome: 'running' })).toBe(0);
    expect(valueOf(series, 'start_time_seconds') * 1000).toBeGreaterThanOrEqual(begun);
    expect(valueOf(series, 'last_state_time_seconds') * 1000).toBeLessThanOrEqual(Date.now());
    expect(valueOf(series, 'last_state_time_seconds')).toBeGreaterThanOrEqual(
      valueOf(series, 'start_time_seconds'),
    );
    expect(valueOf(series, 'resident_memory_bytes')).toBeGreaterThan(10_000_000);
  });

  it('tells changes from rows, and the log has the same numbers', async () => {
    const before = connection.destination.state;
    await db.query(
      `UPDATE metrics SET note = note || '!' WHERE device = 1; DELETE FROM ${ODD_SQL} WHERE id <= 5`,
    );
    const result = (await connection.sync({ args: args() })).succeeded();
    const series = written();
    const changes = { metrics: linesOf(result, 'metrics'), odd: linesOf(result, ODD) };
    expect([changes.metrics.records, changes.odd.records]).toEqual([40, 5]);
    expect(recordsIn(series, 'metrics', 'changes')).toEqual(changes.metrics);
    expect(recordsIn(series, ODD, 'changes')).toEqual(changes.odd);
    expect(recordsIn(series, 'metrics', 'rows')).toEqual(NONE);
    expect(valueOf(series, 'wal_position_bytes')).toBeGreaterThan(lsnNumber(lsnOf(before)));
    const logs = result.logs();
    expect(logs).toContain(`INFO public.metrics: 40 changes (${changes.metrics.bytes} bytes).`);
    expect(logs).toContain('INFO Nothing new in 1 stream.');
    const all = logs.find((line) => line.startsWith('INFO In all: ')) ?? '';
    const { length } = result.states();
    expect(all).toContain(`45 records, ${length} state${length === 1 ? '' : 's'}, `);
    expect(all).toContain(
      `position ${lsnOf(result.lastState())}, 0 bytes behind the server; 0 retries.`,
    );
  });

  it('holds no value and no secret', async () => {
    await connection.sync({ args: args() });
    const text = readFileSync(file(), 'utf8');
    expect(text).toContain('stream="metrics"');
    expect(text).not.toContain(SECRET_VALUE);
    expect(text).not.toContain('guarded');
  });

  it('has no position without CDC', async () => {
    const method = { replication_method: { method: 'Standard' } };
    const standard = await connectTo(
      db,
      { syncMode: 'full_refresh', streams: ['metrics'] },
      method,
    );
    const result = (await standard.sync({ args: args() })).succeeded();
    const series = written();
    expect(recordsIn(series, 'metrics', 'rows')).toEqual(linesOf(result, 'metrics'));
    expect(series.filter(({ name }) => name.includes('_wal_'))).toEqual([]);
  });
});

describe('the file of a sync that does not end well', () => {
  it('counts what was tried again', async () => {
    const again = await connectTo(db, {}, { timescaledb_max_concurrent_chunks: 1 });
    await connection.clear();
    const stop = stopWhen(nthState(2), async () => {
      await db.query(
        `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
          WHERE datname = current_database() AND application_name LIKE 'source-timescaledb: %'`,
      );
      await until('the sessions are gone', async () => (await sessions(db)).length === 0);
    });
    const result = (await again.sync({ ...stop, args: args() })).succeeded();
    const retries = result.logs().filter((line) => / from the last STATE/.test(line));
    expect(retries.length).toBeGreaterThan(0);
    expect(valueOf(written(), 'retries_total')).toBe(retries.length);
    expect(recordsIn(written(), 'metrics', 'rows')).toEqual(linesOf(result, 'metrics'));
  });

  it('is written while the sync waits, and when it is stopped', async () => {
    const waiting = await connectTo(
      db,
      { syncMode: 'full_refresh', streams: ['metrics'] },
      { timescaledb_max_concurrent_chunks: 1, replication_method: { method: 'Standard' } },
    );
    const chunks = await db.query<{ chunk: string }>(
      `SELECT show_chunks('metrics')::text AS chunk`,
    );
    const blocker = await db.client();
    try {
      await blocker.query(`BEGIN; LOCK TABLE ${chunks.at(-1)?.chunk} IN ACCESS EXCLUSIVE MODE`);
      let kill: (() => void) | undefined;
      const syncing = waiting.attempt({
        args: args(),
        onStart: (child) => (kill = () => void child.kill('SIGTERM')),
      });
      await until('the file shows how far it is', async () => {
        const read = readdirSync(folder).includes('sync.prom') ? written() : [];
        return read.some((one) => one.name.endsWith('_chunks_read_total') && one.value > 0);
      });
      expect(valueOf(written(), 'outcome', { outcome: 'running' })).toBe(1);
      expect(valueOf(written(), 'chunks_left', { stream: 'metrics' })).toBe(1);
      kill?.();
      const { signal } = await syncing;
      expect(signal).toBe('SIGTERM');
    } finally {
      await blocker.end();
    }
    expect(valueOf(written(), 'outcome', { outcome: 'failed' })).toBe(1);
    expect(valueOf(written(), 'chunks_read_total', { stream: 'metrics' })).toBe(chunks.length - 1);
  });

  it('says so when the configuration is refused', async () => {
    const config = db.config({ host: '' });
    const result = await run('read', { config, catalog: connection.catalog, args: args() });
    expectRefused(result, 'config_error', /host/);
    expect(valueOf(written(), 'outcome', { outcome: 'failed' })).toBe(1);
  });

  it('that cannot be written is refused before anything is read', async () => {
    const result = await connection.attempt({
      args: ['--metrics-file', join(folder, 'none', 'x')],
    });
    expectRefused(result, 'config_error', /^The metrics file cannot be written: .*ENOENT/);
    expect(readdirSync(folder)).toEqual([]);
  });

  it('that cannot be written any more costs a warning, not the sync', async () => {
    const gone = stopWhen(nthState(1), async () => rmSync(folder, { recursive: true }));
    const result = (await connection.attempt({ ...gone, state: [], args: args() })).succeeded();
    expect(result.logs().join('\n')).toMatch(
      /WARN The metrics file is not written any more: ENOENT/,
    );
  });
});

it('the library is loaded only where a file is asked for', async () => {
  const { config, catalog } = connection;
  const loaded = async (more: readonly string[]): Promise<boolean> => {
    const coverage = mkdtempSync(join(folder, 'coverage-'));
    const env = { NODE_V8_COVERAGE: coverage };
    (await run('read', { config, catalog, args: more, env })).succeeded();
    const reports = readdirSync(coverage).map((name) => readFileSync(join(coverage, name), 'utf8'));
    expect(reports.join()).toContain('/dist/main.js');
    return reports.join().includes('/dist/prom-client');
  };
  expect(await loaded([])).toBe(false);
  expect(await loaded(args())).toBe(true);
});
