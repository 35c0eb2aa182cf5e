/**
 * The chunks of one hypertable that are left to read. After each chunk that was read something is asked about all of the
 * others: none of the questions takes a time that grows with their number (but for its logarithm).
 */

/** Half-open, in TimescaleDB's internal unit (microseconds since 1970 for time, the value itself for integers). */
export type Interval = { readonly rangeStart: bigint; readonly rangeEnd: bigint };

/** A chunk as progress sees it: its id and the range of its first open dimension. */
export type ChunkRange = Interval & { readonly id: number };

export function overlaps(a: Interval, b: Interval): boolean {
  return a.rangeStart < b.rangeEnd && b.rangeStart < a.rangeEnd;
}

/** Whether `a` lies in `b`. */
export function isInside(a: Interval, b: Interval): boolean {
  return b.rangeStart <= a.rangeStart && a.rangeEnd <= b.rangeEnd;
}

/** Below every end of a range. */
const NONE = -(2n ** 64n);

export class UnreadChunks<C extends ChunkRange = ChunkRange> {
  /** Those of the progress that this goes with: another progress may have other chunks left. */
  covered: readonly Interval[];
  readonly #byStart: readonly C[];
  /** Places in `#byStart` of those that are left, by id. */
  readonly #places: Map<number, number>;
  /** Ascending; those at the end are left. */
  readonly #ids: number[];
  /** A tree of maxima over the ends in `#byStart`: node n has the children 2n and 2n + 1, the leaves are its second half. */
  readonly #ends: bigint[];

  constructor(chunks: readonly C[], covered: readonly Interval[]) {
    this.covered = covered;
    this.#byStart = chunks.toSorted((a, b) =>
      a.rangeStart < b.rangeStart ? -1 : a.rangeStart > b.rangeStart ? 1 : 0,
    );
    this.#places = new Map(this.#byStart.map(({ id }, place) => [id, place]));
    this.#ids = chunks.map(({ id }) => id).toSorted((a, b) => a - b);
    const leaves = this.#byStart.map(({ rangeEnd }) => rangeEnd);
    this.#ends = [...leaves.map(() => NONE), ...leaves];
    for (let node = leaves.length - 1; node > 0; node -= 1) this.#add(node);
  }

  /** By range. */
  get chunks(): readonly C[] {
    return this.#byStart.filter(({ id }) => this.#places.has(id));
  }

  /** A chunk was read in this range. It is left all the same where it has grown since it was listed. */
  delete(chunk: ChunkRange): void {
    const place = this.#places.get(chunk.id);
    const listed = place === undefined ? undefined : this.#byStart[place];
    if (place === undefined || listed === undefined || !isInside(listed, chunk)) return;
    this.#places.delete(chunk.id);
    let node = this.#byStart.length + place;
    this.#ends[node] = NONE;
    while ((node >>= 1) > 0) this.#add(node);
  }

  /** Whether any chunk lies, in part, in this range. */
  overlaps(range: Interval): boolean {
    const leaves = this.#byStart.length;
    let [from, to] = [leaves, leaves + this.#countBefore(range.rangeEnd)];
    while (from < to) {
      if ((from & 1) === 1 && this.#end(from++) > range.rangeStart) return true;
      if ((to & 1) === 1 && this.#end(--to) > range.rangeStart) return true;
      from >>= 1;
      to >>= 1;
    }
    return false;
  }

  /** The greatest id; 0 where nothing is left. */
  get newest(): number {
    for (;;) {
      const id = this.#ids.at(-1);
      if (id === undefined || this.#places.has(id)) return id ?? 0;
      this.#ids.pop();
    }
  }

  /** The chunks with greater ids, in ascending order of these. */
  *above(id: number): Generator<C> {
    const from = firstIndex(this.#ids.length, (index) => (this.#ids[index] ?? 0) > id);
    for (let index = from; index < this.#ids.length; index += 1) {
      const place = this.#places.get(this.#ids[index] ?? 0);
      const chunk = place === undefined ? undefined : this.#byStart[place];
      if (chunk !== undefined) yield chunk;
    }
  }

  #countBefore(end: bigint): number {
    const { length } = this.#byStart;
    return firstIndex(length, (index) => (this.#byStart[index]?.rangeStart ?? end) >= end);
  }

  #end(node: number): bigint {
    return this.#ends[node] ?? NONE;
  }

  #add(node: number): void {
    const [left, right] = [this.#end(2 * node), this.#end(2 * node + 1)];
    this.#ends[node] = left > right ? left : right;
  }
}

/** The first of `length` indexes for which it holds, and with it for all that follow; `length` where there is none. */
function firstIndex(length: number, holds: (index: number) => boolean): number {
  let [low, high] = [0, length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (holds(middle)) high = middle;
    else low = middle + 1;
  }
  return low;
}
