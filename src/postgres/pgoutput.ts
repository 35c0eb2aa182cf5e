/**
 * pgoutput's messages (protocol version 1), decoded in place: a change carries offsets of its tuples, not values.
 * Pure: bytes in, message out. https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html
 */
import { type Lsn, lsnFromBytes } from './lsn.ts';

export type RelationColumn = {
  readonly name: string;
  readonly typeOid: number;
  readonly typmod: number;
  /** Part of the replica identity. */
  readonly key: boolean;
};

export type RelationMessage = {
  readonly tag: 'relation';
  readonly oid: number;
  readonly schema: string;
  readonly name: string;
  readonly replicaIdentity: 'default' | 'nothing' | 'full' | 'index';
  readonly columns: readonly RelationColumn[];
};

/** Offsets point at a tuple's 16-bit number of columns. */
export type PgoutputMessage =
  | {
      readonly tag: 'begin';
      /** Position of the commit record. */
      readonly commitLsn: Lsn;
      /** Microseconds since the Unix epoch. */
      readonly committedAt: bigint;
      /** Lower 32 bits of the top-level transaction's id. */
      readonly xid: number;
    }
  | { readonly tag: 'commit'; readonly commitLsn: Lsn; readonly endLsn: Lsn }
  | RelationMessage
  | { readonly tag: 'insert'; readonly relation: number; readonly newTuple: number }
  | {
      readonly tag: 'update';
      readonly relation: number;
      readonly old: 'none' | 'key' | 'full';
      /** 0 where `old` is none. */
      readonly oldTuple: number;
      readonly newTuple: number;
    }
  | {
      readonly tag: 'delete';
      readonly relation: number;
      readonly old: 'key' | 'full';
      readonly oldTuple: number;
    }
  | { readonly tag: 'truncate'; readonly relations: readonly number[] }
  | { readonly tag: 'message'; readonly transactional: boolean; readonly prefix: string }
  | { readonly tag: 'type' }
  | { readonly tag: 'origin' };

/** Microseconds between the Unix epoch and PostgreSQL's, 2000-01-01. */
const POSTGRES_EPOCH_MICROS = 946_684_800_000_000n;

const IDENTITIES = { d: 'default', n: 'nothing', f: 'full', i: 'index' } as const;

/**
 * @param src holds one whole message in [start, end).
 * @throws Error on a message that protocol version 1 does not have, or that ends early.
 */
export function decodePgoutput(src: Buffer, start: number, end: number): PgoutputMessage {
  const tag = String.fromCharCode(src[start] ?? 0);
  const at = start + 1;
  switch (tag) {
    case 'I':
      return { tag: 'insert', relation: src.readUInt32BE(at), newTuple: at + 5 };
    case 'U':
      return decodeUpdate(src, at);
    case 'D':
      return {
        tag: 'delete',
        relation: src.readUInt32BE(at),
        old: oldKind(src, at + 4),
        oldTuple: at + 5,
      };
    case 'B':
      return {
        tag: 'begin',
        commitLsn: lsnFromBytes(src, at),
        committedAt: src.readBigInt64BE(at + 8) + POSTGRES_EPOCH_MICROS,
        xid: src.readUInt32BE(at + 16),
      };
    case 'C':
      return {
        tag: 'commit',
        commitLsn: lsnFromBytes(src, at + 1),
        endLsn: lsnFromBytes(src, at + 9),
      };
    case 'R':
      return decodeRelation(src, at, end);
    case 'T':
      return decodeTruncate(src, at);
    case 'M':
      return {
        tag: 'message',
        transactional: (src[at] ?? 0) === 1,
        prefix: cString(src, at + 9, end),
      };
    case 'Y':
      return { tag: 'type' };
    case 'O':
      return { tag: 'origin' };
    default:
      throw new Error(`pgoutput sent a message of unknown kind ${JSON.stringify(tag)}`);
  }
}

function oldKind(src: Buffer, at: number): 'key' | 'full' {
  return src[at] === 0x4b ? 'key' : 'full';
}

const NEW_TUPLE = 0x4e;

function decodeUpdate(src: Buffer, at: number): PgoutputMessage {
  const relation = src.readUInt32BE(at);
  if (src[at + 4] === NEW_TUPLE) {
    return { tag: 'update', relation, old: 'none', oldTuple: 0, newTuple: at + 5 };
  }
  const oldTuple = at + 5;
  return {
    tag: 'update',
    relation,
    old: oldKind(src, at + 4),
    oldTuple,
    newTuple: skipTuple(src, oldTuple) + 1,
  };
}

function decodeRelation(src: Buffer, start: number, end: number): RelationMessage {
  const oid = src.readUInt32BE(start);
  const schema = cString(src, start + 4, end);
  let at = afterText(src, start + 4);
  const name = cString(src, at, end);
  at = afterText(src, at);
  const identity = String.fromCharCode(src[at] ?? 0);
  const count = src.readUInt16BE(at + 1);
  at += 3;
  const columns: RelationColumn[] = [];
  for (let i = 0; i < count; i += 1) {
    const key = ((src[at] ?? 0) & 1) === 1;
    const column = cString(src, at + 1, end);
    at = afterText(src, at + 1);
    columns.push({
      name: column,
      typeOid: src.readUInt32BE(at),
      typmod: src.readInt32BE(at + 4),
      key,
    });
    at += 8;
  }
  if (!isIdentity(identity)) throw new Error(`unknown replica identity ${identity}`);
  // An empty namespace stands for pg_catalog.
  return {
    tag: 'relation',
    oid,
    schema: schema === '' ? 'pg_catalog' : schema,
    name,
    replicaIdentity: IDENTITIES[identity],
    columns,
  };
}

function isIdentity(letter: string): letter is keyof typeof IDENTITIES {
  return letter in IDENTITIES;
}

function decodeTruncate(src: Buffer, at: number): PgoutputMessage {
  const count = src.readUInt32BE(at);
  const relations: number[] = [];
  for (let i = 0; i < count; i += 1) relations.push(src.readUInt32BE(at + 5 + i * 4));
  return { tag: 'truncate', relations };
}

function cString(src: Buffer, start: number, end: number): string {
  const zero = src.indexOf(0, start);
  if (zero < 0 || zero >= end) throw new Error('pgoutput sent a text that does not end');
  return src.toString('utf8', start, zero);
}

/** The offset behind the text at `at`. Counted in the bytes sent: in SQL_ASCII they need not be UTF-8. */
function afterText(src: Buffer, at: number): number {
  return src.indexOf(0, at) + 1;
}

/** First byte of a cell: NULL, a TOASTed value that the change did not touch, or text. */
export const CELL_NULL = 0x6e;
export const CELL_UNCHANGED = 0x75;
const CELL_TEXT = 0x74;

/** The offset behind the tuple at `at`. */
export function skipTuple(src: Buffer, at: number): number {
  const count = src.readUInt16BE(at);
  let next = at + 2;
  for (let i = 0; i < count; i += 1) next = skipCell(src, next);
  return next;
}

/** The offset behind the cell at `at`. @throws Error on binary cells, which we do not ask for. */
function skipCell(src: Buffer, at: number): number {
  const kind = src[at];
  if (kind === CELL_NULL || kind === CELL_UNCHANGED) return at + 1;
  if (kind !== CELL_TEXT) throw new Error('pgoutput sent a cell of unknown kind');
  return at + 5 + src.readUInt32BE(at + 1);
}

/** The offset of each cell's first byte. Only for the rare rows that need cells one by one. */
export function cellOffsets(src: Buffer, at: number): readonly number[] {
  const count = src.readUInt16BE(at);
  const offsets: number[] = [];
  let next = at + 2;
  for (let i = 0; i < count; i += 1) {
    offsets.push(next);
    next = skipCell(src, next);
  }
  return offsets;
}

/** A cell's text; null for NULL and for an unchanged value. */
export function cellText(src: Buffer, at: number): Buffer | null {
  if (src[at] !== CELL_TEXT) return null;
  return src.subarray(at + 5, at + 5 + src.readUInt32BE(at + 1));
}

/** Whether a cell of the tuple is a TOASTed value that the change did not touch. */
export function hasUnchangedCell(src: Buffer, at: number): boolean {
  const count = src.readUInt16BE(at);
  let next = at + 2;
  for (let i = 0; i < count; i += 1) {
    if (src[next] === CELL_UNCHANGED) return true;
    next = skipCell(src, next);
  }
  return false;
}
