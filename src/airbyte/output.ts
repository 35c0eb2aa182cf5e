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

/** How one chunk of a hypertable, or one slice of a table, was read. */
export type UnitRead = {
  readonly rows: number;
  readonly milliseconds: number;
  /** How often it was begun again before its first row, because maintenance was at work on it. */
  readonly retries: number;
};

/** Who watches a read beside the protocol: a person at a terminal, and the counters. */
export type Watcher = {
  /** So many chunks of a hypertable, or slices of a table, are left to read. */
  readonly left: (stream: StreamName, unit: 'chunk' | 'slice', count: number) => void;
  readonly done: (stream: StreamName, read: UnitRead) => void;
  /** So much of the changes up to now was read: 0 to 1. */
  readonly changes: (share: number) => void;
  /** A window of changes was read. */
  readonly windowRead: (milliseconds: number) => void;
  /** Where the server's write-ahead log ends, when it was last asked. */
  readonly target: (lsn: bigint) => void;
  /** The position of a STATE that was written. */
  readonly position: (lsn: bigint) => void;
  /** The sync begins again from its last STATE, after a failure that passes by itself. */
  readonly retried: () => void;
};

const NOBODY: Watcher = {
  left: () => undefined,
  done: () => undefined,
  changes: () => undefined,
  windowRead: () => undefined,
  target: () => undefined,
  position: () => undefined,
  retried: () => undefined,
};

/** Records of one kind of one stream, and the bytes of their lines. */
export type Tally = { records: number; bytes: number };

/** What was written of a stream: rows that were read, and changes of the write-ahead log. */
export type Written = {
  readonly stream: StreamName;
  readonly rows: Tally;
  readonly changes: Tally;
};

export type Counts = {
  readonly records: number;
  readonly states: number;
  /** Of all messages. */
  readonly bytes: number;
  /** Milliseconds since 1970; null before the first one. */
  readonly lastStateAt: number | null;
  /** Streams that have begun. */
  readonly streams: readonly Written[];
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
  #bytes = 0;
  #lastStateAt: number | null = null;
  /** Where the next line begins in the buffer. */
  #lineStart = 0;
  readonly #written = new Map<string, Written>();
  readonly watcher: Watcher;

  constructor(write: WriteBytes, debug: boolean, watcher: Watcher = NOBODY) {
    this.#write = write;
    this.watcher = watcher;
    this.#logLevel = LEVELS.indexOf(debug ? 'DEBUG' : 'INFO');
  }

  /** Called by the record writers after each complete RECORD line. @param tally that the line counts in. */
  recordWritten(tally: Tally): void {
    this.#sinceState += 1;
    const { length } = this.buffer;
    tally.records += 1;
    tally.bytes += length - this.#lineStart;
    this.#lineStart = length;
    if (length >= FLUSH_BYTES) this.flush();
  }

  /** Where the records of a stream are counted: for the length of the process, over all attempts. */
  written(stream: StreamName): Written {
    const key = streamKey(stream);
    let written = this.#written.get(key);
    if (written === undefined) {
      written = {
        stream: { namespace: stream.namespace, name: stream.name },
        rows: { records: 0, bytes: 0 },
        changes: { records: 0, bytes: 0 },
      };
      this.#written.set(key, written);
    }
    return written;
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
  get counts(): Counts {
    return {
      records: this.#records + this.#sinceState,
      states: this.#statesWritten,
      bytes: this.#bytes + this.buffer.length,
      lastStateAt: this.#lastStateAt,
      streams: [...this.#written.values()],
    };
  }

  flush(): void {
    if (this.buffer.length === 0) return;
    const bytes = this.buffer.bytes.subarray(0, this.buffer.length);
    this.#bytes += bytes.length;
    this.#lineStart = 0;
    this.buffer.clear(KEPT_BYTES);
    this.#write(bytes);
  }

  /** One message, written through at once: a reader must not wait for a STATE until the next one fills a buffer. */
  message(message: AirbyteMessage): void {
    this.#append(message);
    this.flush();
  }

  #append(message: AirbyteMessage): void {
    if (message.type === 'STATE') {
      this.#statesWritten += 1;
      this.#lastStateAt = Date.now();
      this.#states.set(stateKey(message.state), message.state);
    }
    const json = JSON.stringify(message).replace(
      LINE_BREAKERS,
      (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`,
    );
    this.buffer.appendText(`${json}\n`);
  }

  log(level: LogLevel, message: string): void {
    if (LEVELS.indexOf(level) > this.#logLevel) return;
    this.message({ type: 'LOG', log: { level, message } });
  }

  /** A log line that leaves with the message that comes next: for a caller that writes one at once. */
  logAhead(level: LogLevel, message: string): void {
    if (LEVELS.indexOf(level) > this.#logLevel) return;
    this.#append({ type: 'LOG', log: { level, message } });
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
  return streamKey(state.stream.stream_descriptor);
}

function streamKey({ name, namespace }: Partial<StreamName>): string {
  return JSON.stringify([namespace, name]);
}

const LEVELS: readonly LogLevel[] = ['FATAL', 'ERROR', 'WARN', 'INFO', 'DEBUG', 'TRACE'];
