/** Streams without changes to follow: a full refresh, or a pass by a cursor, from the first row to the last STATE. */
import { syncCursor } from './cursor.ts';
import { hypertableRows, inOrder, type LoadContext, loadChunks, wholeSelection } from './load.ts';
import { loadTable } from './load-table.ts';
import type { SyncStream } from './plan.ts';
import { completed, pendingChunks, startHypertable, startTable } from './progress.ts';
import { syncXmin } from './xmin.ts';
import type { Statuses } from './statuses.ts';
import { listChunks } from './timescaledb/chunks.ts';

/** A stream without CDC, from its first row to its last STATE. */
export async function readByQuery(
  context: LoadContext,
  stream: SyncStream,
  statuses: Statuses,
): Promise<void> {
  if (statuses.isComplete(stream)) return;
  statuses.started(stream);
  if (stream.mode === 'cursor') await syncCursor(context, stream);
  else if (stream.mode === 'xmin') await syncXmin(context, stream);
  else await refresh(context, stream);
  statuses.complete(stream);
}

/** A full refresh: from the beginning, or on from where an attempt of the same refresh ended. */
async function refresh(context: LoadContext, stream: SyncStream): Promise<void> {
  const { config, ledger, main, source } = context;
  const known = ledger.get(stream);
  const same = known?.mode === 'full_refresh' && known.refresh === stream.refresh;
  if (same && known.progress.complete && stream.refresh !== '') {
    ledger.checkpoint(stream);
    return;
  }
  const kind = stream.hypertable === null ? 'table' : 'hypertable';
  const goesOn = same && !known.progress.complete && known.progress.kind === kind;
  if (stream.hypertable === null || source.timescale === null) {
    if (!goesOn)
      ledger.set(stream, { mode: 'full_refresh', refresh: stream.refresh, progress: startTable() });
    await loadTable(context, stream, () => wholeSelection(stream), Number.POSITIVE_INFINITY);
    return;
  }
  const chunks = await listChunks(main, source.timescale, [stream.hypertable.id]);
  if (!goesOn) {
    const progress = startHypertable(stream.hypertable, chunks);
    ledger.set(stream, { mode: 'full_refresh', refresh: stream.refresh, progress });
  }
  const wanted = inOrder(config, pendingChunks(hypertableRows(ledger, stream), chunks));
  await loadChunks(context, stream, chunks, wanted, () => wholeSelection(stream), {
    chunks: wanted.length,
    until: Number.POSITIVE_INFINITY,
  });
  ledger.setRows(stream, completed(hypertableRows(ledger, stream)));
  ledger.checkpoint(stream);
}
