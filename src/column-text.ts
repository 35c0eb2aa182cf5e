/**
 * PostgreSQL's text output -> JSON, byte by byte, one function per rendering; dates and times are in column-times.ts,
 * geometric types in column-geometry.ts. This is the hot path: nothing here makes a string or an object for the common types.
 *
 * Every encoder trusts that the text comes from a type's output function (not from a cast to text, which prints
 * inet, bpchar and xml otherwise) under these session settings: client_encoding UTF8, DateStyle ISO,
 * IntervalStyle postgres, TimeZone UTC, extra_float_digits 1, bytea_output hex.
 */
import { type LineBuffer, Piece } from './airbyte/line-buffer.ts';

/**
 * Writes the JSON of one non-null value, given as PostgreSQL's text output (bytes src[start,end) in UTF-8),
 * at out.bytes[out.length...]. The caller has reserved 6*(end-start)+64 bytes; no value becomes longer than that, so
 * the room of a whole row may be reserved at once.
 * @returns false when the value has no JSON form (NaN, infinity ...): the caller resets out.length, writes null
 *   and notes it in meta.changes.
 */
export type Encode = (out: LineBuffer, src: Buffer, start: number, end: number) => boolean;

const QUOTE = 0x22;
const OPEN_PAREN = 0x28;
const CLOSE_PAREN = 0x29;
const COMMA = 0x2c;
const MINUS = 0x2d;
const DOT = 0x2e;
const ZERO = 0x30;
const NINE = 0x39;
const BACKSLASH = 0x5c;

/** From this length on a call into the runtime beats a loop (measured on Node 20). */
const COPY_CALL_FROM = 64;

/** Copies src[start,end) to bytes[at...] and returns the index behind the copy. Four at a time saves a third. */
export function put(bytes: Buffer, at: number, src: Buffer, start: number, end: number): number {
  if (end - start >= COPY_CALL_FROM) return at + src.copy(bytes, at, start, end);
  let i = start;
  for (const stop = end - 4; i <= stop; i += 4, at += 4) {
    bytes[at] = src[i]!;
    bytes[at + 1] = src[i + 1]!;
    bytes[at + 2] = src[i + 2]!;
    bytes[at + 3] = src[i + 3]!;
  }
  for (; i < end; i++) bytes[at++] = src[i]!;
  return at;
}

/** Of undefined, what lies behind the last byte: false. */
export function isDigit(byte: number | undefined): boolean {
  return byte !== undefined && byte >= ZERO && byte <= NINE;
}

/** Integers of any size and numerics leave as the digits they came as: no double in between. */
export const encodeDigits: Encode = (out, src, start, end) => {
  out.appendBytes(src, start, end);
  return true;
};

/**
 * numeric and floats. The server's `1e+24`, `1e-07` and `-0` are JSON as they are;
 * `NaN`, `Infinity` and `-Infinity` are not.
 */
export const encodeNumber: Encode = (out, src, start, end) => {
  if (!isDigit(src[src[start] === MINUS ? start + 1 : start])) return false;
  out.appendBytes(src, start, end);
  return true;
};

const TRUE = Buffer.from('true');
const FALSE = Buffer.from('false');

/** `t` or `f`. */
export const encodeBoolean: Encode = (out, src, start) => {
  const word = src[start] === 0x74 ? TRUE : FALSE;
  out.length = put(out.bytes, out.length, word, 0, word.length);
  return true;
};

/** Text that can hold nothing to escape (uuid, bits, network addresses, points ...), between quotes. */
export const encodePlain: Encode = (out, src, start, end) => {
  const { bytes } = out;
  bytes[out.length++] = QUOTE;
  out.appendBytes(src, start, end);
  bytes[out.length++] = QUOTE;
  return true;
};

/** `\x6869` -> `"\\x6869"`: only the leading backslash needs care, the rest is copied at once. */
export const encodeBytea: Encode = (out, src, start, end) => {
  if (src[start] !== BACKSLASH || src[start + 1] !== 0x78) return encodeText(out, src, start, end);
  out.bytes[out.length++] = QUOTE;
  out.bytes[out.length++] = BACKSLASH;
  out.appendBytes(src, start, end);
  out.bytes[out.length++] = QUOTE;
  return true;
};

/** `\x6869` -> `"aGk="`: elements of bytea[], which Airbyte's Postgres source sends so, unlike bytea itself. */
export const encodeBase64: Encode = (out, src, start, end) => {
  if (src[start] !== BACKSLASH || src[start + 1] !== 0x78) return false;
  const base64 = Buffer.from(src.toString('latin1', start + 2, end), 'hex').toString('base64');
  out.length += out.bytes.write(`"${base64}"`, out.length, 'latin1');
  return true;
};

/** `1` or `0`: elements of bit(1)[]. */
export const encodeBit: Encode = (out, src, start) => {
  const word = src[start] === 0x31 ? TRUE : FALSE;
  out.length = put(out.bytes, out.length, word, 0, word.length);
  return true;
};

const ESCAPED_NEXT_LINE = new Piece('\\u0085');
const ESCAPED_LINE_SEPARATOR = new Piece('\\u2028');
const ESCAPED_PARAGRAPH_SEPARATOR = new Piece('\\u2029');
const REPLACEMENT = new Piece('\ufffd');

/**
 * Length of the UTF-8 sequence at src[i] (its lead byte is >= 0x80), or, negative, of the ill-formed bytes that one
 * U+FFFD replaces ("maximal subpart", Unicode 3.9, table 3-7; what TextDecoder does).
 */
function sequenceLength(src: Buffer, i: number, end: number): number {
  const lead = src[i]!;
  if (lead < 0xc2 || lead > 0xf4) return -1;
  const count = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  // The second byte's range keeps out overlong forms, surrogates and what lies beyond U+10FFFF.
  let low = lead === 0xe0 ? 0xa0 : lead === 0xf0 ? 0x90 : 0x80;
  let high = lead === 0xed ? 0x9f : lead === 0xf4 ? 0x8f : 0xbf;
  for (let n = 1; n < count; n++) {
    const byte = i + n < end ? src[i + n]! : 0;
    if (byte < low || byte > high) return -n;
    low = 0x80;
    high = 0xbf;
  }
  return count;
}

/** U+0085, U+2028 or U+2029: line ends to some readers of lines, so they leave escaped. */
function isLineEnd(src: Buffer, i: number): boolean {
  if (src[i] === 0xc2) return src[i + 1] === 0x85;
  return src[i] === 0xe2 && src[i + 1] === 0x80 && (src[i + 2] === 0xa8 || src[i + 2] === 0xa9);
}

/** What stands in JSON for a line end, or for bytes that are ill-formed. */
function substitute(src: Buffer, i: number): Piece {
  if (!isLineEnd(src, i)) return REPLACEMENT;
  if (src[i] === 0xc2) return ESCAPED_NEXT_LINE;
  return src[i + 2] === 0xa8 ? ESCAPED_LINE_SEPARATOR : ESCAPED_PARAGRAPH_SEPARATOR;
}

/**
 * Any text. Invalid UTF-8 (a SQL_ASCII database may send it) leaves as U+FFFD, never as it is:
 * one bad byte would make the whole line unreadable.
 */
export const encodeText: Encode = (out, src, start, end) => {
  out.bytes[out.length++] = QUOTE;
  let i = out.appendEscaped(src, start, end);
  while (i < end) {
    // Not ASCII: only there does it stop.
    const count = sequenceLength(src, i, end);
    if (count > 0 && !isLineEnd(src, i)) out.appendBytes(src, i, i + count);
    else out.appendPiece(substitute(src, i));
    i = out.appendEscaped(src, i + Math.abs(count), end);
  }
  out.bytes[out.length++] = QUOTE;
  return true;
};

/**
 * `$1,234.56`, `-$1,234.56`, `($1.00)` -> a number. What it looks like is the server's `lc_monetary`; only the
 * unmistakable forms are read (sign, symbol, groups of three after commas, no fraction or two digits after a dot),
 * so that `1.234,56 €` becomes null with a note and never a wrong amount.
 */
export const encodeMoney: Encode = (out, src, start, end) => {
  const bytes = out.bytes;
  let at = out.length;
  let i = start;
  let negative = false;
  for (; i < end && !isDigit(src[i]); i++) {
    const byte = src[i];
    if (byte === DOT || byte === COMMA) return false;
    if (byte === MINUS || byte === OPEN_PAREN) negative = true;
  }
  if (src[end - 1] === CLOSE_PAREN) end--;
  if (i >= end) return false;
  if (negative) bytes[at++] = MINUS;
  const point = end - 3 > i && src[end - 3] === DOT ? end - 3 : end;
  for (; i < point; i++) {
    if (src[i] === COMMA && (point - i) % 4 === 0) continue;
    if (!isDigit(src[i])) return false;
    bytes[at++] = src[i]!;
  }
  out.length = put(bytes, at, src, point, end);
  return point === end || (isDigit(src[end - 2]) && isDigit(src[end - 1]));
};

const HSTORE_PAIR = /"((?:[^"\\]|\\.)*)"=>(?:"((?:[^"\\]|\\.)*)"|NULL)(?:, |$)/suy;

const unquote = (part: string): string => part.replace(/\\(.)/gsu, '$1');

/** hstore's own text `"a"=>"1", "b"=>NULL` as JSON object text, or undefined when it is not of that form. */
function hstoreToJson(text: string): string | undefined {
  const pairs: string[] = [];
  HSTORE_PAIR.lastIndex = 0;
  let done = 0;
  for (let pair = HSTORE_PAIR.exec(text); pair !== null; pair = HSTORE_PAIR.exec(text)) {
    const [, key = '', value] = pair;
    const json = value === undefined ? 'null' : JSON.stringify(unquote(value));
    pairs.push(`${JSON.stringify(unquote(key))}:${json}`);
    done = HSTORE_PAIR.lastIndex;
  }
  return done === text.length ? `{${pairs.join(',')}}` : undefined;
}

const LINE_ENDS = /[\u0085\u2028\u2029]/gu;

function escapeLineEnd(found: string): string {
  return `\\u${found.charCodeAt(0).toString(16).padStart(4, '0')}`;
}

/**
 * hstore: a string that holds a JSON object, nulls kept. Rare enough for strings.
 * Escaped twice, a control character takes seven bytes: a value of a hundred of them and little else does not fit the
 * room of its caller and has no JSON form.
 */
export const encodeHstore: Encode = (out, src, start, end) => {
  const json = hstoreToJson(src.toString('utf8', start, end));
  if (json === undefined) return encodeText(out, src, start, end);
  const bytes = Buffer.from(JSON.stringify(json).replace(LINE_ENDS, escapeLineEnd));
  if (bytes.length > 6 * (end - start) + 64) return false;
  out.length = put(out.bytes, out.length, bytes, 0, bytes.length);
  return true;
};
