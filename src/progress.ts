/**
 * How far a stream has been read, and what one more step makes of it. Pure values and functions: no SQL, no clock.
 *
 * A hypertable's progress does not grow with its chunks. A chunk counts as done when its id existed at the last
 * judgement *and* its present range lies inside what was read: a merge, a split or a roll-up changes the range, so the
 * chunk is read again. Ids of one hypertable are given out in the order of commits, because TimescaleDB holds a lock on
 * the hypertable from a chunk's creation to the end of the transaction: no lower id can turn up later.
 */
import type { Lsn } from './postgres/lsn.ts';
import {
  type ChunkRange,
  type Interval,
  isInside,
  overlaps,
  UnreadChunks,
} from './unread-chunks.ts';

/** What a read saw (`pg_current_snapshot()` as text), needed until the stream has passed `until`. */
export type Seen = { readonly visibility: string; readonly until: Lsn };

export type HypertableProgress = {
  readonly kind: 'hypertable';
  readonly complete: boolean;
  /** Rows may have been emitted that no state tells of: see `replayed`. */
  readonly replay: boolean;
  readonly hypertableId: number;
  /** Where its chunks are made and how their names begin: places a dropped chunk of which only WAL is left. */
  readonly chunkSchema: string;
  readonly chunkPrefix: string;
  /** Chunks with a greater id did not exist at the last judgement. */
  readonly chunkIdMax: number;
  /** Ascending, disjoint, not touching. */
  readonly covered: readonly Interval[];
  /** Chunks done whose range is not in `covered` yet: at most some space partitions of one time slice. */
  readonly read: readonly ChunkRange[];
  /** By chunk OID. */
  readonly seen: ReadonlyMap<number, Seen>;
  /** What the last look at the chunks saw, where rows can be written that no change tells of; else null. */
  readonly judged: string | null;
};

export type TableProgress = {
  readonly kind: 'table';
  readonly complete: boolean;
  /** As in a hypertable's progress. */
  readonly replay: boolean;
  /** The one visibility of the whole table: rows of later transactions come from the stream only. Null before it is taken. */
  readonly seen: Seen | null;
  /** OID of the table, or of the leaf partition at hand: leaves are read in the order of their OIDs. */
  readonly relation: number;
  /** Changes when the table is rewritten: ctids mean nothing then. */
  readonly filenode: number;
  /** The first page that is not read. */
  readonly page: number;
  /**
   * Without CDC, where one slice is not enough: rows of this transaction and later ones are left to a last step, since an
   * update can move a row from a page that is not read yet to one that is. Else null. 64 bits.
   */
  readonly late: bigint | null;
};

export type Progress = HypertableProgress | TableProgress;

/** Above this many intervals, gaps without any chunk are closed too, so that sparse data cannot make the state grow. */
const MAX_INTERVALS = 100;

export function startHypertable(
  hypertable: { readonly id: number; readonly chunkSchema: string; readonly chunkPrefix: string },
  chunks: readonly ChunkRange[],
): HypertableProgress {
  return {
    kind: 'hypertable',
    complete: false,
    replay: false,
    hypertableId: hypertable.id,
    chunkSchema: hypertable.chunkSchema,
    chunkPrefix: hypertable.chunkPrefix,
    chunkIdMax: chunks.reduce((max, chunk) => Math.max(max, chunk.id), 0),
    covered: [],
    read: [],
    seen: new Map(),
    judged: null,
  };
}

export function startTable(): TableProgress {
  return {
    kind: 'table',
    complete: false,
    replay: false,
    seen: null,
    relation: 0,
    filenode: 0,
    page: 0,
    late: null,
  };
}

/** Whether a chunk, as it is now, needs no read any more. */
export function isDone(progress: HypertableProgress, chunk: ChunkRange): boolean {
  const inside = (range: Interval): boolean => isInside(chunk, range);
  if (chunk.id <= progress.chunkIdMax && progress.covered.some(inside)) return true;
  return progress.read.some((read) => read.id === chunk.id && inside(read));
}

/** The chunks that are left to read, in the order given. */
export function pendingChunks<C extends ChunkRange>(
  progress: HypertableProgress,
  chunks: readonly C[],
): readonly C[] {
  return chunks.filter((chunk) => !isDone(progress, chunk));
}

/** The same, kept up to date by `chunkDone`. @param chunks every chunk of the hypertable that exists now. */
export function unreadChunks<C extends ChunkRange>(
  progress: HypertableProgress,
  chunks: readonly C[],
): UnreadChunks<C> {
  return new UnreadChunks(pendingChunks(progress, chunks), progress.covered);
}

/**
 * A chunk is done: read as a whole, or streamed since its birth (then without `seen`).
 * @param unread what was left to read before; the chunk leaves it.
 */
export function chunkDone(
  progress: HypertableProgress,
  chunk: ChunkRange & { readonly oid: number },
  seen: Seen | null,
  unread: UnreadChunks,
): HypertableProgress {
  const seenNow = new Map(progress.seen);
  if (seen === null) seenNow.delete(chunk.oid);
  else seenNow.set(chunk.oid, seen);
  const read = progress.read.filter((other) => other.id !== chunk.id);
  const { id, rangeStart, rangeEnd } = chunk;
  const next = { ...progress, read: [...read, { id, rangeStart, rangeEnd }], seen: seenNow };
  unread.delete(chunk);
  return absorb(next, unread);
}

/** A chunk that counted as done has to be read again: its rows may have changed unseen. */
export function chunkUndone(
  progress: HypertableProgress,
  chunk: ChunkRange & { readonly oid: number },
): HypertableProgress {
  const seen = new Map(progress.seen);
  seen.delete(chunk.oid);
  return {
    ...progress,
    complete: false,
    covered: progress.covered.flatMap((range) => without(range, chunk)),
    // Another one's range may be from before a split that made this one; an equal one is another space partition's.
    read: progress.read.flatMap((read) => {
      if (read.id === chunk.id) return [];
      const equal = read.rangeStart === chunk.rangeStart && read.rangeEnd === chunk.rangeEnd;
      return equal ? [read] : without(read, chunk).map((rest) => ({ id: read.id, ...rest }));
    }),
    seen,
  };
}

function without(range: Interval, hole: Interval): readonly Interval[] {
  return [
    { rangeStart: range.rangeStart, rangeEnd: least(range.rangeEnd, hole.rangeStart) },
    { rangeStart: greatest(range.rangeStart, hole.rangeEnd), rangeEnd: range.rangeEnd },
  ].filter((rest) => rest.rangeStart < rest.rangeEnd);
}

function least(a: bigint, b: bigint): bigint {
  return a < b ? a : b;
}

function greatest(a: bigint, b: bigint): bigint {
  return a > b ? a : b;
}

/** Moves ranges from `read` into `covered` where no chunk that is left to read lies in them. */
function absorb(progress: HypertableProgress, unread: UnreadChunks): HypertableProgress {
  const free = new Set(progress.read.filter((read) => !unread.overlaps(read)));
  const covered = union([...progress.covered, ...free], unread);
  unread.covered = covered;
  // A pending chunk in covered time (another space partition) must stay above chunkIdMax, also when a split shrinks it.
  let limit = Infinity;
  for (const chunk of unread.above(progress.chunkIdMax)) {
    if (!covered.some((range) => overlaps(range, chunk))) continue;
    limit = chunk.id - 1;
    break;
  }
  const highest = progress.read.reduce((max, read) => Math.max(max, read.id), unread.newest);
  const chunkIdMax = Math.max(progress.chunkIdMax, Math.min(highest, limit));
  return {
    ...progress,
    chunkIdMax,
    covered,
    read: progress.read.filter((read) => !free.has(read) || read.id > chunkIdMax),
  };
}

/**
 * The same progress, told by the chunks that exist: what dropped chunks covered is forgotten, so that a later chunk in
 * their place, merged into one that is done, widens it visibly.
 */
export function rebased(
  progress: HypertableProgress,
  chunks: readonly ChunkRange[],
): HypertableProgress {
  const pending = pendingChunks(progress, chunks);
  const left = new Set(pending);
  const done = chunks.filter((chunk) => !left.has(chunk));
  const read = done.map(({ id, rangeStart, rangeEnd }) => ({ id, rangeStart, rangeEnd }));
  return absorb({ ...progress, covered: [], read }, new UnreadChunks(pending, []));
}

/** Whether rows that lie in this chunk now may have been emitted before: read as another one's, or in another extent. */
export function mayHaveBeenEmitted(progress: HypertableProgress, chunk: Interval): boolean {
  return [...progress.covered, ...progress.read].some((range) => overlaps(range, chunk));
}

/** Joins what touches; beyond MAX_INTERVALS also over gaps in which no chunk is left to read. */
function union(ranges: readonly Interval[], unread: UnreadChunks): readonly Interval[] {
  const sorted = ranges.toSorted((a, b) =>
    a.rangeStart < b.rangeStart ? -1 : a.rangeStart > b.rangeStart ? 1 : 0,
  );
  const joined = join(sorted, (gap) => gap.rangeStart >= gap.rangeEnd);
  if (joined.length <= MAX_INTERVALS) return joined;
  return join(joined, (gap) => gap.rangeStart >= gap.rangeEnd || !unread.overlaps(gap));
}

function join(sorted: readonly Interval[], closes: (gap: Interval) => boolean): Interval[] {
  const joined: Interval[] = [];
  for (const range of sorted) {
    const last = joined.at(-1);
    if (last !== undefined && closes({ rangeStart: last.rangeEnd, rangeEnd: range.rangeStart })) {
      joined[joined.length - 1] = {
        rangeStart: last.rangeStart,
        rangeEnd: range.rangeEnd > last.rangeEnd ? range.rangeEnd : last.rangeEnd,
      };
    } else joined.push({ rangeStart: range.rangeStart, rangeEnd: range.rangeEnd });
  }
  return joined;
}

/** How much room the visibilities take in the state, in bytes. */
export function seenBytes(progress: HypertableProgress): number {
  let bytes = 0;
  for (const visibility of new Set([...progress.seen.values()].map((seen) => seen.visibility))) {
    bytes += visibility.length;
  }
  return bytes;
}

/**
 * The stream has passed `position`. Visibilities are forgotten of which every transaction lies before it; once nothing is
 * left of a complete stream's reads, there is nothing to replay either.
 */
export function forgetSeen<P extends Progress>(progress: P, position: Lsn): P {
  if (progress.kind === 'table') {
    // While slices are left the visibility is still what filters them.
    const passed = progress.complete && (progress.seen?.until ?? position) <= position;
    return passed && (progress.seen !== null || progress.replay)
      ? { ...progress, seen: null, replay: false }
      : progress;
  }
  const seen = new Map([...progress.seen].filter(([, { until }]) => until > position));
  const replay = progress.replay && !(progress.complete && seen.size === 0);
  if (seen.size === progress.seen.size && replay === progress.replay) return progress;
  return { ...progress, seen, replay };
}

/** Everything that existed is read, or comes from the stream. */
export function completed<P extends Progress>(progress: P): P {
  return { ...progress, complete: true };
}

/**
 * An attempt that ended before its last state may have emitted rows of what is still to be read. Such a row may have been
 * deleted since: the read that follows does not bring it, and its deletion must not be skipped as something that the
 * read has seen. Until the stream is complete, and past its last read, every change since the state's position is emitted
 * then; the last record of each key is right, though a row may come twice. Pointless without a key: there it would only double rows.
 */
export function replayed<P extends Progress>(progress: P): P {
  return progress.complete ? progress : { ...progress, replay: true };
}

/** Something is left to read again. */
export function reopened<P extends Progress>(progress: P): P {
  return { ...progress, complete: false };
}
