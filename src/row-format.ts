/**
 * How the rows of a stream are asked for, and what encodes them: for each column one format, and the encoder that reads it.
 * For double precision the better format depends on the values: it follows what the last chunk or slice held.
 */
import { floatEncoder, type FloatsSeen } from './column-floats.ts';
import { encodeNumber } from './column-text.ts';
import {
  binaryEncoder,
  columnType,
  type Encode,
  FLOAT8_OID,
  type TypeCatalog,
} from './column-types.ts';
import type { SyncStream } from './plan.ts';
import { type RecordClock, RecordEncoder } from './record.ts';
import { type Chunk, chunkName } from './timescaledb/chunks.ts';

export type SelectedColumn = {
  readonly name: string;
  /** In which format its values come: what its encoder reads. */
  readonly binary: boolean;
};

/** So many rows of each chunk or slice are looked at where floats come as text. */
export const SAMPLE_ROWS = 500;
/** Fewer values tell nothing. */
const ENOUGH_VALUES = 100;
/** One long value costs what binary format saves on six others. */
const MOST_LONG = 0.08;

/** Of one chunk or slice. */
export type UnitFormat = {
  readonly columns: readonly SelectedColumn[];
  readonly encoder: RecordEncoder;
  /** Encodes the first SAMPLE_ROWS rows; the same one where there is nothing to look at. */
  readonly sampling: RecordEncoder;
};

/** The formats of a sync's streams. */
export class RowFormats {
  readonly #types: TypeCatalog;
  readonly #clock: RecordClock;
  readonly #streams = new Map<SyncStream, StreamFormat>();

  constructor(types: TypeCatalog, clock: RecordClock) {
    this.#types = types;
    this.#clock = clock;
  }

  of(stream: SyncStream): StreamFormat {
    let format = this.#streams.get(stream);
    if (format === undefined) {
      format = new StreamFormat(stream, this.#types, this.#clock);
      this.#streams.set(stream, format);
    }
    return format;
  }
}

class FloatColumn {
  binary = false;
  readonly #seen: FloatsSeen = { values: 0, long: 0 };
  readonly fromBinary: Encode = floatEncoder(this.#seen);
  readonly sampled: Encode = (out, src, start, end) => {
    this.#seen.values += 1;
    if (isLong(src, start, end)) this.#seen.long += 1;
    return encodeNumber(out, src, start, end);
  };

  /** By the values since it was last decided, if they are enough. */
  decide(): void {
    const seen = this.#seen;
    if (seen.values < ENOUGH_VALUES) return;
    this.binary = seen.long <= seen.values * MOST_LONG;
    seen.values = 0;
    seen.long = 0;
  }
}

/** Whether a float's text has more than 15 digits, or an exponent. */
function isLong(src: Buffer, start: number, end: number): boolean {
  const point = 1;
  const minus = src[start] === 0x2d ? 1 : 0;
  if (end - start > 15 + point + minus) return true;
  return end - start > 4 && (src[end - 4] === EXPONENT || src[end - 5] === EXPONENT);
}

const EXPONENT = 0x65;

export class StreamFormat {
  readonly #stream: SyncStream;
  readonly #types: TypeCatalog;
  readonly #clock: RecordClock;
  /** By position. */
  readonly #floats: ReadonlyMap<number, FloatColumn>;
  /** By which floats are binary, for streams whose records do not name their chunk. */
  readonly #units = new Map<string, UnitFormat>();

  constructor(stream: SyncStream, types: TypeCatalog, clock: RecordClock) {
    this.#stream = stream;
    this.#types = types;
    this.#clock = clock;
    this.#floats = new Map(
      stream.columns.flatMap(({ typeOid }, index) =>
        typeOid === FLOAT8_OID ? [[index, new FloatColumn()] as const] : [],
      ),
    );
  }

  /**
   * For the next chunk or slice; several may be read at once.
   * @param hidden columns at the end of each row that are not emitted.
   */
  next(chunk: Chunk | null, hidden = 0): UnitFormat {
    const floats = [...this.#floats.values()];
    for (const float of floats) float.decide();
    if (this.#stream.namesChunk) return this.#unit(chunk, hidden);
    const key = [hidden, ...floats.map(({ binary }) => binary)].join();
    const unit = this.#units.get(key) ?? this.#unit(null, hidden);
    this.#units.set(key, unit);
    return unit;
  }

  #unit(chunk: Chunk | null, hidden: number): UnitFormat {
    const columns = this.#stream.columns.map(({ name, typeOid, dimensions }, index) => {
      const float = this.#floats.get(index);
      const binary = float?.binary ?? binaryEncoder(typeOid, dimensions) !== undefined;
      return { name, binary };
    });
    const encoder = this.#encoder(chunk, hidden, false);
    const settled = [...this.#floats.values()].every(({ binary }) => binary);
    return { columns, encoder, sampling: settled ? encoder : this.#encoder(chunk, hidden, true) };
  }

  #encoder(chunk: Chunk | null, hidden: number, sampling: boolean): RecordEncoder {
    const columns = this.#stream.columns.map(({ name, typeOid, typmod, dimensions }, index) => {
      const float = this.#floats.get(index);
      if (float?.binary === true) return { name, encode: float.fromBinary };
      if (float !== undefined && sampling) return { name, encode: float.sampled };
      const text = columnType(typeOid, typmod, dimensions, this.#types).encode;
      return { name, encode: binaryEncoder(typeOid, dimensions) ?? text };
    });
    return new RecordEncoder(
      this.#stream.name,
      [...columns, ...Array.from({ length: hidden }, () => null)],
      this.#stream.cdcColumns,
      this.#clock,
      chunk === null ? null : chunkName(chunk),
    );
  }
}
