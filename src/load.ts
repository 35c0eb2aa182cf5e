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
import {
  pageCount,
  readChunk,
  readSlice,
  type Selection,
  type Slice,
  type SliceRead,
  type SliceSource,
} from './snapshot.ts';
import { isComparable, transactionIds } from './postgres/transaction-ids.ts';
import { type Chunk, chunkCheckSql, chunkName } from './timescaledb/chunks.ts';

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
    encode: columnType(typeOid, typmod, dimensions, context.source.types).encode,
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
  const columns = stream.columns.map((column) => column.name);
  return { columns, where: stream.rowFilter, values: [], orderBy: null };
}

function readStamp(context: LoadContext, stream: SyncStream): ChangeStamp | null {
  if (stream.mode !== 'cdc') return null;
  const updatedAt = new Date().toISOString().replace('Z', '000Z');
  return { lsn: String(context.ledger.position), updatedAt, deleted: false };
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
  const open = new Set(pendingChunks(hypertableRows(context.ledger, stream), chunks));
  let failed = false;
  const worker = async (): Promise<void> => {
    for (;;) {
      const ended = failed || Date.now() > budget.until || tooMuchSeen(context.ledger, stream);
      const chunk = ended ? undefined : queue.shift();
      if (chunk === undefined) return;
      try {
        if (!(await loadChunk(context, stream, open, chunk, selectionOf(chunk), encoder)))
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

/**
 * As many as configured, within the limit of connections: the system catalog takes one, the changes another, a heartbeat
 * statement a third one.
 */
function readersAtOnce(config: Config, cdc: boolean): number {
  const { maxConcurrentChunks } = config.timescaledb;
  const { replication } = config;
  const beats = replication.method === 'CDC' && replication.heartbeatActionQuery !== '';
  const others = 1 + Number(cdc) + Number(cdc && beats);
  const limit = config.maxDbConnections ?? Number.POSITIVE_INFINITY;
  return Math.max(1, Math.min(maxConcurrentChunks, limit - others));
}

/** @param open chunks that are not done; this one leaves them. @returns false when the chunk is gone. */
async function loadChunk(
  context: LoadContext,
  stream: SyncStream,
  open: Set<Chunk>,
  chunk: Chunk,
  selection: Selection,
  shared: RecordEncoder | null,
): Promise<boolean> {
  const { ledger, output, source } = context;
  const encoder = shared ?? rowEncoder(context, stream, 0, chunk);
  if (source.timescale === null) throw new Error('a chunk without TimescaleDB');
  const stamp = readStamp(context, stream);
  const checkSql = chunkCheckSql(source.timescale);
  const begun = Date.now();
  const read = await context.readers.use((client) =>
    readChunk(client, context.main, chunk, selection, checkSql, (src, start, end) => {
      encoder.writeRow(output.buffer, src, start, end, stamp);
      output.recordWritten();
      return undefined;
    }),
  );
  output.watcher.done(stream.name, read.kind === 'gone' ? 0 : read.rows);
  if (read.kind === 'gone') {
    output.log(
      'INFO',
      `${label(stream.name)}: chunk ${chunk.name} is gone; its rows are not read.`,
    );
    return false;
  }
  const seen = stream.mode === 'cdc' ? read.seen : null;
  if (context.book?.readInVain(chunk, read.seen.visibility) !== true) {
    ledger.setRows(stream, chunkDone(hypertableRows(ledger, stream), chunk, seen, [...open]));
    open.delete(chunk);
  }
  ledger.checkpoint(stream);
  output.log(
    'INFO',
    `${label(stream.name)}: chunk ${chunk.name} read, ${read.rows} rows in ${Date.now() - begun} ms.`,
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
  selectionOf: (unit: SliceSource) => Selection,
  until: number,
): Promise<void> {
  const units = await sliceSources(context, stream);
  for (;;) {
    const progress = tableRows(context.ledger, stream);
    if (progress.complete || Date.now() > until) return;
    const unit = units.find(({ oid }) => oid >= progress.relation);
    const next =
      unit === undefined
        ? await loadLate(context, stream, units, progress, selectionOf)
        : await loadSlice(context, stream, units, unit, progress, selectionOf(unit));
    // The last slice and the end are one step: no STATE in between that says nothing new.
    const done = next.late === null && !units.some(({ oid }) => oid >= next.relation);
    context.ledger.setRows(stream, done ? completed(next) : next);
    context.ledger.checkpoint(stream);
  }
}

/**
 * The last step of a table that was read in slices without CDC: rows written since the first slice. Each is read once: the
 * slices have left them out.
 */
async function loadLate(
  context: LoadContext,
  stream: SyncStream,
  units: readonly SliceSource[],
  progress: TableProgress,
  selectionOf: (unit: SliceSource) => Selection,
): Promise<TableProgress> {
  const { late } = progress;
  if (late === null) return completed(progress);
  const { next } = await transactionIds(context.main);
  if (!isComparable(late, next)) return startTable();
  for (const unit of units) {
    if (!unit.heap) continue;
    const rows = { since: late, next };
    const slice = { fromPage: 0, toPage: null, within: null, rows };
    await readUnit(context, stream, unit, slice, selectionOf(unit), 0, null);
  }
  return { ...progress, late: null };
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
    return [{ ...relation, lockable: relation.kind === 'table' && relation.heap }];
  const leaves = await listLeaves(context.main, [relation.oid]);
  return leaves.map((leaf) => ({ ...leaf, lockable: leaf.heap }));
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
  const several = toPage !== null || units.length > 1;
  const first = filtered && progress.seen === null && several;
  const late = several && needsLate(stream, progress) ? await lateFrom(context) : progress.late;
  const read = await readUnit(
    context,
    stream,
    unit,
    { fromPage, toPage, within, rows: late === null ? null : { before: late } },
    selection,
    goingOn ? progress.filenode : 0,
    first ? units.map(({ oid }) => oid) : null,
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
      if (units.length > 1) {
        return { ...progress, late, relation: unit.oid + 1, filenode: 0, page: 0 };
      }
      throw goneError(stream);
    case 'read': {
      output.watcher.done(stream.name, read.rows);
      const seen = cdc ? (progress.seen ?? read.seen) : null;
      return toPage === null
        ? { ...progress, seen, late, relation: unit.oid + 1, filenode: 0, page: 0 }
        : { ...progress, seen, late, relation: unit.oid, filenode: read.filenode, page: toPage };
    }
    default:
      return read satisfies never;
  }
}

/** Under CDC the changes bring what moved between slices, by xmin the next pass does. */
function needsLate(stream: SyncStream, progress: TableProgress): boolean {
  const begins = progress.relation === 0 && progress.page === 0;
  return begins && (stream.mode === 'full_refresh' || stream.mode === 'cursor');
}

async function lateFrom(context: LoadContext): Promise<bigint> {
  return (await transactionIds(context.main)).ended;
}

function readUnit(
  context: LoadContext,
  stream: SyncStream,
  unit: SliceSource,
  slice: Slice,
  selection: Selection,
  filenode: number,
  quiet: readonly number[] | null,
): Promise<SliceRead> {
  const { output } = context;
  const encoder = rowEncoder(context, stream, 0);
  const stamp = readStamp(context, stream);
  return context.readers.use((client) =>
    readSlice(client, unit, slice, selection, filenode, quiet, (src, start, end) => {
      encoder.writeRow(output.buffer, src, start, end, stamp);
      output.recordWritten();
      return undefined;
    }),
  );
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
