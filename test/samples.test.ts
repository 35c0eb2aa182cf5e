import { describe, expect, it } from 'vitest';
import type { AirbyteStream } from '../src/airbyte/protocol.ts';
import { loadSpec, parseConfig, settingWarnings } from '../src/config.ts';
import { parseCatalog } from '../src/plan.ts';
import { lastState, sampleCatalog, sampleConfig } from '../src/samples.ts';

function stream(name: string, changes: Partial<AirbyteStream> = {}): AirbyteStream {
  return {
    name,
    namespace: 'public',
    json_schema: { type: 'object', properties: { id: { type: 'number' } } },
    supported_sync_modes: ['full_refresh', 'incremental'],
    source_defined_cursor: true,
    default_cursor_field: [],
    source_defined_primary_key: [['id']],
    is_resumable: true,
    ...changes,
  };
}

async function* given(lines: readonly string[]): AsyncGenerator<string> {
  yield* lines;
}

function states(...lines: readonly (object | string)[]): ReturnType<typeof lastState> {
  return lastState(
    given(lines.map((line) => (typeof line === 'string' ? line : JSON.stringify(line)))),
  );
}

function streamState(name: string, at: number): object {
  const stream_descriptor = { name, namespace: 'public' };
  const state = { type: 'STREAM', stream: { stream_descriptor, stream_state: { at } } };
  return { type: 'STATE', state };
}

describe('the sample configuration', () => {
  it('is valid, and asks for nothing that is not there', async () => {
    const config = parseConfig(sampleConfig(), await loadSpec());
    expect(settingWarnings(config)).toEqual([]);
    expect(config.replication.method).toBe('CDC');
  });
});

describe('the sample catalog', () => {
  const catalog = {
    streams: [
      stream('keyed'),
      stream('keyless', { source_defined_primary_key: [] }),
      stream('needs_a_cursor', { source_defined_cursor: false }),
      stream('view', { supported_sync_modes: ['full_refresh'], source_defined_cursor: false }),
    ],
  };

  it('is one that read takes, incremental where nothing has to be chosen', () => {
    const { streams } = JSON.parse(JSON.stringify(sampleCatalog(catalog, [])));
    expect(parseCatalog({ streams })).toBeDefined();
    const modes = streams.map((entry: Record<string, unknown>) => [
      entry['sync_mode'],
      entry['destination_sync_mode'],
    ]);
    expect(modes).toEqual([
      ['incremental', 'append_dedup'],
      ['incremental', 'append'],
      ['full_refresh', 'overwrite'],
      ['full_refresh', 'overwrite'],
    ]);
  });

  it('has the streams that were asked for, by either name', () => {
    const { streams } = JSON.parse(
      JSON.stringify(sampleCatalog(catalog, ['public.view', 'keyed'])),
    );
    expect(streams.map((entry: { stream: AirbyteStream }) => entry.stream.name)).toEqual([
      'keyed',
      'view',
    ]);
    expect(() => sampleCatalog(catalog, ['keyed', 'nope'])).toThrow('nope was not found');
  });
});

describe('the last state', () => {
  it('is the last one of each stream, of all files', async () => {
    const [a1, b, a2] = [streamState('a', 1), streamState('b', 1), streamState('a', 2)];
    const found = await states(a1, { type: 'RECORD' }, b, a2, '{"type":"STATE","state":{"ty');
    expect(found).toEqual([a2, b].map((message) => Object(message).state));
  });

  it('is one of the connection alone under CDC', async () => {
    const global = (lsn: number): object => ({
      type: 'STATE',
      state: { type: 'GLOBAL', global: { shared_state: { lsn } } },
    });
    expect(await states(streamState('a', 1), global(1), global(2))).toEqual([
      Object(global(2)).state,
    ]);
    expect(await states()).toEqual([]);
  });
});
