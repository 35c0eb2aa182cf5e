/** What a slice of a table takes, as SQL: pages, and rows that a visibility, or a transaction id, tells of. */
import type { Client, ClientBase } from 'pg';
import { writtenBeforeSql, writtenSinceSql } from './postgres/transaction-ids.ts';
import { parseVisibility } from './postgres/visibility.ts';

/** A table, or a leaf partition, as slices are read from it. */
export type SliceSource = {
  readonly oid: number;
  readonly schema: string;
  readonly name: string;
  /** Whether it can be read by ranges of ctid. */
  readonly heap: boolean;
  /** Whether LOCK TABLE takes it: tables that may be selected as a whole, but neither foreign tables nor materialized views. */
  readonly lockable: boolean;
};

export type Slice = {
  readonly fromPage: number;
  /** The first page of the next slice; null: to the end of the table. */
  readonly toPage: number | null;
  /** Only rows that this visibility sees: the stream brings those of later transactions. Null: every row. */
  readonly within: string | null;
  /** Only rows of earlier transactions, or of this one and later ones. Null: every row. */
  readonly rows:
    { readonly before: bigint } | { readonly since: bigint; readonly next: bigint } | null;
};

/** Which of a table's rows a slice takes, beside the condition of the selection; null: all. */
export function conditions(source: SliceSource, slice: Slice, where: string | null): string | null {
  const parts: string[] = [];
  if (source.heap && slice.fromPage > 0) parts.push(`ctid >= '(${slice.fromPage},0)'::tid`);
  if (source.heap && slice.toPage !== null) parts.push(`ctid < '(${slice.toPage},0)'::tid`);
  if (source.heap && slice.within !== null) parts.push(visibleIn(slice.within));
  if (source.heap && slice.rows !== null) {
    const { rows } = slice;
    const written =
      'before' in rows ? writtenBeforeSql(rows.before) : writtenSinceSql(rows.since, rows.next);
    if (written !== null) parts.push(written);
  }
  if (where !== null) parts.push(`(${where})`);
  return parts.length === 0 ? null : parts.join(' AND ');
}

/**
 * The same test as `isVisible`, on a row's xmin. Ages count back from the newest transaction; rows frozen long ago may
 * show a negative one. Exact while the server has used fewer than 2^32 transactions: see `visibilityIsExact`.
 */
function visibleIn(visibility: string): string {
  const { xmax, running } = parseVisibility(visibility);
  const xids = [...running].map((xid) => BigInt.asUintN(32, xid)).join(',');
  const older = `(pg_catalog.age(xmin) > pg_catalog.age('${BigInt.asUintN(32, xmax)}'::xid) OR pg_catalog.age(xmin) < 0)`;
  return xids === '' ? older : `${older} AND xmin <> ALL ('{${xids}}'::xid[])`;
}

/** Whether a row's 32-bit xmin says when it was written: beyond the first epoch an old row can look like a new one. */
export function visibilityIsExact(visibility: string): boolean {
  return parseVisibility(visibility).xmax < 2n ** 32n;
}

/**
 * Whether no transaction that was running for the snapshot has written to these tables. Rows of a subtransaction carry
 * its own id, which a snapshot does not list, so they could be taken for rows of the past. Every transaction that is
 * listed and still runs holds its lock now; one that has ended since leaves the question open: false.
 */
export async function isQuiet(client: Client, relations: readonly number[]): Promise<boolean> {
  const { rows } = await client.query<{ quiet: boolean }>(
    `WITH running AS (SELECT x FROM pg_catalog.pg_snapshot_xip(pg_catalog.pg_current_snapshot()) x),
          writer AS (
            SELECT l.virtualtransaction FROM pg_catalog.pg_locks l
             WHERE l.locktype = 'relation' AND l.granted AND l.relation = ANY ($1::oid[])
               AND l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
               AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()))
     SELECT NOT EXISTS (SELECT FROM writer)
        AND NOT EXISTS (SELECT FROM running WHERE pg_catalog.pg_xact_status(x) <> 'in progress') AS quiet`,
    [relations],
  );
  return rows[0]?.quiet === true;
}

/** Pages of the table now. */
export async function pageCount(client: ClientBase, oid: number): Promise<number> {
  const { rows } = await client.query<{ pages: string }>(
    `SELECT (pg_catalog.pg_relation_size($1::oid) / pg_catalog.current_setting('block_size')::int8)::text AS pages`,
    [oid],
  );
  return Number(rows[0]?.pages ?? 0);
}
