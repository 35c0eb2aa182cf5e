/** The state document against what the platform, its clients and its users make of it between two syncs. */
import { describe, expect, it } from 'vitest';
import type { JsonObject } from '../src/airbyte/protocol.ts';
import { ConnectorError } from '../src/errors.ts';
import { type InputState, parseState, streamKey } from '../src/state.ts';

const METRICS = { name: 'metrics', namespace: 'public' };
const EVENTS = { name: 'events', namespace: 'public' };
const CONFIGURED = [METRICS, EVENTS];

const TABLE = {
  kind: 'table',
  complete: true,
  replay: false,
  seen: null,
  relation: 5,
  filenode: 0,
  page: 0,
  late: null,
};
const BLOB = { version: 1, mode: 'cdc', progress: TABLE };
const XMIN = {
  version: 1,
  mode: 'xmin',
  relation: 5,
  system_identifier: '1',
  timeline: 1,
  horizon: '7',
  next: null,
  progress: null,
};
const SHARED = {
  version: 1,
  lsn: '16/B374D848',
  cursor_floor: 1_700_000_000_000_001,
  slot: 'airbyte_slot',
  publication: 'airbyte_publication',
  system_identifier: '7300000000000000001',
  timeline: 1,
  settled: true,
};
const DEBEZIUM = { state: { '["db",{"server":"db"}]': '{"lsn":23904520}' } };

const entry = (stream_descriptor: unknown, stream_state: unknown) => ({
  stream_descriptor,
  stream_state,
});
const stream = (...args: Parameters<typeof entry>) => ({ type: 'STREAM', stream: entry(...args) });
const global = (shared_state: unknown, ...stream_states: readonly unknown[]) => ({
  type: 'GLOBAL',
  global: { shared_state, stream_states },
});

const parse = (value: unknown): InputState => parseState(value, CONFIGURED);
const keys = (state: InputState): readonly string[] => [...state.streams.keys()];

describe('a state that says nothing is a fresh start', () => {
  it.each<[string, unknown]>([
    ['no file', undefined],
    ['null', null],
    ['an empty list', []],
    ['an empty object', {}],
    ['a list of nothing', [null, {}]],
    ['a STREAM entry that was blanked to null', [stream(METRICS, null)]],
    ['a STREAM entry that was blanked to {}', [stream(METRICS, {})]],
    ['STREAM entries of the method before, all blank', [stream(METRICS, {}), stream(EVENTS, null)]],
    ['a STREAM message without a stream', [{ type: 'STREAM', stream: null }]],
    [
      'a GLOBAL message without anything',
      [{ type: 'GLOBAL', global: null, stream: null, data: null }],
    ],
    [
      'a GLOBAL state of nulls',
      [{ type: 'GLOBAL', global: { shared_state: null, stream_states: null } }],
    ],
    ['GLOBAL entries without a state', [global(SHARED, { stream_descriptor: METRICS })]],
    ['GLOBAL entries without a descriptor', [global(SHARED, { stream_state: BLOB }, null)]],
    ['a position that a clear left behind', [global(SHARED)]],
    ['a position and blank entries', [global(SHARED, entry(METRICS, {}), entry(EVENTS, null))]],
    ['a position and orphans', [global(SHARED, entry({ name: 'old', namespace: 'public' }, BLOB))]],
    [
      'a position of another source that a clear left behind',
      [global(DEBEZIUM, entry(METRICS, {}))],
    ],
    ['a position of a later version that a clear left behind', [global({ ...SHARED, version: 2 })]],
    ['a name that two streams have', [global(SHARED, entry({ name: 'twice' }, BLOB))]],
  ])('%s', (_, value) => {
    const twice = ['a', 'b'].map((namespace) => ({ name: 'twice', namespace }));
    const state = parseState(value, [...CONFIGURED, ...twice]);
    expect(state).toEqual({
      shared: null,
      streams: new Map(),
      airbyteStreams: new Map(),
      airbytePosition: null,
      kind: 'none',
    });
  });
});

describe('a state that says something is understood', () => {
  const both = [global(SHARED, entry(METRICS, BLOB), entry(EVENTS, BLOB))];

  it('with its position and its streams', () => {
    const state = parse(both);
    expect(state.kind).toBe('global');
    expect(state.shared).toEqual({
      lsn: 0x16b374d848n,
      lsnSeen: null,
      emittedTo: null,
      cursorFloor: 1_700_000_000_000_001,
      slot: 'airbyte_slot',
      publication: 'airbyte_publication',
      publicationOid: null,
      publicationsSeen: null,
      systemIdentifier: '7300000000000000001',
      timeline: 1,
      columns: null,
      settled: true,
    });
    expect(state.streams.get(streamKey(METRICS))).toEqual({ mode: 'cdc', progress: TABLE });
    expect(keys(state)).toEqual([streamKey(METRICS), streamKey(EVENTS)]);
  });

  it.each<[string, unknown]>([
    ['wrapped as a message', both.map((state) => ({ type: 'STATE', state }))],
    ['one bare object', both[0]],
    ['without a type', both.map(({ global: inside }) => ({ global: inside }))],
    [
      'with what the platform adds',
      both.map((each) => ({
        ...each,
        id: 7,
        partition_id: 'x',
        sourceStats: { recordCount: 2 },
        destinationStats: null,
      })),
    ],
    [
      'as PyAirbyte dumps it',
      both.map(({ global: global_, type }) => ({
        type,
        stream: null,
        global_,
        data: null,
        sourceStats: null,
      })),
    ],
    ['beside a blank leftover of STREAM kind', [stream(METRICS, {}), ...both]],
    ['beside null', [null, ...both]],
    [
      'without namespaces',
      [
        global(
          SHARED,
          entry({ name: 'metrics' }, BLOB),
          entry({ name: 'events', namespace: null }, BLOB),
        ),
      ],
    ],
    [
      'with empty namespaces',
      [global(SHARED, entry({ name: 'metrics', namespace: '' }, BLOB), entry(EVENTS, BLOB))],
    ],
    [
      'with orphans between',
      [
        global(
          SHARED,
          entry({ name: 'x' }, 7),
          entry(METRICS, BLOB),
          entry({ name: 'metrics', namespace: 'old' }, BLOB),
          entry(EVENTS, BLOB),
        ),
      ],
    ],
  ])('%s', (_, value) => {
    expect(parse(value)).toEqual(parse(both));
  });

  it('with one entry for each stream of STREAM kind', () => {
    const state = parse([stream(METRICS, BLOB), stream({ name: 'events' }, BLOB)]);
    expect(state).toMatchObject({ kind: 'stream', shared: null });
    expect(keys(state)).toEqual([streamKey(METRICS), streamKey(EVENTS)]);
  });

  it('where a stream without a usable entry has to be read, and the rest goes on', () => {
    const state = parse([global(SHARED, entry(METRICS, {}), entry(EVENTS, BLOB))]);
    expect(keys(state)).toEqual([streamKey(EVENTS)]);
    expect(state.shared?.lsn).toBe(0x16b374d848n);
  });

  it('with streams but no position: the position is unknown, not zero', () => {
    expect(parse([global(null, entry(METRICS, BLOB))])).toMatchObject({
      shared: null,
      kind: 'global',
    });
    expect(parse([global({}, entry(METRICS, BLOB))])).toMatchObject({
      shared: null,
      kind: 'global',
    });
  });

  it('where done is said and nothing else is: complete is true only when it is true', () => {
    for (const complete of [false, null, 1, 'true', undefined]) {
      const blob = { ...BLOB, progress: { ...TABLE, complete } };
      const state = parse([stream(METRICS, blob)]).streams.get(streamKey(METRICS));
      expect(state?.progress?.complete).toBe(false);
    }
  });

  it('where a sync has settled only when it says so', () => {
    for (const settled of [false, null, 1, 'true', undefined]) {
      const state = parse([global({ ...SHARED, settled }, entry(METRICS, BLOB))]);
      expect(state.shared?.settled).toBe(false);
    }
  });

  it('of a table without a trace of what it saw', () => {
    const { seen: _, ...progress } = TABLE;
    const state = parse([stream(METRICS, { ...BLOB, progress })]);
    expect(state.streams.get(streamKey(METRICS))?.progress).toEqual(TABLE);
  });
});

function refusal(value: unknown): ConnectorError {
  try {
    parse(value);
  } catch (error) {
    if (error instanceof ConnectorError) return error;
    throw error;
  }
  throw new Error('it was not refused');
}

const HYPERTABLE = {
  kind: 'hypertable',
  complete: false,
  hypertable_id: 1,
  chunk_schema: 's',
  chunk_prefix: 'p',
  chunk_id_max: 9,
  covered: [['0', '10']],
  read: [[1, '0', '10']],
  seen: [{ visibility: '5:5:', until: '0/1', chunks: [7] }],
};
const CURSOR = {
  version: 1,
  mode: 'cursor',
  cursor_field: 'ts',
  cursor: null,
  upper: null,
  progress: null,
};

const of = (progress: JsonObject) => [stream(METRICS, { ...BLOB, progress })];
const hypertable = (changes: JsonObject) => of({ ...HYPERTABLE, ...changes });

describe('a state that cannot be used is refused, with the way out', () => {
  it.each<[string, unknown]>([
    ['LEGACY', [{ type: 'LEGACY', data: { cdc: true } }]],
    ['LEGACY, bare', { type: 'LEGACY', data: { cdc: false, streams: [] } }],
    ['a bare blob', { cdc: true, cursor: '2024-01-01' }],
    ['a list of blobs', [{ stream_name: 'metrics', cursor: '7' }]],
    ['the same stream twice', [global(SHARED, entry(METRICS, BLOB), entry(METRICS, BLOB))]],
    [
      'the same stream twice, once without its namespace',
      [stream(METRICS, BLOB), stream({ name: 'metrics' }, BLOB)],
    ],
    [
      'the same stream in both kinds',
      [stream(METRICS, BLOB), global(SHARED, entry(METRICS, BLOB))],
    ],
    ['both kinds', [stream(METRICS, BLOB), global(SHARED, entry(EVENTS, BLOB))]],
    [
      'both kinds the other way round',
      [global(SHARED, entry(EVENTS, BLOB)), stream(METRICS, BLOB)],
    ],
    ['a stream of a later version', [stream(METRICS, { ...BLOB, version: 2 })]],
    ['a stream without a version', [stream(METRICS, { mode: 'cdc', progress: TABLE })]],
    ['a position of a later version', [global({ ...SHARED, version: 2 }, entry(METRICS, BLOB))]],
    ["the Postgres source's position", [global(DEBEZIUM, entry(METRICS, BLOB))]],
    [
      "the Postgres source's entries beside ours",
      [global(DEBEZIUM, entry(METRICS, { state_type: 'ctid_based' }), entry(EVENTS, BLOB))],
    ],
    ['a transaction id that is none', [stream(METRICS, { ...XMIN, horizon: 'x' })]],
    ['a transaction id in a number', [stream(METRICS, { ...XMIN, horizon: 7 })]],
    ['an unknown mode', [stream(METRICS, { ...BLOB, mode: 'ctid' })]],
    ['a stream without progress', [stream(METRICS, { ...BLOB, progress: null })]],
    ['progress of no kind', of({})],
    ['a page that is no whole number', of({ ...TABLE, page: 1.5 })],
    ['a page in text', of({ ...TABLE, page: '1' })],
    ['a visibility without its end', of({ ...TABLE, seen: { visibility: '1:1:' } })],
    ['a visibility with a damaged end', of({ ...TABLE, seen: { visibility: '1:1:', until: 'x' } })],
    ['a visibility that is none', of({ ...TABLE, seen: { visibility: 'x', until: '0/1' } })],
    ['a damaged position', [global({ ...SHARED, lsn: '16-B3' }, entry(METRICS, BLOB))]],
    ['a position without a slot', [global({ ...SHARED, slot: null }, entry(METRICS, BLOB))]],
    ['a damaged range', hypertable({ covered: [['0', '1O']] })],
    ['half a range', hypertable({ covered: [['0']] })],
    ['a range in numbers', hypertable({ covered: [[0, 10]] })],
    ['a chunk without its range', hypertable({ read: [[1]] })],
    ['a chunk with a damaged range', hypertable({ read: [[1, '', ' ']] })],
    ['a chunk without an id', hypertable({ read: [[null, '0', '10']] })],
    ['a hypertable without its naming', hypertable({ chunk_prefix: null })],
    ['chunks whose visibility is missing', hypertable({ seen: [{ chunks: [7] }] })],
    [
      'a full refresh that belongs to nothing',
      [stream(METRICS, { ...BLOB, mode: 'full_refresh' })],
    ],
    ['a cursor without its column', [stream(METRICS, { ...CURSOR, cursor_field: null })]],
    ['a cursor that is a number', [stream(METRICS, { ...CURSOR, cursor: 7 })]],
  ])('%s', (_, value) => {
    const error = refusal(value);
    expect(error.kind).toBe('config_error');
    expect(error.userMessage).toMatch(/^The state .*\. Clear the connection/);
  });

  it('but is well without the damage', () => {
    for (const value of [
      hypertable({}),
      of(TABLE),
      [stream(METRICS, CURSOR)],
      [stream(METRICS, XMIN)],
    ]) {
      expect(keys(parse(value))).toEqual([streamKey(METRICS)]);
    }
  });
});

describe('a key of a stream', () => {
  it('keeps namespace and name apart', () => {
    const names = [
      ['a', 'b.c'],
      ['a.b', 'c'],
      ['', 'a'],
      ['a', ''],
    ];
    const all = names.map(([namespace = '', name = '']) => streamKey({ namespace, name }));
    expect(new Set(all).size).toBe(names.length);
  });
});
