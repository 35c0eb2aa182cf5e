/** How much WAL is decoded at a time. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { isTakenSlowly, nextWindow, WINDOW_BYTES } from '../src/postgres/window-size.ts';

const MB = 1024 * 1024;
const after = (given: Partial<Parameters<typeof nextWindow>[0]>): number =>
  nextWindow({ wal: WINDOW_BYTES, result: WINDOW_BYTES, again: 0, tempLimit: null, ...given });

describe('the next window', () => {
  it('stays as it is where as much comes out as there is in the WAL', () => {
    expect(after({})).toBe(64 * MB);
    expect(after({ result: 10 * WINDOW_BYTES })).toBe(64 * MB);
  });

  it('grows as little comes out, up to 2 GB', () => {
    expect(after({ result: WINDOW_BYTES / 4 })).toBe(256 * MB);
    expect(after({ result: WINDOW_BYTES / 20 })).toBe(1280 * MB);
    expect(after({ result: 0 })).toBe(2048 * MB);
    expect(after({ wal: 2048 * MB, result: 0 })).toBe(2048 * MB);
  });

  it('shrinks again when much comes out', () => {
    expect(after({ wal: 1024 * MB, result: 1024 * MB })).toBe(64 * MB);
  });

  it('grows with what has to be read again', () => {
    expect(after({ again: 1000 * MB })).toBe(500 * MB);
    expect(after({ again: 10_000 * MB })).toBe(5000 * MB);
    expect(after({ wal: 8000 * MB, result: 0, again: 10_000 * MB })).toBe(5000 * MB);
  });

  it('stays within half of temp_file_limit', () => {
    expect(after({ result: 0, tempLimit: 400 * MB })).toBe(200 * MB);
    expect(after({ result: 0, again: 10_000 * MB, tempLimit: 400 * MB })).toBe(200 * MB);
    expect(after({ result: 0, tempLimit: 1 * MB })).toBe(64 * MB);
  });
});

describe('rows that are taken slowly', () => {
  const taken = (result: number, milliseconds: number): boolean =>
    isTakenSlowly({ wal: WINDOW_BYTES, result, milliseconds, again: 0, tempLimit: null });

  it('are told by their rate, where it lasts', () => {
    expect(taken(64 * MB, 21_000)).toBe(true);
    expect(taken(64 * MB, 19_000)).toBe(false);
    expect(taken(1 * MB, 19_000)).toBe(false);
    // A large transaction.
    expect(taken(2000 * MB, 60_000)).toBe(false);
  });
});

describe('a transaction that is open all the time', () => {
  it('is decoded no more than a fixed number of times, whatever else comes out', () => {
    const share = fc.double({ min: 0, max: 1, noNaN: true });
    fc.assert(
      fc.property(share, fc.integer({ min: 1, max: 4_000_000 }), (density, megabytes) => {
        const total = megabytes * MB;
        let window = WINDOW_BYTES;
        let position = 0;
        let decoded = 0;
        while (position < total) {
          const wal = Math.min(window, total - position);
          position += wal;
          // From the place where the transaction began.
          decoded += position;
          window = nextWindow({ wal, result: wal * density, again: position, tempLimit: null });
        }
        expect(decoded).toBeLessThan(4 * total);
      }),
    );
  });
});
