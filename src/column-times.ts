/**
 * Dates and times: PostgreSQL's text under DateStyle ISO -> ISO 8601, with the digits that Airbyte's Postgres source
 * writes. The contract of an encoder, and what it may rely on, is in column-text.ts.
 */
import type { LineBuffer } from './airbyte/line-buffer.ts';
import { encodePlain, isDigit, put, type Encode } from './column-text.ts';

const QUOTE = 0x22;
const DOT = 0x2e;
const ZERO = 0x30;
const COLON = 0x3a;
const SPACE = 0x20;

/** `HH:MM:SS` */
const CLOCK_BYTES = 8;

/** `1999-01-08`, `1991-02-10 BC`; years past 9999 as the server prints them. `infinity` has no JSON form. */
export const encodeDate: Encode = (out, src, start, end) =>
  isDigit(src[start]) && encodePlain(out, src, start, end);

/** time: 0, 3 or 6 digits of fraction. */
export const encodeTime: Encode = (out, src, start, end) => {
  if (end - start < CLOCK_BYTES) return false;
  const bytes = out.bytes;
  let at = out.length;
  bytes[at++] = QUOTE;
  at = putTime(bytes, at, src, start, end);
  bytes[at++] = QUOTE;
  out.length = at;
  return true;
};

/** timetz: the offset is kept, `Z` for zero. An offset with seconds has no JSON form. */
export const encodeTimeTz: Encode = (out, src, start, end) => {
  if (end - start < CLOCK_BYTES + 3) return false;
  const bytes = out.bytes;
  let at = out.length;
  bytes[at++] = QUOTE;
  let offset = start + CLOCK_BYTES;
  while (src[offset] === DOT || isDigit(src[offset])) offset++;
  at = putTime(bytes, at, src, start, offset);
  at = putOffset(bytes, at, src, offset, end);
  if (at < 0) return false;
  bytes[at++] = QUOTE;
  out.length = at;
  return true;
};

/** `2004-10-19 10:23:54[.f][ BC]` -> `"2004-10-19T10:23:54[.f][ BC]"`; `infinity` has no JSON form. */
export const encodeTimestamp: Encode = (out, src, start, end) => {
  if (!isDigit(src[start])) return false;
  const bytes = out.bytes;
  let at = out.length;
  bytes[at++] = QUOTE;
  let i = start;
  while (i < end && src[i] !== SPACE) bytes[at++] = src[i++]!;
  const era = src[end - 1] === 0x43 ? end - 3 : end;
  if (era - i <= CLOCK_BYTES) return false;
  bytes[at++] = 0x54;
  at = putClock(bytes, at, src, i + 1, era);
  at = put(bytes, at, src, era, end);
  bytes[at++] = QUOTE;
  out.length = at;
  return true;
};

/** `2004-10-19 10:23:54[.f]+00[ BC]` -> `"2004-10-19T10:23:54.ffffffZ[ BC]"`, always with six digits. */
export const encodeTimestampTz: Encode = (out, src, start, end) =>
  out.appendInstant(src, start, end) || putTimestampTz(out, src, start, end);

/** Of any form: with an era, more digits in its year, another offset. */
function putTimestampTz(out: LineBuffer, src: Buffer, start: number, end: number): boolean {
  if (!isDigit(src[start])) return false;
  const bytes = out.bytes;
  let at = out.length;
  bytes[at++] = QUOTE;
  let i = start;
  while (i < end && src[i] !== SPACE) bytes[at++] = src[i++]!;
  if (end - i <= CLOCK_BYTES) return false;
  bytes[at++] = 0x54;
  i = putMicroseconds(bytes, at, src, i + 1, end);
  at += 15;
  const era = src[end - 1] === 0x43 ? end - 3 : end;
  at = putOffset(bytes, at, src, i, era);
  if (at < 0) return false;
  at = put(bytes, at, src, era, end);
  bytes[at++] = QUOTE;
  out.length = at;
  return true;
}

const LAST_NANOSECOND = Buffer.from('23:59:59.999999999');

/** A clock; the server's 24:00:00 is no ISO time of day: the last one that Java knows stands for it. */
function putTime(bytes: Buffer, at: number, src: Buffer, start: number, end: number): number {
  if (src[start] !== 0x32 || src[start + 1] !== 0x34) return putClock(bytes, at, src, start, end);
  return put(bytes, at, LAST_NANOSECOND, 0, LAST_NANOSECOND.length);
}

/**
 * `04:05:06[.f]` at src[i,end). The server prints a fraction without zeros at its end; it leaves with three or six
 * digits. A full second leaves as it is, a full minute with `.000000`.
 * @returns the index behind it.
 */
function putClock(bytes: Buffer, begin: number, src: Buffer, i: number, end: number): number {
  let at = put(bytes, begin, src, i, end);
  let digits = end - i - CLOCK_BYTES - 1;
  if (digits < 0) {
    if (src[i + 6] !== ZERO || src[i + 7] !== ZERO) return at;
    bytes[at++] = DOT;
    digits = 0;
  } else if (digits <= 3) {
    for (; digits < 3; digits++) bytes[at++] = ZERO;
    return at;
  }
  for (; digits < 6; digits++) bytes[at++] = ZERO;
  return at;
}

/**
 * HH:MM:SS[.f] at src[i,end) -> exactly 15 bytes with six digits of fraction at bytes[at...].
 * @returns the index in src behind the clock.
 */
function putMicroseconds(bytes: Buffer, at: number, src: Buffer, i: number, end: number): number {
  for (const stop = i + CLOCK_BYTES; i < stop; i++) bytes[at++] = src[i]!;
  const full = at + 7;
  bytes[at++] = DOT;
  if (src[i] === DOT && i < end) {
    for (i++; i < end && at < full && isDigit(src[i]); i++) bytes[at++] = src[i]!;
  }
  while (at < full) bytes[at++] = ZERO;
  return i;
}

/**
 * `+00` -> `Z`, `+08` -> `+08:00`, `-05:30` as it is.
 * @returns the index behind it, or -1 for what ISO 8601 cannot say (offsets with seconds).
 */
function putOffset(bytes: Buffer, at: number, src: Buffer, i: number, end: number): number {
  const length = end - i;
  if (length === 3 && src[i + 1] === ZERO && src[i + 2] === ZERO) {
    bytes[at++] = 0x5a;
    return at;
  }
  if (length !== 3 && length !== 6) return -1;
  at = put(bytes, at, src, i, end);
  if (length === 6) return at;
  bytes[at++] = COLON;
  bytes[at++] = ZERO;
  bytes[at++] = ZERO;
  return at;
}
