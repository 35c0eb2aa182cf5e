/**
 * Airbyte's acceptance tests of `check` and `discover`, made anew: titles begin with the name of the test there. Each rule
 * for catalogs is also shown a stream that breaks it.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { AirbyteStream, JsonObject } from '../src/airbyte/protocol.ts';
import { prepare, type Setup, SETUPS } from './acceptance.ts';
import { CATALOG_RULES, catalogFaults } from './catalog-checks.ts';
import { run } from './connector.ts';
import type { RunResult } from './run-result.ts';

const GOOD: AirbyteStream = {
  name: 'metrics',
  namespace: 'public',
  json_schema: { type: 'object', properties: { id: { type: 'string' } } },
  supported_sync_modes: ['full_refresh'],
  source_defined_cursor: false,
  default_cursor_field: [],
  source_defined_primary_key: [],
  is_resumable: true,
};

const schema = (more: JsonObject, column: JsonObject = { type: 'string' }): JsonObject => ({
  type: 'object',
  properties: { id: column },
  ...more,
});

const RESUMABLE = 'a stream that is resumable says whether its cursor is its own';

const BROKEN: readonly (readonly [rule: string, changes: object])[] = [
  ['test_streams_have_valid_json_schemas', { json_schema: schema({ required: 'id' }) }],
  ['test_defined_cursors_exist_in_schema', { default_cursor_field: ['gone'] }],
  ['test_defined_refs_exist_in_schema', { json_schema: schema({ $ref: '#/x' }) }],
  ['test_defined_keyword_exist_in_schema', { json_schema: schema({ not: {} }) }],
  [
    'test_defined_keyword_exist_in_schema',
    { json_schema: schema({}, { type: 'string', allOf: [{}] }) },
  ],
  ['test_primary_keys_exist_in_schema', { source_defined_primary_key: [['gone']] }],
  [
    'test_primary_keys_data_type',
    { source_defined_primary_key: [['id']], json_schema: schema({}, { type: 'array' }) },
  ],
  ['test_streams_has_sync_modes', { supported_sync_modes: [] }],
  ['test_additional_properties_is_true', { json_schema: schema({ additionalProperties: false }) }],
  [
    'test_catalog_has_supported_data_types',
    { json_schema: schema({}, { type: 'string', format: 'uuid' }) },
  ],
  [RESUMABLE, { source_defined_cursor: undefined }],
];

describe('the rules for catalogs', () => {
  test('a good stream breaks none', () => {
    expect(catalogFaults({ streams: [GOOD] })).toEqual([]);
  });

  test.each(BROKEN)('%s would see %j', (name, changes) => {
    const faults = catalogFaults({ streams: [{ ...GOOD, ...changes }] });
    expect(faults).toEqual([expect.stringContaining(`${name}: public.metrics`)]);
  });

  test('every rule has been shown what breaks it', () => {
    expect(new Set(BROKEN.map(([name]) => name))).toEqual(new Set(Object.keys(CATALOG_RULES)));
  });
});

function countOf(result: RunResult, type: string): number {
  return result.messages.filter((message) => message.type === type).length;
}

describe.each(SETUPS)('$name', (which) => {
  let setup: Setup;

  beforeAll(async () => {
    setup = await prepare(which);
  });

  afterAll(async () => {
    await setup.db[Symbol.asyncDispose]();
  });

  test('test_check: succeed', async () => {
    const result = await run('check', { config: setup.db.config(setup.overrides) });
    expect(countOf(result, 'CONNECTION_STATUS')).toBe(1);
    expect(result.connectionStatus().status).toBe('SUCCEEDED');
  });

  test('test_check: failed', async () => {
    const config = setup.db.config({ ...setup.overrides, database: 'nowhere' });
    const result = await run('check', { config });
    expect(countOf(result, 'CONNECTION_STATUS')).toBe(1);
    expect(result.connectionStatus()).toMatchObject({
      status: 'FAILED',
      message: expect.stringMatching(/./) as string,
    });
    expect(result.exitCode).toBe(0);
  });

  test('test_discover: one catalog with streams, no name twice', async () => {
    const result = await run('discover', { config: setup.db.config(setup.overrides) });
    expect(countOf(result, 'CATALOG')).toBe(1);
    const names = result.catalog().streams.map(({ name }) => name);
    expect(names).toEqual(['devices', 'events', 'metrics', 'places', 'spare', 'summary']);
  });

  test.each(Object.keys(CATALOG_RULES))('%s', (name) => {
    expect(catalogFaults(setup.catalog, name)).toEqual([]);
  });

  test('test_streams_define_primary_key: all but those that have none', () => {
    const without = setup.catalog.streams.filter(
      ({ source_defined_primary_key: key }) => key.length === 0,
    );
    expect(without.map(({ name }) => name)).toEqual(['events', 'summary']);
  });
});
