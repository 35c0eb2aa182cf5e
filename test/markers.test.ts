import { describe, expect, it } from 'vitest';
import { MarkerDepth } from '../src/timescaledb/markers.ts';

const MARKERS = {
  '+c': '::timescaledb-compression-start',
  '-c': '::timescaledb-compression-end',
  '+d': '::timescaledb-decompression-start',
  '-d': '::timescaledb-decompression-end',
  '?': 'somebody else',
  begin: '',
} as const;

type Step = keyof typeof MARKERS;

/** Whether rows are moves after each step. */
function moving(steps: readonly Step[]): readonly boolean[] {
  const depth = new MarkerDepth();
  return steps.map((step) => {
    if (step === 'begin') depth.reset();
    else depth.message(MARKERS[step]);
    return depth.moving;
  });
}

describe('rows are moves', () => {
  it('not before any marker', () => expect(new MarkerDepth().moving).toBe(false));

  it.each<[string, readonly Step[], readonly boolean[]]>([
    ['inside a compression', ['+c', '-c'], [true, false]],
    ['inside a decompression', ['+d', '-d'], [true, false]],
    ['to the outer end of nested pairs', ['+c', '+d', '-d', '-c'], [true, true, true, false]],
    ['in two pairs one after the other', ['+d', '-d', '+d', '-d'], [true, false, true, false]],
    ['after an end without a start', ['-d', '+c', '-c'], [false, true, false]],
    [
      'not after many stray ends',
      ['-c', '-d', '-d', '+d', '-d'],
      [false, false, false, true, false],
    ],
    [
      'only within one transaction',
      ['+c', '+d', 'begin', '+d', '-d'],
      [true, true, false, true, false],
    ],
    [
      'whatever messages others send',
      ['?', '+c', '?', '-c', '?'],
      [false, true, true, false, false],
    ],
  ])('%s', (_, steps, expected) => {
    expect(moving(steps)).toEqual(expected);
  });

  it.each(['timescaledb-compression-start', '::timescaledb-compression-start ', '::TIMESCALEDB'])(
    'not for a prefix that only looks like one: %j',
    (prefix) => {
      const depth = new MarkerDepth();
      depth.message(prefix);
      expect(depth.moving).toBe(false);
    },
  );
});
