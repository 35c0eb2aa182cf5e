/**
 * Incremental reading by a cursor column: a pass reads every row between the last cursor and an upper bound that is fixed
 * when the pass begins, so that rows written meanwhile belong to the next pass. The lower bound is inclusive: rows that
 * share the last value may have come later.
 */
import { escapeIdentifier as ident } from 'pg';
import {
  inOrder,
  hypertableRows,
  type LoadContext,
  loadChunks,
  loadTable,
  rowEncoder,
  wholeSelection,
} from './load.ts';
import { label, type SyncStream } from './plan.ts';
import { pendingChunks, startHypertable, startTable } from './progress.ts';
import { readSlice, type Selection } from './snapshot.ts';
import type { CursorProgress } from './state.ts';
import { type Chunk, listChunks, OPEN_END } from './timescaledb/chunks.ts';

/** Runs one pass over a stream, or goes on with one that was interrupted. */
export async function syncCursor(context: LoadContext, stream: SyncStream): Promise<void> {
  const { ledger, output } = context;
  const known = ledger.get(stream);
  const state: CursorProgress =
    known?.mode === 'cursor' && known.cursorField === stream.cursorField && sameKind(known, stream)
      ? known
      : {
          mode: 'cursor',
          cursorField: stream.cursorField,
          cursor: null,
          upper: null,
          progress: null,
        };
  if (known !== undefined && known !== state) {
    output.log(
      'WARN',
      `${label(stream.name)} is read from the beginning: its cursor is another one now.`,
    );
  }
  const chunks = await chunksOf(context, stream);
  const begun = state.progress === null ? await beginPass(context, stream, state, chunks) : state;
  ledger.set(stream, begun);
  if (stream.hypertable !== null) await passOverChunks(context, stream, begun, chunks);
  else if (begun.cursor === null) {
    await loadTable(context, stream, selectionOf(stream, begun), Number.POSITIVE_INFINITY);
  } else await passInOrder(context, stream, begun);
  ledger.set(stream, {
    ...begun,
    cursor: begun.upper ?? begun.cursor,
    upper: null,
    progress: null,
  });
  ledger.checkpoint(stream);
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
): Promise<CursorProgress> {
  const { hypertable } = stream;
  if (hypertable === null) {
    return {
      ...state,
      upper: await maximum(context, stream, stream.relation, null),
      progress: startTable(),
    };
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
    upper = await maximum(context, stream, chunk, upper);
    if (byTime && upper !== null) latest ??= chunk.rangeStart;
  }
  return { ...state, upper, progress: startHypertable(hypertable, chunks) };
}

/** The greater of `floor` and the column's maximum in one relation, as PostgreSQL's text; null when it has no value. */
async function maximum(
  context: LoadContext,
  stream: SyncStream,
  relation: { readonly schema: string; readonly name: string },
  floor: string | null,
): Promise<string | null> {
  const column = ident(stream.cursorField);
  // The parameter takes the column's type from the comparison.
  const { rows } = await context.main.query<{ value: string | null }>(
    `SELECT greatest(max(${column}), $1)::text AS value
       FROM ${ident(relation.schema)}.${ident(relation.name)}`,
    [floor],
  );
  return rows[0]?.value ?? null;
}

function selectionOf(stream: SyncStream, state: CursorProgress): Selection {
  const column = ident(stream.cursorField);
  const whole = wholeSelection(stream);
  if (state.upper === null) return whole;
  if (state.cursor === null) {
    // Rows without a cursor value come once, with the first pass.
    return { ...whole, where: `${column} <= $1 OR ${column} IS NULL`, values: [state.upper] };
  }
  return {
    ...whole,
    where: `${column} >= $1 AND ${column} <= $2`,
    values: [state.cursor, state.upper],
  };
}

/** Only chunks that can hold values from the last cursor on are touched, where the cursor is the time dimension. */
async function passOverChunks(
  context: LoadContext,
  stream: SyncStream,
  state: CursorProgress,
  chunks: readonly Chunk[],
): Promise<void> {
  const from = await internalTime(context, stream, state.cursor);
  const pending = pendingChunks(hypertableRows(context.ledger, stream), chunks);
  const wanted = inOrder(context.config, pending).filter(
    // The outermost chunk holds the end of its range too.
    (chunk) => from === null || chunk.rangeEnd > from || chunk.rangeEnd === OPEN_END,
  );
  await loadChunks(context, stream, chunks, wanted, selectionOf(stream, state), {
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
): Promise<void> {
  const { ledger, output } = context;
  const bounded = selectionOf(stream, state);
  const selection: Selection = {
    ...bounded,
    columns: [...bounded.columns, stream.cursorField],
    orderBy: stream.cursorField,
  };
  const encoder = rowEncoder(context, stream, 1);
  let rows = 0;
  const source = { ...stream.relation, heap: false, lockable: false };
  const slice = { fromPage: 0, toPage: null, within: null };
  output.watcher.left(stream.name, 'slice', 1);
  const tally = output.written(stream.name).rows;
  const begun = Date.now();
  const read = await context.readers.use((client) =>
    readSlice(client, source, slice, selection, 0, null, (src, start, end) => {
      encoder.writeRow(output.buffer, src, start, end, null);
      output.recordWritten(tally);
      rows += 1;
      if (rows % STATE_ROWS === 0) {
        ledger.set(stream, { ...state, cursor: lastCell(src, start), progress: null, upper: null });
        ledger.checkpoint(stream);
      }
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
