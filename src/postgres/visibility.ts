/**
 * What a reading transaction saw, as `pg_current_snapshot()` tells it, and whether a transaction of the WAL was in it.
 * Visibility, not LSN, decides what overlaps: a commit can be in the WAL, and delivered, before anybody sees it
 * (a backend waiting for a synchronous standby), so comparing positions would lose its rows.
 * https://www.postgresql.org/docs/current/functions-info.html#FUNCTIONS-PG-SNAPSHOT
 */

/** Transactions below `xmin` have ended; `xmax` and above had not begun; `running` lists those between that had not ended. */
export type Visibility = {
  readonly xmin: bigint;
  readonly xmax: bigint;
  readonly running: ReadonlySet<bigint>;
};

/**
 * @param text `xmin:xmax:xip,xip,...` with 64-bit transaction ids.
 * @throws Error when the text is no pg_snapshot.
 */
export function parseVisibility(text: string): Visibility {
  const match = /^(\d+):(\d+):([\d,]*)$/.exec(text);
  if (match === null) throw new Error(`not a pg_snapshot: ${text}`);
  const running = (match[3] ?? '').split(',').filter((id) => id !== '');
  return {
    xmin: BigInt(match[1] ?? ''),
    xmax: BigInt(match[2] ?? ''),
    running: new Set(running.map((id) => BigInt(id))),
  };
}

/** The same text that PostgreSQL prints. */
export function formatVisibility(visibility: Visibility): string {
  return `${visibility.xmin}:${visibility.xmax}:${[...visibility.running].join(',')}`;
}

/**
 * Whether a committed transaction was already visible.
 * @param xid 32-bit id of the top-level transaction, as pgoutput's BEGIN carries it: its epoch is the one that brings it
 * nearest to the snapshot, since no two transactions that matter lie 2^31 apart.
 */
export function isVisible(xid: number, visibility: Visibility): boolean {
  const full = widenXid(xid, visibility.xmax);
  if (full < visibility.xmin) return true;
  return full < visibility.xmax && !visibility.running.has(full);
}

/** What is visible in both. */
export function visibleInBoth(a: Visibility, b: Visibility): Visibility {
  const xmin = a.xmin < b.xmin ? a.xmin : b.xmin;
  const xmax = a.xmax < b.xmax ? a.xmax : b.xmax;
  const running = [...new Set([...a.running, ...b.running])].filter((id) => id < xmax);
  return { xmin, xmax, running: new Set(running.toSorted((x, y) => (x < y ? -1 : 1))) };
}

/** The 64-bit id with these lower 32 bits that is nearest to `near`. */
export function widenXid(xid: number, near: bigint): bigint {
  const delta = BigInt.asIntN(32, BigInt(xid) - near);
  return near + delta;
}

/** The 32 bits of a transaction's id that rows carry, as SQL reads an xid. */
export function shortXid(xid: bigint): string {
  return String(BigInt.asUintN(32, xid));
}

/**
 * SQL: whether the row of a system catalog is of a transaction that was not visible then.
 * @param first the number of two parameters: `shortXid` of the visibility's end, and of what was running in it.
 */
export function newerThanSql(row: string, first: number): string {
  return `(pg_catalog.age(${row}.xmin) BETWEEN 0 AND pg_catalog.age($${first}::xid) OR ${row}.xmin = ANY ($${first + 1}::xid[]))`;
}
