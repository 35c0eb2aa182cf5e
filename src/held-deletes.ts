/**
 * Deletions that may be moves: maintenance of the columnstore deletes rows from a chunk's heap that live on compressed,
 * not always with a marker, and a refresh of a continuous aggregate deletes groups that it inserts again. Each is held
 * until the next other change, and then counts only if its row is not in the table. A row that is there although it was
 * deleted was moved, or is inserted again later in the stream: either way its last record is right without the deletion.
 */
import type { ChangeSink } from './cdc.ts';
import { cellOffsets, cellText } from './postgres/pgoutput.ts';
import type { ChangeStamp } from './record.ts';

/** Bounds what is held, and makes up one question to the server. */
const MOST_ROWS = 1000;
const MOST_BYTES = 1024 * 1024;

export type RowKey = readonly (Buffer | null)[];

export type HeldDelete = {
  readonly sink: ChangeSink;
  /** A copy of the old tuple, as pgoutput writes it. */
  readonly tuple: Buffer;
  readonly stamp: ChangeStamp;
};

/** Which of these rows are in the table now, by their place in `keys`. */
export type RowsPresent = (
  sink: ChangeSink,
  keys: readonly RowKey[],
) => Promise<ReadonlySet<number>>;

export class HeldDeletes {
  #held: HeldDelete[] = [];
  #bytes = 0;

  get any(): boolean {
    return this.#held.length > 0;
  }

  get full(): boolean {
    return this.#held.length >= MOST_ROWS || this.#bytes >= MOST_BYTES;
  }

  /** @param start of the old tuple in `src`. @param end of the message. */
  hold(sink: ChangeSink, src: Buffer, start: number, end: number, stamp: ChangeStamp): void {
    const tuple = Buffer.from(src.subarray(start, end));
    this.#held.push({ sink, tuple, stamp });
    this.#bytes += tuple.length;
  }

  /** Forgets all of them, and gives those that count in the order in which they came. */
  async release(present: RowsPresent): Promise<readonly HeldDelete[]> {
    const held = this.#held;
    this.#held = [];
    this.#bytes = 0;
    const moved = new Set<HeldDelete>();
    for (const sink of new Set(held.map((one) => one.sink))) {
      const own = held.filter((one) => one.sink === sink);
      const there = await present(
        sink,
        own.map(({ tuple }) => keyOf(sink, tuple)),
      );
      own.forEach((one, index) => {
        if (there.has(index)) moved.add(one);
      });
    }
    return held.filter((one) => !moved.has(one));
  }
}

function keyOf(sink: ChangeSink, tuple: Buffer): RowKey {
  const cells = cellOffsets(tuple, 0);
  return sink.identity.map((position) => cellText(tuple, cells[position] ?? 0));
}
