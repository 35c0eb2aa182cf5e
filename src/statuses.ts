/**
 * Statuses in the order that the platform demands: STARTED, RUNNING, and COMPLETE or INCOMPLETE at the very end. They
 * outlive an attempt: what a new one goes on with has started already, and what is complete stays so.
 */
import type { Output } from './airbyte/output.ts';
import type { SyncStream } from './plan.ts';

export class Statuses {
  readonly #output: Output;
  readonly #open = new Map<string, SyncStream['name']>();
  readonly #started = new Set<string>();
  readonly #complete = new Set<string>();

  constructor(output: Output) {
    this.#output = output;
  }

  /** Streams that will be read: whatever becomes of them, the platform is told. */
  expect(streams: readonly SyncStream[]): void {
    for (const { key, name } of streams) {
      if (!this.#complete.has(key)) this.#open.set(key, name);
    }
  }

  isComplete(stream: SyncStream): boolean {
    return this.#complete.has(stream.key);
  }

  started(stream: SyncStream): void {
    if (this.#started.has(stream.key)) return;
    this.#started.add(stream.key);
    // Counted from here on, also where nothing comes of it.
    this.#output.written(stream.name);
    this.#output.status(stream.name, 'STARTED');
    const { rowEstimate, byteEstimate } = stream.relation;
    this.#output.trace({
      type: 'ESTIMATE',
      emitted_at: Date.now(),
      estimate: {
        ...stream.name,
        type: 'STREAM',
        row_estimate: Math.max(0, Math.round(rowEstimate)),
        byte_estimate: Math.max(0, Math.round(byteEstimate)),
      },
    });
    this.#output.status(stream.name, 'RUNNING');
  }

  complete(stream: SyncStream): void {
    this.#open.delete(stream.key);
    this.#complete.add(stream.key);
    this.#output.status(stream.name, 'COMPLETE');
  }

  /** The sync ends without what is still open. */
  incomplete(): void {
    for (const [key, name] of this.#open) {
      if (!this.#started.has(key)) this.#output.status(name, 'STARTED');
      this.#output.status(name, 'INCOMPLETE');
    }
    this.#open.clear();
  }
}
