/** `timescaledb_record_metadata`: records of hypertables name their chunk, whichever way they come. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { JsonObject } from '../src/airbyte/protocol.ts';
import { configuredCatalog, run } from './connector.ts';
import { createDatabase, type Database } from './database.ts';
import type { RunResult } from './run-result.ts';
import { connectTo } from './scenario.ts';

const ON = { timescaledb_record_metadata: true } as const;
const COLUMN = '_ab_timescaledb_chunk';

let db: Database;
beforeAll(async () => {
  db = await createDatabase();
  await db.query(`
    CREATE SCHEMA "Odd . S";
    CREATE TABLE metrics (time timestamptz NOT NULL, device int NOT NULL, note text, PRIMARY KEY (time, device));
    SELECT create_hypertable('metrics', 'time', chunk_time_interval => interval '1 day',
                             associated_schema_name => 'Odd . S', associated_table_prefix => 'p"q');
    INSERT INTO metrics SELECT '2026-01-01Z'::timestamptz + day * interval '1 day', i, 'x'
                          FROM generate_series(0, 3) day, generate_series(1, 9) i;
    CREATE TABLE devices (id int PRIMARY KEY);
    INSERT INTO devices VALUES (1)`);
});
afterAll(() => db[Symbol.asyncDispose]());

/** What the server says, by time and device. */
async function chunksByRow(): Promise<Map<string, string>> {
  const rows = await db.query<{ key: string; chunk: string }>(
    `SELECT extract(epoch FROM time)::bigint || ' ' || device AS key, format('%I.%I', n.nspname, c.relname) AS chunk
       FROM metrics m JOIN pg_class c ON c.oid = m.tableoid JOIN pg_namespace n ON n.oid = c.relnamespace`,
  );
  return new Map(rows.map(({ key, chunk }) => [key, chunk]));
}

function named(result: RunResult): Map<string, unknown> {
  return new Map(
    result.records('metrics').map(({ data }) => {
      const seconds = Date.parse(String(data['time'])) / 1000;
      return [`${seconds} ${String(data['device'])}`, data[COLUMN]];
    }),
  );
}

async function properties(config: JsonObject, stream: string): Promise<JsonObject> {
  const streams = (await run('discover', { config })).succeeded().catalog().streams;
  const schema = streams.find(({ name }) => name === stream)?.json_schema;
  return schema?.['properties'] as JsonObject;
}

test('discover shows the column on hypertables, where it is asked for', async () => {
  const config = db.config(ON);
  expect(await properties(config, 'metrics')).toMatchObject({ [COLUMN]: { type: 'string' } });
  expect(await properties(config, 'devices')).not.toHaveProperty(COLUMN);
  expect(await properties(db.config(), 'metrics')).not.toHaveProperty(COLUMN);
});

test('rows that are read and rows of the stream name the chunk that the server says', async () => {
  const syncs = await connectTo(db, {}, ON);
  const first = await syncs.sync();
  const before = await chunksByRow();
  expect(before.size).toBe(36);
  expect([...before.values()][0]).toMatch(/^"Odd \. S"\."p""q_/);
  expect(named(first)).toEqual(before);
  expect(first.records('devices')[0]?.data).not.toHaveProperty(COLUMN);
  await db.query(`UPDATE metrics SET note = 'y' WHERE device = 1;
                  DELETE FROM metrics WHERE device = 2`);
  const second = await syncs.sync();
  const moved = [...before].filter(([key]) => / [12]$/.test(key));
  expect(named(second)).toEqual(new Map(moved));
  expect(second.records('metrics')).toHaveLength(8);
  await db.query(`INSERT INTO metrics SELECT '2026-01-01Z'::timestamptz + day * interval '1 day', 2, 'x'
                    FROM generate_series(0, 3) day`);
  await syncs.sync();
  await syncs.expectEqual('devices');
  expect(syncs.catalog.streams[1]?.stream.name).toBe('metrics');
});

test.each(['full_refresh', 'incremental'] as const)('without CDC: %s', async (syncMode) => {
  const config = db.config({ ...ON, replication_method: { method: 'Standard' } });
  const catalog = (await run('discover', { config })).succeeded().catalog();
  const all = configuredCatalog(catalog, { streams: ['public.metrics'], syncMode });
  const read = (await run('read', { config, catalog: all })).succeeded();
  expect(named(read)).toEqual(await chunksByRow());
  const columns = ['device', 'time'];
  const some = configuredCatalog(catalog, { streams: ['public.metrics'], syncMode, columns });
  const [record] = (await run('read', { config, catalog: some })).succeeded().records('metrics');
  expect(Object.keys(record?.data ?? {}).toSorted()).toEqual(columns);
});
