/**
 * Bytes on their way to stdout. One buffer is reused for the whole sync: rows are encoded into it in place,
 * so a row costs no object and no string.
 */
export class LineBuffer {
  bytes: Buffer;
  length = 0;

  /** @param capacity bytes to begin with; it grows only for a single row that is larger. */
  constructor(capacity: number) {
    this.bytes = Buffer.allocUnsafe(capacity);
  }

  /** Makes sure that `count` more bytes fit behind `length`. `bytes` may be another buffer afterwards. */
  reserve(count: number): void {
    const wanted = this.length + count;
    if (wanted <= this.bytes.length) return;
    const grown = Buffer.allocUnsafe(Math.max(wanted, this.bytes.length * 2));
    this.bytes.copy(grown, 0, 0, this.length);
    this.bytes = grown;
  }

  /** Appends text as UTF-8. For messages and constant pieces, not for cells. */
  appendText(text: string): void {
    this.reserve(text.length * 3);
    this.length += this.bytes.write(text, this.length, 'utf8');
  }

  /** Appends bytes as they are; the caller has reserved room. */
  appendBytes(piece: Uint8Array): void {
    this.bytes.set(piece, this.length);
    this.length += piece.length;
  }
}
