/**
 * Incremental reading by a cursor column: a pass reads every row between the last cursor and an upper bound that is fixed
 * when the pass begins, so that rows written meanwhile belong to the next pass. The lower bound is inclusive: rows that
 * share the last value may have come later.
 */
import {
  boundedSelection,
  type CursorTerms,
  cursorTerms,
  greatestValue,
  isEndless,
  sameOrder,
} from './cursor-bounds.ts';
import { inOrder, hypertableRows, type LoadContext, loadChunks, rowEncoder } from './load.ts';
import { loadTable } from './load-table.ts';
import { label, type SyncStream } from './plan.ts';
import { pendingChunks, startHypertable, startTable } from './progress.ts';
import { readSlice, type Selection } from './snapshot.ts';
import type { CursorProgress } from './state.ts';
import { type Chunk, listChunks, OPEN_END } from './timescaledb/chunks.ts';

/** Runs one pass over a stream, or goes on with one that was interrupted. */
export async function syncCursor(context: LoadContext, stream: SyncStream): Promise<void> {
  const { ledger, output } = context;
  const known = ledger.get(stream);
  const goesOn = known?.mode === 'cursor' && isSame(known, stream);
  const state: CursorProgress = goesOn
    ? { ...known, cursorType: stream.cursorType }
    : {
        mode: 'cursor',
        cursorField: stream.cursorField,
        cursorType: stream.cursorType,
        cursor: null,
        upper: null,
        progress: null,
      };
  if (known !== undefined && !goesOn) {
    output.log(
      'WARN',
      `${label(stream.name)} is read from the beginning: its cursor is another one now.`,
    );
  }
  const terms = await cursorTerms(context.main, stream, context.source.types);
  const chunks = await chunksOf(context, stream);
  const begun =
    state.progress === null ? await beginPass(context, stream, state, chunks, terms) : state;
  ledger.set(stream, begun);
  const selection = boundedSelection(stream, begun, terms);
  if (stream.hypertable !== null) await passOverChunks(context, stream, begun, chunks, selection);
  else if (begun.cursor === null) {
    await loadTable(context, stream, () => selection, Number.POSITIVE_INFINITY);
  } else await passInOrder(context, stream, begun, selection, terms);
  ledger.set(stream, {
    ...begun,
    cursor: begun.upper ?? begun.cursor,
    upper: null,
    progress: null,
  });
  ledger.checkpoint(stream);
}

/** The same cursor, with values in the same order. */
function isSame(state: CursorProgress, stream: SyncStream): boolean {
  return (
    state.cursorField === stream.cursorField &&
    sameOrder(state.cursorType, stream.cursorType) &&
    sameKind(state, stream)
  );
}

/** A table may have become a hypertable since the state was made. */
function sameKind(state: CursorProgress, stream: SyncStream): boolean {
  const kind = stream.hypertable === null ? 'table' : 'hypertable';
  return state.progress === null || state.progress.kind === kind;
}

async function chunksOf(context: LoadContext, stream: SyncStream): Promise<readonly Chunk[]> {
  const { timescale } = context.source;
  if (stream.hypertable === null || timescale === null) return [];
  return listChunks(context.main, timescale, [stream.hypertable.id]);
}

async function beginPass(
  context: LoadContext,
  stream: SyncStream,
  state: CursorProgress,
  chunks: readonly Chunk[],
  terms: CursorTerms,
): Promise<CursorProgress> {
  const { hypertable } = stream;
  if (hypertable === null) {
    const greatest = await greatestValue(context.main, terms, stream.relation, null);
    return { ...state, upper: greatest, progress: startTable() };
  }
  const byTime = isTimeDimension(stream);
  let upper: string | null = null;
  /** Where the latest chunk with rows begins: what ends before it cannot hold a greater value. */
  let latest: bigint | null = null;
  const own = chunks.filter(({ foreign }) => !foreign).toReversed();
  const tiered = chunks.filter(({ foreign }) => foreign);
  for (const chunk of [...own, ...tiered]) {
    // Others of the same time (space partitions, a second open dimension) can. A tiered chunk's range says nothing.
    if (latest !== null && chunk.rangeEnd <= latest && !chunk.foreign) continue;
    upper = await greatestValue(context.main, terms, chunk, upper);
    if (byTime && upper !== null) latest ??= chunk.rangeStart;
  }
  return { ...state, upper, progress: startHypertable(hypertable, chunks) };
}

/** Only chunks that can hold values from the last cursor on are touched, where the cursor is the time dimension. */
async function passOverChunks(
  context: LoadContext,
  stream: SyncStream,
  state: CursorProgress,
  chunks: readonly Chunk[],
  selection: Selection,
): Promise<void> {
  const from = await internalTime(context, stream, state.cursor);
  const pending = pendingChunks(hypertableRows(context.ledger, stream), chunks);
  const wanted = inOrder(context.config, pending).filter(
    // The outermost chunk holds the end of its range too.
    (chunk) => from === null || chunk.rangeEnd > from || chunk.rangeEnd === OPEN_END,
  );
  await loadChunks(context, stream, chunks, wanted, () => selection, {
    chunks: wanted.length,
    until: Number.POSITIVE_INFINITY,
  });
}

function isTimeDimension(stream: SyncStream): boolean {
  const time = stream.hypertable?.dimensions.find((dimension) => dimension.kind === 'open');
  return time?.column === stream.cursorField && !time.hasPartitioningFunction;
}

/** The cursor in the unit of chunk ranges; null where ranges say nothing about it. */
async function internalTime(
  context: LoadContext,
  stream: SyncStream,
  cursor: string | null,
): Promise<bigint | null> {
  const time = stream.hypertable?.dimensions.find((dimension) => dimension.kind === 'open');
  if (cursor === null || time === undefined || !isTimeDimension(stream)) return null;
  if (/int/.test(time.type)) return BigInt(cursor);
  if (!/^(timestamp|date)/.test(time.type)) return null;
  const { rows } = await context.main.query<{ micros: string | null }>(
    `SELECT CASE WHEN isfinite($1::timestamptz)
            THEN (extract(epoch FROM $1::timestamptz) * 1000000)::bigint::text END AS micros`,
    [cursor],
  );
  const micros = rows[0]?.micros;
  return micros === null || micros === undefined ? null : BigInt(micros);
}

/** A STATE after this many rows: rows come in the order of the cursor, so any value is a place to go on from. */
const STATE_ROWS = 100_000;

async function passInOrder(
  context: LoadContext,
  stream: SyncStream,
  state: CursorProgress,
  bounded: Selection,
  { endless }: CursorTerms,
): Promise<void> {
  const { ledger, output } = context;
  const selection: Selection = {
    ...bounded,
    columns: [...bounded.columns, { name: stream.cursorField, binary: false }],
    orderBy: stream.cursorField,
  };
  const encoder = rowEncoder(context, stream, 1);
  let rows = 0;
  const source = { ...stream.relation, heap: false, lockable: false };
  const slice = { fromPage: 0, toPage: null, within: null, rows: null };
  output.watcher.left(stream.name, 'slice', 1);
  const tally = output.written(stream.name).rows;
  const begun = Date.now();
  const read = await context.readers.use((client) =>
    readSlice(client, source, slice, selection, 0, null, (src, start, end) => {
      encoder.writeRow(output.buffer, src, start, end, null);
      output.recordWritten(tally);
      rows += 1;
      if (rows % STATE_ROWS !== 0) return undefined;
      const cursor = lastCell(src, start);
      if (endless !== null && isEndless(cursor)) return undefined;
      ledger.set(stream, { ...state, cursor, progress: null, upper: null });
      ledger.checkpoint(stream);
      return undefined;
    }),
  );
  const retries = read.kind === 'read' ? read.retries : 0;
  output.watcher.done(stream.name, { rows, milliseconds: Date.now() - begun, retries });
}

/** The text of a row's last column, which is not NULL. */
function lastCell(src: Buffer, start: number): string {
  const count = src.readUInt16BE(start);
  let at = start + 2;
  for (let i = 0; i < count - 1; i += 1) at += 4 + Math.max(0, src.readInt32BE(at));
  const length = src.readInt32BE(at);
  return src.toString('utf8', at + 4, at + 4 + length);
}
