/**
 * Array literals (`{1,NULL,"a \"b\""}`) -> JSON arrays.
 * The syntax is array_out's: https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO
 */
import { type LineBuffer, Piece } from './airbyte/line-buffer.ts';
import type { Encode } from './column-text.ts';

const QUOTE = 0x22;
const EQUALS = 0x3d;
const OPEN_BRACKET = 0x5b;
const BACKSLASH = 0x5c;
const CLOSE_BRACKET = 0x5d;
const OPEN = 0x7b;
const CLOSE = 0x7d;
const COMMA = 0x2c;

const NULL = new Piece('null');

/** A scratch larger than this is dropped after the value, so that one giant element does not stay in memory. */
const SCRATCH_KEPT = 1 << 16;

/**
 * The encoder of an array column.
 * A value whose depth is not the declared one would not fit its json schema and has no JSON form (`[]` has every
 * depth). Neither has one with an element that has none (NaN in float8[]): a null in its place would look like a NULL of
 * the table, and a record can only say of a whole column that it was nulled.
 * Lower bounds (`[0:2]={...}`) are dropped, JSON has none.
 * @param element encoder of one element's text.
 * @param depth declared dimensions, at least 1.
 * @param delimiter byte between elements: `,`, for box `;`.
 */
export function arrayEncoder(element: Encode, depth: number, delimiter: number): Encode {
  const cells = new CellReader();
  return (out, src, start, end) => {
    const begin = out.length;
    let i = behindBounds(src, start, end);
    if (src[i] === OPEN && src[i + 1] === CLOSE && i + 2 === end) {
      putByte(out, OPEN_BRACKET);
      putByte(out, CLOSE_BRACKET);
      return true;
    }
    if (leadingBraces(src, i, end) !== depth) return false;
    let open = 0;
    let encodable = true;
    while (encodable && i < end) {
      const byte = src[i];
      if (byte === OPEN) {
        open++;
        putByte(out, OPEN_BRACKET);
        i++;
      } else if (byte === CLOSE) {
        open--;
        putByte(out, CLOSE_BRACKET);
        i++;
      } else if (byte === delimiter) {
        putByte(out, COMMA);
        i++;
      } else if (byte === QUOTE) {
        const from = i + 1;
        i = plainUntil(src, from, end);
        if (src[i] === QUOTE) {
          encodable = putCell(out, element, src, from, i);
          i++;
        } else {
          i = cells.read(src, from, end);
          encodable = putCell(out, element, cells.bytes, 0, cells.length);
        }
      } else {
        const from = i;
        while (i < end && src[i] !== delimiter && src[i] !== CLOSE) i++;
        if (isNull(src, from, i)) putNull(out);
        else encodable = putCell(out, element, src, from, i);
      }
    }
    cells.release();
    // Only an hstore[] full of control characters can break the bound that every caller relies on.
    return encodable && open === 0 && out.length - begin <= 6 * (end - start) + 64;
  };
}

/**
 * The encoder of an array column in binary format, to the same JSON: elements need no unescaping there.
 * https://github.com/postgres/postgres/blob/master/src/backend/utils/adt/arrayfuncs.c (array_send): dimensions, a flag, the
 * element's OID; size and lower bound of each dimension; the elements, each behind its length, -1 for NULL.
 * @param element encoder of one element in binary format. @param depth as in `arrayEncoder`.
 */
export function binaryArrayEncoder(element: Encode, depth: number): Encode {
  return (out, src, start) => {
    const dimensions = src.readInt32BE(start);
    if (dimensions !== depth && dimensions !== 0) return false;
    out.bytes[out.length++] = OPEN_BRACKET;
    if (dimensions === 1) {
      if (putElements(out, element, src, start + 20, src.readInt32BE(start + 12)) < 0) return false;
    } else if (dimensions > 1) {
      const sizes = Array.from({ length: dimensions }, (_, i) =>
        src.readInt32BE(start + 12 + 8 * i),
      );
      if (putNested(out, element, src, start + 12 + 8 * dimensions, sizes) < 0) return false;
    }
    out.bytes[out.length++] = CLOSE_BRACKET;
    return true;
  };
}

/** @param sizes of this dimension and those inside of it. @returns where the elements end; -1: one has no JSON form. */
function putNested(
  out: LineBuffer,
  element: Encode,
  src: Buffer,
  start: number,
  [size = 0, ...inner]: readonly number[],
): number {
  if (inner.length === 0) return putElements(out, element, src, start, size);
  let at = start;
  for (let i = 0; i < size && at >= 0; i++) {
    if (i > 0) out.bytes[out.length++] = COMMA;
    out.bytes[out.length++] = OPEN_BRACKET;
    at = putNested(out, element, src, at, inner);
    out.bytes[out.length++] = CLOSE_BRACKET;
  }
  return at;
}

/** As `putNested`, of the innermost dimension. */
function putElements(
  out: LineBuffer,
  element: Encode,
  src: Buffer,
  start: number,
  count: number,
): number {
  const lengths = out.viewOf(src);
  let at = start;
  for (let i = 0; i < count; i++) {
    if (i > 0) out.bytes[out.length++] = COMMA;
    const length = lengths.getInt32(at);
    at += 4;
    if (length < 0) out.appendPiece(NULL);
    else {
      if (!element(out, src, at, at + length)) return -1;
      at += length;
    }
  }
  return at;
}

/** Unescapes quoted elements into a buffer of its own, since element encoders want plain text in one piece. */
class CellReader {
  bytes: Buffer = Buffer.allocUnsafe(256);
  length = 0;

  /**
   * @param i index behind the opening quote.
   * @returns the index behind the closing one.
   */
  read(src: Buffer, i: number, end: number): number {
    let bytes = this.bytes;
    let length = 0;
    for (; i < end && src[i] !== QUOTE; i++) {
      if (src[i] === BACKSLASH) i++;
      if (length === bytes.length) bytes = this.grow();
      bytes[length++] = src[i]!;
    }
    this.length = length;
    return i + 1;
  }

  release(): void {
    if (this.bytes.length > SCRATCH_KEPT) this.bytes = Buffer.allocUnsafe(256);
  }

  private grow(): Buffer {
    const grown = Buffer.allocUnsafe(this.bytes.length * 2);
    this.bytes.copy(grown);
    this.bytes = grown;
    return grown;
  }
}

/** Where an element's closing quote is, or, before that, the first backslash. */
function plainUntil(src: Buffer, start: number, end: number): number {
  let i = start;
  while (i < end && src[i] !== QUOTE && src[i] !== BACKSLASH) i++;
  return i;
}

function putByte(out: LineBuffer, byte: number): void {
  out.reserve(1);
  out.bytes[out.length++] = byte;
}

function putNull(out: LineBuffer): void {
  out.reserve(NULL.length + 3);
  out.appendPiece(NULL);
}

function putCell(
  out: LineBuffer,
  element: Encode,
  src: Buffer,
  start: number,
  end: number,
): boolean {
  out.reserve(6 * (end - start) + 64);
  return element(out, src, start, end);
}

/** Behind `[0:2]=`, which array_out prints when a lower bound is not 1. No other value begins with a bracket. */
function behindBounds(src: Buffer, start: number, end: number): number {
  if (src[start] !== OPEN_BRACKET) return start;
  const equals = src.indexOf(EQUALS, start);
  return equals < 0 || equals >= end ? end : equals + 1;
}

/** The array's depth: arrays are rectangular, and an element that begins with a brace is quoted. */
function leadingBraces(src: Buffer, start: number, end: number): number {
  let i = start;
  while (i < end && src[i] === OPEN) i++;
  return i - start;
}

/** Unquoted NULL, which array_out writes in capitals; the text "NULL" comes quoted. */
function isNull(src: Buffer, start: number, end: number): boolean {
  if (end - start !== 4 || src[start] !== 0x4e || src[start + 1] !== 0x55) return false;
  return src[start + 2] === 0x4c && src[start + 3] === 0x4c;
}
