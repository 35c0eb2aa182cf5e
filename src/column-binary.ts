/**
 * Dates and timestamps in PostgreSQL's binary format, to the same JSON as their text. Printing them costs the server more
 * than anything else that is common, and here next to nothing, since neighbouring rows share their day. For other types
 * text is as good or better (`npm run bench -- read`): digits have to be made somewhere. With ten floats in a row, the server
 * would save a third of its time and we would spend nearly as much more: no row would come sooner.
 * https://github.com/postgres/postgres/blob/master/src/backend/utils/adt/timestamp.c (timestamp_send, timestamptz_send)
 *
 * The contract of an encoder is in column-text.ts, but for what it reads: 8 bytes with the microseconds since 2000, or 4
 * with the days.
 */
import type { Encode } from './column-text.ts';
import { encodeDate, encodeTimestamp, encodeTimestampTz } from './column-times.ts';

const QUOTE = 0x22;
const SECONDS_OF_DAY = 86_400;
/** Days since 2000-01-01 of 0001-01-01 and 9999-12-31: in between a year has four digits and no era. */
const FIRST_DAY = -730_119;
const LAST_DAY = 2_921_939;
const INFINITY_DAY = 0x7fffffff;
const MINUS_INFINITY_DAY = -0x80000000;

/** Days that were met lately, in the place of the day's last six bits, with the words of `"YYYY-MM-DDT`. */
const KNOWN = 64;
const knownDays = new Int32Array(KNOWN).fill(INFINITY_DAY);
const knownWords = new Int32Array(KNOWN * 3);

/** The digits of each number below 100, and below 1000. */
const PAIRS = Int32Array.from({ length: 100 }, (_, n) => digitsOf(n, 2));
const TRIPLES = Int32Array.from({ length: 1000 }, (_, n) => digitsOf(n, 3));

function digitsOf(value: number, count: number): number {
  const text = Buffer.from(String(value).padStart(count, '0'));
  return text.readUIntBE(0, count);
}

/** The value at hand: an object for each would be garbage. */
const time = {
  /** Since 2000-01-01. */
  day: 0,
  secondOfDay: 0,
  microsecond: 0,
};

/** timestamptz: UTC, always with six digits. */
export const encodeBinaryTimestampTz: Encode = (out, src, start) => {
  if (!readTime(out.viewOf(src), start)) return false;
  const { day, microsecond } = time;
  if (day < FIRST_DAY || day > LAST_DAY) {
    const text = Buffer.from(`${dateText(day)} ${clockText()}+00${era(day)}`);
    return encodeTimestampTz(out, text, 0, text.length);
  }
  const { view, length: at } = out;
  putDateAndClock(view, at);
  const millisecond = (microsecond / 1000) | 0;
  view.setInt32(at + 20, 0x2e000000 | (TRIPLES[millisecond] as number));
  view.setInt32(at + 24, ((TRIPLES[microsecond - millisecond * 1000] as number) << 8) | 0x5a);
  view.setInt8(at + 28, QUOTE);
  out.length = at + 29;
  return true;
};

/** timestamp: no fraction, three digits or six, as from its text. */
export const encodeBinaryTimestamp: Encode = (out, src, start) => {
  if (!readTime(out.viewOf(src), start)) return false;
  const { day, secondOfDay, microsecond } = time;
  if (day < FIRST_DAY || day > LAST_DAY) {
    const text = Buffer.from(`${dateText(day)} ${clockText()}${era(day)}`);
    return encodeTimestamp(out, text, 0, text.length);
  }
  const { view, length: at } = out;
  putDateAndClock(view, at);
  let behind = at + 20;
  if (microsecond !== 0 || secondOfDay % 60 === 0) {
    const millisecond = (microsecond / 1000) | 0;
    const rest = microsecond - millisecond * 1000;
    view.setInt32(behind, 0x2e000000 | (TRIPLES[millisecond] as number));
    view.setInt32(behind + 4, (TRIPLES[rest] as number) << 8);
    behind += rest === 0 && microsecond !== 0 ? 4 : 7;
  }
  view.setInt8(behind, QUOTE);
  out.length = behind + 1;
  return true;
};

/** date */
export const encodeBinaryDate: Encode = (out, src, start) => {
  const day = out.viewOf(src).getInt32(start);
  if (day === INFINITY_DAY || day === MINUS_INFINITY_DAY) return false;
  if (day < FIRST_DAY || day > LAST_DAY) {
    const text = Buffer.from(`${dateText(day)}${era(day)}`);
    return encodeDate(out, text, 0, text.length);
  }
  const { view, length: at } = out;
  putDate(view, at, day);
  view.setInt8(at + 11, QUOTE);
  out.length = at + 12;
  return true;
};

/** Takes the 64 bits apart into `time`, without a bigint. @returns false for the infinities. */
function readTime(src: DataView, start: number): boolean {
  const high = src.getInt32(start);
  const low = src.getUint32(start + 4);
  if (high === 0x7fffffff && low === 0xffffffff) return false;
  if (high === -0x80000000 && low === 0) return false;
  // 2^32 microseconds are 4294 seconds and 967,296 microseconds, so that everything stays below 2^53.
  const micros = high * 967_296 + low;
  const carried = Math.floor(micros / 1e6);
  const seconds = high * 4294 + carried;
  const day = Math.floor(seconds / SECONDS_OF_DAY);
  time.microsecond = micros - carried * 1e6;
  time.day = day;
  time.secondOfDay = seconds - day * SECONDS_OF_DAY;
  return true;
}

/** `"YYYY-MM-DDTHH:MM:SS`: 20 bytes. */
function putDateAndClock(to: DataView, at: number): void {
  const { secondOfDay } = time;
  putDate(to, at, time.day);
  const minutes = (secondOfDay / 60) | 0;
  const hours = (minutes / 60) | 0;
  const minute = PAIRS[minutes - hours * 60] as number;
  const second = PAIRS[secondOfDay - minutes * 60] as number;
  to.setInt32(at + 12, ((PAIRS[hours] as number) << 16) | 0x3a00 | (minute >> 8));
  to.setInt32(at + 16, ((minute & 0xff) << 24) | 0x3a0000 | second);
}

/** `"YYYY-MM-DDT`: 12 bytes. */
function putDate(to: DataView, at: number, day: number): void {
  const place = day & (KNOWN - 1);
  const word = place * 3;
  if (knownDays[place] !== day) {
    const text = Buffer.from(`"${dateText(day)}T`);
    for (let i = 0; i < 3; i += 1) knownWords[word + i] = text.readInt32BE(i * 4);
    knownDays[place] = day;
  }
  to.setInt32(at, knownWords[word] as number);
  to.setInt32(at + 4, knownWords[word + 1] as number);
  to.setInt32(at + 8, knownWords[word + 2] as number);
}

type CalendarDay = { readonly year: number; readonly month: number; readonly day: number };

/**
 * The proleptic Gregorian calendar, with a year 0. Counted in eras of 400 years that begin on 1 March, so that the day
 * which leap years have more is the last one of a year.
 */
function calendarDay(sinceY2k: number): CalendarDay {
  const shifted = sinceY2k + 730_425; // since 0000-03-01
  const eraNumber = Math.floor(shifted / 146_097);
  const dayOfEra = shifted - eraNumber * 146_097;
  const leapDays =
    Math.floor(dayOfEra / 1460) - Math.floor(dayOfEra / 36_524) + Math.floor(dayOfEra / 146_096);
  const yearOfEra = Math.floor((dayOfEra - leapDays) / 365);
  const dayOfYear =
    dayOfEra - (365 * yearOfEra + Math.floor(yearOfEra / 4) - Math.floor(yearOfEra / 100));
  const marchMonth = Math.floor((5 * dayOfYear + 2) / 153);
  const month = marchMonth < 10 ? marchMonth + 3 : marchMonth - 9;
  return {
    year: eraNumber * 400 + yearOfEra + (month <= 2 ? 1 : 0),
    month,
    day: dayOfYear - Math.floor((153 * marchMonth + 2) / 5) + 1,
  };
}

/** As the server prints it, but for the era: the year before 1 is 1 BC. */
function dateText(sinceY2k: number): string {
  const { year, month, day } = calendarDay(sinceY2k);
  const years = String(year > 0 ? year : 1 - year).padStart(4, '0');
  return `${years}-${twoDigits(month)}-${twoDigits(day)}`;
}

function era(sinceY2k: number): string {
  return sinceY2k < FIRST_DAY ? ' BC' : '';
}

/** The time of day of `time`, as the server prints it: without zeros at the end of a fraction. */
function clockText(): string {
  const { secondOfDay, microsecond } = time;
  const parts = [secondOfDay / 3600, (secondOfDay / 60) % 60, secondOfDay % 60];
  const fraction = String(microsecond).padStart(6, '0').replace(/0+$/, '');
  const clock = parts.map((part) => twoDigits(Math.floor(part))).join(':');
  return fraction === '' ? clock : `${clock}.${fraction}`;
}

function twoDigits(value: number): string {
  return String(value).padStart(2, '0');
}
