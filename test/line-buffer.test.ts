import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { LineBuffer } from '../src/airbyte/line-buffer.ts';

function written(write: (out: LineBuffer) => void): string {
  const out = new LineBuffer(4096);
  out.appendText('<');
  write(out);
  out.appendText('>');
  return out.bytes.toString('latin1', 1, out.length - 1);
}

describe('whole numbers', () => {
  it('are written as their digits', () => {
    const special = fc.constantFrom(0, 99_999_999, 100_000_000, 1e15, Number.MAX_SAFE_INTEGER);
    fc.assert(
      fc.property(fc.oneof(fc.maxSafeNat(), special), (value) => {
        expect(written((out) => out.appendInteger(value))).toBe(String(value));
      }),
      { numRuns: 2000 },
    );
  });

  it('are written one after the other', () => {
    const out = new LineBuffer(64);
    const numbers = [1_763_668_000_000_000, 1_763_668_000_000_001, 1_763_668_100_000_000, 7];
    const texts = numbers.map((value) => {
      out.clear(64);
      out.appendInteger(value);
      return out.bytes.toString('latin1', 0, out.length);
    });
    expect(texts).toEqual(numbers.map(String));
  });
});

describe('bytes that JSON can hold as they are', () => {
  const needsCare = (byte: number): boolean =>
    byte < 0x20 || byte >= 0x80 || byte === 0x22 || byte === 0x5c;

  it('are copied up to the first that needs care', () => {
    const mostly = fc.oneof(
      { weight: 20, arbitrary: fc.integer({ min: 0x20, max: 0x7f }) },
      { weight: 1, arbitrary: fc.integer({ min: 0, max: 255 }) },
    );
    fc.assert(
      fc.property(fc.array(mostly, { maxLength: 60 }), fc.nat(5), (values, skipped) => {
        const src = Buffer.from([...Array.from({ length: skipped }, () => 0x41), ...values]);
        const first = values.findIndex(needsCare);
        const stop = first < 0 ? src.length : skipped + first;
        let stopped = -1;
        const text = written((out) => {
          stopped = out.appendPlain(src, skipped, src.length);
        });
        expect(stopped).toBe(stop);
        expect(text).toBe(src.toString('latin1', skipped, stop));
      }),
      { numRuns: 2000 },
    );
  });

  it('come from several buffers in turn', () => {
    const sources = ['first', 'second', 'third'].map((text) => Buffer.from(`${text} padded`));
    const text = written((out) => {
      for (const src of [...sources, ...sources.toReversed()]) out.appendPlain(src, 0, 6);
    });
    expect(text).toBe('first secondthird third secondfirst ');
  });
});
