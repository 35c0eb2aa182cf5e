import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { LineBuffer, Piece } from '../src/airbyte/line-buffer.ts';
import { columnType } from '../src/column-types.ts';
import {
  CDC_COLUMNS,
  type ChangeStamp,
  RecordClock,
  type RecordColumn,
  RecordEncoder,
} from '../src/record.ts';
import { type Cell, tuple, UNCHANGED } from './pgoutput-bytes.ts';

const NOW = 1_700_000_000_123;
const STREAM = { name: 'metrics', namespace: 'public' };
const HEAD = `{"type":"RECORD","record":{"namespace":"public","stream":"metrics","emitted_at":${NOW},"data":`;

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['Date'], now: NOW });
});
afterEach(() => {
  vi.useRealTimers();
});

const column = (name: string, typeOid: number): RecordColumn => ({
  name,
  encode: columnType(typeOid, -1, 0, new Map()).encode,
});
const ID = column('id', 23);
const NAME = column('name', 25);
const VALUE = column('value', 701);

const STAMP: ChangeStamp = {
  lsn: '18446744073709551615',
  updatedAt: '2024-01-02T03:04:05.678901Z',
  deleted: false,
};
const DELETED: ChangeStamp = { ...STAMP, deleted: true };

/** The body of a DataRow message. */
function row(cells: readonly (string | Buffer | null)[]): Buffer {
  const count = Buffer.alloc(2);
  count.writeUInt16BE(cells.length);
  return Buffer.concat([
    count,
    ...cells.flatMap((cell) => {
      const length = Buffer.alloc(4);
      const value = Buffer.from((cell ?? '') as string);
      length.writeInt32BE(cell === null ? -1 : value.length);
      return [length, value];
    }),
  ]);
}

const BEFORE = Buffer.from('9"before');
const AFTER = Buffer.from('9"after');

class Lines {
  readonly out: LineBuffer;
  readonly encoder: RecordEncoder;

  constructor(
    columns: readonly (RecordColumn | null)[],
    cdcColumns: readonly string[] = [],
    { stream = STREAM, capacity = 64, floor = 0 } = {},
  ) {
    this.out = new LineBuffer(capacity);
    this.encoder = new RecordEncoder(stream, columns, cdcColumns, new RecordClock(floor));
  }

  row(cells: readonly (string | Buffer | null)[], stamp: ChangeStamp | null = null): this {
    const src = Buffer.concat([BEFORE, row(cells), AFTER]);
    const end = src.length - AFTER.length;
    this.encoder.writeRow(this.out, src, BEFORE.length, end, stamp);
    return this;
  }

  tuple(cells: readonly Cell[], stamp = STAMP, fetched?: ReadonlyMap<number, Buffer | null>): this {
    const src = Buffer.concat([BEFORE, tuple(cells), AFTER]);
    const end = src.length - AFTER.length;
    this.encoder.writeTuple(this.out, src, BEFORE.length, end, stamp, fetched);
    return this;
  }

  get text(): string {
    return this.out.bytes.toString('utf8', 0, this.out.length);
  }

  /** The record of the last line. */
  get last(): { data: Record<string, unknown>; meta?: { changes: unknown[] } } {
    return JSON.parse(this.text.trimEnd().split('\n').at(-1) ?? '').record;
  }
}

describe('a line', () => {
  it('of a row has exactly these bytes', () => {
    expect(new Lines([ID, NAME, VALUE]).row(['7', 'a "b"', '1e-07']).text).toBe(
      `${HEAD}{"id":7,"name":"a \\"b\\"","value":1e-07}}}\n`,
    );
  });

  it('of a change has exactly these bytes', () => {
    expect(new Lines([ID, NAME], CDC_COLUMNS).tuple(['7', 'x']).text).toBe(
      `${HEAD}{"id":7,"name":"x","_ab_cdc_lsn":18446744073709551615,` +
        `"_ab_cdc_updated_at":"2024-01-02T03:04:05.678901Z","_ab_cdc_deleted_at":null,` +
        `"_ab_cdc_cursor":${NOW}001}}}\n`,
    );
  });

  it('has the whole order token, also where more of its digits change than the last eight', () => {
    const floor = 1_800_000_099_999_997;
    const lines = new Lines([ID], CDC_COLUMNS, { floor });
    const other = { ...STAMP, deleted: true };
    const stamps = [STAMP, STAMP, STAMP, other, STAMP];
    const tokens = stamps.map(
      (stamp) => lines.tuple(['7'], stamp).text.match(/r":(\d+)}}}\n$/)?.[1],
    );
    expect(tokens).toEqual(stamps.map((_, index) => String(floor + 1 + index)));
  });

  it('of a deletion has its time, and nulls but for the key', () => {
    expect(new Lines([ID, NAME], CDC_COLUMNS).tuple(['7', null], DELETED).text).toContain(
      '"name":null,"_ab_cdc_lsn":18446744073709551615,' +
        '"_ab_cdc_updated_at":"2024-01-02T03:04:05.678901Z",' +
        '"_ab_cdc_deleted_at":"2024-01-02T03:04:05.678901Z",',
    );
  });

  it('is the same from a row and from a tuple', () => {
    const cells = ['7', 'ünï\u2028"\n', null];
    const lines = [ID, NAME, VALUE];
    const fromRow = new Lines(lines, CDC_COLUMNS).row(cells, STAMP).text;
    expect(new Lines(lines, CDC_COLUMNS).tuple(cells, STAMP).text).toBe(fromRow);
  });

  it('follows the one before without a gap', () => {
    const lines = new Lines([ID]).row(['1']).row([null]).row(['3']);
    expect(lines.text).toBe(`${HEAD}{"id":1}}}\n${HEAD}{"id":null}}}\n${HEAD}{"id":3}}}\n`);
  });

  it('leaves out columns that are not emitted, wherever they stand', () => {
    const lines = new Lines([null, ID, null, NAME, null]).row(['x', '1', null, 'n', 'y']);
    expect(lines.text).toBe(`${HEAD}{"id":1,"name":"n"}}}\n`);
  });

  it('may have no column at all', () => {
    expect(new Lines([null]).row(['x']).text).toBe(`${HEAD}{}}}\n`);
  });

  it.each([
    [[], []],
    [['_ab_cdc_lsn'], ['_ab_cdc_lsn']],
    [
      ['_ab_cdc_cursor', '_ab_cdc_lsn', 'other'],
      ['_ab_cdc_lsn', '_ab_cdc_cursor'],
    ],
  ])('has of the CDC columns those that are selected: %j', (selected, written) => {
    const { data } = new Lines([ID], selected).tuple(['1']).last;
    expect(Object.keys(data)).toEqual(['id', ...written]);
  });

  it('says what its own stamp says, whatever the one before said', () => {
    const later: ChangeStamp = {
      lsn: '7',
      updatedAt: '2025-01-01T00:00:00.000000Z',
      deleted: false,
    };
    const stamps = [STAMP, DELETED, STAMP, later, { ...later, deleted: true }, later];
    const lines = new Lines([ID], CDC_COLUMNS);
    for (const stamp of stamps) lines.tuple(['1'], stamp);
    const read = lines.text.trimEnd().split('\n');
    expect(read.map((line) => JSON.parse(line).record.data)).toMatchObject(
      stamps.map(({ updatedAt, deleted }, index) => ({
        _ab_cdc_updated_at: updatedAt,
        _ab_cdc_deleted_at: deleted ? updatedAt : null,
        _ab_cdc_cursor: NOW * 1000 + 1 + index,
      })),
    );
  });

  it('has the CDC columns alone where no other is selected', () => {
    const { data } = new Lines([null], ['_ab_cdc_lsn']).tuple(['1']).last;
    expect(Object.keys(data)).toEqual(['_ab_cdc_lsn']);
  });
});

describe('a line without a stamp', () => {
  it('takes no token', () => {
    const clock = new RecordClock(7);
    const encoder = new RecordEncoder(STREAM, [ID], CDC_COLUMNS, clock);
    const src = row(['1']);
    const before = clock.cursor;
    encoder.writeRow(new LineBuffer(64), src, 0, src.length, null);
    expect(before).toBe(7);
    expect(clock.cursor).toBe(NOW * 1000);
  });
});

describe('names', () => {
  const awkward = 'say "hi"\\ ünï 🚀 \n\u0085\u2028\u2029';

  it('of any kind are JSON on one line', () => {
    const stream = { name: `n${awkward}`, namespace: `s${awkward}` };
    const lines = new Lines([column(awkward, 23)], [], { stream }).row(['1']);
    expect(lines.text.slice(0, -1)).not.toMatch(/[\n\u0085\u2028\u2029]/u);
    const { record } = JSON.parse(lines.text);
    expect(record).toMatchObject({
      stream: stream.name,
      namespace: stream.namespace,
      data: { [awkward]: 1 },
    });
  });

  it('are so in the notes on changes, too', () => {
    const lines = new Lines([column(awkward, 701)]).row(['NaN']);
    expect(lines.text.slice(0, -1)).not.toMatch(/[\n\u0085\u2028\u2029]/u);
    expect(lines.last.meta?.changes).toMatchObject([{ field: awkward }]);
  });
});

const note = (field: string, reason: string) => ({ field, change: 'NULLED', reason });
const UNREADABLE = 'SOURCE_RETRIEVAL_ERROR';
const TOO_LONG = 'SOURCE_RECORD_SIZE_LIMITATION';

describe('a value that has no JSON form', () => {
  it('is null, with a note', () => {
    const lines = new Lines([ID, VALUE, NAME]).row(['1', 'NaN', 'x']);
    expect(lines.text).toBe(
      `${HEAD}{"id":1,"value":null,"name":"x"},"meta":{"changes":` +
        '[{"field":"value","change":"NULLED","reason":"SOURCE_SERIALIZATION_ERROR"}]}}}\n',
    );
  });

  it('leaves nothing behind of what was written of it', () => {
    const tags = { name: 'tags', encode: columnType(1009, -1, 1, new Map()).encode };
    expect(new Lines([tags, ID]).row(['{a,"not closed', '1']).last).toEqual(
      expect.objectContaining({ data: { tags: null, id: 1 } }),
    );
  });

  it('leaves no note in the next line', () => {
    expect(new Lines([VALUE]).row(['NaN']).row(['1']).last.meta).toBeUndefined();
  });

  it('leaves no note where it is NULL or not emitted', () => {
    expect(new Lines([VALUE, null]).row([null, 'NaN']).last).toMatchObject({
      data: { value: null },
    });
    expect(new Lines([VALUE, null]).row([null, 'NaN']).last.meta).toBeUndefined();
  });
});

describe('a cell that an update did not touch', () => {
  const columns = [ID, NAME, VALUE];
  it.each<[string, ReadonlyMap<number, Buffer | null> | undefined, unknown, unknown[]]>([
    ['is what was fetched', new Map([[1, Buffer.from('ünï')]]), 'ünï', []],
    ['is the empty text if that was fetched', new Map([[1, Buffer.alloc(0)]]), '', []],
    ['is null if that was fetched', new Map([[1, null]]), null, []],
    ['is null with a note if its row is gone', new Map(), null, [note('name', UNREADABLE)]],
    ['is null with a note by default', undefined, null, [note('name', UNREADABLE)]],
  ])('%s', (_, fetched, name, changes) => {
    const { data, meta } = new Lines(columns, []).tuple(['1', UNCHANGED, '2'], STAMP, fetched).last;
    expect(data).toEqual({ id: 1, name, value: 2 });
    expect(meta?.changes ?? []).toEqual(changes);
  });

  it('may be fetched and have no JSON form', () => {
    const fetched = new Map([[2, Buffer.from('Infinity')]]);
    const { meta } = new Lines(columns, []).tuple(['1', 'x', UNCHANGED], STAMP, fetched).last;
    expect(meta?.changes).toEqual([note('value', 'SOURCE_SERIALIZATION_ERROR')]);
  });

  it('is not noted where it is not emitted', () => {
    expect(new Lines([ID, null], []).tuple(['1', UNCHANGED]).last.meta).toBeUndefined();
  });
});

describe('a line above the limit', () => {
  const MB = 1_000_000;
  const LIMIT = 20 * MB;
  const plain = (megabytes: number) => Buffer.alloc(megabytes * MB, 'x');
  const A = column('a', 25);
  const B = column('b', 25);

  it.each<[string, (Buffer | null)[], string[]]>([
    ['one long value', [plain(25), Buffer.from('b')], ['a']],
    ['the longer of two', [plain(9), plain(12)], ['b']],
    ['both where each is too long', [plain(21), plain(22)], ['b', 'a']],
    ['what only its escapes make too long', [Buffer.alloc(4 * MB, '\x01'), null], ['a']],
    ['nothing where it just fits', [plain(9), plain(9)], []],
  ])('is written without %s', (_, [a = null, b = null], trimmed) => {
    const lines = new Lines([ID, A, B]).row(['7', a, b]);
    expect(lines.out.length).toBeLessThan(LIMIT);
    const { data, meta } = lines.last;
    expect((meta?.changes ?? []).toSorted(byField)).toEqual(
      trimmed.map((field) => note(field, TOO_LONG)).toSorted(byField),
    );
    const kept = (field: string, value: Buffer | null) =>
      trimmed.includes(field) ? null : (value?.toString() ?? null);
    expect(data['id']).toBe(7);
    expect(data['a'] === kept('a', a)).toBe(true);
    expect(data['b'] === kept('b', b)).toBe(true);
  });

  it('does not shorten the next one, nor does the one before blame its columns', () => {
    const lines = new Lines([ID, A, B]);
    lines.row(['1', plain(18), null]);
    lines.out.length = 0;
    lines.row(['2', null, plain(21)]);
    expect(lines.last.meta?.changes).toEqual([note('b', TOO_LONG)]);
    lines.out.length = 0;
    lines.row(['3', 'short', 'short']);
    expect(lines.last).toEqual(
      expect.objectContaining({ data: { id: 3, a: 'short', b: 'short' } }),
    );
    expect(lines.last.meta).toBeUndefined();
  });

  it('is trimmed also by what was fetched', () => {
    const fetched = new Map([[1, plain(21)]]);
    const lines = new Lines([ID, A], CDC_COLUMNS).tuple(['7', UNCHANGED], STAMP, fetched);
    expect(lines.last).toMatchObject({
      data: { id: 7, a: null, _ab_cdc_lsn: expect.any(Number) },
      meta: { changes: [note('a', TOO_LONG)] },
    });
  });

  function byField(a: unknown, b: unknown): number {
    return JSON.stringify(a).localeCompare(JSON.stringify(b));
  }
});

describe('the buffer', () => {
  it('grows with the lines, whatever its size was', () => {
    const text = fc.string({ unit: 'binary', maxLength: 300 });
    const cells = fc.array(fc.tuple(text, fc.option(text)), { minLength: 1, maxLength: 8 });
    fc.assert(
      fc.property(cells, fc.integer({ min: 0, max: 900 }), (rows, capacity) => {
        const lines = new Lines([NAME, column('b', 25)], CDC_COLUMNS, { capacity });
        for (const [a, b] of rows) lines.tuple([a, b]);
        const read = lines.text.trimEnd().split('\n');
        expect(read.map((line) => JSON.parse(line).record.data)).toMatchObject(
          rows.map(([name, b]) => ({ name, b })),
        );
      }),
    );
  });

  it('keeps what is in it when it grows, and appends any text', () => {
    const out = new LineBuffer(2);
    out.appendText('é\u2028🚀');
    out.reserve(8);
    out.appendPiece(new Piece('other'));
    out.length -= 5;
    out.appendPiece(new Piece('end'));
    expect(out.bytes.toString('utf8', 0, out.length)).toBe('é\u2028🚀end');
  });
});
