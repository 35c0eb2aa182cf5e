/** Which states a server that took over may go on with, and what of them is forgotten. */
import { describe, expect, test } from 'vitest';
import { formatLsn, parseLsn } from '../src/postgres/lsn.ts';
import { branchPoint } from '../src/postgres/timeline.ts';
import { completed, startHypertable, startTable } from '../src/progress.ts';
import type { InputState, SharedState, StreamProgress } from '../src/state.ts';
import { judgeTakeover, type Takeover } from '../src/takeover.ts';

/** As PostgreSQL writes it for timeline 4. */
const HISTORY = `1\t0/5000000\tno recovery target specified

2\t0/6000098\tbefore 2026-11-28 19:48:39.559+00
# a comment
3\t1/A0\tno recovery target specified
`;

const SHARED: SharedState = {
  lsn: parseLsn('0/5000000'),
  lsnSeen: '90:100:95',
  emittedTo: null,
  cursorFloor: 7,
  slot: 'airbyte_slot',
  publication: 'airbyte_publication',
  publicationOid: 16_400,
  publicationsSeen: '98:120:98,110',
  systemIdentifier: '7300000000000000001',
  timeline: 1,
  columns: null,
  settled: true,
};

const HYPERTABLE = { id: 1, chunkSchema: '_timescaledb_internal', chunkPrefix: '_hyper_1' };
const STREAMS = new Map<string, StreamProgress>([
  [
    'metrics',
    { mode: 'cdc', progress: { ...startHypertable(HYPERTABLE, []), judged: '115:130:120' } },
  ],
  ['orders', { mode: 'cdc', progress: completed(startTable()) }],
]);

function judged(changes: Partial<SharedState>, timeline = 4): Takeover {
  const shared = { ...SHARED, ...changes };
  const state: InputState = {
    shared,
    streams: STREAMS,
    airbyteStreams: new Map(),
    airbytePosition: null,
    kind: 'global',
  };
  const identity = { systemIdentifier: SHARED.systemIdentifier, timeline };
  return judgeTakeover(state, shared, identity, HISTORY);
}

test.each([
  [1, '0/5000000'],
  [2, '0/6000098'],
  [3, '1/A0'],
])('timeline %i was left at %s', (timeline, lsn) => {
  const branch = branchPoint(HISTORY, timeline);
  expect(branch === null ? null : formatLsn(branch)).toBe(lsn);
});

test.each([4, 5, 0, 11])('timeline %i is none of its predecessors', (timeline) => {
  expect(branchPoint(HISTORY, timeline)).toBeNull();
});

describe('a state is gone on with', () => {
  test.each<[string, Partial<SharedState>]>([
    ['of a sync that ended at the very point', {}],
    ['of one that ended before it', { lsn: parseLsn('0/4FFFFFF') }],
    ['of another timeline', { timeline: 2, lsn: parseLsn('0/6000098') }],
    [
      'of one that was broken off, whose records are bound',
      { settled: false, lsn: parseLsn('0/4000000'), emittedTo: parseLsn('0/5000000') },
    ],
    ['of one that ended, whatever it had told before', { emittedTo: parseLsn('0/5000001') }],
  ])('%s', (_, changes) => {
    const { refusal, note, state } = judged(changes);
    expect(refusal).toBeNull();
    expect(note).toMatch(/^The server is on timeline 4, .* the sync goes on\.$/);
    expect(state.shared?.timeline).toBe(4);
  });

  test('as if it had seen nothing that its position does not tell of', () => {
    const { state } = judged({});
    expect(state.shared?.publicationsSeen).toBe('90:100:95,98');
    expect(state.streams.get('metrics')?.progress).toMatchObject({ judged: '90:100:95' });
    expect(state.streams.get('orders')).toEqual(STREAMS.get('orders'));
  });
});

describe('a state is refused', () => {
  test.each<[string, Partial<SharedState>, RegExp, number?]>([
    ['beyond the point', { lsn: parseLsn('0/5000001') }, /up to 0\/5000001 may not be on it/],
    [
      'beyond the one of its own timeline',
      { timeline: 2, lsn: parseLsn('0/6000099') },
      /left at 0\/6000098\.$/,
    ],
    ['in mid-load', { settled: false }, /in the middle of a sync: .* is not known\.$/],
    [
      'whose records went beyond it',
      { settled: false, lsn: parseLsn('0/4000000'), emittedTo: parseLsn('0/5000001') },
      /up to 0\/5000001 may not be on it/,
    ],
    ['of an older version', { lsnSeen: null }, /of a version that does not tell enough/],
    ['of a timeline that is not in the history', { timeline: 5 }, /restored\.$/, 6],
    ['of a later timeline', { timeline: 5 }, /timeline 4, the state on 5.*restored\.$/],
  ])('%s', (_, changes, sentence, timeline = 4) => {
    const { refusal, note, state } = judged(changes, timeline);
    expect(refusal).toMatch(sentence);
    expect(refusal).toMatch(/^The server is on timeline /);
    expect(note).toBeNull();
    expect(state.streams).toBe(STREAMS);
    expect(state.shared).toEqual({ ...SHARED, ...changes });
  });
});
