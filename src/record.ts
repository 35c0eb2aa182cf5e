/**
 * A row, from wherever it comes, to the bytes of a RECORD line. Data in, bytes out: one encoder per stream (and one per
 * relation of the WAL), made once of constant pieces and one small function per column.
 */
import { encodeDigits, encodeNumber, isDigit } from './column-text.ts';
import type { Encode } from './column-types.ts';
import { type LineBuffer, Piece } from './airbyte/line-buffer.ts';
import { CELL_NULL, CELL_UNCHANGED, cellOffsets } from './postgres/pgoutput.ts';
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
 * It has sixteen digits.
 */
export class RecordClock {
  /** Milliseconds of the clock, at most 256 rows old. */
  emittedAt = Date.now();
  #cursor: number;
  #rows = 0;

  /** @param floor the last token of the sync before, from the state. */
  constructor(floor: number) {
    this.#cursor = floor;
  }

  /** @param floor tokens are greater than this one from here on. */
  raise(floor: number): void {
    this.#cursor = Math.max(this.#cursor, floor);
  }

  /** The last token given out. */
  get cursor(): number {
    return this.#cursor;
  }

  /** A row is about to be written. */
  row(): void {
    if ((this.#rows & 0xff) === 0) {
      this.emittedAt = Date.now();
      this.#cursor = Math.max(this.#cursor, this.emittedAt * 1000);
    }
    this.#rows += 1;
  }

  /** The next order token. */
  next(): number {
    this.#cursor += 1;
    return this.#cursor;
  }
}

/** A cell of a row that is written cell by cell: its bytes, NULL, or a value that nobody has. */
type Cell =
  { readonly src: Buffer; readonly start: number; readonly end: number } | 'null' | 'unavailable';

/** Of hypertables, if asked for: the chunk that a row lies in. */
export const CHUNK_COLUMN = '_ab_timescaledb_chunk';

export class RecordEncoder {
  readonly #prefix: string;
  readonly #columns: readonly (RecordColumn | null)[];
  /** Name and punctuation before each value. */
  readonly #keys: readonly Piece[];
  /** Whether a value that begins with a digit leaves as it comes. */
  readonly #digits: readonly boolean[];
  readonly #cdcColumns: readonly string[];
  readonly #hasToken: boolean;
  /** Whether any column of the row's own is emitted: then the CDC columns begin with a comma. */
  readonly #hasColumns: boolean;
  readonly #clock: RecordClock;
  /** The chunk's name as a member of the data, with its comma; often none. */
  readonly #chunk: string;
  /** What ends most lines. */
  readonly #tail: Piece;
  /** Bytes of a line without its values. */
  readonly #fixedBytes: number;
  #changes: FieldChange[] = [];
  /** All before the first value, as of `#headTime`. */
  #head: Buffer = Buffer.alloc(0);
  #headTime = 0;
  /** The CDC columns of `#stamped`, but for the last eight digits of the order token. */
  #stamp: Buffer = Buffer.alloc(0);
  #stamped: ChangeStamp | null = null;
  /** The digits before those: tokens have them in common for 100 seconds. */
  #stampedHigh = 0;

  /**
   * @param columns in the order in which the rows' values come; null for one that is not emitted.
   * @param cdcColumns which of CDC_COLUMNS the stream selects; empty without CDC.
   * @param chunk for CHUNK_COLUMN: where all rows lie that this one encodes; null without that column.
   */
  constructor(
    stream: { readonly name: string; readonly namespace: string },
    columns: readonly (RecordColumn | null)[],
    cdcColumns: readonly string[],
    clock: RecordClock,
    chunk: string | null = null,
  ) {
    this.#prefix = `{"type":"RECORD","record":{"namespace":${jsonText(stream.namespace)},"stream":${jsonText(stream.name)},"emitted_at":`;
    this.#columns = columns;
    const first = columns.findIndex((column) => column !== null);
    this.#hasColumns = first >= 0;
    this.#keys = columns.map(
      (column, index) => new Piece(`${index === first ? '' : ','}${jsonText(column?.name ?? '')}:`),
    );
    this.#digits = columns.map(
      (column) => column?.encode === encodeNumber || column?.encode === encodeDigits,
    );
    this.#cdcColumns = CDC_COLUMNS.filter((name) => cdcColumns.includes(name));
    this.#hasToken = cdcColumns.includes('_ab_cdc_cursor');
    this.#clock = clock;
    const comma = this.#hasColumns || this.#cdcColumns.length > 0 ? ',' : '';
    this.#chunk = chunk === null ? '' : `${comma}${jsonText(CHUNK_COLUMN)}:${jsonText(chunk)}`;
    this.#tail = new Piece(`${this.#chunk}}}}\n`);
    this.#fixedBytes =
      Buffer.byteLength(this.#prefix) +
      this.#tail.length +
      512 +
      this.#keys.reduce((sum, key) => sum + key.length + 70, 0);
  }

  /** A result row: `src[start, end)` is the body of a DataRow message. */
  writeRow(
    out: LineBuffer,
    src: Buffer,
    start: number,
    end: number,
    stamp: ChangeStamp | null,
  ): void {
    const begin = this.#begin(out, end - start);
    const count = this.#columns.length;
    let at = start + 2;
    for (let i = 0; i < count; i += 1) {
      const length = readInt32(src, at);
      at += 4;
      if (length < 0) this.#null(out, i);
      else {
        this.#value(out, i, src, at, at + length);
        at += length;
      }
    }
    this.#end(out, stamp);
    if (out.length - begin > MAX_LINE_BYTES) {
      this.#shorten(out, begin, rowCells(src, start), end - start, stamp);
    }
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
    fetched: ReadonlyMap<number, Buffer | null> = NOTHING,
  ): void {
    let valueBytes = end - start;
    for (const value of fetched.values()) valueBytes += value?.length ?? 0;
    const begin = this.#begin(out, valueBytes);
    const count = this.#columns.length;
    let at = start + 2;
    for (let i = 0; i < count; i += 1) {
      const kind = src[at];
      at += 1;
      if (kind === CELL_NULL) this.#null(out, i);
      else if (kind === CELL_UNCHANGED) this.#cell(out, i, fetchedCell(fetched, i));
      else {
        const length = readInt32(src, at);
        at += 4;
        this.#value(out, i, src, at, at + length);
        at += length;
      }
    }
    this.#end(out, stamp);
    if (out.length - begin > MAX_LINE_BYTES) {
      this.#shorten(out, begin, tupleCells(src, start, fetched), valueBytes, stamp);
    }
  }

  /** @returns where the line begins. */
  #begin(out: LineBuffer, valueBytes: number): number {
    const clock = this.#clock;
    clock.row();
    if (clock.emittedAt !== this.#headTime) {
      this.#headTime = clock.emittedAt;
      this.#head = Buffer.from(`${this.#prefix}${clock.emittedAt},"data":{`);
    }
    if (this.#changes.length > 0) this.#changes = [];
    out.reserve(this.#fixedBytes + valueBytes * 6);
    const begin = out.length;
    // As a whole, a buffer of this length is copied faster than words are.
    out.bytes.set(this.#head, begin);
    out.length = begin + this.#head.length;
    return begin;
  }

  #value(out: LineBuffer, index: number, src: Buffer, start: number, end: number): void {
    const column = this.#columns[index];
    if (column === null || column === undefined) return;
    const key = this.#keys[index] as Piece;
    // Most values are numbers, and a call of one function among many costs more than to copy one.
    if (this.#digits[index] === true && isDigit(src[start])) {
      out.appendKeyed(key, src, start, end);
      return;
    }
    out.appendPiece(key);
    const before = out.length;
    if (!column.encode(out, src, start, end)) {
      out.length = before;
      out.appendPiece(NULL);
      this.#note(column.name, 'SOURCE_SERIALIZATION_ERROR');
    }
  }

  #null(out: LineBuffer, index: number): void {
    if (this.#columns[index] === null) return;
    out.appendPiece(this.#keys[index] as Piece);
    out.appendPiece(NULL);
  }

  #cell(out: LineBuffer, index: number, cell: Cell): void {
    if (cell === 'null') this.#null(out, index);
    else if (cell === 'unavailable') this.#nulled(out, index, 'SOURCE_RETRIEVAL_ERROR');
    else this.#value(out, index, cell.src, cell.start, cell.end);
  }

  #nulled(out: LineBuffer, index: number, reason: FieldChange['reason']): void {
    this.#null(out, index);
    const column = this.#columns[index];
    if (column !== null && column !== undefined) this.#note(column.name, reason);
  }

  #note(field: string, reason: FieldChange['reason']): void {
    this.#changes.push({ field, change: 'NULLED', reason });
  }

  #end(out: LineBuffer, stamp: ChangeStamp | null): void {
    if (stamp !== null) this.#putStamp(out, stamp);
    if (this.#changes.length === 0) out.appendPiece(this.#tail);
    else out.appendText(`${this.#chunk}},"meta":${jsonText({ changes: this.#changes })}}}\n`);
  }

  #putStamp(out: LineBuffer, stamp: ChangeStamp): void {
    const cursor = this.#clock.next();
    const high = Math.floor(cursor / EIGHT_DIGITS);
    if (stamp !== this.#stamped || high !== this.#stampedHigh) {
      this.#stamped = stamp;
      this.#stampedHigh = high;
      // The order token is the last of CDC_COLUMNS.
      this.#stamp = Buffer.from(`${this.#stampText(stamp)}${this.#hasToken ? high : ''}`);
    }
    // As a whole, a buffer of this length is copied faster than words are.
    out.bytes.set(this.#stamp, out.length);
    out.length += this.#stamp.length;
    if (this.#hasToken) out.appendEightDigits(cursor - high * EIGHT_DIGITS);
  }

  #stampText(stamp: ChangeStamp): string {
    const texts: Readonly<Record<string, string>> = {
      _ab_cdc_lsn: stamp.lsn,
      _ab_cdc_updated_at: `"${stamp.updatedAt}"`,
      _ab_cdc_deleted_at: stamp.deleted ? `"${stamp.updatedAt}"` : 'null',
    };
    const pieces = this.#cdcColumns.map((name) => `${jsonText(name)}:${texts[name] ?? ''}`);
    return pieces.length === 0 ? '' : `${this.#hasColumns ? ',' : ''}${pieces.join(',')}`;
  }

  /** Writes a line once more, without its longest values, until it is not too long. */
  #shorten(
    out: LineBuffer,
    begin: number,
    cells: readonly Cell[],
    valueBytes: number,
    stamp: ChangeStamp | null,
  ): void {
    const byLength = cells
      .map((cell, index) => ({
        index,
        bytes: typeof cell === 'string' ? 0 : cell.end - cell.start,
      }))
      .filter(({ index, bytes }) => bytes > 0 && this.#columns[index] !== null)
      .toSorted((a, b) => a.bytes - b.bytes);
    const without = new Set<number>();
    while (out.length - begin > MAX_LINE_BYTES && byLength.length > 0) {
      without.add(byLength.pop()?.index ?? -1);
      out.length = begin;
      this.#begin(out, valueBytes);
      cells.forEach((cell, index) => {
        if (without.has(index)) this.#nulled(out, index, 'SOURCE_RECORD_SIZE_LIMITATION');
        else this.#cell(out, index, cell);
      });
      this.#end(out, stamp);
    }
  }
}

/** Big-endian, without the checks that Buffer's own method makes in each call. */
function readInt32(src: Buffer, at: number): number {
  return (
    ((src[at] as number) << 24) |
    ((src[at + 1] as number) << 16) |
    ((src[at + 2] as number) << 8) |
    (src[at + 3] as number)
  );
}

function rowCells(src: Buffer, start: number): readonly Cell[] {
  const cells: Cell[] = [];
  let at = start + 2;
  for (let left = src.readUInt16BE(start); left > 0; left -= 1) {
    const length = src.readInt32BE(at);
    at += 4;
    cells.push(length < 0 ? 'null' : { src, start: at, end: at + length });
    at += Math.max(0, length);
  }
  return cells;
}

function tupleCells(
  src: Buffer,
  start: number,
  fetched: ReadonlyMap<number, Buffer | null>,
): readonly Cell[] {
  return cellOffsets(src, start).map((at, index): Cell => {
    if (src[at] === CELL_NULL) return 'null';
    if (src[at] === CELL_UNCHANGED) return fetchedCell(fetched, index);
    return { src, start: at + 5, end: at + 5 + src.readUInt32BE(at + 1) };
  });
}

function fetchedCell(fetched: ReadonlyMap<number, Buffer | null>, index: number): Cell {
  const value = fetched.get(index);
  if (value === undefined) return 'unavailable';
  return value === null ? 'null' : { src: value, start: 0, end: value.length };
}

const NOTHING: ReadonlyMap<number, Buffer | null> = new Map();
const NULL = new Piece('null');
const EIGHT_DIGITS = 1e8;

/** JSON of names, safe for readers that break lines at U+0085, U+2028 and U+2029. */
function jsonText(value: string | JsonObject): string {
  return JSON.stringify(value).replace(
    /[\u0085\u2028\u2029]/g,
    (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}
