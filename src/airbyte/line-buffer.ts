/** From this length on a call into the runtime beats a loop (measured on Node 20). */
const COPY_CALL_FROM = 64;

/**
 * Bytes on their way to stdout. One buffer is reused for the whole sync: rows are encoded into it in place,
 * so a row costs no object and no string.
 */
export class LineBuffer {
  readonly #capacity: number;
  #bytes: Buffer;
  #view: DataView;
  /** Where the last copied bytes came from: almost always the one receive buffer. */
  #source: Buffer;
  #sourceView: DataView;
  length = 0;

  /** @param capacity bytes to begin with; it grows only for a single row that is larger. */
  constructor(capacity: number) {
    this.#capacity = capacity;
    this.#bytes = Buffer.allocUnsafe(capacity);
    this.#view = viewOf(this.#bytes);
    this.#source = this.#bytes;
    this.#sourceView = this.#view;
  }

  /** The bytes so far are the first `length` of these. */
  get bytes(): Buffer {
    return this.#bytes;
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
    if (src !== this.#source) {
      this.#source = src;
      this.#sourceView = viewOf(src);
    }
    const from = this.#sourceView;
    const to = this.#view;
    for (let i = 0; i < count; i += 4) to.setInt32(at + i, from.getInt32(start + i));
  }

  /** Appends a piece; the caller has reserved room for it and for three bytes more. */
  appendPiece(piece: Piece): void {
    const view = this.#view;
    const { words } = piece;
    const at = this.length;
    for (let i = 0; i < words.length; i += 1) view.setInt32(at + i * 4, words[i] as number);
    this.length = at + piece.length;
  }
}

/**
 * Constant bytes that are appended often, such as a column's name. As 32-bit words: most are too short for a copy of
 * memory to pay, and byte by byte they would take most of the time of a row.
 */
export class Piece {
  readonly length: number;
  /** Big-endian; the last one is filled up with zeros, which the next bytes overwrite. */
  readonly words: Int32Array;

  constructor(text: string) {
    const bytes = Buffer.from(text);
    const padded = Buffer.concat([bytes, Buffer.alloc(3)]);
    this.length = bytes.length;
    this.words = Int32Array.from({ length: Math.ceil(bytes.length / 4) }, (_, index) =>
      padded.readInt32BE(index * 4),
    );
  }
}

function viewOf(bytes: Buffer): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}
