/**
 * Stored states as platforms and clients hand them back after clears, refreshes, changed catalogs and other languages: a fresh
 * start, or a sync that goes on, and never a stream that is taken for read because nothing is said of it.
 */
import { describe, expect, test } from 'vitest';
import type { JsonObject } from '../src/airbyte/protocol.ts';
import { run } from './connector.ts';
import { type Connection, connection, edited, expectRefused } from './refusals.ts';

type Global = {
  readonly shared_state: object;
  readonly stream_states: readonly {
    readonly stream_descriptor: { readonly name: string; readonly namespace?: string | null };
    readonly stream_state: object | null;
  }[];
};

const descriptor = (name: string): object => ({ name, namespace: 'public' });
const blank = (name: string, stream_state: object | null): object => ({
  type: 'STREAM',
  stream: { stream_descriptor: descriptor(name), stream_state },
});
const globalOf = (shared_state: unknown, stream_states: unknown): object => ({
  type: 'GLOBAL',
  global: { shared_state, stream_states },
});
const entry = (name: string, stream_state: unknown): object => ({
  stream_descriptor: descriptor(name),
  stream_state,
});
const STALE = { version: 1, lsn: '0/1', slot: 'gone', publication: 'gone' };

const ALL = ['devices', 'metrics'] as const;

const NOTHING: readonly (readonly [string, unknown])[] = [
  ['null', null],
  ['an empty list', []],
  ['an empty object', {}],
  ['blank entries of the other method', ALL.map((name) => blank(name, {}))],
  ['entries that were blanked to null', ALL.map((name) => blank(name, null))],
  ['a position whose streams are gone', [globalOf(STALE, [])]],
  ['a position and null for its streams', [globalOf(STALE, null)]],
  ['a position and streams of another catalog', [globalOf(STALE, [entry('old', { cdc: 1 })])]],
  [
    'a position and blank streams',
    [globalOf(STALE, [entry('devices', {}), entry('metrics', null)])],
  ],
  ["a position of Airbyte's Postgres source", [globalOf({ state: {} }, [entry('devices', {})])]],
];

const METHODS: readonly (readonly [string, JsonObject])[] = [
  ['CDC', {}],
  ['cursor', { replication_method: { method: 'Standard' } }],
];

describe.each(METHODS)('%s: a fresh start', (_, overrides) => {
  test('without a state file, and with each of those that say nothing', async () => {
    await using it = await connection();
    await it.first(overrides);
    const config = it.db.config(overrides);
    const without = (await run('read', { config, catalog: it.catalog })).succeeded();
    expect(without.records()).toHaveLength(4);
    for (const [what, state] of NOTHING) {
      const result = await it.read(overrides, { state: JSON.stringify(state) });
      expect(result.succeeded().records(), what).toHaveLength(4);
    }
  }, 300_000);
});

/** The one stored state of a connection with changes, written in another way. */
const SAME: readonly (readonly [string, (state: { readonly global: Global }) => unknown])[] = [
  ['one bare state', (state) => state],
  ['whole messages', (state) => [{ type: 'STATE', state }]],
  ['without a type', ({ global }) => [{ global }]],
  [
    "as Python's models write it",
    ({ global }) => [
      { type: 'GLOBAL', stream: null, global_: global, data: null, sourceStats: null },
    ],
  ],
  [
    'with what the platform adds',
    (state) => [
      {
        ...state,
        id: 7,
        partition_id: 'x',
        sourceStats: { recordCount: 2.0 },
        destinationStats: null,
      },
    ],
  ],
  ...[undefined, null, ''].map(
    (namespace) =>
      [
        `with the namespace ${JSON.stringify(namespace)}`,
        ({ global }: { readonly global: Global }) => [
          globalOf(
            global.shared_state,
            global.stream_states.map((one) => ({
              ...one,
              stream_descriptor: { name: one.stream_descriptor.name, namespace },
            })),
          ),
        ],
      ] as const,
  ),
  [
    'beside streams that are not configured',
    ({ global }) => [
      globalOf(global.shared_state, [entry('old', { anything: 1 }), ...global.stream_states]),
    ],
  ],
  ['beside a blank entry of the other method', (state) => [blank('devices', {}), state]],
];

/** The one state that is stored. */
function stored(it: Connection): { readonly global: Global } {
  expect(it.destination.state).toHaveLength(1);
  return it.destination.state[0] as { readonly global: Global };
}

describe('a sync that goes on', () => {
  test('from the same state in every form', async () => {
    await using it = await connection();
    await it.first();
    for (const [index, [what, form]] of SAME.entries()) {
      await it.change(`change ${index}`);
      const state = JSON.stringify(form(stored(it)));
      const result = (await it.read({}, { state })).succeeded();
      expect(result.records(), what).toHaveLength(2);
      it.destination.apply(result.messages);
    }
    await it.change('last');
    await it.expectGoesOn(2);
  }, 300_000);

  test.each([
    ['no entry', []],
    ['a blank entry', [entry('metrics', {})]],
    ['null', [entry('metrics', null)]],
  ])('a stream with %s is read, the others go on', async (_, entries) => {
    await using it = await connection();
    await it.first();
    await it.change('a');
    const { shared_state, stream_states } = stored(it).global;
    const others = stream_states.filter(
      ({ stream_descriptor }) => stream_descriptor.name !== 'metrics',
    );
    const state = [globalOf(shared_state, [...others, ...entries])];
    const result = (await it.read({}, { state })).succeeded();
    expect(result.records('devices')).toHaveLength(1);
    expect(result.records('metrics').length).toBeGreaterThanOrEqual(2);
    it.destination.apply(result.messages);
    await it.change('b');
    await it.expectGoesOn(2);
  });

  test.each(METHODS)(
    '%s: behind an empty table, which is done and not blank',
    async (_, overrides) => {
      await using it = await connection();
      await it.db.query('CREATE TABLE spare (id int PRIMARY KEY)');
      await it.first(overrides);
      const states = JSON.parse(JSON.stringify(it.destination.state)) as readonly {
        readonly stream?: Global['stream_states'][number];
        readonly global?: Global;
      }[];
      const entries = states.flatMap(({ stream, global }) => global?.stream_states ?? stream ?? []);
      const spare = entries.filter(({ stream_descriptor }) => stream_descriptor.name === 'spare');
      expect(spare).toHaveLength(1);
      expect(Object.keys(spare[0]?.stream_state ?? {})).toContain('version');
      const twice = [await it.read(overrides), await it.read(overrides)];
      expect(twice.map((result) => result.succeeded().records('spare'))).toEqual([[], []]);
      await it.db.query('INSERT INTO spare VALUES (1)');
      expect((await it.read(overrides)).succeeded().records('spare')).toHaveLength(1);
    },
  );
});

describe('a state that is refused', () => {
  test('the same stream twice, both kinds, a damaged position; the stored one still serves', async () => {
    await using it = await connection();
    await it.first();
    await it.change('a');
    const { shared_state, stream_states } = stored(it).global;
    const [one] = stream_states;
    const cases: readonly (readonly [unknown, RegExp])[] = [
      [[globalOf(shared_state, [one, one])], /the same stream twice.*Clear the connection/],
      [
        [globalOf(shared_state, [one]), { type: 'STREAM', stream: stream_states[1] }],
        /two update methods.*Clear the connection/,
      ],
      [edited(it.destination.state, /"lsn":"[^"]+"/, '"lsn":"16-B3"'), /Clear the connection/],
    ];
    for (const [state, sentence] of cases) {
      const refused = await it.read({}, { state: JSON.stringify(state) });
      expectRefused(refused, 'config_error', sentence);
    }
    await it.expectGoesOn(2);
  });
});
