/**
 * Result rows as bytes. `pg` connects, authenticates and does TLS; while rows flow this reader takes over the socket's
 * `data` events, hands each row's bytes to a callback in place, and passes every other message on to `pg` itself.
 * No object and no string is made per row.
 */
import type { Client, Connection, Submittable } from 'pg';
import type { Duplex } from 'node:stream';
import type { MessageWriter } from './message-writer.ts';
import { copying } from './receiving-socket.ts';

/**
 * Receives one row: `src[start, end)` is the body of a DataRow message, beginning with the 16-bit number of columns.
 * The bytes are valid until it returns or, where it returns a promise, until that settles; nothing more is read meanwhile.
 */
export type RowHandler = (src: Buffer, start: number, end: number) => undefined | Promise<void>;

const DATA_ROW = 0x44;
/** ParseComplete, BindComplete, CloseComplete, CommandComplete: `pg` does nothing for queries that are not its own. */
const PROGRESS: ReadonlySet<number> = new Set([0x31, 0x32, 0x33, 0x43]);
const READY_FOR_QUERY = 0x5a;
const RECEIVE_BYTES = 256 * 1024;
const NOTHING = Buffer.alloc(0);
/** A read smaller than this is worth a pause of a millisecond, in which the kernel gathers more. */
const SMALL_READ_BYTES = 32 * 1024;
/** A result smaller than this is not worth any pause. */
const SMALL_RESULT_BYTES = 1024 * 1024;

/** Receive buffers of sessions that are not reading: a chunk may be smaller than the buffer, and there may be thousands. */
const spare = new WeakMap<Duplex, Buffer>();

/**
 * One round trip, from the messages that were written to ReadyForQuery: the socket is ours so long. To `pg` it is the
 * active query.
 */
class Exchange implements Submittable {
  readonly done: Promise<void>;
  readonly #messages: Buffer;
  readonly #onRow: RowHandler;
  readonly #ready: Promise<void> | null;
  #resolve: () => void = () => undefined;
  #reject: (error: unknown) => void = () => undefined;
  #stream: Duplex | undefined;
  #pgListeners: ((chunk: Buffer) => void)[] = [];
  #buffer: Buffer = NOTHING;
  #length = 0;
  /** Bytes of this result so far. */
  #received = 0;
  #busy = false;
  #restTimer: NodeJS.Timeout | undefined;
  #failed = false;
  rows = 0;

  constructor(messages: Buffer, onRow: RowHandler, ready: Promise<void> | null = null) {
    this.#messages = messages;
    this.#onRow = onRow;
    this.#ready = ready;
    this.done = new Promise<void>((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
  }

  submit({ stream }: Connection): void {
    this.#take(stream);
    if (this.#ready !== null) this.#wait(this.#ready, 0);
    stream.write(this.#messages);
  }

  handleError(error: unknown): void {
    this.#reject(error);
    // A broken socket reaches us without a ReadyForQuery; an error of the server is followed by one.
    if (this.#stream?.destroyed !== true) return;
    // Whoever waits for these rows has been told that there are no more.
    this.#failed = true;
    this.#release();
  }

  handleReadyForQuery(): void {
    this.#resolve();
  }

  #take(stream: Duplex): void {
    this.#stream = stream;
    this.#buffer = spare.get(stream) ?? Buffer.allocUnsafe(RECEIVE_BYTES);
    spare.delete(stream);
    this.#pgListeners = stream.listeners('data') as ((chunk: Buffer) => void)[];
    stream.removeAllListeners('data');
    copying.add(stream);
    stream.on('data', this.#onData);
  }

  readonly #onData = (chunk: Buffer): void => {
    if (this.#failed) return;
    this.#append(chunk);
    if (this.#busy) return;
    this.#consume();
    this.#received += chunk.length;
    const small = chunk.length < SMALL_READ_BYTES && this.#received > SMALL_RESULT_BYTES;
    if (small && this.#stream !== undefined && !this.#busy) this.#rest();
  };

  #append(chunk: Buffer): void {
    const wanted = this.#length + chunk.length;
    if (wanted > this.#buffer.length) {
      const grown = Buffer.allocUnsafe(Math.max(wanted, this.#announced(chunk)));
      this.#buffer.copy(grown, 0, 0, this.#length);
      this.#buffer = grown;
    }
    chunk.copy(this.#buffer, this.#length);
    this.#length = wanted;
  }

  /** How long the message at the front is: a giant row's buffer grows once, not by doubling. */
  #announced(chunk: Buffer): number {
    if (this.#length < 5) return this.#length + chunk.length;
    return 1 + this.#buffer.readUInt32BE(1) + chunk.length;
  }

  /** Handles every complete message in the buffer, then slides the rest to the front. */
  #consume(): void {
    let at = 0;
    try {
      while (this.#length - at >= 5) {
        const end = at + 1 + readInt32(this.#buffer, at + 1);
        if (end > this.#length) break;
        const tag = this.#buffer[at];
        if (tag === DATA_ROW) {
          this.rows += 1;
          const pending = this.#onRow(this.#buffer, at + 5, end);
          at = end;
          if (pending !== undefined) {
            this.#wait(pending, at);
            return;
          }
        } else {
          if (!PROGRESS.has(tag as number)) this.#passOn(at, end);
          at = end;
          if (this.#stream === undefined) return;
        }
      }
    } catch (error) {
      this.#abort(error);
      return;
    }
    this.#slide(at);
  }

  #slide(at: number): void {
    if (at === 0) return;
    this.#buffer.copyWithin(0, at, this.#length);
    this.#length -= at;
  }

  /** Such a message belongs to `pg`; with ReadyForQuery the socket goes back to it, with all that follows. */
  #passOn(start: number, end: number): void {
    const listeners = this.#pgListeners;
    const last = this.#buffer[start] === READY_FOR_QUERY;
    const bytes = Buffer.from(this.#buffer.subarray(start, last ? this.#length : end));
    if (last) this.#release();
    for (const listener of listeners) listener(bytes);
  }

  #wait(pending: Promise<void>, at: number): void {
    this.#busy = true;
    this.#stream?.pause();
    pending.then(
      () => {
        this.#busy = false;
        if (this.#failed) return;
        this.#slide(at);
        this.#consume();
        if (!this.#busy) this.#stream?.resume();
      },
      (error: unknown) => this.#abort(error),
    );
  }

  #rest(): void {
    this.#stream?.pause();
    this.#restTimer = setTimeout(() => {
      if (!this.#busy) this.#stream?.resume();
    }, 1);
  }

  /** The server cannot be told to stop sending, so the session is given up. */
  #abort(error: unknown): void {
    this.#failed = true;
    const stream = this.#stream;
    this.#reject(error);
    this.#release();
    stream?.destroy();
  }

  #release(): void {
    const stream = this.#stream;
    if (stream === undefined) return;
    this.#stream = undefined;
    clearTimeout(this.#restTimer);
    stream.removeListener('data', this.#onData);
    copying.delete(stream);
    // What is left of a broken stream may begin within a message: nothing for the parser of `pg`.
    if (this.#failed) return;
    // What a giant row needed is not kept.
    if (this.#buffer.length === RECEIVE_BYTES) spare.set(stream, this.#buffer);
    for (const listener of this.#pgListeners) stream.on('data', listener);
    stream.resume();
  }
}

/** Big-endian, without the checks that Buffer's own method makes in each call; lengths of messages are below 2^30. */
export function readInt32(src: Buffer, at: number): number {
  return (
    ((src[at] as number) << 24) |
    ((src[at + 1] as number) << 16) |
    ((src[at + 2] as number) << 8) |
    (src[at + 3] as number)
  );
}

/**
 * Sends what was written, and takes the rows of the answer. If the handler throws, or its promise rejects, the session is
 * broken off.
 * @param ready nothing is taken from the socket before this resolves; null: at once. The server works on meanwhile, until
 * the socket is full.
 * @returns the number of rows, once the server has answered it all. @throws the server's error.
 */
export async function exchange(
  client: Client,
  writer: MessageWriter,
  onRow: RowHandler,
  ready: Promise<void> | null = null,
): Promise<number> {
  const trip = new Exchange(writer.sync(), onRow, ready);
  client.query(trip);
  await trip.done;
  return trip.rows;
}
