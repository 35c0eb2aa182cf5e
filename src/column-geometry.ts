/**
 * Geometric types -> strings in which every number is written as Java writes a double, since that is what Airbyte's
 * Postgres source sends: `(3,7)` -> `"(3.0,7.0)"`, `(1e+24,0)` -> `"(1.0E24,0.0)"`.
 * The digits stay the server's: the shortest that read back as the same double.
 * https://docs.oracle.com/en/java/javase/21/docs/api/java.base/java/lang/Double.html#toString(double)
 */
import type { Encode } from './column-text.ts';

/** Powers of ten from which on, and below which, Java writes an exponent. */
const LARGE = 7;
const SMALL = -3;

/** Without the sign; `NaN` and `Infinity` are the same words in Java. */
const NUMBER = /(\d+)(?:\.(\d+))?(?:e([+-]\d+))?/g;

/** point, lseg, path, box, polygon, line and circle. Rare enough for strings. */
export const encodeGeometry: Encode = (out, src, start, end) => {
  const text = src.toString('latin1', start, end).replace(NUMBER, javaDouble);
  out.length += out.bytes.write(`"${text}"`, out.length, 'latin1');
  return true;
};

/** @param exponent with its sign. */
function javaDouble(_: string, whole: string, fraction = '', exponent = '0'): string {
  const digits = `${whole}${fraction}`.replace(/^0+/, '');
  if (digits === '') return '0.0';
  const leadingZeros = whole.length + fraction.length - digits.length;
  /** The first of `digits` counts ten to this power. */
  const power = Number(exponent) + whole.length - 1 - leadingZeros;
  const significant = digits.replace(/0+$/, '');
  if (power < SMALL || power >= LARGE) {
    return `${significant.charAt(0)}.${significant.slice(1) || '0'}E${power}`;
  }
  if (power < 0) return `0.${'0'.repeat(-power - 1)}${significant}`;
  const padded = significant.padEnd(power + 1, '0');
  return `${padded.slice(0, power + 1)}.${padded.slice(power + 1) || '0'}`;
}
