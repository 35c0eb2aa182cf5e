import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  formatVisibility,
  isVisible,
  parseVisibility,
  visibleInBoth,
  widenXid,
} from '../src/postgres/visibility.ts';

const EPOCH = 2n ** 32n;

describe('a visibility as text', () => {
  it.each(['10:20:10,14,15', '795:795:', '12884901888:12884901891:12884901889'])(
    '%s comes back as it was',
    (text) => {
      expect(formatVisibility(parseVisibility(text))).toBe(text);
    },
  );

  it('has ids of 64 bits', () => {
    expect(parseVisibility('12884901888:12884901891:12884901889')).toEqual({
      xmin: 12884901888n,
      xmax: 12884901891n,
      running: new Set([12884901889n]),
    });
  });

  it.each(['', '1:2', '1:2:3:4', 'a:2:', '1:2: 3', '-1:2:', '1:2:\n'])('%j is refused', (text) => {
    expect(() => parseVisibility(text)).toThrow('not a pg_snapshot');
  });
});

describe('a committed transaction', () => {
  it.each<[xid: number, seen: boolean, why: string]>([
    [9, true, 'ended before the oldest that ran'],
    [10, false, 'ran, the oldest one'],
    [12, true, 'ended in between'],
    [14, false, 'ran'],
    [19, true, 'was the newest that had ended'],
    [20, false, 'had not begun'],
    [21, false, 'came later'],
  ])('%d is visible: %s, since it %s', (xid, seen) => {
    expect(isVisible(xid, parseVisibility('10:20:10,14'))).toBe(seen);
  });

  it.each<[xid: number, seen: boolean]>([
    [4294967290, true],
    [4294967295, false],
    [1, true],
    [2, false],
    [3, false],
  ])('%d is judged across the wrap-around: %s', (xid, seen) => {
    const around = `${EPOCH * 3n - 2n}:${EPOCH * 3n + 3n}:${EPOCH * 3n - 1n},${EPOCH * 3n + 2n}`;
    expect(isVisible(xid, parseVisibility(around))).toBe(seen);
  });

  it('is visible exactly when the server says so, in any epoch', () => {
    const ages = fc.bigInt({ min: -(2n ** 30n), max: 2n ** 30n });
    const scene = fc.record({
      xmax: fc.bigInt({ min: 2n ** 31n, max: 2n ** 50n }),
      width: fc.bigInt({ min: 0n, max: 40n }),
      ran: fc.array(fc.bigInt({ min: 0n, max: 40n })),
      age: fc.oneof(fc.bigInt({ min: -45n, max: 5n }), ages),
    });
    fc.assert(
      fc.property(scene, ({ xmax, width, ran, age }) => {
        const xmin = xmax - width;
        const running = ran.map((offset) => xmin + offset).filter((xid) => xid < xmax);
        const visibility = parseVisibility(`${xmin}:${xmax}:${running.join(',')}`);
        const full = xmax + age;
        const expected = full < xmin || (full < xmax && !running.includes(full));
        expect(isVisible(Number(full % EPOCH), visibility)).toBe(expected);
      }),
      { numRuns: 2000 },
    );
  });
});

describe('an id of 32 bits', () => {
  it.each<[xid: number, near: bigint, full: bigint]>([
    [5, EPOCH + 3n, EPOCH + 5n],
    [4294967295, EPOCH, EPOCH - 1n],
    [0, EPOCH - 1n, EPOCH],
    [2 ** 31 - 1, EPOCH, EPOCH + 2n ** 31n - 1n],
    [2 ** 31 + 1, EPOCH, 2n ** 31n + 1n],
  ])('%d is widened to the nearest', (xid, near, full) => {
    expect(widenXid(xid, near)).toBe(full);
  });
});

const visibility = fc
  .tuple(fc.nat(40), fc.nat(20), fc.uniqueArray(fc.nat(60), { maxLength: 8 }))
  .map(([start, length, ids]) => {
    const [xmin, xmax] = [BigInt(start), BigInt(start + length)];
    const running = ids.map(BigInt).filter((id) => id >= xmin && id < xmax);
    return { xmin, xmax, running: new Set(running) };
  });

describe('what is visible in both of two visibilities', () => {
  it('is what is visible in one and in the other', () => {
    fc.assert(
      fc.property(visibility, visibility, fc.nat(70), (a, b, xid) => {
        const both = visibleInBoth(a, b);
        expect(isVisible(xid, both)).toBe(isVisible(xid, a) && isVisible(xid, b));
        expect(formatVisibility(parseVisibility(formatVisibility(both)))).toBe(
          formatVisibility(both),
        );
      }),
      { numRuns: 1000 },
    );
  });
});
