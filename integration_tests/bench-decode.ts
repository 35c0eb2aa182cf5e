/** Contestants' output, piece by piece, as lines and as rows. */
import type { BenchTable } from './bench-tables.ts';

export async function* linesOf(pieces: AsyncIterable<Buffer>): AsyncGenerator<string> {
  let rest: Buffer = Buffer.alloc(0);
  for await (const piece of pieces) {
    const bytes = rest.length === 0 ? piece : Buffer.concat([rest, piece]);
    let start = 0;
    for (let end = bytes.indexOf(0x0a); end >= 0; end = bytes.indexOf(0x0a, start)) {
      yield bytes.toString('utf8', start, end);
      start = end + 1;
    }
    rest = bytes.subarray(start);
  }
}

/**
 * The inserted rows in what `pg_recvlogical` writes: pgoutput's messages, each with a line feed behind it, which may
 * also stand within. Each row as a line of JSON like a RECORD's.
 */
export async function* tuplesOf(
  pieces: AsyncIterable<Buffer>,
  table: BenchTable,
): AsyncGenerator<string> {
  let rest: Buffer = Buffer.alloc(0);
  for await (const piece of pieces) {
    const bytes = Buffer.concat([rest, piece]);
    let at = 0;
    for (;;) {
      const end = messageEnd(bytes, at);
      if (end === null || end >= bytes.length) break;
      if (bytes[at] === INSERT) yield tupleLine(bytes, at + TUPLE_OFFSET, table);
      at = end + 1;
    }
    rest = bytes.subarray(at);
  }
}

const BEGIN = 0x42;
const COMMIT = 0x43;
const INSERT = 0x49;
const RELATION = 0x52;
const TEXT = 0x74;
/** Tag, OID of the relation, `N`. */
const TUPLE_OFFSET = 6;

/** @returns null while it is not complete. */
function messageEnd(bytes: Buffer, at: number): number | null {
  switch (bytes[at]) {
    case undefined:
      return null;
    case BEGIN:
      return at + 21;
    case COMMIT:
      return at + 26;
    case RELATION:
      return whole(() => relationEnd(bytes, at));
    case INSERT:
      return whole(() => tupleEnd(bytes, at + TUPLE_OFFSET));
    default:
      throw new Error(`not a message of a table that is only inserted into: ${bytes[at]}`);
  }
}

/** Reading behind the end of the bytes means that more are to come. */
function whole(read: () => number): number | null {
  try {
    return read();
  } catch (error) {
    if (error instanceof RangeError) return null;
    throw error;
  }
}

function relationEnd(bytes: Buffer, at: number): number {
  let end = afterText(bytes, afterText(bytes, at + 5)) + 1;
  const columns = bytes.readUInt16BE(end);
  end += 2;
  for (let i = 0; i < columns; i += 1) end = afterText(bytes, end + 1) + 8;
  return end;
}

function afterText(bytes: Buffer, at: number): number {
  const zero = bytes.indexOf(0, at);
  if (zero < 0) throw new RangeError('no end of the text');
  return zero + 1;
}

function tupleEnd(bytes: Buffer, at: number): number {
  let end = at + 2;
  for (let left = bytes.readUInt16BE(at); left > 0; left -= 1) {
    const isText = bytes.readUInt8(end) === TEXT;
    end += isText ? 5 + bytes.readUInt32BE(end + 1) : 1;
  }
  return end;
}

function tupleLine(bytes: Buffer, start: number, table: BenchTable): string {
  const data: Record<string, string | null> = {};
  let at = start + 2;
  for (const { name } of table.columns) {
    const isText = bytes[at] === TEXT;
    const length = isText ? bytes.readUInt32BE(at + 1) : 0;
    data[name] = isText ? bytes.toString('utf8', at + 5, at + 5 + length) : null;
    at += isText ? 5 + length : 1;
  }
  return JSON.stringify({ record: { data } });
}
