/**
 * Messages of pgoutput (protocol version 1) as a server would write them:
 * https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html
 */

/** A cell: its text (or raw bytes), null for NULL, or a TOASTed value that the change did not touch. */
export type Cell = string | Buffer | null | typeof UNCHANGED;
export const UNCHANGED = Symbol('unchanged');

type ColumnBytes = {
  readonly name: string | Buffer;
  readonly typeOid: number;
  readonly typmod?: number;
  readonly key?: boolean;
};

export type RelationBytes = {
  readonly oid: number;
  readonly schema: string;
  readonly name: string;
  /** relreplident. */
  readonly identity?: string;
  readonly columns: readonly ColumnBytes[];
};

const POSTGRES_EPOCH_MICROS = 946_684_800_000_000n;

const byte = (value: number): Buffer => Buffer.from([value]);
const text = (value: string | Buffer): Buffer =>
  Buffer.concat([Buffer.from(value as string), byte(0)]);

function uint16(value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16BE(value);
  return bytes;
}

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

function int64(value: bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigInt64BE(BigInt.asIntN(64, value));
  return bytes;
}

/** A tuple, beginning with its number of columns. */
export function tuple(cells: readonly Cell[]): Buffer {
  const encoded = cells.map((cell) => {
    if (cell === null) return Buffer.from('n');
    if (cell === UNCHANGED) return Buffer.from('u');
    const value = Buffer.from(cell as string);
    return Buffer.concat([Buffer.from('t'), uint32(value.length), value]);
  });
  return Buffer.concat([uint16(cells.length), ...encoded]);
}

/** @param committedAt microseconds since 1970. */
export function begin(commitLsn: bigint, committedAt: bigint, xid: number): Buffer {
  const micros = committedAt - POSTGRES_EPOCH_MICROS;
  return Buffer.concat([Buffer.from('B'), int64(commitLsn), int64(micros), uint32(xid)]);
}

export function commit(commitLsn: bigint, endLsn: bigint): Buffer {
  return Buffer.concat([Buffer.from('C'), byte(0), int64(commitLsn), int64(endLsn), int64(0n)]);
}

export function relation({ oid, schema, name, identity, columns }: RelationBytes): Buffer {
  return Buffer.concat([
    Buffer.from('R'),
    uint32(oid),
    text(schema),
    text(name),
    Buffer.from(identity ?? 'd'),
    uint16(columns.length),
    ...columns.flatMap((column) => [
      byte(column.key === true ? 1 : 0),
      text(column.name),
      uint32(column.typeOid),
      uint32((column.typmod ?? -1) >>> 0),
    ]),
  ]);
}

export function insert(oid: number, cells: readonly Cell[]): Buffer {
  return Buffer.concat([Buffer.from('I'), uint32(oid), Buffer.from('N'), tuple(cells)]);
}

/** @param old the old tuple: of the key only (`K`), or whole (`O`). */
export function update(
  oid: number,
  cells: readonly Cell[],
  old?: readonly ['K' | 'O', readonly Cell[]],
): Buffer {
  const before = old === undefined ? [] : [Buffer.from(old[0]), tuple(old[1])];
  return Buffer.concat([Buffer.from('U'), uint32(oid), ...before, Buffer.from('N'), tuple(cells)]);
}

export function deletion(oid: number, kind: 'K' | 'O', cells: readonly Cell[]): Buffer {
  return Buffer.concat([Buffer.from('D'), uint32(oid), Buffer.from(kind), tuple(cells)]);
}

export function truncate(oids: readonly number[], options = 0): Buffer {
  return Buffer.concat([
    Buffer.from('T'),
    uint32(oids.length),
    byte(options),
    ...oids.map((oid) => uint32(oid)),
  ]);
}

export function logicalMessage(prefix: string, transactional = true, content = ''): Buffer {
  const body = Buffer.from(content);
  return Buffer.concat([
    Buffer.from('M'),
    byte(transactional ? 1 : 0),
    int64(1n),
    text(prefix),
    uint32(body.length),
    body,
  ]);
}

export function type(oid: number, schema: string, name: string): Buffer {
  return Buffer.concat([Buffer.from('Y'), uint32(oid), text(schema), text(name)]);
}

export function origin(name: string): Buffer {
  return Buffer.concat([Buffer.from('O'), int64(7n), text(name)]);
}
