/**
 * double precision in PostgreSQL's binary format, to the digits that the server prints with extra_float_digits = 1: the
 * shortest that are read as the same number. Values of up to 15 digits, what people and sensors write, are printed here in
 * a third of the server's time; longer ones take longer than there, so whoever reads chooses by what the column holds.
 *
 * A decimal of up to 15 digits is told from all others of that length by its double (DBL_DIG), so where one is read as the
 * number it is the shortest but for its zeros at the end. https://github.com/postgres/postgres/blob/master/src/common/d2s.c
 */
import type { LineBuffer } from './airbyte/line-buffer.ts';
import type { Encode } from './column-text.ts';

const MINUS = 0x2d;
const DOT = 0x2e;
const ZERO = 0x30;
/** Exact as doubles, so that a quotient by one of them is rounded once. */
const POWERS = Float64Array.from({ length: 23 }, (_, exponent) => Number(`1e${exponent}`));
/** 15 digits at most. */
const SCALED_END = 1e15;
/** In between the server prints without an exponent. */
const FIXED_FROM = 1e-4;
const FIXED_END = 1e15;
const MOST_PLACES = 18;
/** The two digits of each number below 100. */
const PAIRS = Int16Array.from(
  { length: 100 },
  (_, n) => ((ZERO + Math.floor(n / 10)) << 8) | (ZERO + (n % 10)),
);

/** Of one column: what its values were like. */
export type FloatsSeen = {
  /** But for zeros and what has no JSON form. */
  values: number;
  /** Those of more than 15 digits, or with an exponent. */
  long: number;
};

/** The encoder of a column; the contract is in column-text.ts, but for what it reads: the 8 bytes of a double. */
export function floatEncoder(seen: FloatsSeen): Encode {
  /** Decimal places of the value before: mostly those of the next one. */
  let usual = 0;
  return (out, src, start) => {
    const value = out.viewOf(src).getFloat64(start);
    const size = Math.abs(value);
    seen.values += 1;
    if (size >= FIXED_FROM && size < FIXED_END) {
      let places = usual;
      let scaled = Math.round(size * (POWERS[places] as number));
      if (scaled >= SCALED_END || scaled / (POWERS[places] as number) !== size) {
        places = placesOf(size);
        scaled = Math.round(size * (POWERS[places] as number));
      }
      if (places < MOST_PLACES) {
        usual = places;
        putScaled(out, value < 0, scaled, places);
        return true;
      }
      seen.long += 1;
      putText(out, String(value));
      return true;
    }
    if (size === 0) {
      putText(out, Object.is(value, 0) ? '0' : '-0');
      return true;
    }
    if (!Number.isFinite(value)) return false;
    seen.long += 1;
    putText(out, withExponent(value));
    return true;
  };
}

/** How many decimal places make a whole number of up to 15 digits that is read as the value; MOST_PLACES: none do. */
function placesOf(size: number): number {
  for (let places = 0; places < MOST_PLACES; places += 1) {
    const power = POWERS[places] as number;
    const scaled = Math.round(size * power);
    if (scaled >= SCALED_END) break;
    if (scaled / power === size) return places;
  }
  return MOST_PLACES;
}

/** Writes `scaled` / 10^`places`, without zeros at the end. */
function putScaled(out: LineBuffer, negative: boolean, scaled: number, places: number): void {
  const { view } = out;
  let at = out.length;
  if (negative) view.setInt8(at++, MINUS);
  const power = POWERS[places] as number;
  const whole = Math.floor(scaled / power);
  at = putWhole(view, at, whole);
  const rest = scaled - whole * power;
  if (rest !== 0) {
    view.setInt8(at, DOT);
    at = putDigits(view, at + 1, rest, places);
    while (view.getInt8(at - 1) === ZERO) at -= 1;
  }
  out.length = at;
}

/** @returns the index behind the digits. */
function putWhole(view: DataView, at: number, value: number): number {
  if (value < 10) {
    view.setInt8(at, ZERO + value);
    return at + 1;
  }
  if (value < 100) {
    view.setInt16(at, PAIRS[value] as number);
    return at + 2;
  }
  let count = 3;
  while (value >= (POWERS[count] as number)) count += 1;
  return putDigits(view, at, value, count);
}

/** Writes so many digits, with zeros in front. */
function putDigits(view: DataView, at: number, value: number, count: number): number {
  let low = value;
  let behind = at + count;
  for (; low > 0x7fffffff; behind -= 8) {
    const high = Math.floor(low / 1e8);
    putEight(view, behind - 8, (low - high * 1e8) | 0);
    low = high;
  }
  let rest = low | 0;
  for (; behind - at >= 2; behind -= 2) {
    const hundreds = (rest / 100) | 0;
    view.setInt16(behind - 2, PAIRS[rest - hundreds * 100] as number);
    rest = hundreds;
  }
  if (behind > at) view.setInt8(at, ZERO + (rest % 10));
  return at + count;
}

function putEight(view: DataView, at: number, value: number): void {
  let rest = value;
  for (let i = 6; i >= 0; i -= 2) {
    const hundreds = (rest / 100) | 0;
    view.setInt16(at + i, PAIRS[rest - hundreds * 100] as number);
    rest = hundreds;
  }
}

/** ASCII. */
function putText(out: LineBuffer, text: string): void {
  const { bytes } = out;
  let at = out.length;
  for (let i = 0; i < text.length; i += 1) bytes[at++] = text.charCodeAt(i);
  out.length = at;
}

/** As the server prints what is not fixed: `1.5e-07`, `1e+21`. */
function withExponent(value: number): string {
  const text = Math.abs(value) < WHOLE_FROM ? value.toExponential() : wholeDigits(value);
  const at = text.indexOf('e') + 2;
  return `${text.slice(0, at)}${text.slice(at).padStart(2, '0')}`;
}

/** From here on a decimal can lie in the middle between two doubles. */
const WHOLE_FROM = 2 ** 53;

/**
 * The shortest decimal that is closer to the number than to any other: the server does not take one in the middle between
 * two, which JavaScript does, as readers are to take the even one.
 */
function wholeDigits(value: number): string {
  let text = value.toExponential();
  for (let digits = 1; Number(text) !== value || isMiddle(text, value); digits += 1)
    text = value.toExponential(digits);
  return text;
}

/** Whether a decimal lies in the middle between the number and one of its neighbours, exactly. */
function isMiddle(text: string, value: number): boolean {
  const [, digits = '', exponent = ''] = /^-?([\d.]+)e\+(\d+)$/.exec(text) ?? [];
  const [whole = '', fraction = ''] = digits.split('.');
  // So many digits of a number below 10^16 are the number itself.
  const zeros = Number(exponent) - fraction.length;
  if (zeros < 0) return false;
  const decimal = BigInt(whole + fraction) * 10n ** BigInt(zeros);
  const size = Math.abs(value);
  return neighbours(size).some((other) => BigInt(size) + BigInt(other) === 2n * decimal);
}

/** The finite doubles before and after one above zero. */
function neighbours(size: number): readonly number[] {
  const bits = new BigInt64Array(new Float64Array([size]).buffer);
  const [own = 0n] = bits;
  return [own - 1n, own + 1n]
    .map((other) => new Float64Array(new BigInt64Array([other]).buffer)[0] ?? Infinity)
    .filter((other) => Number.isFinite(other));
}
