/** acceptance-test-config.yml and the files that it names, row by row, on a database like the one that it asks for. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { parse } from 'yaml';
import type { JsonObject } from '../src/airbyte/protocol.ts';
import { configuredCatalog, run } from './connector.ts';
import { createDatabase, type Database } from './database.ts';
import { type ConfiguredCatalog, streamName } from './messages.ts';
import type { RunResult } from './run-result.ts';

const ROOT = fileURLToPath(new URL('..', import.meta.url));

type Row = {
  readonly config_path: string;
  readonly spec_path?: string;
  readonly status?: 'succeed' | 'failed';
  readonly configured_catalog_path?: string;
  readonly validate_state_messages?: boolean;
  readonly future_state?: { readonly future_state_path: string };
};

function file(path: string): string {
  return readFileSync(join(ROOT, path), 'utf8');
}

const { acceptance_tests: suites } = parse(file('acceptance-test-config.yml')) as {
  readonly acceptance_tests: Readonly<Record<string, { readonly tests: readonly Row[] }>>;
};

function rows(suite: string): readonly Row[] {
  const found = suites[suite]?.tests ?? [];
  expect(found, suite).not.toEqual([]);
  return found;
}

async function withTables(): Promise<Database> {
  const db = await createDatabase();
  await db.query(`
    CREATE TABLE metrics (time timestamptz NOT NULL, device int NOT NULL, value float8, PRIMARY KEY (time, device));
    SELECT create_hypertable('metrics', 'time');
    INSERT INTO metrics SELECT timestamptz '2026-01-01Z' + i * interval '1 day', i, i FROM generate_series(1, 30) i;
    CREATE TABLE devices (id int PRIMARY KEY, name text);
    INSERT INTO devices SELECT i, 'device ' || i FROM generate_series(1, 5) i`);
  return db;
}

/** What would lie in secrets/. */
function configOf(db: Database, path: string): JsonObject {
  if (path === 'secrets/config_cdc.json') return db.config();
  if (path.startsWith('secrets/')) return db.config({ replication_method: { method: 'Standard' } });
  return JSON.parse(file(path)) as JsonObject;
}

async function read(db: Database, row: Row, state: readonly unknown[] = []): Promise<RunResult> {
  const config = configOf(db, row.config_path);
  const catalog =
    row.configured_catalog_path === undefined
      ? configuredCatalog((await run('discover', { config })).succeeded().catalog())
      : (JSON.parse(file(row.configured_catalog_path)) as ConfiguredCatalog);
  return (await run('read', { config, catalog, state })).succeeded();
}

it('spec, connection and discovery', async () => {
  await using db = await withTables();
  for (const row of rows('spec')) {
    const [message] = (await run('spec')).messages;
    expect(message).toEqual({ type: 'SPEC', spec: JSON.parse(file(row.spec_path ?? '')) });
  }
  for (const row of rows('connection')) {
    const answer = await run('check', { config: configOf(db, row.config_path) });
    const expected = row.status === 'succeed' ? 'SUCCEEDED' : 'FAILED';
    expect(answer.connectionStatus().status, row.config_path).toBe(expected);
  }
  for (const row of rows('discovery')) {
    const { streams } = (await run('discover', { config: configOf(db, row.config_path) }))
      .succeeded()
      .catalog();
    expect(streams.map(streamName).toSorted()).toEqual(['public.devices', 'public.metrics']);
  }
});

it('basic read and full refresh: every row of every stream, with states of the kind that the runner can read', async () => {
  await using db = await withTables();
  for (const row of [...rows('basic_read'), ...rows('full_refresh')]) {
    const done = await read(db, row);
    expect(done.records('public.metrics'), row.config_path).toHaveLength(30);
    expect(done.records('public.devices'), row.config_path).toHaveLength(5);
    const kinds = new Set(done.states().map(({ state }) => state.type));
    const kind = row.validate_state_messages === false ? 'GLOBAL' : 'STREAM';
    expect([...kinds], row.config_path).toEqual([kind]);
  }
});

it('incremental: nothing is older than a state of the future, and it is a state nevertheless', async () => {
  await using db = await withTables();
  for (const row of rows('incremental')) {
    const first = await read(db, row);
    expect(first.records()).toHaveLength(35);
    const future = JSON.parse(file(row.future_state?.future_state_path ?? '')) as unknown[];
    const later = await read(db, row, future);
    expect(later.records()).toEqual([]);
    expect(later.states().length).toBeGreaterThan(0);
  }
});
