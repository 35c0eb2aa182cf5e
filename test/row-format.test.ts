/** Which format the next chunk or slice is read in, by what the last ones held. */
import { describe, expect, it } from 'vitest';
import { LineBuffer } from '../src/airbyte/line-buffer.ts';
import type { SyncStream } from '../src/plan.ts';
import { RecordClock } from '../src/record.ts';
import { RowFormats, type StreamFormat, type UnitFormat } from '../src/row-format.ts';
import { dataRow } from './data-row.ts';
import { column, METRICS, planned } from './source-model.ts';

const FLOAT8 = 701;
const FLOAT4 = 700;
const DATE = 1082;
const STREAM = planned({
  ...METRICS,
  primaryKey: [],
  columns: [
    column('day', DATE),
    column('first', FLOAT8),
    column('second', FLOAT8),
    column('third', FLOAT4),
  ],
});
const CHUNK = {
  id: 1,
  oid: 1,
  hypertableId: 1,
  schema: '_timescaledb_internal',
  name: '_hyper_1_1_chunk',
  foreign: false,
  selectable: true,
  status: 0,
  rangeStart: 0n,
  rangeEnd: 1n,
  rows: 1,
  bytes: 1,
};

function formatOf(stream: SyncStream = STREAM): StreamFormat {
  return new RowFormats(new Map(), new RecordClock(0)).of(stream);
}

function binaryColumns({ columns }: UnitFormat): readonly string[] {
  return columns.flatMap(({ name, binary }) => (binary ? [name] : []));
}

type Pair = readonly [first: number | null, second: number | null];

/** Reads rows in a format, and looks at all of them. @returns the last record's data. */
function read({ columns, sampling }: UnitFormat, rows: readonly Pair[]): unknown {
  const out = new LineBuffer(4096);
  const cell = (value: number | null, index: number): string | Buffer | null => {
    if (value === null || columns[index]?.binary !== true)
      return value === null ? null : String(value);
    const bytes = Buffer.alloc(8);
    bytes.writeDoubleBE(value);
    return bytes;
  };
  for (const [first, second] of rows) {
    out.length = 0;
    const row = dataRow([Buffer.alloc(4), cell(first, 1), cell(second, 2), '1.5']);
    sampling.writeRow(out, row, 0, row.length, null);
  }
  const line: { record: { data: unknown } } = JSON.parse(out.bytes.toString('utf8', 0, out.length));
  return line.record.data;
}

function many(pair: Pair, count = 100): readonly Pair[] {
  return Array.from({ length: count }, () => pair);
}

describe('the format of double precision', () => {
  it('is text at first, binary once values were short, text again once they were long', () => {
    const format = formatOf();
    const first = format.next(CHUNK);
    expect(binaryColumns(first)).toEqual(['day']);
    const data = { day: '2000-01-01', first: 21.5, second: 1 / 3, third: 1.5 };
    expect(read(first, many([21.5, 1 / 3]))).toEqual(data);
    const second = format.next(CHUNK);
    expect(binaryColumns(second)).toEqual(['day', 'first']);
    expect(read(second, many([21.5, 1 / 3]))).toEqual(data);
    expect(binaryColumns(format.next(CHUNK))).toEqual(['day', 'first']);
    expect(read(second, many([1 / 3, 21.5]))).toEqual({ ...data, first: 1 / 3, second: 21.5 });
    expect(binaryColumns(format.next(CHUNK))).toEqual(['day', 'second']);
  });

  it.each([
    ['a sign, and 15 digits', -1234567.12345678, true],
    ['16 digits', 1234567.123456789, false],
    ['an exponent', 1e-17, false],
    ['an exponent of three digits', 1e-100, false],
    ['zero', 0, true],
  ])('goes by how the text looks: %s', (_, value, binary) => {
    const format = formatOf();
    read(format.next(null), many([value, null]));
    expect(binaryColumns(format.next(null)).includes('first')).toBe(binary);
  });

  it('is not changed by a few values, nor by NULLs', () => {
    const format = formatOf();
    read(format.next(CHUNK), [...many([null, 1]), ...many([1, 1], 99)]);
    expect(binaryColumns(format.next(CHUNK))).toEqual(['day', 'second']);
    read(format.next(CHUNK), [[1, null]]);
    expect(binaryColumns(format.next(CHUNK))).toEqual(['day', 'first', 'second']);
  });

  it('bears some long values among short ones', () => {
    const format = formatOf();
    read(format.next(CHUNK), many([1, 1]));
    const mixed = (long: number): readonly Pair[] => [
      ...many([1 / 3, 1], long),
      ...many([1, 1], 100 - long),
    ];
    read(format.next(CHUNK), mixed(8));
    expect(binaryColumns(format.next(CHUNK))).toEqual(['day', 'first', 'second']);
    read(format.next(CHUNK), mixed(9));
    expect(binaryColumns(format.next(CHUNK))).toEqual(['day', 'second']);
  });

  it('is the same unit as long as it does not change, and looks at nothing where all are binary', () => {
    const format = formatOf();
    const first = format.next(CHUNK);
    expect(format.next(null)).toBe(first);
    expect(first.sampling).not.toBe(first.encoder);
    read(first, many([1, 1]));
    const second = format.next(CHUNK);
    expect(second.sampling).toBe(second.encoder);
    expect(format.next(CHUNK)).toBe(second);
  });

  it('holds for records that name their chunk, and with a column that is not emitted', () => {
    const format = formatOf({ ...STREAM, namesChunk: true });
    const data = { day: '2000-01-01', first: 1, second: 2, third: 1.5 };
    const named = { ...data, _ab_timescaledb_chunk: '_timescaledb_internal._hyper_1_1_chunk' };
    expect(read(format.next(CHUNK), many([1, 2]))).toEqual(named);
    expect(read(format.next(CHUNK), many([1, 2]))).toEqual(named);
    const hidden = formatOf({ ...STREAM, columns: STREAM.columns.slice(0, 3) }).next(null, 1);
    expect(read(hidden, [[1, 2]])).toEqual({ day: '2000-01-01', first: 1, second: 2 });
  });
});
