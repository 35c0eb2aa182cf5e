/**
 * A row, from wherever it comes, to the bytes of a RECORD line. Data in, bytes out: one encoder per stream (and one per
 * relation of the WAL), made once of constant pieces and one small function per column.
 */
import type { Encode } from './column-types.ts';
import type { LineBuffer } from './airbyte/line-buffer.ts';
import { CELL_NULL, CELL_UNCHANGED } from './postgres/pgoutput.ts';
import type { FieldChange, JsonObject } from './airbyte/protocol.ts';

export type RecordColumn = { readonly name: string; readonly encode: Encode };

/** The columns that every CDC stream carries besides its own. */
export const CDC_COLUMNS = [
  '_ab_cdc_lsn',
  '_ab_cdc_updated_at',
  '_ab_cdc_deleted_at',
  '_ab_cdc_cursor',
] as const;

/** What the four CDC columns of a record say; null in streams without CDC. */
export type ChangeStamp = {
  /** Decimal digits. */
  readonly lsn: string;
  /** ISO 8601, UTC. */
  readonly updatedAt: string;
  readonly deleted: boolean;
};

/** Airbyte's destinations fail on longer lines (20 MB); some room is left for what the platform adds. */
const MAX_LINE_BYTES = 19_500_000;

/**
 * The clock of records: `emitted_at`, and the order token `_ab_cdc_cursor`, which is the clock in microseconds but
 * never less than the last token plus one, so that it grows strictly in order of emission over the connection's life.
 */
export class RecordClock {
  #emittedAt = Buffer.from(String(Date.now()));
  #cursor: number;
  #rows = 0;

  /** @param floor the last token of the sync before, from the state. */
  constructor(floor: number) {
    this.#cursor = floor;
  }

  /** The last token given out. */
  get cursor(): number {
    return this.#cursor;
  }

  /** Milliseconds of the clock as digits, at most 256 rows old. */
  emittedAt(): Buffer {
    if ((this.#rows & 0xff) === 0) this.#tick();
    this.#rows += 1;
    return this.#emittedAt;
  }

  /** The next order token. */
  next(): number {
    this.#cursor += 1;
    return this.#cursor;
  }

  #tick(): void {
    const now = Date.now();
    this.#emittedAt = Buffer.from(String(now));
    this.#cursor = Math.max(this.#cursor, now * 1000);
  }
}

export class RecordEncoder {
  readonly #prefix: Buffer;
  readonly #keys: readonly Buffer[];
  readonly #columns: readonly (RecordColumn | null)[];
  readonly #stampKeys: readonly (Buffer | null)[];
  readonly #clock: RecordClock;
  /** Bytes of a line without its values. */
  readonly #fixedBytes: number;
  readonly #valueBytes: Int32Array;
  #changes: FieldChange[] = [];
  /** Columns left out of the line at hand because it would be too long. */
  #tooLong: ReadonlySet<number> = new Set();
  #first = true;

  /**
   * @param columns in the order in which the rows' values come; null for one that is not emitted.
   * @param cdcColumns which of CDC_COLUMNS the stream selects; empty without CDC.
   */
  constructor(
    stream: { readonly name: string; readonly namespace: string },
    columns: readonly (RecordColumn | null)[],
    cdcColumns: readonly string[],
    clock: RecordClock,
  ) {
    this.#prefix = Buffer.from(
      `{"type":"RECORD","record":{"namespace":${jsonText(stream.namespace)},"stream":${jsonText(stream.name)},"emitted_at":`,
    );
    this.#columns = columns;
    this.#keys = columns.map((column) => Buffer.from(`${jsonText(column?.name ?? '')}:`));
    this.#stampKeys = CDC_COLUMNS.map((name) =>
      cdcColumns.includes(name) ? Buffer.from(`${jsonText(name)}:`) : null,
    );
    this.#clock = clock;
    this.#valueBytes = new Int32Array(columns.length);
    this.#fixedBytes =
      this.#prefix.length + 512 + this.#keys.reduce((sum, key) => sum + key.length + 70, 0);
  }

  /** A result row: `src[start, end)` is the body of a DataRow message. */
  writeRow(
    out: LineBuffer,
    src: Buffer,
    start: number,
    end: number,
    stamp: ChangeStamp | null,
  ): void {
    this.#line(out, end - start, stamp, () => {
      const count = src.readUInt16BE(start);
      let at = start + 2;
      for (let i = 0; i < count; i += 1) {
        const length = src.readInt32BE(at);
        at += 4;
        if (length < 0) this.#null(out, i);
        else {
          this.#value(out, i, src, at, at + length);
          at += length;
        }
      }
    });
  }

  /**
   * A tuple of pgoutput, beginning with its number of columns at `start`.
   * @param fetched values for unchanged cells, by position; a position that is missing becomes null with a note.
   */
  writeTuple(
    out: LineBuffer,
    src: Buffer,
    start: number,
    end: number,
    stamp: ChangeStamp,
    fetched: ReadonlyMap<number, Buffer | null> | null = null,
  ): void {
    let extra = 0;
    if (fetched !== null) for (const value of fetched.values()) extra += value?.length ?? 0;
    this.#line(out, end - start + extra, stamp, () => {
      const count = src.readUInt16BE(start);
      let at = start + 2;
      for (let i = 0; i < count; i += 1) {
        const kind = src[at];
        at += 1;
        if (kind === CELL_NULL) this.#null(out, i);
        else if (kind === CELL_UNCHANGED) this.#unchanged(out, i, fetched);
        else {
          const length = src.readUInt32BE(at);
          at += 4;
          this.#value(out, i, src, at, at + length);
          at += length;
        }
      }
    });
  }

  #line(out: LineBuffer, valueBytes: number, stamp: ChangeStamp | null, cells: () => void): void {
    const begin = out.length;
    out.reserve(this.#fixedBytes + valueBytes * 6);
    this.#changes = [];
    this.#head(out);
    cells();
    this.#tail(out, stamp);
    if (out.length - begin > MAX_LINE_BYTES && this.#tooLong.size < this.#columns.length) {
      // Once more without the longest value, until the line fits.
      this.#tooLong = new Set([...this.#tooLong, this.#longest()]);
      out.length = begin;
      this.#line(out, valueBytes, stamp, cells);
    }
    this.#tooLong = NONE;
  }

  #head(out: LineBuffer): void {
    out.appendBytes(this.#prefix);
    out.appendBytes(this.#clock.emittedAt());
    out.appendBytes(DATA);
    this.#first = true;
  }

  #key(out: LineBuffer, key: Buffer): void {
    if (this.#first) this.#first = false;
    else out.bytes[out.length++] = 0x2c;
    const { bytes } = out;
    let at = out.length;
    for (let i = 0; i < key.length; i += 1) bytes[at++] = key[i] as number;
    out.length = at;
  }

  #value(out: LineBuffer, index: number, src: Buffer, start: number, end: number): void {
    const column = this.#columns[index];
    if (column === null || column === undefined) return;
    if (this.#tooLong.has(index)) {
      this.#nulled(out, index, 'SOURCE_RECORD_SIZE_LIMITATION');
      return;
    }
    this.#valueBytes[index] = end - start;
    this.#key(out, this.#keys[index] as Buffer);
    const before = out.length;
    if (!column.encode(out, src, start, end)) {
      out.length = before;
      out.appendBytes(NULL);
      this.#note(column.name, 'SOURCE_SERIALIZATION_ERROR');
    }
  }

  #null(out: LineBuffer, index: number): void {
    if (this.#columns[index] === null) return;
    this.#key(out, this.#keys[index] as Buffer);
    out.appendBytes(NULL);
  }

  #nulled(out: LineBuffer, index: number, reason: FieldChange['reason']): void {
    this.#null(out, index);
    const column = this.#columns[index];
    if (column !== null && column !== undefined) this.#note(column.name, reason);
  }

  #unchanged(
    out: LineBuffer,
    index: number,
    fetched: ReadonlyMap<number, Buffer | null> | null,
  ): void {
    const value = fetched?.get(index);
    if (value === undefined) this.#nulled(out, index, 'SOURCE_RETRIEVAL_ERROR');
    else if (value === null) this.#null(out, index);
    else this.#value(out, index, value, 0, value.length);
  }

  #note(field: string, reason: FieldChange['reason']): void {
    this.#changes.push({ field, change: 'NULLED', reason });
  }

  #tail(out: LineBuffer, stamp: ChangeStamp | null): void {
    if (stamp !== null) this.#stamp(out, stamp);
    out.appendBytes(END_DATA);
    if (this.#changes.length > 0) {
      out.appendText(`,"meta":${jsonText({ changes: this.#changes })}`);
    }
    out.reserve(END_LINE.length);
    out.appendBytes(END_LINE);
  }

  #stamp(out: LineBuffer, stamp: ChangeStamp): void {
    const cursor = this.#clock.next();
    const texts = [
      stamp.lsn,
      `"${stamp.updatedAt}"`,
      stamp.deleted ? `"${stamp.updatedAt}"` : 'null',
      String(cursor),
    ];
    for (let i = 0; i < texts.length; i += 1) {
      const key = this.#stampKeys[i];
      if (key === null || key === undefined) continue;
      this.#key(out, key);
      out.length += out.bytes.write(texts[i] as string, out.length, 'latin1');
    }
  }

  /** The longest value of the row at hand that is still in the line. */
  #longest(): number {
    let longest = 0;
    let most = -1;
    this.#valueBytes.forEach((bytes, index) => {
      if (bytes > most && !this.#tooLong.has(index)) [longest, most] = [index, bytes];
    });
    return longest;
  }
}

const NONE: ReadonlySet<number> = new Set();
const DATA = Buffer.from(',"data":{');
const END_DATA = Buffer.from('}');
const END_LINE = Buffer.from('}}\n');
const NULL = Buffer.from('null');

/** JSON of names, safe for readers that break lines at U+0085, U+2028 and U+2029. */
function jsonText(value: string | JsonObject): string {
  return JSON.stringify(value).replace(
    /[\u0085\u2028\u2029]/g,
    (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}
