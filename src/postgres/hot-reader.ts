/**
 * Result rows as bytes. `pg` connects, authenticates and does TLS; while rows flow this reader takes over the socket's
 * `data` events, hands each row's bytes to a callback in place, and passes every other message on to `pg` itself.
 * No object and no string is made per row.
 *
 * A named portal, not FETCH: its snapshot and plan are made at Bind, like a cursor's, but it streams its rows while
 * FETCH would first put them into a tuplestore on the server.
 * https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-EXT-QUERY
 */
import type { Client, Connection, Submittable } from 'pg';
import { type OnReadOpts, Socket, type SocketConstructorOpts } from 'node:net';
import type { Duplex } from 'node:stream';
import { bindMessage, type ColumnFormat } from './bind-message.ts';
import { refuseOtherBackend } from './pooler.ts';

/**
 * Receives one row: `src[start, end)` is the body of a DataRow message, beginning with the 16-bit number of columns.
 * The bytes are valid until it returns or, where it returns a promise, until that settles; nothing more is read meanwhile.
 */
export type RowHandler = (src: Buffer, start: number, end: number) => undefined | Promise<void>;

const DATA_ROW = 0x44;
const READY_FOR_QUERY = 0x5a;
const RECEIVE_BYTES = 256 * 1024;
const NOTHING = Buffer.alloc(0);
/** A read smaller than this is worth a pause of a millisecond, in which the kernel gathers more. */
const SMALL_READ_BYTES = 32 * 1024;
/** A result smaller than this is not worth any pause. */
const SMALL_RESULT_BYTES = 1024 * 1024;

type PgConnection = Connection & {
  parse(query: { name: string; text: string; types: readonly number[] }): void;
  execute(config: { portal: string; rows: number }): void;
  sync(): void;
};

/** One exchange with the server: what `pg` calls on an active query that ends with a Sync and describes nothing. */
class Exchange implements Submittable {
  readonly done: Promise<void>;
  readonly #start: (wire: PgConnection) => void;
  readonly #onError: (error: unknown) => void;
  #resolve: () => void = () => undefined;
  #reject: (error: unknown) => void = () => undefined;

  constructor(start: (wire: PgConnection) => void, onError: (error: unknown) => void) {
    this.#start = start;
    this.#onError = onError;
    this.done = new Promise<void>((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
  }

  submit(connection: Connection): void {
    const wire = connection as PgConnection;
    wire.stream.cork();
    this.#start(wire);
    wire.sync();
    wire.stream.uncork();
  }

  fail(error: unknown): void {
    this.#reject(error);
  }

  handleCommandComplete(): void {}
  handlePortalSuspended(): void {}
  handleEmptyQuery(): void {}
  handleError(error: unknown): void {
    this.#onError(error);
    this.#reject(error);
  }
  handleReadyForQuery(): void {
    this.#resolve();
  }
}

/** Sockets whose reader copies what it gets before it returns. */
const copying = new WeakSet<Duplex>();
const READ_BYTES = 128 * 1024;

/**
 * A socket for `pg` that reads into one buffer. By itself Node allocates 64 KB for each read, and collecting those takes
 * longer than a row's encoding. Under TLS `pg` puts a socket of its own around it, which reads as Node's do.
 */
export function receivingSocket(): Socket {
  const onread: OnReadOpts = {
    buffer: Buffer.allocUnsafeSlow(READ_BYTES),
    callback: (count, bytes) => {
      const chunk = Buffer.from(bytes.buffer, bytes.byteOffset, count);
      socket.emit('data', copying.has(socket) ? chunk : Buffer.from(chunk));
      return true;
    },
  };
  // Documented for `net.connect`, which hands it on to this constructor.
  const options: SocketConstructorOpts & { readonly onread: OnReadOpts } = { onread };
  const socket = new Socket(options);
  return socket;
}

/** Receive buffers of sessions that are not reading: a chunk may be smaller than the buffer, and there may be thousands. */
const spare = new WeakMap<Duplex, Buffer>();

/** One statement without parameters or rows, as a part of an exchange. */
function statement(wire: PgConnection, text: string): void {
  wire.parse({ name: '', text, types: [] });
  wire.stream.write(bindMessage('', [], []));
  wire.execute({ portal: '', rows: 0 });
}

/** Execute: the socket is ours from here to ReadyForQuery. */
class RowTap {
  readonly exchange: Exchange;
  readonly #onRow: RowHandler;
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

  constructor(
    portal: string,
    onRow: RowHandler,
    after: readonly string[],
    ready: Promise<void> | null,
  ) {
    this.#onRow = onRow;
    this.exchange = new Exchange(
      (wire) => {
        this.#take(wire.stream);
        if (ready !== null) this.#wait(ready, 0);
        wire.execute({ portal, rows: 0 });
        for (const text of after) statement(wire, text);
      },
      // A broken socket reaches us without a ReadyForQuery; an error of the server is followed by one.
      () => {
        if (this.#stream?.destroyed !== true) return;
        // Whoever waits for these rows has been told that there are no more.
        this.#failed = true;
        this.#release();
      },
    );
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
          at = this.#passOn(at, end, tag === READY_FOR_QUERY);
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

  /** Anything but a row belongs to `pg`; with ReadyForQuery the socket goes back to it, with all that follows. */
  #passOn(start: number, end: number, last: boolean): number {
    const listeners = this.#pgListeners;
    const upTo = last ? this.#length : end;
    const bytes = Buffer.from(this.#buffer.subarray(start, upTo));
    if (last) this.#release();
    for (const listener of listeners) listener(bytes);
    return upTo;
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
    this.exchange.fail(error);
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
function readInt32(src: Buffer, at: number): number {
  return (
    ((src[at] as number) << 24) |
    ((src[at + 1] as number) << 16) |
    ((src[at + 2] as number) << 8) |
    (src[at + 3] as number)
  );
}

/**
 * Opens a portal inside the session's open transaction: what it will return is decided when this resolves.
 * Parse and Bind leave in one write, so that snapshot and plan are made together.
 * @param values parameters as text.
 * @param formats of the result columns, one for each; one for all of them; none: text.
 * @param before statements to run first, in the same round trip; one that fails is the last.
 */
export async function bindPortal(
  client: Client,
  portal: string,
  sql: string,
  values: readonly (string | null)[] = [],
  formats: readonly ColumnFormat[] = [],
  before: readonly string[] = [],
): Promise<void> {
  const exchange = new Exchange(
    (wire) => {
      for (const text of before) statement(wire, text);
      wire.parse({ name: '', text: sql, types: [] });
      wire.stream.write(bindMessage(portal, values, formats));
    },
    () => undefined,
  );
  client.query(exchange);
  await exchange.done;
  await refuseOtherBackend(client);
}

/**
 * Runs an open portal to its end. If the handler throws, or its promise rejects, the session is broken off.
 * @param after statements to run then, in the same round trip, unless the portal fails.
 * @param ready nothing is taken from the socket before this resolves; null: at once. The server works on meanwhile, until
 * the socket is full.
 * @returns the number of rows.
 */
export async function executePortal(
  client: Client,
  portal: string,
  onRow: RowHandler,
  after: readonly string[] = [],
  ready: Promise<void> | null = null,
): Promise<number> {
  const tap = new RowTap(portal, onRow, after, ready);
  client.query(tap.exchange);
  await tap.exchange.done;
  return tap.rows;
}
