import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  cellOffsets,
  cellText,
  decodePgoutput,
  hasUnchangedCell,
  type PgoutputMessage,
  skipTuple,
} from '../src/postgres/pgoutput.ts';
import * as bytes from './pgoutput-bytes.ts';
import { type Cell, UNCHANGED } from './pgoutput-bytes.ts';

const HIGH_OID = 4_294_967_294;
const BEFORE = Buffer.from('what came before');
const AFTER = Buffer.from('\0what comes next\0');

/** Decodes the message between other bytes, as it lies in the reader's buffer. Offsets count from its tag. */
function decode(message: Buffer): PgoutputMessage {
  const src = Buffer.concat([BEFORE, message, AFTER]);
  const start = BEFORE.length;
  const decoded = decodePgoutput(src, start, start + message.length);
  return Object.fromEntries(
    Object.entries(decoded).map(([name, value]) => [
      name,
      name.endsWith('Tuple') && value !== 0 ? Number(value) - start : value,
    ]),
  ) as PgoutputMessage;
}

function cellsAt(src: Buffer, at: number): (string | null)[] {
  return cellOffsets(src, at).map((offset) => cellText(src, offset)?.toString() ?? null);
}

const EVENTS: readonly (readonly [string, Buffer, object])[] = [
  [
    'begin',
    bytes.begin(0xfffffffe_00000010n, 1_700_000_000_123_456n, 4_294_967_295),
    {
      tag: 'begin',
      commitLsn: 0xfffffffe_00000010n,
      committedAt: 1_700_000_000_123_456n,
      xid: 4_294_967_295,
    },
  ],
  ['commit', bytes.commit(16n, 64n), { tag: 'commit', commitLsn: 16n, endLsn: 64n }],
  ['insert', bytes.insert(HIGH_OID, ['1']), { tag: 'insert', relation: HIGH_OID, newTuple: 6 }],
  [
    'update without an old tuple',
    bytes.update(HIGH_OID, ['1']),
    { tag: 'update', relation: HIGH_OID, old: 'none', oldTuple: 0, newTuple: 6 },
  ],
  [
    'update with the old key',
    bytes.update(HIGH_OID, ['1', 'b'], ['K', ['22', null]]),
    { tag: 'update', relation: HIGH_OID, old: 'key', oldTuple: 6, newTuple: 17 },
  ],
  [
    'update with the whole old row',
    bytes.update(HIGH_OID, ['1', UNCHANGED], ['O', ['1', 'abc']]),
    { tag: 'update', relation: HIGH_OID, old: 'full', oldTuple: 6, newTuple: 23 },
  ],
  [
    'delete by key',
    bytes.deletion(HIGH_OID, 'K', ['1', null]),
    { tag: 'delete', relation: HIGH_OID, old: 'key', oldTuple: 6 },
  ],
  [
    'delete with the whole row',
    bytes.deletion(HIGH_OID, 'O', ['1', 'x']),
    { tag: 'delete', relation: HIGH_OID, old: 'full', oldTuple: 6 },
  ],
  [
    'truncate',
    bytes.truncate([HIGH_OID, 7, 2_147_483_648], 3),
    { tag: 'truncate', relations: [HIGH_OID, 7, 2_147_483_648] },
  ],
  ['truncate of nothing', bytes.truncate([]), { tag: 'truncate', relations: [] }],
  [
    'message in a transaction',
    bytes.logicalMessage('::timescaledb-compression-start', true, 'content'),
    { tag: 'message', transactional: true, prefix: '::timescaledb-compression-start' },
  ],
  [
    'message outside of one',
    bytes.logicalMessage('', false),
    { tag: 'message', transactional: false, prefix: '' },
  ],
  ['type', bytes.type(HIGH_OID, 'public', 'mood'), { tag: 'type' }],
  ['origin', bytes.origin('elsewhere'), { tag: 'origin' }],
];

describe('a message', () => {
  it.each(EVENTS)('%s', (_, message, decoded) => {
    expect(decode(message)).toEqual(decoded);
  });

  it.each([
    ['of a later protocol version', 'S'],
    ['of no kind', '\0'],
  ])('%s is refused', (_, tag) => {
    expect(() => decode(Buffer.from(tag))).toThrow('unknown kind');
  });

  it.each(EVENTS.filter(([name]) => /begin|commit|truncate$|insert/.test(name)))(
    '%s that ends before its fixed part is refused',
    (_, message, decoded) => {
      const fixed = 'newTuple' in decoded ? 5 : message.length;
      const short = Buffer.from(message.subarray(0, fixed - (message[0] === 0x43 ? 9 : 1)));
      expect(() => decodePgoutput(short, 0, short.length)).toThrow(RangeError);
    },
  );
});

const METRICS = {
  oid: HIGH_OID,
  schema: 'Größe "x"',
  name: 'metrics.raw',
  identity: 'i',
  columns: [
    { name: 'ts', typeOid: 1184, key: true },
    { name: 'größe', typeOid: 4_000_000_000, typmod: 655_366 },
    { name: '', typeOid: 25 },
  ],
};

describe('a relation', () => {
  it('has its names, identity and columns', () => {
    expect(decode(bytes.relation(METRICS))).toEqual({
      tag: 'relation',
      oid: HIGH_OID,
      schema: 'Größe "x"',
      name: 'metrics.raw',
      replicaIdentity: 'index',
      columns: [
        { name: 'ts', typeOid: 1184, typmod: -1, key: true },
        { name: 'größe', typeOid: 4_000_000_000, typmod: 655_366, key: false },
        { name: '', typeOid: 25, typmod: -1, key: false },
      ],
    });
  });

  it.each([
    ['d', 'default'],
    ['n', 'nothing'],
    ['f', 'full'],
    ['i', 'index'],
  ])('has the identity %s: %s', (identity, replicaIdentity) => {
    expect(decode(bytes.relation({ ...METRICS, identity }))).toMatchObject({ replicaIdentity });
  });

  it('of an identity that nobody knows is refused', () => {
    expect(() => decode(bytes.relation({ ...METRICS, identity: 'z' }))).toThrow('identity z');
  });

  it('without a schema lies in pg_catalog, and may have no columns', () => {
    expect(decode(bytes.relation({ oid: 1, schema: '', name: 'x', columns: [] }))).toMatchObject({
      schema: 'pg_catalog',
      columns: [],
    });
  });

  it('whose names are no valid UTF-8 (SQL_ASCII) does not shift what follows', () => {
    const latin1 = { name: Buffer.from('caf\xe9', 'latin1'), typeOid: 23, key: true };
    const decoded = decode(bytes.relation({ ...METRICS, columns: [latin1, latin1] }));
    const column = { name: 'caf\ufffd', typeOid: 23, typmod: -1, key: true };
    expect(decoded).toMatchObject({ columns: [column, column] });
  });

  it('whose texts are cut off is refused, even where bytes follow', () => {
    const whole = bytes.relation(METRICS);
    const ends = ['Größe', 'metrics', 'ts', 'größe'].map((text) => whole.indexOf(text) + 2);
    for (const end of ends) expect(() => decode(whole.subarray(0, end))).toThrow('does not end');
  });

  it('that is cut off anywhere is refused', () => {
    const whole = bytes.relation(METRICS);
    for (let end = 1; end < whole.length; end += 1) {
      const short = Buffer.from(whole.subarray(0, end));
      expect(() => decodePgoutput(short, 0, end), `at ${end}`).toThrow();
    }
  });
});

describe('a logical message', () => {
  it('whose prefix is cut off is refused', () => {
    const whole = bytes.logicalMessage('::timescaledb-compression-start');
    expect(() => decode(whole.subarray(0, 20))).toThrow('does not end');
  });
});

describe('a tuple', () => {
  const cell = fc.oneof(
    fc.constant<Cell>(null),
    fc.constant<Cell>(UNCHANGED),
    fc.string({ unit: 'binary', maxLength: 20 }),
  );
  const cells = fc.array(cell, { maxLength: 12 });
  const shown = (values: readonly Cell[]) =>
    values.map((value) => (typeof value === 'string' ? value : null));

  it('gives back any cells, and where it ends', () => {
    fc.assert(
      fc.property(cells, (values) => {
        const src = Buffer.concat([BEFORE, bytes.tuple(values), AFTER]);
        expect(cellsAt(src, BEFORE.length)).toEqual(shown(values));
        expect(skipTuple(src, BEFORE.length)).toBe(src.length - AFTER.length);
        expect(hasUnchangedCell(src, BEFORE.length)).toBe(values.includes(UNCHANGED));
      }),
    );
  });

  it('of an update lies behind any old one', () => {
    fc.assert(
      fc.property(cells, cells, fc.constantFrom('K' as const, 'O' as const), (old, now, kind) => {
        const src = bytes.update(7, now, [kind, old]);
        const message = decodePgoutput(src, 0, src.length);
        if (message.tag !== 'update') throw new Error(message.tag);
        expect(cellsAt(src, message.oldTuple)).toEqual(shown(old));
        expect(cellsAt(src, message.newTuple)).toEqual(shown(now));
      }),
    );
  });

  it('with a cell in binary is refused', () => {
    const src = Buffer.from(bytes.tuple(['1']));
    src[2] = 0x62;
    expect(() => skipTuple(src, 0)).toThrow('unknown kind');
  });

  it('may have a cell whose text is empty, which is not NULL', () => {
    const src = bytes.tuple(['', null]);
    const [empty = 0, missing = 0] = cellOffsets(src, 0);
    expect([cellText(src, empty), cellText(src, missing)]).toEqual([Buffer.alloc(0), null]);
  });
});
