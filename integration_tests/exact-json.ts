/**
 * JSON that keeps every digit. `JSON.parse` rounds 9007199254740993 and 0.10000000000000000001; such a number is kept
 * as its text, every other one stays an ordinary number.
 */

/** A number that a double cannot hold. */
export type ExactNumber = { readonly digits: string };

export type ExactValue = null | boolean | number | string | ExactNumber | readonly ExactValue[];

/** Longer than a double is sure to hold, or so near zero that it loses digits. Strings may match too: no harm. */
const PERHAPS_INEXACT = /9\d{15}|\d[\d.]{16,}|\d[eE][+-]?\d{3}/;

/** A string, which is skipped, or a number. */
const STRING_OR_NUMBER = /"[^"\\]*(?:\\.[^"\\]*)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;

/** Parses; numbers whose digits a double may lose come as `ExactNumber`. */
export function parseExact(json: string): unknown {
  return PERHAPS_INEXACT.test(json) ? parseTokens(json, PERHAPS_INEXACT) : JSON.parse(json);
}

/** Parses; all numbers come as `ExactNumber`. */
export function parseDigits(json: string): unknown {
  return parseTokens(json, /^/);
}

function parseTokens(json: string, exact: RegExp): unknown {
  return JSON.parse(
    json.replace(STRING_OR_NUMBER, (token) =>
      token.startsWith('"') || !exact.test(token) ? token : `{"digits":"${token}"}`,
    ),
  );
}

export function isExactNumber(value: unknown): value is ExactNumber {
  return typeof value === 'object' && value !== null && 'digits' in value;
}

/**
 * One text per numeric value: `1.50`, `1.5` and `15e-1` are the same, `-0` is 0.
 * @param digits a JSON number's text.
 */
export function canonicalNumber(digits: string): string {
  // By far the most numbers are short integers, which are their own canonical form.
  if (/^-?[1-9]\d{0,14}$|^0$/.test(digits)) return digits;
  const match = /^(-?)(\d+)(?:\.(\d+))?(?:[eE]([+-]?\d+))?$/.exec(digits);
  if (match === null) throw new Error(`not a number: ${digits}`);
  const [, sign = '', whole = '', fraction = '', exponent = '0'] = match;
  const significant = `${whole}${fraction}`.replace(/^0+/, '');
  const stripped = significant.replace(/0+$/, '');
  if (stripped === '') return '0';
  const power = Number(exponent) - fraction.length + (significant.length - stripped.length);
  if (power === 0) return `${sign}${stripped}`;
  if (power > 0 && power < 30) return `${sign}${stripped}${'0'.repeat(power)}`;
  return `${sign}${stripped}e${power}`;
}
