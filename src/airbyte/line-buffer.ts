/** From this length on a call into the runtime beats a loop (measured on Node 20). */
const COPY_CALL_FROM = 256;

const SHORT_BYTES = 32;
const WORD_BYTES = 8;

/** What a byte of UTF-8 is to a JSON string, where it begins a character. */
const PLAIN = 0;
/** Escaped with a backslash and one character. */
const SHORT = 1;
/** Escaped as `\\u00..`. */
const CONTROL = 2;
/** Leads two or three bytes of which the others may be any continuation. */
const LEADS_TWO = 3;
const LEADS_THREE = 4;
const LEADS_FOUR = 5;
/** Leads a character whose second byte has a range of its own, a line end, or nothing at all. */
const OTHER = 6;
const KINDS = Uint8Array.from({ length: 256 }, (_, byte) => {
  if (byte >= 0x80) {
    if (byte >= 0xc3 && byte <= 0xdf) return LEADS_TWO;
    if (byte >= 0xe1 && byte <= 0xef && byte !== 0xed) return LEADS_THREE;
    return byte >= 0xf0 && byte <= 0xf3 ? LEADS_FOUR : OTHER;
  }
  if (byte === 0x22 || byte === 0x5c) return SHORT;
  if (byte >= 0x20) return PLAIN;
  return JSON.stringify(String.fromCharCode(byte)).length === 4 ? SHORT : CONTROL;
});

/** The two bytes of each short escape. */
const SHORT_ESCAPES = Int16Array.from({ length: 0x80 }, (_, byte) => {
  const [, first = '', second = ''] = JSON.stringify(String.fromCharCode(byte));
  return (first.charCodeAt(0) << 8) | second.charCodeAt(0);
});
const ESCAPED_ZERO = 0x5c753030; // \u00
const HEX_DIGITS = Buffer.from('0123456789abcdef');

/** The two digits of each number below 100. */
const PAIRS = Int16Array.from(
  { length: 100 },
  (_, n) => ((0x30 + Math.floor(n / 10)) << 8) | (0x30 + (n % 10)),
);

/**
 * Has the top bit of a byte set where one of four bytes cannot stand in a JSON string as it is: not ASCII, a control
 * character, a quote, a backslash (which the subtractions make negative). A borrow only ever tells of a true find.
 */
function careBits(word: number): number {
  return (
    word |
    (word - 0x20202020) |
    ((word ^ 0x22222222) - 0x01010101) |
    ((word ^ 0x5c5c5c5c) - 0x01010101)
  );
}

const TOP_BITS = 0x80808080 | 0;

/** How long the character at `i` is, which is not ASCII; 0 where it wants a closer look. */
function characterLength(kind: number, from: DataView, i: number, end: number): number {
  if (kind === LEADS_TWO) return i + 1 < end && (from.getUint8(i + 1) & 0xc0) === 0x80 ? 2 : 0;
  if (kind === LEADS_THREE) {
    return i + 2 < end && isPlainTail(from.getUint8(i), from.getInt16(i + 1)) ? 3 : 0;
  }
  return kind === LEADS_FOUR && i + 3 < end && isLongTail(from.getInt32(i)) ? 4 : 0;
}

/** Whether two bytes continue a character of three that is no line end: U+2028 and U+2029 are 0xe280a8 and 0xe280a9. */
function isPlainTail(lead: number, tail: number): boolean {
  return (tail & 0xc0c0) === 0x8080 && (lead !== 0xe2 || (tail & 0xfffe) !== 0x80a8);
}

/** Whether four bytes that begin with 0xf0 to 0xf3 are a character; after 0xf0 the second one is 0x90 at least. */
function isLongTail(word: number): boolean {
  return (word & 0xc0c0c0) === 0x808080 && ((word & 0x0f000000) !== 0 || (word & 0x300000) !== 0);
}

/**
 * Bytes on their way to stdout. One buffer is reused for the whole sync: rows are encoded into it in place,
 * so a row costs no object and no string.
 */
export class LineBuffer {
  readonly #capacity: number;
  #bytes: Buffer;
  #view: DataView;
  /** Where the last copied bytes came from: almost always a receive buffer, or one and a scratch. */
  #source: Buffer;
  #sourceView: DataView;
  #otherSource: Buffer;
  #otherView: DataView;
  length = 0;

  /** @param capacity bytes to begin with; it grows only for a single row that is larger. */
  constructor(capacity: number) {
    this.#capacity = capacity;
    this.#bytes = Buffer.allocUnsafe(capacity);
    this.#view = viewOf(this.#bytes);
    this.#source = this.#bytes;
    this.#sourceView = this.#view;
    this.#otherSource = this.#bytes;
    this.#otherView = this.#view;
  }

  /** The bytes so far are the first `length` of these. */
  get bytes(): Buffer {
    return this.#bytes;
  }

  /** The same, for words of several bytes, big-endian. */
  get view(): DataView {
    return this.#view;
  }

  /** A view of what is read from: the one of before, if it was the same. */
  viewOf(src: Buffer): DataView {
    if (src !== this.#source) this.#readFrom(src);
    return this.#sourceView;
  }

  /** Makes sure that `count` more bytes fit behind `length`. `bytes` may be another buffer afterwards. */
  reserve(count: number): void {
    const wanted = this.length + count;
    if (wanted <= this.#bytes.length) return;
    const grown = Buffer.allocUnsafe(Math.max(wanted, this.#bytes.length * 2));
    this.#bytes.copy(grown, 0, 0, this.length);
    this.#bytes = grown;
    this.#view = viewOf(grown);
  }

  /** Forgets the bytes; what one giant row needed is not kept. @param keep the most bytes to keep. */
  clear(keep: number): void {
    this.length = 0;
    if (this.#bytes.length <= keep) return;
    this.#bytes = Buffer.allocUnsafe(this.#capacity);
    this.#view = viewOf(this.#bytes);
  }

  /** Appends text as UTF-8. For messages and constant pieces, not for cells. */
  appendText(text: string): void {
    this.reserve(text.length * 3);
    this.length += this.#bytes.write(text, this.length, 'utf8');
  }

  /**
   * Appends src[start, end); the caller has reserved room. Word by word, as far as both buffers reach behind the last
   * byte: values are mostly shorter than what makes a call into the runtime pay.
   */
  appendBytes(src: Buffer, start: number, end: number): void {
    const at = this.length;
    const count = end - start;
    this.length = at + count;
    if (count >= COPY_CALL_FROM || end + 3 > src.length || at + count + 3 > this.#bytes.length) {
      src.copy(this.#bytes, at, start, end);
      return;
    }
    if (src !== this.#source) this.#readFrom(src);
    const from = this.#sourceView;
    const to = this.#view;
    for (let i = 0; i < count; i += 4) to.setInt32(at + i, from.getInt32(start + i, true), true);
  }

  /**
   * Appends src[start, end) as the inside of a JSON string, up to the first byte that wants a closer look: one of a
   * character that many lines do not hold (among them all that are not well-formed, and the line ends U+0085, U+2028 and
   * U+2029). The caller has reserved six bytes for each, and four more.
   * @returns the index of that byte, or `end`.
   */
  appendEscaped(src: Buffer, start: number, end: number): number {
    if (src !== this.#source) this.#readFrom(src);
    const from = this.#sourceView;
    const to = this.#view;
    const bytes = this.#bytes;
    const lastPair = end - 8;
    const lastWord = end - 4;
    let at = this.length;
    let i = start;
    while (i < end) {
      if (i <= lastWord) {
        const word = from.getInt32(i, true);
        if ((careBits(word) & TOP_BITS) === 0) {
          to.setInt32(at, word, true);
          i += 4;
          at += 4;
          // Where one word is plain, more are: two at a time.
          while (i <= lastPair) {
            const first = from.getInt32(i, true);
            const second = from.getInt32(i + 4, true);
            if (((careBits(first) | careBits(second)) & TOP_BITS) !== 0) break;
            to.setInt32(at, first, true);
            to.setInt32(at + 4, second, true);
            i += 8;
            at += 8;
          }
          continue;
        }
      }
      // Byte by byte, up to the next that needs care and with it.
      let byte = src[i] as number;
      let kind = KINDS[byte] as number;
      while (kind === PLAIN) {
        bytes[at] = byte;
        at += 1;
        i += 1;
        if (i === end) break;
        byte = src[i] as number;
        kind = KINDS[byte] as number;
      }
      if (kind === SHORT) {
        to.setInt16(at, SHORT_ESCAPES[byte] as number);
        at += 2;
        i += 1;
      } else if (kind === CONTROL) {
        to.setInt32(at, ESCAPED_ZERO);
        bytes[at + 4] = HEX_DIGITS[byte >> 4] as number;
        bytes[at + 5] = HEX_DIGITS[byte & 15] as number;
        at += 6;
        i += 1;
      } else if (kind !== PLAIN) {
        const behind = i + characterLength(kind, from, i, end);
        if (behind === i) break;
        for (; i < behind; i += 1, at += 1) bytes[at] = src[i] as number;
      }
    }
    this.length = at;
    return i;
  }

  /** Appends a whole number below 10^8 as eight digits; the caller has reserved room. */
  appendEightDigits(value: number): void {
    const at = this.length;
    let rest = value;
    for (let i = 6; i >= 0; i -= 2) {
      const hundreds = (rest / 100) | 0;
      this.#view.setInt16(at + i, PAIRS[rest - hundreds * 100] as number);
      rest = hundreds;
    }
    this.length = at + 8;
  }

  /**
   * Appends `"2004-10-19T10:23:54.700000Z"` for `2004-10-19 10:23:54.7+00`, the form of almost every timestamp; the caller
   * has reserved room.
   * @returns false, with nothing appended, for any other form.
   */
  appendInstant(src: Buffer, start: number, end: number): boolean {
    const digits = end - start - 23;
    if (digits < -1 || digits > 6 || src[start + 10] !== 0x20) return false;
    if (src !== this.#source) this.#readFrom(src);
    const from = this.#sourceView;
    // `+00` and the byte before it: a digit, or no offset at all.
    if ((from.getInt32(end - 4) & 0xffffff) !== 0x2b3030) return false;
    const to = this.#view;
    const at = this.length;
    to.setInt8(at, 0x22);
    to.setInt32(at + 1, from.getInt32(start));
    to.setInt32(at + 5, from.getInt32(start + 4));
    to.setInt32(at + 9, from.getInt32(start + 8));
    to.setInt32(at + 13, from.getInt32(start + 12));
    to.setInt32(at + 16, from.getInt32(start + 15));
    to.setInt8(at + 11, 0x54);
    to.setInt32(at + 20, 0x2e303030); // .000
    to.setInt32(at + 24, 0x3030305a); // 000Z
    to.setInt8(at + 28, 0x22);
    for (let i = 0; i < digits; i += 1) to.setInt8(at + 21 + i, from.getInt8(start + 20 + i));
    this.length = at + 29;
    return true;
  }

  /**
   * Appends a piece, then the number src[start, end): as `appendPiece` and `appendBytes` do, but in one go for what most
   * values of most rows are, and in words of 64 bits. Those that begin with a character of a number are not NaN (see `Piece`).
   */
  appendKeyed(piece: Piece, src: Buffer, start: number, end: number): void {
    const count = end - start;
    const at = this.length + piece.length;
    const beyond = WORD_BYTES - 1;
    if (
      count > SHORT_BYTES ||
      end + beyond > src.length ||
      at + count + beyond > this.#bytes.length
    ) {
      this.appendPiece(piece);
      this.appendBytes(src, start, end);
      return;
    }
    if (src !== this.#source) this.#readFrom(src);
    const to = this.#view;
    const { words } = piece;
    for (let i = 0, word = this.length; i < words.length; i += 1, word += WORD_BYTES)
      to.setFloat64(word, words[i] as number, true);
    const from = this.#sourceView;
    for (let i = 0; i < count; i += WORD_BYTES) to.setFloat64(at + i, from.getFloat64(start + i));
    this.length = at + count;
  }

  #readFrom(src: Buffer): void {
    const source = this.#source;
    const view = this.#sourceView;
    this.#source = src;
    this.#sourceView = src === this.#otherSource ? this.#otherView : viewOf(src);
    this.#otherSource = source;
    this.#otherView = view;
  }

  /** Appends a piece; the caller has reserved room for it and for seven bytes more. */
  appendPiece(piece: Piece): void {
    const view = this.#view;
    const { words } = piece;
    const at = this.length;
    for (let i = 0; i < words.length; i += 1)
      view.setFloat64(at + i * WORD_BYTES, words[i] as number, true);
    this.length = at + piece.length;
  }
}

/**
 * Constant bytes that are appended often, such as a column's name. As words of 64 bits: most are too short for a copy of
 * memory to pay, and byte by byte they would take most of the time of a row. The words are doubles, since these need no
 * object. None is NaN, which might not stay as it is: read from its last byte on, one would have 0x7f or 0xff behind a byte
 * from 0xf0 on, which UTF-8 never has.
 */
export class Piece {
  readonly length: number;
  /** Little-endian; the last one is filled up with zeros, which the next bytes overwrite. */
  readonly words: Float64Array;

  constructor(text: string) {
    this.length = Buffer.byteLength(text);
    const count = Math.ceil(this.length / WORD_BYTES);
    const padded = Buffer.alloc(count * WORD_BYTES);
    padded.write(text);
    this.words = new Float64Array(count);
    for (let i = 0; i < count; i += 1) this.words[i] = padded.readDoubleLE(i * WORD_BYTES);
  }
}

function viewOf(bytes: Buffer): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}
