/**
 * Existing rows into records, unit by unit: chunks of a hypertable (several at once), slices of a table. After each unit
 * the ledger knows, and a STATE is written. Both kinds of sync use it; under CDC what a unit saw is kept for the stream.
 */
import type { Client, ClientBase } from 'pg';
import type { Output } from './airbyte/output.ts';
import { columnType } from './column-types.ts';
import type { Config } from './config.ts';
import type { SourceModel } from './source-model.ts';
import { ConnectorError } from './errors.ts';
import type { Ledger } from './ledger.ts';
import type { RowHandler } from './postgres/hot-reader.ts';
import { listLeaves } from './postgres/relations.ts';
import { label, type SyncStream } from './plan.ts';
import {
  chunkDone,
  completed,
  type HypertableProgress,
  pendingChunks,
  seenBytes,
  startTable,
  type TableProgress,
} from './progress.ts';
import { type ChangeStamp, type RecordClock, RecordEncoder } from './record.ts';
import { pageCount, readChunk, readSlice, type Selection, type SliceSource } from './snapshot.ts';
import { type Chunk, chunkCheckSql } from './timescaledb/chunks.ts';

/** What reading needs, for the length of a sync. */
export type LoadContext = {
  readonly config: Config;
  readonly source: SourceModel;
  readonly output: Output;
  readonly ledger: Ledger;
  readonly clock: RecordClock;
  /** For short queries. */
  readonly main: ClientBase;
  readonly readers: ReaderPool;
  /** Chunks whose read does not count, because nobody may publish them: they are read again in each sync. Null: every one counts. */
  readonly book: { readonly readInVain: (chunk: Chunk, visibility: string) => boolean } | null;
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

  /** Lends a session; one that failed is not lent again. */
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

/** The encoder of result rows of a stream. @param extra columns at the end of each row that are not emitted. */
export function rowEncoder(context: LoadContext, stream: SyncStream, extra: number): RecordEncoder {
  const columns = stream.columns.map(({ name, typeOid, typmod, dimensions }) => ({
    name,
    encode: columnType(typeOid, typmod, dimensions, context.source.types).encode,
  }));
  const hidden = Array.from({ length: extra }, () => null);
  return new RecordEncoder(stream.name, [...columns, ...hidden], stream.cdcColumns, context.clock);
}

/** All selected columns, without a condition. */
export function wholeSelection(stream: SyncStream): Selection {
  const columns = stream.columns.map((column) => column.name);
  return { columns, where: null, values: [], orderBy: null };
}

function readStamp(context: LoadContext, stream: SyncStream): ChangeStamp | null {
  if (stream.mode !== 'cdc') return null;
  const updatedAt = new Date().toISOString().replace('Z', '000Z');
  return { lsn: String(context.ledger.position), updatedAt, deleted: false };
}

/** Writes each row of a chunk or slice as a record, with the stamp of this moment. */
function writer(context: LoadContext, stream: SyncStream, encoder: RecordEncoder): RowHandler {
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
  selection: Selection,
  budget: Budget,
): Promise<ReadonlySet<number>> {
  const queue = wanted.slice(0, budget.chunks);
  context.output.watcher.left(stream.name, 'chunk', wanted.length);
  // One for all: a row is written at once, and only then the next one, of whichever chunk.
  const encoder = rowEncoder(context, stream, 0);
  const gone = new Set<number>();
  // What is done stays done: with thousands of chunks, judging all of them after each one would take longer than reading.
  const open = new Set(pendingChunks(hypertableRows(context.ledger, stream), chunks));
  let failed = false;
  const worker = async (): Promise<void> => {
    for (;;) {
      const ended = failed || Date.now() > budget.until || tooMuchSeen(context.ledger, stream);
      const chunk = ended ? undefined : queue.shift();
      if (chunk === undefined) return;
      try {
        if (!(await loadChunk(context, stream, open, chunk, selection, encoder)))
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

/**
 * As many as configured, within the limit of connections (the system catalog takes one, the changes another) and of
 * memory.
 */
export function readersAtOnce(
  config: Pick<Config, 'timescaledb' | 'maxDbConnections'>,
  cdc: boolean,
): number {
  const { maxConcurrentChunks, maxMemoryMb } = config.timescaledb;
  const sessions = (config.maxDbConnections ?? Number.POSITIVE_INFINITY) - (cdc ? 2 : 1);
  const buffers = Math.floor((maxMemoryMb - BASE_MB) / READER_MB);
  return Math.max(1, Math.min(maxConcurrentChunks, sessions, buffers));
}

/** @param open chunks that are not done; this one leaves them. @returns false when the chunk is gone. */
async function loadChunk(
  context: LoadContext,
  stream: SyncStream,
  open: Set<Chunk>,
  chunk: Chunk,
  selection: Selection,
  encoder: RecordEncoder,
): Promise<boolean> {
  const { ledger, output, source } = context;
  const { hypertable } = stream;
  if (source.timescale === null || hypertable === null)
    throw new Error('a chunk without hypertable');
  const checkSql = chunkCheckSql(source.timescale);
  const onRow = writer(context, stream, encoder);
  const begun = Date.now();
  const read = await context.readers.use((client) =>
    readChunk(client, context.main, hypertable, chunk, selection, checkSql, onRow),
  );
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
    ledger.setRows(stream, chunkDone(hypertableRows(ledger, stream), chunk, seen, [...open]));
    open.delete(chunk);
  }
  ledger.checkpoint(stream);
  output.log(
    'INFO',
    `${label(stream.name)}: chunk ${chunk.name} read, ${rows} rows in ${milliseconds} ms.`,
  );
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

/** Pages of a slice at most: 128 MB. */
const MAX_SLICE_PAGES = 16_384;
/** What even a slow reader takes in a second: 1 MB. */
const PAGES_PER_SECOND = 128;

/**
 * Reads slices of an ordinary or partitioned table (or a view, in one piece) until it is complete or the time is up.
 * @param until milliseconds since 1970.
 */
export async function loadTable(
  context: LoadContext,
  stream: SyncStream,
  selection: Selection,
  until: number,
): Promise<void> {
  const units = await sliceSources(context, stream);
  for (;;) {
    const progress = tableRows(context.ledger, stream);
    if (progress.complete || Date.now() > until) return;
    const unit = units.find(({ oid }) => oid >= progress.relation);
    const next =
      unit === undefined
        ? completed(progress)
        : await loadSlice(context, stream, units, unit, progress, selection);
    // The last slice and the end are one step: no STATE in between that says nothing new.
    const done = !units.some(({ oid }) => oid >= next.relation);
    context.ledger.setRows(stream, done ? completed(next) : next);
    context.ledger.checkpoint(stream);
  }
}

function tableRows(ledger: Ledger, stream: SyncStream): TableProgress {
  const progress = ledger.rows(stream);
  if (progress === undefined) return startTable();
  if (progress.kind !== 'table') throw new Error(`${label(stream.name)} has no table progress`);
  return progress;
}

async function sliceSources(
  context: LoadContext,
  stream: SyncStream,
): Promise<readonly SliceSource[]> {
  const { relation } = stream;
  if (relation.kind !== 'partitioned')
    return [{ ...relation, lockable: relation.kind === 'table' }];
  const leaves = await listLeaves(context.main, [relation.oid]);
  return leaves.map((leaf) => ({ ...leaf, lockable: leaf.kind === 'table' }));
}

function slicePages({ checkpointTargetIntervalSeconds }: Config): number {
  return Math.min(MAX_SLICE_PAGES, checkpointTargetIntervalSeconds * PAGES_PER_SECOND);
}

async function loadSlice(
  context: LoadContext,
  stream: SyncStream,
  units: readonly SliceSource[],
  unit: SliceSource,
  progress: TableProgress,
  selection: Selection,
): Promise<TableProgress> {
  const { output } = context;
  const cdc = stream.mode === 'cdc';
  const goingOn = unit.oid === progress.relation && progress.page > 0;
  const fromPage = goingOn ? progress.page : 0;
  const sliceable = unit.heap && (!cdc || canSlice(context, stream));
  const pages = sliceable ? await pageCount(context.main, unit.oid) : 0;
  const size = slicePages(context.config);
  const toPage = fromPage + size < pages ? fromPage + size : null;
  output.watcher.left(stream.name, 'slice', Math.max(1, Math.ceil((pages - fromPage) / size)));
  const filtered = cdc && context.exactXmin;
  const within = filtered ? (progress.seen?.visibility ?? null) : null;
  const first = filtered && progress.seen === null && (toPage !== null || units.length > 1);
  const onRow = writer(context, stream, rowEncoder(context, stream, 0));
  const begun = Date.now();
  const read = await context.readers.use((client) =>
    readSlice(
      client,
      unit,
      { fromPage, toPage, within },
      selection,
      goingOn ? progress.filenode : 0,
      first ? units.map(({ oid }) => oid) : null,
      onRow,
    ),
  );
  switch (read.kind) {
    case 'rewritten':
      output.log(
        'WARN',
        `${label(stream.name)} was rewritten while it was read: it is read again.`,
      );
      // Rows of the first attempt may have been deleted before the second one: see `replayed`.
      return { ...startTable(), replay: progress.replay || stream.identity.length > 0 };
    case 'gone':
      if (units.length > 1) return { ...progress, relation: unit.oid + 1, filenode: 0, page: 0 };
      throw goneError(stream);
    case 'read': {
      const { rows, retries } = read;
      output.watcher.done(stream.name, { rows, milliseconds: Date.now() - begun, retries });
      const seen = cdc ? (progress.seen ?? read.seen) : null;
      return toPage === null
        ? { ...progress, seen, relation: unit.oid + 1, filenode: 0, page: 0 }
        : { ...progress, seen, relation: unit.oid, filenode: read.filenode, page: toPage };
    }
    default:
      return read satisfies never;
  }
}

/**
 * Rows with a key may come twice, in the right order. Without one they may not: where xmin is ambiguous, and where
 * deletions name whole rows (a row deleted before its slice is read was never emitted), the table is read in one piece.
 */
function canSlice(context: LoadContext, stream: SyncStream): boolean {
  if (stream.identity.length > 0) return true;
  return context.exactXmin && stream.relation.replicaIdentity !== 'full';
}

function goneError(stream: SyncStream): ConnectorError {
  return new ConnectorError(`${label(stream.name)} does not exist any more.`, {
    kind: 'config_error',
    fix: 'Refresh the schema of the connection.',
    stream: stream.name,
  });
}
