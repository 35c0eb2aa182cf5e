/**
 * The changes of the WAL as records: each committed transaction in order, each change to the stream whose rows its
 * relation holds, except what a read has already brought (by visibility) and what was only moved (by markers).
 */
import type { Output, Tally } from './airbyte/output.ts';
import type { RowHandler } from './postgres/exchange.ts';
import { type Lsn, maxLsn } from './postgres/lsn.ts';
import {
  CELL_UNCHANGED,
  cellOffsets,
  cellText,
  decodePgoutput,
  hasUnchangedCell,
  type PgoutputMessage,
  type RelationMessage,
} from './postgres/pgoutput.ts';
import { isVisible, type Visibility } from './postgres/visibility.ts';
import { HeldDeletes, type RowsPresent } from './held-deletes.ts';
import type { SyncStream } from './plan.ts';
import type { ChangeStamp, RecordEncoder } from './record.ts';
import { MarkerDepth } from './timescaledb/markers.ts';

/** What becomes of the changes of one relation, for as long as nothing is read meanwhile. */
export type ChangeSink = {
  readonly stream: SyncStream;
  readonly relation: RelationMessage;
  readonly encoder: RecordEncoder;
  /** A chunk: inside markers its inserts and deletes are moves. */
  readonly chunk: boolean;
  /** Positions, among the relation's columns, of what identifies a row; empty: the whole row does. */
  readonly identity: readonly number[];
  /**
   * 'unread': its rows will be read later, with all that happens now. A visibility: they were read, and what was visible
   * then is in them. 'read': every change counts.
   */
  readonly overlap: 'unread' | 'read' | Visibility;
  /** Whether every change counts by now, whatever `overlap` said: turned on in mid-stream where rows have moved. */
  readonly replays: () => boolean;
  /** Whether a deletion counts only if its row is gone: see `held-deletes.ts`. */
  readonly doubtsDeletes: boolean;
};

/** With where its records are counted. */
type CountedSink = ChangeSink & { readonly tally: Tally };

/** What the applier needs from outside; all of it may ask the server, while the stream waits. */
export type ChangeSupport = {
  /** Places a relation; null: its rows belong to no stream of this sync. */
  readonly sinkFor: (relation: RelationMessage) => Promise<ChangeSink | null>;
  /** Values, now, of cells that an update did not touch and the WAL does not hold, by position; missing: the row is gone. */
  readonly fetchCells: (
    sink: ChangeSink,
    key: readonly (Buffer | null)[],
    positions: readonly number[],
  ) => Promise<ReadonlyMap<number, Buffer | null>>;
  readonly rowsPresent: RowsPresent;
  /** After each transaction that had changes: may write a STATE. `end` is the end of its commit record. */
  readonly committed: (end: Lsn, xid: number) => Promise<void> | undefined;
  readonly truncated: (sink: ChangeSink) => void;
};

type Transaction = {
  readonly xid: number;
  readonly stamp: ChangeStamp;
  readonly deletion: ChangeStamp;
};

export class ChangeApplier {
  readonly #output: Output;
  readonly #support: ChangeSupport;
  readonly #markers = new MarkerDepth();
  readonly #held = new HeldDeletes();
  /** By relation OID; a window announces each relation anew. */
  #sinks = new Map<number, CountedSink | null>();
  #transaction: Transaction | null = null;
  /** Of the transaction at hand: whether a relation's changes were visible to its read. */
  readonly #skipped = new Map<number, boolean>();
  #end: Lsn = 0n as Lsn;

  constructor(output: Output, support: ChangeSupport) {
    this.#output = output;
    this.#support = support;
  }

  /** Begins a window of changes. */
  begin(): void {
    this.#sinks = new Map();
    this.#transaction = null;
  }

  /** The end of the last transaction that was applied, or `target` if that lies further on. */
  end(target: Lsn): Lsn {
    return maxLsn(this.#end, target);
  }

  /** Applies one message. The order of messages is the order of records. */
  readonly apply: RowHandler = (src, start, end) => {
    const message = decodePgoutput(src, start, end);
    if (!this.#held.any || (message.tag === 'delete' && !this.#held.full)) {
      return this.#apply(message, src, end);
    }
    return this.#release().then(() => this.#apply(message, src, end));
  };

  #apply(message: PgoutputMessage, src: Buffer, end: number): Promise<void> | undefined {
    switch (message.tag) {
      case 'insert': {
        const sink = this.#sink(message.relation);
        if (sink === null || (sink.chunk && this.#markers.moving)) return undefined;
        this.#write(sink, src, message.newTuple, end);
        return undefined;
      }
      case 'update': {
        const sink = this.#sink(message.relation);
        return sink === null ? undefined : this.#update(sink, src, end, message);
      }
      case 'delete': {
        const sink = this.#sink(message.relation);
        if (sink === null || (sink.chunk && this.#markers.moving)) return undefined;
        if (sink.doubtsDeletes) {
          this.#held.hold(sink, src, message.oldTuple, end, this.#current().deletion);
        } else this.#delete(sink, src, message.oldTuple, end);
        return undefined;
      }
      case 'begin':
        this.#begin(message);
        return undefined;
      case 'commit':
        return this.#commit(message.endLsn);
      case 'relation':
        return this.#announce(message);
      case 'truncate':
        this.#truncate(message.relations);
        return undefined;
      case 'message':
        if (message.transactional) this.#markers.message(message.prefix);
        return undefined;
      case 'type':
      case 'origin':
        return undefined;
      default:
        return message satisfies never;
    }
  }

  async #release(): Promise<void> {
    for (const { sink, tuple, stamp } of await this.#held.release(this.#support.rowsPresent)) {
      sink.encoder.writeTuple(this.#output.buffer, tuple, 0, tuple.length, stamp);
      this.#output.recordWritten(this.#output.written(sink.stream.name).changes);
    }
  }

  #begin(message: Extract<PgoutputMessage, { tag: 'begin' }>): void {
    const stamp = {
      lsn: String(message.commitLsn),
      updatedAt: isoMicros(message.committedAt),
      deleted: false,
    };
    this.#transaction = { xid: message.xid, stamp, deletion: { ...stamp, deleted: true } };
    this.#markers.reset();
    this.#skipped.clear();
  }

  #commit(end: Lsn): Promise<void> | undefined {
    const xid = this.#current().xid;
    this.#transaction = null;
    this.#end = end;
    return this.#support.committed(end, xid);
  }

  async #announce(relation: RelationMessage): Promise<void> {
    const sink = await this.#support.sinkFor(relation);
    const counted = sink && { ...sink, tally: this.#output.written(sink.stream.name).changes };
    this.#sinks.set(relation.oid, counted);
  }

  #current(): Transaction {
    if (this.#transaction === null) throw new Error('pgoutput sent a change outside a transaction');
    return this.#transaction;
  }

  /** The sink of a change, null where it is not to be emitted. */
  #sink(oid: number): CountedSink | null {
    const sink = this.#sinks.get(oid);
    if (sink === undefined)
      throw new Error(`pgoutput sent a change of relation ${oid} unannounced`);
    if (sink === null || sink.overlap === 'read' || sink.replays()) return sink;
    if (sink.overlap === 'unread') return null;
    let skip = this.#skipped.get(oid);
    if (skip === undefined) {
      skip = isVisible(this.#current().xid, sink.overlap);
      this.#skipped.set(oid, skip);
    }
    return skip ? null : sink;
  }

  #write(
    sink: CountedSink,
    src: Buffer,
    tuple: number,
    end: number,
    fetched?: ReadonlyMap<number, Buffer | null>,
  ): void {
    const { stamp } = this.#current();
    sink.encoder.writeTuple(this.#output.buffer, src, tuple, end, stamp, fetched);
    this.#output.recordWritten(sink.tally);
  }

  #delete(sink: CountedSink, src: Buffer, tuple: number, end: number): void {
    const { deletion } = this.#current();
    sink.encoder.writeTuple(this.#output.buffer, src, tuple, end, deletion);
    this.#output.recordWritten(sink.tally);
  }

  /** Another identity is another row: the old one is deleted first. */
  #update(
    sink: CountedSink,
    src: Buffer,
    end: number,
    message: Extract<PgoutputMessage, { tag: 'update' }>,
  ): Promise<void> | undefined {
    const { old, oldTuple, newTuple } = message;
    const changed =
      old === 'key' || (old === 'full' && identityChanged(sink, src, oldTuple, newTuple));
    if (changed) this.#delete(sink, src, oldTuple, end);
    if (!hasUnchangedCell(src, newTuple)) {
      this.#write(sink, src, newTuple, end);
      return undefined;
    }
    if (old === 'full') {
      const fromOld = unchangedFromOld(src, oldTuple, newTuple);
      this.#write(sink, src, newTuple, end, fromOld);
      return undefined;
    }
    return this.#readBack(sink, src, oldTuple, newTuple, end);
  }

  /** @param oldTuple of the old key, 0 without one: a long key that did not change is only there. */
  async #readBack(
    sink: CountedSink,
    src: Buffer,
    oldTuple: number,
    newTuple: number,
    end: number,
  ): Promise<void> {
    const cells = cellOffsets(src, newTuple);
    const old = oldTuple === 0 ? null : unchangedFromOld(src, oldTuple, newTuple);
    const values = new Map([...(old ?? [])].filter(([index]) => sink.relation.columns[index]?.key));
    const key = sink.identity.map((index) => values.get(index) ?? cellText(src, cells[index] ?? 0));
    const positions = cells.flatMap((at, index) =>
      src[at] === CELL_UNCHANGED && !values.has(index) ? [index] : [],
    );
    if (positions.length > 0) {
      const fetched = await this.#support.fetchCells(sink, key, positions);
      for (const [index, value] of fetched) values.set(index, value);
    }
    this.#write(sink, src, newTuple, end, values);
  }

  #truncate(relations: readonly number[]): void {
    for (const oid of relations) {
      const sink = this.#sinks.get(oid);
      if (sink !== null && sink !== undefined) this.#support.truncated(sink);
    }
  }
}

function identityChanged(sink: ChangeSink, src: Buffer, before: number, after: number): boolean {
  const old = cellOffsets(src, before);
  const now = cellOffsets(src, after);
  // Without a key the row is its own identity; said also where nothing changed, or a row would be added.
  if (sink.identity.length === 0) return true;
  return sink.identity.some((index) => {
    const at = now[index] ?? 0;
    if (src[at] === CELL_UNCHANGED) return false;
    const was = cellText(src, old[index] ?? 0);
    const is = cellText(src, at);
    if (was === null || is === null) return was !== is;
    return !was.equals(is);
  });
}

function unchangedFromOld(
  src: Buffer,
  before: number,
  after: number,
): ReadonlyMap<number, Buffer | null> {
  const old = cellOffsets(src, before);
  const values = new Map<number, Buffer | null>();
  cellOffsets(src, after).forEach((at, index) => {
    if (src[at] === CELL_UNCHANGED) values.set(index, cellText(src, old[index] ?? 0));
  });
  return values;
}

/** Microseconds since 1970 as ISO 8601 in UTC. */
export function isoMicros(micros: bigint): string {
  const rest = ((micros % 1000n) + 1000n) % 1000n;
  const millis = new Date(Number((micros - rest) / 1000n)).toISOString().slice(0, -1);
  return `${millis}${String(rest).padStart(3, '0')}Z`;
}
