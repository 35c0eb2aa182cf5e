/**
 * Incremental reading by `xmin`, the transaction that wrote a row: a pass reads every row that was written since the one
 * before. What it can count on is the oldest transaction that was running when it began: all older ones had ended, so a
 * later snapshot shows what they have written. Rows of that one and of younger ones may come again with the next pass;
 * none is left out. Deletions go unseen.
 */
import { hypertableRows, inOrder, type LoadContext, loadChunks, wholeSelection } from './load.ts';
import { loadTable } from './load-table.ts';
import { label, type SyncStream } from './plan.ts';
import { serverIdentity } from './postgres/slot.ts';
import { joinedSince } from './postgres/relations.ts';
import { transactionIds, writtenSinceSql } from './postgres/transaction-ids.ts';
import { pendingChunks, startHypertable, startTable } from './progress.ts';
import type { Selection } from './snapshot.ts';
import type { XminProgress } from './state.ts';
import { type Chunk, listChunks } from './timescaledb/chunks.ts';

/** Runs one pass over a stream, or goes on with one that was interrupted. */
export async function syncXmin(context: LoadContext, stream: SyncStream): Promise<void> {
  const { ledger, main } = context;
  const identity = await serverIdentity(main);
  // Before anything is read, so that whatever is not visible to the reads belongs to the next pass.
  const ids = await transactionIds(main);
  const known = usable(context, stream, identity, ids.next);
  const state: XminProgress = known ?? {
    mode: 'xmin',
    relation: stream.relation.oid,
    ...identity,
    horizon: null,
    next: null,
    progress: null,
  };
  const chunks = await chunksOf(context, stream);
  const begun: XminProgress =
    state.progress === null
      ? { ...state, next: ids.ended, progress: startProgress(stream, chunks) }
      : state;
  ledger.set(stream, begun);
  const selection = await newRows(context, stream, begun, ids.next);
  if (stream.hypertable === null) {
    const end = Number.POSITIVE_INFINITY;
    await loadTable(context, stream, (unit) => selection(unit.oid, unit.heap), end);
  } else await passOverChunks(context, stream, chunks, selection);
  ledger.set(stream, { ...begun, horizon: begun.next, next: null, progress: null });
  ledger.checkpoint(stream);
}

type Identity = Pick<XminProgress, 'systemIdentifier' | 'timeline'>;

/** The stored progress, where its transaction ids mean something here; null: the stream is read from the beginning. */
function usable(
  context: LoadContext,
  stream: SyncStream,
  identity: Identity,
  next: bigint,
): XminProgress | null {
  const known = context.ledger.get(stream);
  if (known?.mode !== 'xmin') return null;
  const kind = stream.hypertable === null ? 'table' : 'hypertable';
  const reason =
    known.systemIdentifier !== identity.systemIdentifier || known.timeline !== identity.timeline
      ? 'this is another server, or another history of it'
      : known.relation !== stream.relation.oid
        ? 'it is another table under the same name'
        : known.progress !== null && known.progress.kind !== kind
          ? 'it was made a hypertable, or is none any more'
          : (known.horizon ?? 0n) > next || (known.next ?? 0n) > next
            ? 'the server has not come as far as the state'
            : null;
  if (reason === null) return known;
  context.output.log('WARN', `${label(stream.name)} is read from the beginning: ${reason}.`);
  return null;
}

function startProgress(stream: SyncStream, chunks: readonly Chunk[]): XminProgress['progress'] {
  return stream.hypertable === null ? startTable() : startHypertable(stream.hypertable, chunks);
}

async function chunksOf(context: LoadContext, stream: SyncStream): Promise<readonly Chunk[]> {
  const { timescale } = context.source;
  if (stream.hypertable === null || timescale === null) return [];
  return listChunks(context.main, timescale, [stream.hypertable.id]);
}

/** @param heap whether the relation's rows have an xmin. */
type NewRows = (oid: number, heap: boolean) => Selection;

/**
 * What to read of a table, partition or chunk: rows written since the horizon; all rows of one that has joined since (its
 * rows may be older), and of one whose rows do not tell (behind a foreign table).
 */
async function newRows(
  context: LoadContext,
  stream: SyncStream,
  { horizon }: XminProgress,
  next: bigint,
): Promise<NewRows> {
  const whole = wholeSelection(stream);
  if (horizon === null) return () => whole;
  const where = writtenSinceSql(horizon, next);
  const joined = await joinedSince(context.main, stream.relation.oid, (xmin) =>
    writtenSinceSql(horizon, next, xmin),
  );
  return (oid, heap) => (heap && !joined.has(oid) ? { ...whole, where } : whole);
}

async function passOverChunks(
  context: LoadContext,
  stream: SyncStream,
  chunks: readonly Chunk[],
  selection: NewRows,
): Promise<void> {
  const pending = pendingChunks(hypertableRows(context.ledger, stream), chunks);
  const wanted = inOrder(context.config, pending);
  await loadChunks(
    context,
    stream,
    chunks,
    wanted,
    (chunk) => selection(chunk.oid, !chunk.foreign),
    { chunks: wanted.length, until: Number.POSITIVE_INFINITY },
  );
}
