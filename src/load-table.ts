/** Existing rows of ordinary and partitioned tables and of views into records, slice by slice, each with a STATE behind it. */
import type { Config } from './config.ts';
import { ConnectorError } from './errors.ts';
import { type LoadContext, rowEncoder, writer } from './load.ts';
import type { Ledger } from './ledger.ts';
import { label, type SyncStream } from './plan.ts';
import { listLeaves } from './postgres/relations.ts';
import { isComparable, transactionIds } from './postgres/transaction-ids.ts';
import { completed, startTable, type TableProgress } from './progress.ts';
import { pageCount, type Slice, type SliceSource } from './slice-conditions.ts';
import { readSlice, type Selection, type SliceRead } from './snapshot.ts';

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
  const begun = Date.now();
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
      const { rows, retries } = read;
      output.watcher.done(stream.name, { rows, milliseconds: Date.now() - begun, retries });
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
  const onRow = writer(context, stream, rowEncoder(context, stream, 0));
  return context.readers.use((client) =>
    readSlice(client, unit, slice, selection, filenode, quiet, onRow),
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
