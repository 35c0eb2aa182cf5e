/** What leaves as a state comes back as the same state, and damage never goes unnoticed as another kind of failure. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ConnectorError } from '../src/errors.ts';
import { formatLsn, type Lsn } from '../src/postgres/lsn.ts';
import type { HypertableProgress, Progress, Seen, TableProgress } from '../src/progress.ts';
import { parseState, type SharedState, streamKey, type StreamProgress } from '../src/state.ts';
import { serialiseShared, serialiseStream } from '../src/state-writing.ts';
import { METRICS, throughJson } from './state-document.ts';

const oid = fc.integer({ min: 0, max: 2 ** 32 - 1 });
const name = fc.string({ unit: 'binary', maxLength: 12 });
const lsn = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }).map((value) => value as Lsn);
const bound = fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n });
const interval = fc.record({ rangeStart: bound, rangeEnd: bound }, { noNullPrototype: true });
const whole = fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER });

const visibility = fc.constantFrom('5:5:', '5:9:6,7', '12884901888:12884901891:12884901889');

const seen: fc.Arbitrary<Seen> = fc.record(
  {
    visibility,
    until: fc.oneof(lsn, fc.constant(16n as Lsn)),
  },
  { noNullPrototype: true },
);

const table: fc.Arbitrary<TableProgress> = fc.record(
  {
    kind: fc.constant('table' as const),
    complete: fc.boolean(),
    replay: fc.boolean(),
    seen: fc.option(seen),
    relation: oid,
    filenode: oid,
    page: oid,
    late: fc.option(bound),
  },
  { noNullPrototype: true },
);

const hypertable: fc.Arbitrary<HypertableProgress> = fc.record(
  {
    kind: fc.constant('hypertable' as const),
    complete: fc.boolean(),
    replay: fc.boolean(),
    hypertableId: oid,
    chunkSchema: name,
    chunkPrefix: name,
    chunkIdMax: oid,
    covered: fc.array(interval, { maxLength: 5 }),
    read: fc.array(
      fc.record({ id: oid, rangeStart: bound, rangeEnd: bound }, { noNullPrototype: true }),
      { maxLength: 5 },
    ),
    seen: fc.array(fc.tuple(oid, seen), { maxLength: 8 }).map((entries) => new Map(entries)),
    judged: fc.option(visibility),
  },
  { noNullPrototype: true },
);

const progress: fc.Arbitrary<Progress> = fc.oneof(table, hypertable);

const streamProgress: fc.Arbitrary<StreamProgress> = fc.oneof(
  fc.record({ mode: fc.constant('cdc' as const), progress }, { noNullPrototype: true }),
  fc.record(
    { mode: fc.constant('full_refresh' as const), refresh: name, progress },
    { noNullPrototype: true },
  ),
  fc.record(
    {
      mode: fc.constant('cursor' as const),
      cursorField: name,
      cursorType: fc.option(name),
      cursor: fc.option(name),
      upper: fc.option(name),
      progress: fc.option(progress),
    },
    { noNullPrototype: true },
  ),
  fc.record(
    {
      mode: fc.constant('xmin' as const),
      relation: oid,
      systemIdentifier: name,
      timeline: oid,
      horizon: fc.option(bound),
      next: fc.option(bound),
      progress: fc.option(progress),
    },
    { noNullPrototype: true },
  ),
);

const shared: fc.Arbitrary<SharedState> = fc.record(
  {
    lsn,
    lsnSeen: fc.option(visibility),
    emittedTo: fc.option(lsn),
    cursorFloor: whole,
    slot: name,
    publication: name,
    publicationOid: fc.option(oid),
    publicationsSeen: fc.option(visibility),
    systemIdentifier: name,
    timeline: oid,
    columns: fc.option(
      fc.dictionary(name, name).map((columns) => new Map(Object.entries(columns))),
    ),
    settled: fc.boolean(),
  },
  { noNullPrototype: true },
);

describe('a state', () => {
  it('of any stream comes back as it left', () => {
    fc.assert(
      fc.property(streamProgress, (state) => {
        expect(throughJson(state)).toEqual(state);
      }),
      { numRuns: 500 },
    );
  });

  it('of a whole connection comes back as it left, whatever its streams are called', () => {
    const names = fc.uniqueArray(fc.record({ name, namespace: name }), {
      minLength: 1,
      maxLength: 4,
      selector: streamKey,
    });
    fc.assert(
      fc.property(shared, names, streamProgress, (position, streams, state) => {
        // An entry without a namespace means any stream of that name: here it must be the only one.
        fc.pre(
          streams.every(
            (stream) =>
              stream.namespace !== '' ||
              streams.filter((other) => other.name === stream.name).length === 1,
          ),
        );
        const document = {
          type: 'GLOBAL',
          global: {
            shared_state: serialiseShared(position),
            stream_states: streams.map((stream) => serialiseStream(stream, state)),
          },
        };
        const parsed = parseState(JSON.parse(JSON.stringify([document])), streams);
        expect(parsed).toEqual({
          kind: 'global',
          shared: position,
          streams: new Map(streams.map((stream) => [streamKey(stream), state])),
          airbyteStreams: new Map(),
          airbytePosition: null,
        });
      }),
    );
  });

  it('writes what several chunks saw only once', () => {
    const same = { visibility: '5:9:6,7', until: 16n as Lsn };
    const many = new Map(Array.from({ length: 40 }, (_, index) => [index, { ...same }]));
    const start = fc.sample(hypertable, 1)[0] as HypertableProgress;
    const state = serialiseStream(METRICS, { mode: 'cdc', progress: { ...start, seen: many } });
    expect(state.stream_state).toMatchObject({
      progress: { seen: [{ ...same, until: formatLsn(same.until), chunks: [...many.keys()] }] },
    });
  });
});

/** The document with one value, anywhere in it, put in the place of another. */
function damaged(document: unknown, by: unknown, where: number): unknown {
  const paths: (readonly [Record<string, unknown>, string])[] = [];
  const copy: unknown = structuredClone(document);
  const visit = (node: unknown): void => {
    if (typeof node !== 'object' || node === null) return;
    for (const key of Object.keys(node)) {
      paths.push([node as Record<string, unknown>, key]);
      visit((node as Record<string, unknown>)[key]);
    }
  };
  visit(copy);
  const [parent, key] = paths[where % paths.length] ?? [];
  if (parent !== undefined && key !== undefined) parent[key] = by;
  return copy;
}

describe('a damaged state', () => {
  it('is read or refused, but never fails in another way', () => {
    const values = fc.constantFrom<unknown>(null, 1.5, -1, 'x', '', [], {}, true, [null], [[]]);
    let refused = 0;
    fc.assert(
      fc.property(shared, streamProgress, values, fc.nat(), (position, state, by, where) => {
        const document = [
          {
            type: 'GLOBAL',
            global: {
              shared_state: serialiseShared(position),
              stream_states: [serialiseStream(METRICS, state)],
            },
          },
        ];
        try {
          parseState(damaged(document, by, where), [METRICS]);
        } catch (error) {
          refused += 1;
          expect(error).toBeInstanceOf(ConnectorError);
          expect(error).toMatchObject({ kind: 'config_error' });
        }
      }),
      { numRuns: 1000 },
    );
    expect(refused).toBeGreaterThan(100); // else the damage was none
  });
});
