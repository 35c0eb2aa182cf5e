/**
 * When a row was written, as far as its `xmin` tells. Rows carry 32 bits of a transaction's id, of which a server uses up
 * 2^32 again and again; the id meant is the greatest one with these bits that was given out. Only rows that VACUUM froze
 * long ago can be older than that: they are taken for newer ones, never the other way round, so nothing is passed over.
 * https://www.postgresql.org/docs/current/routine-vacuuming.html#VACUUM-FOR-WRAPAROUND
 */
import type { ClientBase } from 'pg';

/** 64-bit transaction ids. */
export type TransactionIds = {
  /** Every transaction before this one has ended, with all its subtransactions: a later snapshot sees what it has written. */
  readonly ended: bigint;
  /** No transaction had this id yet, or a greater one. */
  readonly next: bigint;
};

/** As the server has them now. On a standby too: what runs on the primary is known there. */
export async function transactionIds(client: ClientBase): Promise<TransactionIds> {
  const { rows } = await client.query<{ ended: string; next: string }>(
    `SELECT pg_catalog.pg_snapshot_xmin(now)::text AS ended, pg_catalog.pg_snapshot_xmax(now)::text AS next
       FROM pg_catalog.pg_current_snapshot() now`,
  );
  const [row] = rows;
  if (row === undefined) throw new Error('no answer about transaction ids');
  return { ended: BigInt(row.ended), next: BigInt(row.next) };
}

/** Beyond this distance the 32 bits of an id might stand for a later one by the time they are compared. */
const COMPARABLE = 2n ** 31n;

/** Whether rows can be told apart by this id: two thousand million transactions later they cannot. */
export function isComparable(id: bigint, next: bigint): boolean {
  return next - id < COMPARABLE;
}

/**
 * SQL over a row's `xmin`: written by this transaction or a later one.
 * @param xmin how SQL names it. @returns null where every row may be: the id is too old to compare with.
 */
export function writtenSinceSql(id: bigint, next: bigint, xmin = 'xmin'): string | null {
  if (!isComparable(id, next)) return null;
  return `${distanceSql(xmin)} <= (SELECT ${distanceSql(literal(id))})`;
}

/** SQL over a row's `xmin`: written before this transaction. The exact opposite of `writtenSinceSql`. */
export function writtenBeforeSql(id: bigint): string {
  return `${distanceSql('xmin')} > (SELECT ${distanceSql(literal(id))})`;
}

/** How many ids ago, from 0 to 2^32: `age` gives the same as a signed number. */
function distanceSql(xid: string): string {
  return `(pg_catalog.age(${xid})::int8 & 4294967295)`;
}

/** The first three ids of each round are the server's own: their age says nothing, and no transaction has them. */
function literal(id: bigint): string {
  const low = BigInt.asUintN(32, id);
  return `'${low < 3n ? 3n : low}'::xid`;
}
