import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it, type MockInstance, vi } from 'vitest';
import { LineBuffer, Piece } from '../src/airbyte/line-buffer.ts';

function written(write: (out: LineBuffer) => void): string {
  const out = new LineBuffer(4096);
  out.appendText('<');
  write(out);
  out.appendText('>');
  return out.bytes.toString('latin1', 1, out.length - 1);
}

describe('eight digits', () => {
  it('are those of the number, with zeros before them', () => {
    const special = fc.constantFrom(0, 7, 99, 100, 9_999_999, 10_000_000, 99_999_999);
    const numbers = fc.oneof(fc.integer({ min: 0, max: 99_999_999 }), special);
    fc.assert(
      fc.property(numbers, (value) => {
        expect(written((out) => out.appendEightDigits(value))).toBe(String(value).padStart(8, '0'));
      }),
      { numRuns: 2000 },
    );
  });
});

describe('words of 64 bits', () => {
  let stores: MockInstance<DataView['setFloat64']>;
  beforeEach(() => {
    stores = vi.spyOn(DataView.prototype, 'setFloat64');
  });
  afterEach(() => {
    stores.mockRestore();
  });

  /** A NaN may lose its bits, though this version of Node happens to keep them. Whether there were words at all. */
  function storedNoNaN(): boolean {
    const words = stores.mock.calls.map(([, word]) => word);
    stores.mockClear();
    expect(words.filter((word) => Number.isNaN(word))).toEqual([]);
    return words.length > 0;
  }

  /** What would be NaN, were it beside the right byte; 7f is a character of its own. */
  const hostile = fc.constantFrom(
    '\u007f',
    '\u{1f600}',
    '\u{10ffff}',
    '\u00ff',
    '\uffff',
    'x',
    '\0',
  );

  it('bring a piece as it is, whatever characters are in it', () => {
    fc.assert(
      fc.property(fc.array(hostile, { maxLength: 40 }), (characters) => {
        const text = characters.join('');
        const bytes = written((out) => out.appendPiece(new Piece(text)));
        expect(Buffer.from(bytes, 'latin1').toString()).toBe(text);
        expect(storedNoNaN()).toBe(text !== '');
      }),
      { numRuns: 2000 },
    );
  });

  it('bring a number as it is, whatever lies behind it', () => {
    const number = fc.stringMatching(/^[0-9][0-9.e+-]{0,40}$/);
    const behind = fc.array(fc.constantFrom(0xff, 0x7f, 0xf0, 0xf8, 0, 1), { maxLength: 12 });
    fc.assert(
      fc.property(number, behind, fc.nat(9), (digits, others, skipped) => {
        const before = Buffer.alloc(skipped, 0xff);
        const src = Buffer.concat([before, Buffer.from(digits), Buffer.from(others)]);
        const piece = new Piece(',"key":');
        const bytes = written((out) =>
          out.appendKeyed(piece, src, skipped, skipped + digits.length),
        );
        expect(bytes).toBe(`,"key":${digits}`);
        expect(storedNoNaN()).toBe(true);
      }),
      { numRuns: 5000 },
    );
  });

  it('are not written behind the end of the buffer', () => {
    for (let room = 10; room < 20; room += 1) {
      const out = new LineBuffer(room);
      out.appendKeyed(new Piece('123'), Buffer.from('1234567        '), 0, 7);
      expect(out.bytes.toString('latin1', 0, out.length)).toBe('1231234567');
    }
  });
});

describe('the inside of a JSON string', () => {
  const character = fc.oneof(
    { weight: 20, arbitrary: fc.integer({ min: 0x20, max: 0x7e }) },
    { weight: 2, arbitrary: fc.constantFrom(0x22, 0x5c, 0x7f) },
    { weight: 1, arbitrary: fc.nat(0x1f) },
    { weight: 2, arbitrary: fc.constantFrom(0x80, 0xc3, 0xe9, 0x7ff, 0x800, 0x2026, 0x65e5) },
    { weight: 1, arbitrary: fc.constantFrom(0xd7ff, 0xe000, 0xffff, 0x10000, 0x1f600, 0x10ffff) },
  );
  const text = fc
    .array(character, { maxLength: 80 })
    .map((codes) => codes.map((code) => String.fromCodePoint(code)).join(''));

  /** Of characters that it leaves to its caller, the first byte's index. */
  function closerLook(src: Buffer): number {
    const rest = src.toString().search(/[\u0080-\u00bf\u0800-\u0fff\ud000-\ud7ff\u2028\u2029]/u);
    const upper = src.toString().search(/[\u{100000}-\u{10ffff}]/u);
    const found = [rest, upper].filter((index) => index >= 0);
    return found.length === 0
      ? src.length
      : Buffer.byteLength(src.toString().slice(0, Math.min(...found)));
  }

  it('is what JSON.stringify says, up to a byte that wants a closer look', () => {
    fc.assert(
      fc.property(text, fc.nat(7), (value, skipped) => {
        const src = Buffer.from(`${'A'.repeat(skipped)}${value}"\u65e5 behind it`);
        const end = skipped + Buffer.byteLength(value);
        let stopped = -1;
        const json = Buffer.from(
          written((out) => {
            stopped = out.appendEscaped(src, skipped, end);
          }),
          'latin1',
        );
        const stop = skipped + closerLook(Buffer.from(value));
        expect(stopped).toBe(stop);
        const passed = src.toString('utf8', skipped, stop);
        expect(json.toString()).toBe(JSON.stringify(passed).slice(1, -1));
      }),
      { numRuns: 5000 },
    );
  });

  it('stops at whatever is not well-formed', () => {
    const anything = fc.uint8Array({ maxLength: 12 });
    fc.assert(
      fc.property(anything, (values) => {
        const src = Buffer.from([...values, 0x80, 0xbf, 0xbf]);
        const out = new LineBuffer(4096);
        const stop = out.appendEscaped(src, 0, values.length);
        const passed = src.subarray(0, stop);
        expect(out.bytes.toString('utf8', 0, out.length)).toBe(
          JSON.stringify(passed.toString()).slice(1, -1),
        );
        expect(Buffer.from(passed.toString()).equals(passed)).toBe(true);
      }),
      { numRuns: 20000 },
    );
  });

  it.each(['e280a8', 'e280a9', 'c285', 'f0808080', 'f08fbfbf', 'eda080'])('stops at %s', (hex) => {
    const src = Buffer.from(`6161${hex}61616161`, 'hex');
    expect(new LineBuffer(4096).appendEscaped(src, 0, src.length)).toBe(2);
  });

  it('comes from several buffers in turn', () => {
    const sources = ['first', 'second', 'third'].map((source) => Buffer.from(`${source} padded`));
    const joined = written((out) => {
      for (const src of [...sources, ...sources.toReversed()]) out.appendEscaped(src, 0, 6);
    });
    expect(joined).toBe('first secondthird third secondfirst ');
  });
});
