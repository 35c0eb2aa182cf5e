/** Binary dates and timestamps, against their text: what the server would print, made with JavaScript's own calendar. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { binaryEncoder, columnType } from '../src/column-types.ts';
import { encoded } from './encoded.ts';

const DATE = 1082;
const TIMESTAMP = 1114;
const TIMESTAMPTZ = 1184;
const Y2K_MS = Date.UTC(2000, 0, 1);
const DAY_MS = 86_400_000;
/** What Date can hold, which is nearly what a timestamp can: 4713 BC to 275760. */
const FIRST_MS = Date.UTC(-4712, 0, 2);
const LAST_MS = 8.64e15;

function fromText(typeOid: number, text: string): string | null {
  return encoded(columnType(typeOid, -1, 0, new Map()).encode, Buffer.from(text));
}

function fromBinary(typeOid: number, value: bigint): string | null {
  const bytes = Buffer.alloc(typeOid === DATE ? 4 : 8);
  if (typeOid === DATE) bytes.writeInt32BE(Number(value));
  else bytes.writeBigInt64BE(value);
  return encoded(binaryEncoder(typeOid, 0), bytes);
}

/** `2004-10-19`, and what stands behind everything. */
function printed(ms: number): readonly [date: string, era: string] {
  const at = new Date(ms);
  const year = at.getUTCFullYear();
  const pad = (value: number, digits: number): string => String(value).padStart(digits, '0');
  const date = `${pad(year > 0 ? year : 1 - year, 4)}-${pad(at.getUTCMonth() + 1, 2)}-${pad(at.getUTCDate(), 2)}`;
  return [date, year > 0 ? '' : ' BC'];
}

function printedTimestamp(ms: number, micros: number, zone: string): string {
  const [date, era] = printed(ms);
  const clock = new Date(ms).toISOString().slice(-13, -5);
  const fraction = String((ms - Math.floor(ms / 1000) * 1000) * 1000 + micros).padStart(6, '0');
  const digits = fraction.replace(/0+$/, '');
  return `${date} ${clock}${digits === '' ? '' : `.${digits}`}${zone}${era}`;
}

const milliseconds = fc.oneof(
  fc.integer({ min: FIRST_MS, max: LAST_MS }),
  fc.integer({ min: Date.UTC(1990, 0, 1), max: Date.UTC(2040, 0, 1) }),
  // Full minutes, seconds and days, and what lies just before them.
  fc
    .tuple(
      fc.integer({ min: -200_000, max: 200_000 }),
      fc.constantFrom(0, 1, -1, 1000, 60_000, -1000),
    )
    .map(([day, more]) => day * DAY_MS + more),
  fc.constantFrom(Date.UTC(10_000, 0, 1), Date.UTC(9999, 11, 31), FIRST_MS, LAST_MS - 1000),
  // Years 0 and 1: Date.UTC takes them for 1900 and 1901.
  fc.constantFrom(-62_135_596_800_000, -62_135_596_800_001, -62_167_219_200_000),
);
const micros = fc.oneof(fc.constant(0), fc.nat(999));

describe.each([
  ['timestamp', TIMESTAMP, ''],
  ['timestamptz', TIMESTAMPTZ, '+00'],
])('%s', (_, oid, zone) => {
  it('is the same as from its text', () => {
    fc.assert(
      fc.property(milliseconds, micros, (ms, rest) => {
        const value = BigInt(ms - Y2K_MS) * 1000n + BigInt(rest);
        const expected = fromText(oid, printedTimestamp(ms, rest, zone));
        expect(expected).not.toBeNull();
        expect(fromBinary(oid, value)).toBe(expected);
      }),
      { numRuns: 20_000 },
    );
  });

  it.each([
    ['9223371331199999999', `294276-12-31 23:59:59.999999${zone}`],
    ['-211813488000000000', `4714-11-24 00:00:00${zone} BC`],
    ['0', `2000-01-01 00:00:00${zone}`],
    ['-1', `1999-12-31 23:59:59.999999${zone}`],
  ])('%s microseconds are %s', (value, text) => {
    expect(fromBinary(oid, BigInt(value))).toBe(fromText(oid, text));
  });

  it('has no JSON form at infinity', () => {
    expect(fromBinary(oid, 2n ** 63n - 1n)).toBeNull();
    expect(fromBinary(oid, -(2n ** 63n))).toBeNull();
  });
});

describe('date', () => {
  it('is the same as from its text', () => {
    fc.assert(
      fc.property(milliseconds, (ms) => {
        const day = Math.floor((ms - Y2K_MS) / DAY_MS);
        const expected = fromText(DATE, printed(day * DAY_MS + Y2K_MS).join(''));
        expect(fromBinary(DATE, BigInt(day))).toBe(expected);
      }),
      { numRuns: 20_000 },
    );
  });

  it.each([
    [2_145_031_948, '5874897-12-31'],
    [-2_451_545, '4714-11-24 BC'],
  ])('%s days are %s', (day, text) => {
    expect(fromBinary(DATE, BigInt(day))).toBe(fromText(DATE, text));
  });

  it('has no JSON form at infinity', () => {
    expect(fromBinary(DATE, 2n ** 31n - 1n)).toBeNull();
    expect(fromBinary(DATE, -(2n ** 31n))).toBeNull();
  });
});
