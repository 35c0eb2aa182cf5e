/**
 * What a sync has done so far, and the only place that turns it into STATE messages: the position of the stream, every
 * stream's progress, the order token. Producers tell it of whole chunks, slices and commits; nothing else changes it.
 */
import type { Output } from './airbyte/output.ts';
import type { Lsn } from './postgres/lsn.ts';
import { forgetSeen, type Progress } from './progress.ts';
import type { SyncStream } from './plan.ts';
import type { RecordClock } from './record.ts';
import { type SharedState, type StreamProgress } from './state.ts';
import { serialiseShared, serialiseStream } from './state-writing.ts';

export class Ledger {
  readonly #output: Output;
  readonly #clock: RecordClock;
  readonly #streams: readonly SyncStream[];
  readonly #progress = new Map<string, StreamProgress>();
  readonly #kind: 'GLOBAL' | 'STREAM';
  /** Null without CDC, and where no stream of a CDC connection has changes to follow. */
  #shared: SharedState | null;
  /** The position of the last STATE that this sync has written. */
  #stated: Lsn | null = null;

  constructor(
    output: Output,
    clock: RecordClock,
    streams: readonly SyncStream[],
    progress: ReadonlyMap<string, StreamProgress>,
    kind: 'GLOBAL' | 'STREAM',
    shared: SharedState | null,
  ) {
    this.#output = output;
    this.#clock = clock;
    this.#streams = streams;
    this.#kind = kind;
    this.#shared = shared;
    for (const stream of streams) {
      const known = progress.get(stream.key);
      // What was read in another sync mode says nothing about this one.
      if (known?.mode === stream.mode) this.#progress.set(stream.key, known);
    }
  }

  get(stream: SyncStream): StreamProgress | undefined {
    return this.#progress.get(stream.key);
  }

  set(stream: SyncStream, progress: StreamProgress): void {
    this.#progress.set(stream.key, progress);
  }

  /** How far the rows of a stream that exist are read; undefined before its first step. */
  rows(stream: SyncStream): Progress | undefined {
    return this.#progress.get(stream.key)?.progress ?? undefined;
  }

  /** Replaces the progress of a stream's rows, whatever its mode. */
  setRows(stream: SyncStream, progress: Progress): void {
    const known = this.#progress.get(stream.key);
    if (known !== undefined) this.#progress.set(stream.key, { ...known, progress });
    else if (stream.mode === 'cdc') this.#progress.set(stream.key, { mode: 'cdc', progress });
    else {
      this.#progress.set(stream.key, {
        mode: 'full_refresh',
        refresh: stream.refresh,
        progress,
      });
    }
  }

  /** Every transaction that committed before this was emitted, or lies in what is still to be read. */
  get position(): Lsn {
    if (this.#shared === null) throw new Error('a sync without CDC has no position');
    return this.#shared.lsn;
  }

  /** The position of the last STATE that was written; null before the first one. */
  get stated(): Lsn | null {
    return this.#stated;
  }

  /** The stream has passed a moment at which this was visible. */
  lsnSeen(visibility: string): void {
    if (this.#shared === null) throw new Error('a sync without CDC has no position');
    this.#shared = { ...this.#shared, lsnSeen: visibility };
  }

  /** A bound of what leaves before the next STATE; null: there is none. @returns whether that is news to a STATE. */
  emitsTo(lsn: Lsn | null): boolean {
    if (this.#shared === null) throw new Error('a sync without CDC has no position');
    const before = this.#shared.emittedTo;
    this.#shared = { ...this.#shared, emittedTo: lsn };
    return before !== lsn;
  }

  /** With what visibility the publications were looked at; what follows from it is in every stream's progress. */
  get publicationsSeen(): string | null {
    return this.#shared?.publicationsSeen ?? null;
  }

  set publicationsSeen(visibility: string) {
    if (this.#shared === null) throw new Error('a sync without CDC has no publications');
    this.#shared = { ...this.#shared, publicationsSeen: visibility };
  }

  /** The stream has passed `lsn`: visibilities that only mattered before it are forgotten. */
  passed(lsn: Lsn): void {
    if (this.#shared === null) throw new Error('a sync without CDC has no position');
    this.#shared = { ...this.#shared, lsn };
    for (const stream of this.#streams) {
      const progress = this.#progress.get(stream.key);
      if (progress?.mode !== 'cdc') continue;
      this.#progress.set(stream.key, {
        mode: 'cdc',
        progress: forgetSeen(progress.progress, lsn),
      });
    }
  }

  /**
   * Writes a STATE: of the whole connection under CDC, else of the given stream.
   * @param settled the last one of a CDC sync that ends by itself.
   */
  checkpoint(stream: SyncStream, settled = false): void {
    const sourceStats = { recordCount: this.#output.recordsSinceState };
    if (this.#kind === 'STREAM') {
      const progress = this.#progress.get(stream.key);
      if (progress === undefined) return;
      this.#output.message({
        type: 'STATE',
        state: { type: 'STREAM', stream: serialiseStream(stream.name, progress), sourceStats },
      });
    } else this.#global(settled, sourceStats);
    this.#output.stateWritten();
  }

  #global(settled: boolean, sourceStats: { readonly recordCount: number }): void {
    if (this.#shared !== null) {
      this.#shared = { ...this.#shared, settled, cursorFloor: this.#clock.cursor };
    }
    const states = this.#streams.flatMap((stream) => {
      const progress = this.#progress.get(stream.key);
      return progress === undefined ? [] : [serialiseStream(stream.name, progress)];
    });
    this.#output.message({
      type: 'STATE',
      state: {
        type: 'GLOBAL',
        global: {
          shared_state: serialiseShared(this.#shared),
          stream_states: states,
        },
        sourceStats,
      },
    });
    this.#stated = this.#shared?.lsn ?? null;
    if (this.#shared !== null) this.#output.watcher.position(this.#shared.lsn);
  }
}
