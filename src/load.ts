/**
 * Existing rows into records, unit by unit: here chunks of a hypertable, several at once; slices of a table in
 * load-table.ts. After each unit the ledger knows, and a STATE is written. Both kinds of sync use it; under CDC what a unit
 * saw is kept for the stream.
 */
import type { Client } from 'pg';
import type { Output } from './airbyte/output.ts';
import { binaryEncoder, columnType } from './column-types.ts';
import type { Config } from './config.ts';
import type { SourceModel } from './source-model.ts';
import type { Ledger } from './ledger.ts';
import type { RowHandler } from './postgres/exchange.ts';
import { label, type SyncStream } from './plan.ts';
import { chunkDone, type HypertableProgress, seenBytes, unreadChunks } from './progress.ts';
import { type ChangeStamp, type RecordClock, RecordEncoder } from './record.ts';
import { readChunk, type Selection } from './snapshot.ts';
import { type Chunk, chunkCheckSql, chunkName } from './timescaledb/chunks.ts';
import type { UnreadChunks } from './unread-chunks.ts';

/** What reading needs, for the length of a sync. */
export type LoadContext = {
  readonly config: Config;
  readonly source: SourceModel;
  readonly output: Output;
  readonly ledger: Ledger;
  readonly clock: RecordClock;
  /** For short queries. */
  readonly main: Client;
  readonly readers: ReaderPool;
  /** Chunks whose read does not count, because nobody may publish them: they are read again in each sync. Null: every one counts. */
  readonly book: {
    readonly readInVain: (chunk: Chunk, visibility: string) => boolean;
    readonly unread: (stream: SyncStream, progress: HypertableProgress) => UnreadChunks;
  } | null;
  /** Whether xmin tells when a row was written (see `visibilityIsExact`). */
  readonly exactXmin: boolean;
};

/** Sessions for reading rows, opened when they are first needed. */
export class ReaderPool {
  readonly #open: () => Promise<Client>;
  readonly #idle: Client[] = [];
  readonly #all: Client[] = [];

  constructor(open: () => Promise<Client>) {
    this.#open = open;
  }

  /** Lends a session; one whose work failed is not lent again. */
  async use<T>(work: (client: Client) => Promise<T>): Promise<T> {
    const client = this.#idle.pop() ?? (await this.#connect());
    const result = await work(client);
    this.#idle.push(client);
    return result;
  }

  async #connect(): Promise<Client> {
    const client = await this.#open();
    this.#all.push(client);
    return client;
  }

  async close(): Promise<void> {
    await Promise.allSettled(this.#all.map((client) => client.end()));
  }
}

/**
 * The encoder of result rows of a stream.
 * @param extra columns at the end of each row that are not emitted.
 * @param chunk that all rows lie in, for records that name it.
 */
export function rowEncoder(
  context: LoadContext,
  stream: SyncStream,
  extra: number,
  chunk: Chunk | null = null,
): RecordEncoder {
  const columns = stream.columns.map(({ name, typeOid, typmod, dimensions }) => ({
    name,
    encode:
      binaryEncoder(typeOid, dimensions) ??
      columnType(typeOid, typmod, dimensions, context.source.types).encode,
  }));
  const hidden = Array.from({ length: extra }, () => null);
  return new RecordEncoder(
    stream.name,
    [...columns, ...hidden],
    stream.cdcColumns,
    context.clock,
    chunk === null ? null : chunkName(chunk),
  );
}

/** All selected columns of the rows that are to be had. */
export function wholeSelection(stream: SyncStream): Selection {
  const columns = stream.columns.map(({ name, typeOid, dimensions }) => ({
    name,
    binary: binaryEncoder(typeOid, dimensions) !== undefined,
  }));
  return { columns, where: stream.rowFilter, values: [], orderBy: null };
}

function readStamp(context: LoadContext, stream: SyncStream): ChangeStamp | null {
  if (stream.mode !== 'cdc') return null;
  const updatedAt = new Date().toISOString().replace('Z', '000Z');
  return { lsn: String(context.ledger.position), updatedAt, deleted: false };
}

/** Writes each row of a chunk or slice as a record, with the stamp of this moment. */
export function writer(
  context: LoadContext,
  stream: SyncStream,
  encoder: RecordEncoder,
): RowHandler {
  const { output } = context;
  const stamp = readStamp(context, stream);
  const tally = output.written(stream.name).rows;
  return (src, start, end) => {
    encoder.writeRow(output.buffer, src, start, end, stamp);
    output.recordWritten(tally);
    return undefined;
  };
}

/** When a round of reading ends, so that the stream can catch up: bounds the state's list of visibilities, and the WAL held. */
export type Budget = { readonly chunks: number; readonly until: number };

/**
 * Reads chunks that are pending, several at once, until the budget ends.
 * @param chunks every chunk of the hypertable that exists. @param wanted those of them to read, in order.
 * @returns the chunks that turned out to be gone.
 */
export async function loadChunks(
  context: LoadContext,
  stream: SyncStream,
  chunks: readonly Chunk[],
  wanted: readonly Chunk[],
  selectionOf: (chunk: Chunk) => Selection,
  budget: Budget,
): Promise<ReadonlySet<number>> {
  const queue = wanted.slice(0, budget.chunks);
  context.output.watcher.left(stream.name, 'chunk', wanted.length);
  // One for all: a row is written at once, and only then the next one, of whichever chunk.
  const encoder = stream.namesChunk ? null : rowEncoder(context, stream, 0);
  const gone = new Set<number>();
  // What is done stays done: with thousands of chunks, judging all of them after each one would take longer than reading.
  const rows = hypertableRows(context.ledger, stream);
  const unread = context.book?.unread(stream, rows) ?? unreadChunks(rows, chunks);
  let failed = false;
  const worker = async (): Promise<void> => {
    for (;;) {
      const ended = failed || Date.now() > budget.until || tooMuchSeen(context.ledger, stream);
      const chunk = ended ? undefined : queue.shift();
      if (chunk === undefined) return;
      try {
        if (!(await loadChunk(context, stream, unread, chunk, selectionOf(chunk), encoder)))
          gone.add(chunk.oid);
      } catch (error) {
        failed = true;
        throw error;
      }
    }
  };
  const size = Math.min(queue.length, readersAtOnce(context.config, stream.mode === 'cdc'));
  const results = await Promise.allSettled(Array.from({ length: size }, worker));
  const failure = results.find((result) => result.status === 'rejected');
  if (failure !== undefined) throw failure.reason;
  return gone;
}

/** Each visibility lists every transaction that was running: on a busy server they must not swell the state. */
const MAX_SEEN_BYTES = 4000;

function tooMuchSeen(ledger: Ledger, stream: SyncStream): boolean {
  return seenBytes(hypertableRows(ledger, stream)) > MAX_SEEN_BYTES;
}

/** What the process takes up beside the rows in its buffers, in MB (measured: docs/operations.md). */
const BASE_MB = 80;
/** For a reader in the middle of a row of 20 MB, and for the buffers of the rows before it that are not collected yet. */
const READER_MB = 48;

/** Sessions of a CDC sync beside those that read rows: for the system catalog, the changes, a heartbeat statement. */
export function cdcSessions({ replication }: Pick<Config, 'replication'>): number {
  return replication.method === 'CDC' && replication.heartbeatActionQuery !== '' ? 3 : 2;
}

/** As many as configured, within the limit of connections and of memory. */
export function readersAtOnce(
  config: Pick<Config, 'timescaledb' | 'maxDbConnections' | 'replication'>,
  cdc: boolean,
): number {
  const { maxConcurrentChunks, maxMemoryMb } = config.timescaledb;
  const others = cdc ? cdcSessions(config) : 1;
  const sessions = (config.maxDbConnections ?? Number.POSITIVE_INFINITY) - others;
  const buffers = Math.floor((maxMemoryMb - BASE_MB) / READER_MB);
  return Math.max(1, Math.min(maxConcurrentChunks, sessions, buffers));
}

/** @param unread chunks that are not done; this one leaves them. @returns false when the chunk is gone. */
async function loadChunk(
  context: LoadContext,
  stream: SyncStream,
  unread: UnreadChunks,
  chunk: Chunk,
  selection: Selection,
  shared: RecordEncoder | null,
): Promise<boolean> {
  const { ledger, output, source } = context;
  const { hypertable } = stream;
  if (source.timescale === null || hypertable === null)
    throw new Error('a chunk without hypertable');
  const encoder = shared ?? rowEncoder(context, stream, 0, chunk);
  const checkSql = chunkCheckSql(source.timescale);
  const onRow = writer(context, stream, encoder);
  const begun = Date.now();
  const { readers, main } = context;
  const read = await readChunk(readers, main, hypertable, chunk, selection, checkSql, onRow);
  const milliseconds = Date.now() - begun;
  if (read.kind === 'gone') {
    output.watcher.done(stream.name, { rows: 0, milliseconds, retries: 0 });
    output.log(
      'INFO',
      `${label(stream.name)}: chunk ${chunk.name} is gone; its rows are not read.`,
    );
    return false;
  }
  const { rows, retries } = read;
  output.watcher.done(stream.name, { rows, milliseconds, retries });
  const seen = stream.mode === 'cdc' ? read.seen : null;
  if (context.book?.readInVain(chunk, read.seen.visibility) !== true) {
    ledger.setRows(stream, chunkDone(hypertableRows(ledger, stream), chunk, seen, unread));
  }
  output.logAhead(
    'INFO',
    `${label(stream.name)}: chunk ${chunk.name} read, ${rows} rows in ${milliseconds} ms.`,
  );
  ledger.checkpoint(stream);
  return true;
}

/** A hypertable's progress. @throws Error when the stream has none, or that of a table. */
export function hypertableRows(ledger: Ledger, stream: SyncStream): HypertableProgress {
  const progress = ledger.rows(stream);
  if (progress?.kind !== 'hypertable')
    throw new Error(`${label(stream.name)} has no chunk progress`);
  return progress;
}

/** Chunks, by range, in the configured order of reading. */
export function inOrder(config: Config, pending: readonly Chunk[]): readonly Chunk[] {
  return config.timescaledb.chunkOrder === 'newest first' ? pending.toReversed() : pending;
}
