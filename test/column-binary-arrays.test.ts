/** Arrays of texts in binary format, against their text. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { binaryEncoder, columnType } from '../src/column-types.ts';
import { encoded } from './encoded.ts';

const TEXT_ARRAY = 1009;
const TEXT = 25;

type Nested = readonly (string | null | Nested)[];

/** As array_out prints it, with all quotes that it may print. */
function literal(value: Nested): string {
  const parts = value.map((item) => {
    if (item === null) return 'NULL';
    return typeof item === 'string' ? `"${item.replaceAll(/["\\]/g, '\\$&')}"` : literal(item);
  });
  return `{${parts.join(',')}}`;
}

function int32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32BE(value);
  return bytes;
}

function elements(value: Nested): Buffer {
  return Buffer.concat(
    value.map((item) => {
      if (item === null) return int32(-1);
      if (typeof item !== 'string') return elements(item);
      const bytes = Buffer.from(item);
      return Buffer.concat([int32(bytes.length), bytes]);
    }),
  );
}

/** As array_send sends it. */
function binary(value: Nested, lowerBound = 1): Buffer {
  const sizes: number[] = [];
  for (let at: Nested | string | null | undefined = value; Array.isArray(at); at = at[0])
    sizes.push(at.length);
  const empty = sizes[0] === 0;
  const dimensions = empty ? [] : sizes.flatMap((size) => [int32(size), int32(lowerBound)]);
  const head = [int32(empty ? 0 : sizes.length), int32(0), int32(TEXT), ...dimensions];
  return Buffer.concat([...head, elements(value)]);
}

function fromText(value: Nested, depth: number): string | null {
  const { encode } = columnType(TEXT_ARRAY, -1, depth, new Map());
  return encoded(encode, Buffer.from(literal(value)));
}

function fromBinary(value: Buffer, depth: number): string | null {
  return encoded(binaryEncoder(TEXT_ARRAY, depth), value);
}

const text = fc.oneof(
  fc.string({ unit: 'grapheme', maxLength: 12 }),
  fc.string({
    unit: fc.constantFrom('\\', '"', '\n', '\u0001', '\u2028', 'é', ',', '{'),
    maxLength: 12,
  }),
);
const item = fc.option(text, { freq: 6 });

/** Rectangular, of a depth. */
function arrays(depth: number): fc.Arbitrary<Nested> {
  const sizes = fc.array(fc.integer({ min: 1, max: 3 }), { minLength: depth, maxLength: depth });
  const nested = ([size = 0, ...inner]: readonly number[]): fc.Arbitrary<Nested> => {
    const one: fc.Arbitrary<string | null | Nested> = inner.length === 0 ? item : nested(inner);
    return fc.array(one, { minLength: size, maxLength: size });
  };
  return fc.oneof({ weight: 9, arbitrary: sizes.chain(nested) }, fc.constant([]));
}

describe('arrays of texts in binary format', () => {
  it('are what they are from their text, whatever their depth and the declared one', () => {
    const cases = fc
      .integer({ min: 1, max: 3 })
      .chain((depth) =>
        fc.tuple(arrays(depth), fc.integer({ min: 0, max: 3 }), fc.integer({ min: -5, max: 5 })),
      );
    fc.assert(
      fc.property(cases, ([value, declared, lowerBound]) => {
        const expected = fromText(value, declared);
        expect(fromBinary(binary(value, lowerBound), declared)).toBe(expected);
      }),
      { numRuns: 1000 },
    );
  });

  it('have exactly these bytes', () => {
    expect(fromBinary(binary(['a "b"', null, '', 'NULL']), 1)).toBe('["a \\"b\\"",null,"","NULL"]');
    expect(
      fromBinary(
        binary([
          ['a', 'b'],
          ['c', null],
        ]),
        2,
      ),
    ).toBe('[["a","b"],["c",null]]');
    expect(fromBinary(binary([]), 2)).toBe('[]');
    expect(fromBinary(binary(['a']), 2)).toBeNull();
  });

  it('are read so for text, varchar, char(n) and name alone', () => {
    const read = [1009, 1015, 1014, 1003, 1007, 2951, 3807, 1001, TEXT];
    expect(read.filter((oid) => binaryEncoder(oid, 1) !== undefined)).toEqual([
      1009, 1015, 1014, 1003,
    ]);
  });
});
