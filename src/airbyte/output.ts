/**
 * The only writer of stdout. Records are encoded straight into its buffer; every other message is one line of JSON
 * behind them, so the order of calls is the order of lines. Writing blocks while the reader is slow: that is the
 * back-pressure, through our sockets up to the server, and why no queue can grow.
 */
import { LineBuffer } from './line-buffer.ts';
import type {
  AirbyteMessage,
  AirbyteState,
  AirbyteTrace,
  LogLevel,
  StreamStatus,
} from './protocol.ts';

/** Writes all bytes, or throws. */
export type WriteBytes = (bytes: Uint8Array) => void;

/** Line separators that JSON allows unescaped but that readers splitting like Python's splitlines() break at. */
const LINE_BREAKERS = /[\u0085\u2028\u2029]/g;

const FLUSH_BYTES = 64 * 1024;
/** A row may be larger than this: the buffer grows for it. */
const BUFFER_BYTES = 256 * 1024;

const KEPT_BYTES = 8 * 1024 * 1024;

type StreamName = { readonly name: string; readonly namespace: string };

/** Who watches a read beside the protocol: a person at a terminal. */
export type Watcher = {
  /** So many chunks of a hypertable, or slices of a table, are left to read. */
  readonly left: (stream: StreamName, unit: 'chunk' | 'slice', count: number) => void;
  /** One of them was read. */
  readonly done: (stream: StreamName, rows: number) => void;
  /** So much of the changes up to now was read: 0 to 1. */
  readonly changes: (share: number) => void;
};

const NOBODY: Watcher = {
  left: () => undefined,
  done: () => undefined,
  changes: () => undefined,
};

export class Output {
  readonly buffer = new LineBuffer(BUFFER_BYTES);
  readonly #write: WriteBytes;
  readonly #logLevel: number;
  /** Records since the last STATE, over all streams. */
  #sinceState = 0;
  #statesWritten = 0;
  /** The last STATE of each stream, or of the whole connection. */
  readonly #states = new Map<string, AirbyteState>();
  #records = 0;
  readonly watcher: Watcher;

  constructor(write: WriteBytes, debug: boolean, watcher: Watcher = NOBODY) {
    this.#write = write;
    this.watcher = watcher;
    this.#logLevel = LEVELS.indexOf(debug ? 'DEBUG' : 'INFO');
  }

  /** Called by the record writers after each complete RECORD line. */
  recordWritten(): void {
    this.#sinceState += 1;
    if (this.buffer.length >= FLUSH_BYTES) this.flush();
  }

  /** Records written since the last STATE: what that state's `recordCount` will say. */
  get recordsSinceState(): number {
    return this.#sinceState;
  }

  /** What the platform will hand to the next sync, as far as this one has written it. */
  get states(): readonly AirbyteState[] {
    return [...this.#states.values()];
  }

  /** How many STATE messages there were so far. */
  get statesWritten(): number {
    return this.#statesWritten;
  }

  /** Counts from here on; called after a STATE was written. */
  stateWritten(): void {
    this.#records += this.#sinceState;
    this.#sinceState = 0;
  }

  /** What was written from the beginning. */
  get counts(): { readonly records: number; readonly states: number } {
    return { records: this.#records + this.#sinceState, states: this.#statesWritten };
  }

  flush(): void {
    if (this.buffer.length === 0) return;
    const bytes = this.buffer.bytes.subarray(0, this.buffer.length);
    this.buffer.clear(KEPT_BYTES);
    this.#write(bytes);
  }

  /** One message, written through at once: a reader must not wait for a STATE until the next one fills a buffer. */
  message(message: AirbyteMessage): void {
    if (message.type === 'STATE') {
      this.#statesWritten += 1;
      this.#states.set(stateKey(message.state), message.state);
    }
    const json = JSON.stringify(message).replace(
      LINE_BREAKERS,
      (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`,
    );
    this.buffer.appendText(`${json}\n`);
    this.flush();
  }

  log(level: LogLevel, message: string): void {
    if (LEVELS.indexOf(level) > this.#logLevel) return;
    this.message({ type: 'LOG', log: { level, message } });
  }

  trace(trace: AirbyteTrace): void {
    this.message({ type: 'TRACE', trace });
  }

  status(stream: StreamName, status: StreamStatus): void {
    this.trace({
      type: 'STREAM_STATUS',
      emitted_at: Date.now(),
      stream_status: {
        stream_descriptor: { name: stream.name, namespace: stream.namespace },
        status,
      },
    });
  }
}

function stateKey(state: AirbyteState): string {
  if (state.type === 'GLOBAL') return 'connection';
  const { name, namespace } = state.stream.stream_descriptor;
  return JSON.stringify([namespace, name]);
}

const LEVELS: readonly LogLevel[] = ['FATAL', 'ERROR', 'WARN', 'INFO', 'DEBUG', 'TRACE'];
