/**
 * Files as different clients write them: nulls in place of absent keys, absent keys, keys that nobody knows, modes and
 * cursors that the stream does not have; and the ways to call the program.
 */
import { describe, expect, test } from 'vitest';
import type { JsonObject } from '../src/airbyte/protocol.ts';
import { run } from './connector.ts';
import type { ConfiguredCatalog } from './messages.ts';
import { connection, expectRefused } from './refusals.ts';

const METHODS: readonly (readonly [string, JsonObject])[] = [
  ['CDC', {}],
  ['cursor', { replication_method: { method: 'Standard' } }],
];

type Entry = Readonly<Record<string, unknown>> & { readonly stream: JsonObject };

/** Only what cannot be left out. */
function bare({ stream, sync_mode }: Entry): object {
  const { name, json_schema, supported_sync_modes } = stream;
  return {
    stream: { name, json_schema, supported_sync_modes },
    sync_mode,
    destination_sync_mode: 'append',
  };
}

function withNulls(entry: Entry): object {
  const nulls = { source_defined_cursor: null, default_cursor_field: null, is_resumable: null };
  return {
    ...entry,
    stream: { ...entry.stream, ...nulls, source_defined_primary_key: null, is_file_based: null },
    cursor_field: null,
    primary_key: null,
    generation_id: null,
    minimum_generation_id: null,
    sync_id: null,
    include_files: null,
    destination_object_name: null,
    destination_object_namespace: null,
  };
}

const FORMS: readonly (readonly [string, (entry: Entry) => object])[] = [
  ['nulls for all that is optional', withNulls],
  ['without all that is optional, the namespace too', bare],
  [
    'a namespace that is null',
    (entry) => ({ ...entry, stream: { ...entry.stream, namespace: null } }),
  ],
  [
    'keys that nobody knows',
    (entry) => ({ ...entry, later: 1, stream: { ...entry.stream, later: {} } }),
  ],
  ['full refresh asked for', (entry) => ({ ...entry, sync_mode: 'full_refresh' })],
];

describe.each(METHODS)('%s', (_, overrides) => {
  test('the catalog in every form: all rows of all streams', async () => {
    await using it = await connection();
    await it.first(overrides);
    for (const [what, form] of FORMS) {
      const entries = (it.catalog as unknown as { readonly streams: readonly Entry[] }).streams;
      const catalog = JSON.stringify({ streams: entries.map(form), later: null });
      const config = it.db.config(overrides);
      const result = (await run('read', { config, catalog })).succeeded();
      expect(result.records('devices'), what).toHaveLength(2);
      expect(result.records('metrics'), what).toHaveLength(2);
      // What leaves is complete, however little came in.
      const namespaces = new Set(result.records().map(({ namespace }) => namespace));
      expect(namespaces, what).toEqual(new Set(['public']));
    }
  });

  test('incremental asked of what has full refresh only: read in full, each time', async () => {
    await using it = await connection();
    await it.first(overrides);
    await it.db.query(`
      CREATE VIEW flags AS SELECT to_json(id > 1) AS flag FROM devices`);
    const config = it.db.config(overrides);
    const found = (await run('discover', { config })).succeeded().catalog();
    const stream = found.streams.find(({ name }) => name === 'flags');
    expect(stream?.supported_sync_modes).toEqual(['full_refresh']);
    const one = { stream, sync_mode: 'incremental', destination_sync_mode: 'overwrite' };
    const catalog = { streams: [one] } as unknown as ConfiguredCatalog;
    const first = (await run('read', { config, catalog })).succeeded();
    expect(first.records('flags')).toHaveLength(2);
    const second = (await run('read', { config, catalog, state: first.lastState() })).succeeded();
    expect(second.records('flags')).toHaveLength(2);
  });
});

test('a configuration with keys that nobody knows', async () => {
  await using it = await connection();
  await it.first();
  const config = it.db.config({
    later: { anything: [1] },
    jdbc_url_params: '',
    replication_method: {
      method: 'CDC',
      replication_slot: it.db.slot,
      publication: it.db.publication,
      later: true,
    },
  });
  expect((await run('check', { config })).connectionStatus().status).toBe('SUCCEEDED');
});

test('files of any name, --debug, and LOG_LEVEL: more is logged, nothing else changes', async () => {
  await using it = await connection();
  await it.first();
  const files = { config: it.db.config(), catalog: it.catalog };
  const debugged = [
    await run('read', { ...files, args: ['--debug'] }),
    await run('read', { ...files, env: { LOG_LEVEL: 'debug' } }),
  ];
  const plain = (await run('read', files)).succeeded();
  expect(plain.logs().filter((line) => line.startsWith('DEBUG'))).toEqual([]);
  for (const result of debugged) {
    expect(result.succeeded().records()).toHaveLength(plain.records().length);
    expect(result.logs().filter((line) => line.startsWith('DEBUG')).length).toBeGreaterThan(0);
  }
  // The last one wins, whatever it is called.
  const state = ['--state', '/dev/null'];
  expectRefused(await run('read', { ...files, args: state }), 'config_error', /state file is not/);
});
