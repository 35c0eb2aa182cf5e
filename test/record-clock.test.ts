/** The clock of records, and the order token. */
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { RecordClock } from '../src/record.ts';

const NOW = 1_700_000_000_123;

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['Date'], now: NOW });
});
afterEach(() => {
  vi.useRealTimers();
});

describe('the clock', () => {
  type Tick = { readonly kind: 'next' | 'row' | 'time'; readonly by: number };
  const ticks: fc.Arbitrary<readonly Tick[]> = fc.array(
    fc.record({
      kind: fc.constantFrom<Tick['kind']>('next', 'next', 'row', 'time'),
      by: fc.integer({ min: -10_000, max: 10_000 }),
    }),
    { maxLength: 600, size: 'max' },
  );

  it('gives tokens that grow, above the floor, even when the time goes back', () => {
    const floors = fc.constantFrom(0, NOW * 1000 - 5, NOW * 1000 + 5, NOW * 1000 + 10 ** 9);
    fc.assert(
      fc.property(floors, ticks, (floor, steps) => {
        vi.setSystemTime(NOW);
        const clock = new RecordClock(floor);
        let last = floor;
        for (const { kind, by } of steps) {
          if (kind === 'time') vi.setSystemTime(Date.now() + by);
          else if (kind === 'row') clock.row();
          else {
            const next = clock.next();
            expect(next).toBeGreaterThan(last);
            expect(clock.cursor).toBe(next);
            last = next;
          }
        }
      }),
      { numRuns: 50 },
    );
  });

  it('gives tokens in microseconds of the time', () => {
    const clock = new RecordClock(0);
    clock.row();
    expect(clock.emittedAt).toBe(NOW);
    expect([clock.next(), clock.next()]).toEqual([NOW * 1000 + 1, NOW * 1000 + 2]);
  });

  it('follows the time after at most 256 rows', () => {
    const clock = new RecordClock(0);
    clock.row();
    vi.setSystemTime(NOW + 5000);
    const seen = Array.from({ length: 256 }, () => {
      clock.row();
      return clock.emittedAt;
    });
    expect([seen[254], seen[255]]).toEqual([NOW, NOW + 5000]);
    expect(clock.next()).toBe((NOW + 5000) * 1000 + 1);
  });
});
