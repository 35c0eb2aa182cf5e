/**
 * Airbyte's acceptance tests of `read`, made anew: titles begin with the name of the test there. What every run of every
 * test is checked for besides stands in protocol-checks.ts.
 */
import { Ajv } from 'ajv';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { StreamStatus } from '../src/airbyte/protocol.ts';
import { configured, EMPTY_STREAMS, keyOf, prepare, type Setup, SETUPS } from './acceptance.ts';
import { run } from './connector.ts';
import type { ConfiguredCatalog, ConfiguredEntry } from './messages.ts';
import type { RunResult } from './run-result.ts';

/** As Airbyte reads a date-time: the form, and a moment that exists. */
const DATE_TIME = /^\d{4}-\d?\d-\d?\d[\sT]\d?\d:\d?\d:\d?\d(.\d+)?.*$/;

function isDateTime(text: string): boolean {
  return DATE_TIME.test(text) && !Number.isNaN(Date.parse(text.replace(/(\.\d{3})\d+/, '$1')));
}

type Row = Readonly<Record<string, unknown>>;

/** Records as JSON readers see them: numbers, not digits. */
function rowsOf(result: RunResult, stream: string): Row[] {
  return result.lines
    .map((line) => JSON.parse(line) as { type: string; record: { stream: string; data: Row } })
    .filter(({ type, record }) => type === 'RECORD' && record.stream === stream)
    .map(({ record }) => record.data);
}

function keysOf(result: RunResult, { stream }: ConfiguredEntry): Set<string> {
  const key = keyOf(stream);
  const rows = rowsOf(result, stream.name);
  return new Set(rows.map((row) => JSON.stringify(key.map((name) => row[name]))));
}

function statuses(result: RunResult): Map<string, StreamStatus[]> {
  const found = new Map<string, StreamStatus[]>();
  for (const message of result.messages) {
    if (message.type !== 'TRACE' || message.trace.type !== 'STREAM_STATUS') continue;
    const { status, stream_descriptor } = message.trace.stream_status;
    const name = stream_descriptor.name;
    found.set(name, [...(found.get(name) ?? []), status]);
  }
  return found;
}

function emissions(result: RunResult): number[] {
  return result.records().map(({ emitted_at }) => emitted_at);
}

describe.each(SETUPS)('$name', (which) => {
  let setup: Setup;
  let catalog: ConfiguredCatalog;
  let result: RunResult;

  beforeAll(async () => {
    setup = await prepare(which);
    catalog = configured(setup);
    result = await read();
  });

  afterAll(async () => {
    await setup.db[Symbol.asyncDispose]();
  });

  async function read(of: ConfiguredCatalog = catalog): Promise<RunResult> {
    const config = setup.db.config(setup.overrides);
    return (await run('read', { config, catalog: of })).succeeded();
  }

  test('test_read: every stream has records but those that may be empty', () => {
    const names = catalog.streams.map(({ stream }) => stream.name);
    const empty = names.filter((name) => rowsOf(result, name).length === 0);
    expect(empty).toEqual(EMPTY_STREAMS);
  });

  test('test_read: every record fits its schema, formats too, and has no other columns', () => {
    const ajv = new Ajv({ strict: false, allErrors: true });
    ajv.addFormat('date-time', isDateTime);
    ajv.addFormat('date', /^\d{4}-\d{2}-\d{2}$/);
    ajv.addFormat('time', /^\d{2}:\d{2}:\d{2}(\.\d+)?(Z|[+-]\d{2}(:\d{2})?)?$/);
    for (const { stream } of catalog.streams) {
      const validate = ajv.compile({ ...stream.json_schema, additionalProperties: false });
      for (const row of rowsOf(result, stream.name)) {
        // Columns of a change that no deletion has are null, as Airbyte's own sources have it.
        const { _ab_cdc_deleted_at: deleted, ...columns } = row;
        expect([null, undefined]).toContain(deleted);
        expect(validate(columns), ajv.errorsText(validate.errors)).toBe(true);
      }
    }
  });

  test('test_read: keys are plain values, and one of them at least is set', () => {
    for (const { stream } of catalog.streams) {
      const key = keyOf(stream);
      if (key.length === 0) continue;
      for (const row of rowsOf(result, stream.name)) {
        const values = key.map((name) => row[name]);
        expect(values.filter((value) => value === null || typeof value === 'object')).toEqual([]);
      }
    }
  });

  test('test_read: expected records, by their keys', async () => {
    for (const { stream } of catalog.streams) {
      const rows = await setup.db.query(`SELECT * FROM ${stream.name}`);
      expect(rowsOf(result, stream.name), stream.name).toHaveLength(rows.length);
    }
    const [metric] = rowsOf(result, 'metrics').filter(
      ({ time, device }) => device === 3 && String(time).startsWith('2026-01-01'),
    );
    expect(metric).toMatchObject({
      time: '2026-01-01T00:03:00.000000Z',
      value: 3 / 7,
      exact: 3.75,
      good: false,
    });
    expect(rowsOf(result, 'places')).toContainEqual(
      expect.objectContaining({ id: 1, region: 'south' }),
    );
  });

  test('test_read: statuses: STARTED, RUNNING at least once, COMPLETE', () => {
    const found = statuses(result);
    expect([...found.keys()].toSorted()).toEqual(
      catalog.streams.map(({ stream }) => stream.name).toSorted(),
    );
    for (const [name, list] of found) {
      expect([list[0], list.at(-1)], name).toEqual(['STARTED', 'COMPLETE']);
      expect(new Set(list.slice(1, -1)), name).toEqual(new Set(['RUNNING']));
    }
  });

  test('test_read: states: as many as streams, of one kind, with counts that add up', () => {
    const states = result.states().map(({ state }) => state);
    expect(states.length).toBeGreaterThanOrEqual(catalog.streams.length);
    expect(new Set(states.map(({ type }) => type))).toEqual(
      new Set([which.name === 'CDC' ? 'GLOBAL' : 'STREAM']),
    );
    const counted = states.reduce((sum, { sourceStats }) => sum + sourceStats.recordCount, 0);
    expect(counted).toBe(result.records().length);
  });

  test('test_airbyte_trace_message_on_failure: an unknown stream with invalid modes', async () => {
    const bad = {
      streams: [
        {
          stream: {
            name: '__AIRBYTE__stream_that_does_not_exist',
            json_schema: { type: 'object', properties: { f1: { type: 'string' } } },
            supported_sync_modes: ['full_refresh'],
          },
          sync_mode: 'INVALID',
          destination_sync_mode: 'INVALID',
        },
      ],
    };
    const config = setup.db.config(setup.overrides);
    const failed = await run('read', { config, catalog: JSON.stringify(bad) });
    expect(failed.errors().length).toBeGreaterThanOrEqual(1);
    expect(failed.errors()[0]?.message).toMatch(/./);
    expect(failed.exitCode).not.toBe(0);
  });

  test('test_sequential_reads: the second full refresh is later and has all of the first', async () => {
    const inFull = {
      streams: catalog.streams.map((entry) => ({
        ...entry,
        sync_mode: 'full_refresh' as const,
        destination_sync_mode: 'overwrite' as const,
      })),
    };
    const first = await read(inFull);
    const second = await read(inFull);
    expect(Math.max(...emissions(first))).toBeLessThan(Math.min(...emissions(second)));
    for (const entry of inFull.streams) {
      const later = keysOf(second, entry);
      expect([...keysOf(first, entry)].filter((key) => !later.has(key))).toEqual([]);
      expect(rowsOf(second, entry.stream.name)).toHaveLength(
        rowsOf(first, entry.stream.name).length,
      );
    }
  });
});
