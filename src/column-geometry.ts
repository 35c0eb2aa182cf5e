/**
 * Geometric types -> strings in which every number is written as Java writes a double, since that is what Airbyte's
 * Postgres source sends: `(3,7)` -> `"(3.0,7.0)"`, `(1e+24,0)` -> `"(1.0E24,0.0)"`.
 * https://docs.oracle.com/en/java/javase/21/docs/api/java.base/java/lang/Double.html#toString(double)
 */
import type { Encode } from './column-text.ts';

/** Without the sign; `NaN` and `Infinity` are the same words in Java. */
const NUMBER = /\d[\d.]*(?:e[+-]\d+)?/g;

/** point, lseg, path, box, polygon, line and circle. Rare enough for strings. */
export const encodeGeometry: Encode = (out, src, start, end) => {
  const text = src.toString('latin1', start, end).replace(NUMBER, javaDouble);
  out.length += out.bytes.write(`"${text}"`, out.length, 'latin1');
  return true;
};

/** Java and JavaScript write the same shortest digits; Java never without a point, and sooner with an exponent. */
function javaDouble(text: string): string {
  const value = Number(text);
  if (value === 0 || (value >= 1e-3 && value < 1e7)) {
    return Number.isInteger(value) ? `${value}.0` : String(value);
  }
  const [digits = '', exponent = ''] = value.toExponential().split('e');
  return `${digits}${digits.includes('.') ? '' : '.0'}E${Number(exponent)}`;
}
