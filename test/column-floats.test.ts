/** Binary floats, against the digits that JavaScript prints: the same wherever the server writes no exponent. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { floatEncoder } from '../src/column-floats.ts';
import { encoded } from './encoded.ts';

function printed(value: number, encode = floatEncoder({ values: 0, long: 0 })): string | null {
  const bytes = Buffer.alloc(8);
  bytes.writeDoubleBE(value);
  return encoded(encode, bytes);
}

const decimal = fc
  .tuple(fc.bigInt({ min: -(10n ** 15n) + 1n, max: 10n ** 15n - 1n }), fc.nat(14))
  .map(([digits, places]) => Number(`${digits}e-${places}`));
const short = fc
  .tuple(fc.integer({ min: -1_000_000, max: 1_000_000 }), fc.nat(6))
  .map(([digits, places]) => Number(`${digits}e-${places}`));
const any = fc.double({ noNaN: true, noDefaultInfinity: true });

function isFixed(value: number): boolean {
  return value === 0 || (Math.abs(value) >= 1e-4 && Math.abs(value) < 1e15);
}

describe('double precision in binary format', () => {
  it('prints as JavaScript does what has no exponent, whatever came before it', () => {
    fc.assert(
      fc.property(fc.array(fc.oneof(short, decimal, any).filter(isFixed)), (values) => {
        const encode = floatEncoder({ values: 0, long: 0 });
        const texts = values.map((value) => printed(value, encode));
        expect(texts).toEqual(values.map((value) => (Object.is(value, -0) ? '-0' : String(value))));
      }),
      { numRuns: 2000 },
    );
  });

  it('prints an exponent of two digits, and what is read as the same number', () => {
    fc.assert(
      fc.property(
        any.filter((value) => !isFixed(value)),
        (value) => {
          const text = printed(value);
          expect(text).toMatch(/^-?\d(\.\d+)?e[-+]\d{2,3}$/);
          expect(Number(text)).toBe(value);
        },
      ),
    );
  });

  // As PostgreSQL 17 prints them.
  it.each([
    [0, '0'],
    [-0, '-0'],
    [1, '1'],
    [-273.15, '-273.15'],
    [100, '100'],
    [0.1 + 0.2, '0.30000000000000004'],
    [99_999_999.5, '99999999.5'],
    [123_456_789_012_345, '123456789012345'],
    [999_999_999_999_999, '999999999999999'],
    [0.000_1, '0.0001'],
    [0.000_123_456_789_012_345, '0.000123456789012345'],
    [0.000_01, '1e-05'],
    [9.5e-7, '9.5e-07'],
    [5e-324, '5e-324'],
    [1.797_693_134_862_315_7e308, '1.7976931348623157e+308'],
    [1e15, '1e+15'],
    [9_007_199_254_740_992, '9.007199254740992e+15'],
    [1e22, '1e+22'],
    // In the middle between two doubles: JavaScript prints 1e+23 and 8.41e+21.
    [1e23, '9.999999999999999e+22'],
    [8.41e21, '8.409999999999999e+21'],
    [-1e23, '-9.999999999999999e+22'],
    // Powers of two: what lies below is closer than what lies above.
    [2 ** 60, '1.152921504606847e+18'],
    [2 ** 89, '6.189700196426902e+26'],
    [2 ** 405, '8.263199609878108e+121'],
  ])('%f is %s', (value, text) => {
    expect(printed(value)).toBe(text);
  });

  it.each([Number.NaN, Infinity, -Infinity])('%f has no JSON form', (value) => {
    expect(printed(value)).toBeNull();
  });

  it('counts values, and those that the server prints faster', () => {
    const seen = { values: 0, long: 0 };
    const encode = floatEncoder(seen);
    for (const value of [21.5, 0, 1 / 3, 1e-7, 1e20, 7]) printed(value, encode);
    expect(seen).toEqual({ values: 6, long: 3 });
  });
});
