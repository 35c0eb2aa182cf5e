/** The story of a CDC sync: publication, slot and position, what the state says of each stream, then rounds until all is read. */
import type { Client } from 'pg';
import { startPosition } from './cdc-position.ts';
import { ChangeRouting } from './cdc-routing.ts';
import {
  type CdcConfig,
  type CdcRun,
  claimSlot,
  ensurePublication,
  refuseBareStreams,
  refuseSubset,
  settingNotes,
  visibilityThen,
} from './cdc-setup.ts';
import { type CdcContext, confirmStated, firstOf, syncChanges } from './cdc-sync.ts';
import { asConnectorError } from './errors.ts';
import { refuseFailover } from './failover-slot.ts';
import { guards, timescaleFacts } from './check-timescale.ts';
import type { Output } from './airbyte/output.ts';
import { primaryServer } from './changes-server.ts';
import { ChunkBook } from './chunk-book.ts';
import { type Coverage, coverStreams } from './coverage.ts';
import { type ColumnMemory, compareColumns } from './remembered-columns.ts';
import { Heartbeat } from './heartbeat.ts';
import { Ledger } from './ledger.ts';
import { cdcSessions, type LoadContext } from './load.ts';
import { label, type SyncPlan, type SyncStream } from './plan.ts';
import { ChangeReader } from './postgres/changes.ts';
import { connect } from './postgres/connection.ts';
import { freeSlots, SlotCopy } from './postgres/slot-copy.ts';
import { insertsPublication } from './postgres/publication.ts';
import type { Visibility } from './postgres/visibility.ts';
import { replayed, startTable } from './progress.ts';
import { publicationLimits, withinLimits } from './publication-limits.ts';
import { readByQuery } from './read-query.ts';
import { logSlot, slotUse } from './slot-care.ts';
import { visibilityIsExact } from './slice-conditions.ts';
import { hypertableOf, type SourceModel } from './source-model.ts';
import { type InputState, type SharedState, streamKey } from './state.ts';
import type { Statuses } from './statuses.ts';
import { acrossTakeover } from './takeover.ts';
import type { ChunkNaming } from './timescaledb/chunk-router.ts';
import { ChunkWatcher, type WatchOptions } from './timescaledb/watcher.ts';

/** What a sync has before its streams are looked at. */
export type Base = Omit<LoadContext, 'ledger' | 'book' | 'exactXmin'> & {
  readonly main: Client;
  /** The state is the platform's, not one that this sync has written. */
  readonly handedIn: boolean;
  readonly watching: WatchOptions;
};

export async function syncWithWal(
  base: Base,
  settings: CdcConfig,
  plan: SyncPlan,
  planned: readonly SyncStream[],
  stored: InputState,
  statuses: Statuses,
): Promise<void> {
  const { config, main, source, output, clock } = base;
  const { identity, database, idleTimeout } = await primaryServer(main);
  const { state, refusal, note, moved } = await acrossTakeover(config, identity, stored);
  const { cdc, changing } = await makeReady(base, settings, planned, state.shared);
  const watch = watcher(base, changing);
  const book = new ChunkBook(main, config, cdc, source.timescale, changing, output, watch);
  const covering = { main, config, cdc, book, output };
  const then = visibilityThen(state.shared);
  const coverage = await coverStreams(covering, changing, then);
  const seen = coverage.membership.visibility;
  const columns = await columnsNow(base, changing, state.shared, then);
  const { shared } = state;
  const given = { shared, handedIn: base.handedIn, identity, database, refusal, moved, seen };
  const start = await startPosition(main, config, cdc, given, output);
  if (note !== null && !start.fresh) output.log('WARN', note);
  clock.raise(start.shared.cursorFloor);
  const ledger = new Ledger(
    output,
    clock,
    plan.streams,
    withoutGaps(state, changing, start.fresh ? null : coverage, output),
    'GLOBAL',
    { ...start.shared, publicationsSeen: seen, columns },
  );
  const interrupted = !start.fresh && !start.shared.settled;
  await book.adopt(ledger, coverage, interrupted);
  beginTables(ledger, changing, interrupted);
  // What is replayed comes before the rows: a rewrite may have changed them since, without a change to tell of it.
  if (interrupted) book.drainFirst = true;
  const exactXmin = visibilityIsExact(seen);
  const context = { ...base, ledger, book, exactXmin };
  const routing = changeRouting(base, cdc, changing, state, ledger, book);
  const heartbeat = await Heartbeat.start(config, cdc, idleTimeout, output);
  try {
    for (const stream of changing) statuses.started(stream);
    const { failover } = start;
    await followChanges({ ...context, cdc, failover, routing, watch, streams: changing });
    for (const stream of plan.streams) {
      if (stream.mode !== 'cdc') await readByQuery(context, stream, statuses);
    }
  } finally {
    await heartbeat.stop();
  }
  // Also where nothing happened: the position moves on, and with it what the server may forget.
  ledger.checkpoint(firstOf(changing), true);
  await confirmStated({ main, cdc, ledger });
  logSlot(cdc.slot, await slotUse(main, cdc.slot), 'At the end', output);
  for (const stream of changing) statuses.complete(stream);
}

/** @returns the streams as the publications show them. */
async function makeReady(
  base: Base,
  settings: CdcConfig,
  planned: readonly SyncStream[],
  shared: SharedState | null,
): Promise<{ readonly cdc: CdcRun; readonly changing: readonly SyncStream[] }> {
  const { config, main, output } = base;
  settingNotes(settings).forEach(warnings(output));
  await refuseFailover(main, settings);
  await claimSlot(main, settings.slot);
  const cdc = await ensurePublication(main, config, settings, shared);
  tellOfAltered(cdc, output);
  refuseSubset(cdc, planned);
  await refuseBareStreams(main, cdc, planned);
  await warnOfUnseenWrites(base, planned);
  const limits = await publicationLimits(main, cdc.publications, [cdc.main, cdc.inserts]);
  return { cdc, changing: withinLimits(planned, limits, warnings(output)) };
}

function warnings(output: Output): (sentence: string) => void {
  return (sentence) => {
    output.log('WARN', sentence);
  };
}

function changeRouting(
  { main, source, output, clock }: Base,
  cdc: CdcRun,
  changing: readonly SyncStream[],
  state: InputState,
  ledger: Ledger,
  book: ChunkBook,
): ChangeRouting {
  return new ChangeRouting(
    main,
    ledger,
    book,
    clock,
    changing,
    namings(source, state),
    cdc.main.allTables,
    source.types,
    warnings(output),
  );
}

/** With a copy of the slot, as long as that takes. */
async function followChanges(context: Omit<CdcContext, 'changes'>): Promise<void> {
  const { config, cdc } = context;
  const open = async (purpose: string): Promise<SlotCopy> =>
    SlotCopy.open(await connect(config, purpose), cdc.slot, cdc.publications);
  const changes = new ChangeReader(await open('changes'), () => secondCopy(context, open));
  try {
    await syncChanges({ ...context, changes });
  } finally {
    await changes.close();
  }
}

/** Changes are read faster with one: worth a session and a slot where there is room, and no failure where there is not. */
async function secondCopy(
  { config, main, output }: Pick<CdcContext, 'config' | 'main' | 'output'>,
  open: (purpose: string) => Promise<SlotCopy>,
): Promise<SlotCopy | null> {
  const { maxConcurrentChunks } = config.timescaledb;
  const others = cdcSessions(config) + maxConcurrentChunks + WATCHER_SESSIONS;
  if ((config.maxDbConnections ?? Infinity) <= others) return null;
  const single = (why: string): null => {
    output.log('INFO', `Changes are decoded one window at a time: ${why}`);
    return null;
  };
  // The last one is left to another sync, which could not do without.
  if ((await freeSlots(main)) < 2) return single('no replication slot is to spare.');
  try {
    return await open('changes ahead');
  } catch (error) {
    return single(asConnectorError(error, 'opening another session').message);
  }
}

const WATCHER_SESSIONS = 1;

/** What the columns are, for the state; what has become of them since the state that came in is told. */
async function columnsNow(
  { main, output }: Base,
  changing: readonly SyncStream[],
  shared: SharedState | null,
  then: Visibility | null,
): Promise<ColumnMemory> {
  const { now, changes } = await compareColumns(main, changing, shared?.columns ?? null, then);
  for (const sentence of changes) output.log('WARN', sentence);
  return now;
}
/** Of the sessions that the user allows, those that read go first. */
function watcher(base: Base, changing: readonly SyncStream[]): ChunkWatcher {
  const { config, source, output, watching } = base;
  const { maxConcurrentChunks, chunkDiscoveryIntervalMinutes, ...timescaledb } = config.timescaledb;
  const others = cdcSessions(config);
  const room = (config.maxDbConnections ?? Infinity) > others + maxConcurrentChunks;
  return new ChunkWatcher(
    {
      catalog: source.timescale,
      followed: changing.flatMap(({ hypertable }) => hypertable ?? []),
      objects: [...source.hypertables.values()].map(
        ({ id, schema, name, continuousAggregate: aggregate }) =>
          aggregate === null
            ? { kind: 'hypertable', id, name: `${schema}.${name}` }
            : { kind: 'continuous aggregate', id, name: `${aggregate.schema}.${aggregate.name}` },
      ),
      connect: room ? () => connect(config, 'chunk watcher') : null,
      intervalMs: chunkDiscoveryIntervalMinutes * 60_000,
      caching: timescaledb.chunkCaching,
      maxAgeMs: timescaledb.chunkCacheTtlMinutes * 60_000,
      log: (level, message) => {
        output.log(level, message);
      },
    },
    watching,
  );
}

/** What the WAL will not show, and nothing here can tell afterwards: said in each sync, not only where somebody runs check. */
async function warnOfUnseenWrites(base: Base, changing: readonly SyncStream[]): Promise<void> {
  const { main, source, output } = base;
  if (!changing.some(({ hypertable }) => hypertable?.compression === true)) return;
  const followed = new Set(changing.map(({ relation }) => relation.oid));
  const facts = await timescaleFacts(main, {
    ...source,
    relations: source.relations.filter(({ oid }) => followed.has(oid)),
  });
  if (facts === null) return;
  for (const { sentence } of guards(facts)) output.log('WARN', sentence);
}

/** What a publication published of each change while it was another one cannot be told. */
function tellOfAltered({ publication, main, inserts }: CdcRun, output: Output): void {
  const altered = [
    ...(main.altered ? [publication] : []),
    ...(inserts?.altered === true ? [insertsPublication(publication)] : []),
  ];
  for (const name of altered) {
    output.log(
      'WARN',
      `The publication ${name} was altered since the last sync. If it published fewer kinds of changes meanwhile, those are missing: refresh the streams then.`,
    );
  }
}

/**
 * A stream whose own table was not in the publication until now has a gap in its changes: it is read again.
 * Chunks are judged one by one elsewhere.
 * @param coverage with what was published since the state; null: the position begins anew, and every stream that follows it.
 */
function withoutGaps(
  state: InputState,
  changing: readonly SyncStream[],
  coverage: Coverage | null,
  output: Output,
): InputState['streams'] {
  const late = new Set([
    ...(coverage?.added ?? []).map(({ oid }) => oid),
    ...(coverage?.unseen ?? []),
  ]);
  const streams = new Map(state.streams);
  for (const stream of changing) {
    if (coverage === null) streams.delete(stream.key);
    if (stream.hypertable !== null || !late.has(stream.relation.oid)) continue;
    if (streams.delete(stream.key)) {
      output.log(
        'WARN',
        `${label(stream.name)} was not in the publication any more: it is read again.`,
      );
    }
  }
  return streams;
}

/** Every stream has an entry in the first state, so that what is emitted after it is known to have begun. */
function beginTables(ledger: Ledger, changing: readonly SyncStream[], interrupted: boolean): void {
  for (const stream of changing) {
    if (stream.hypertable !== null) continue;
    const known = ledger.rows(stream);
    // It may have been a hypertable when the state was made.
    const rows = known?.kind === 'table' ? known : startTable();
    const suspect = interrupted && stream.identity.length > 0;
    ledger.setRows(stream, suspect ? replayed(rows) : rows);
  }
}

/** Of the hypertables that exist, and of those that the state remembers. */
function namings(source: SourceModel, state: InputState): readonly ChunkNaming[] {
  const present = [...source.hypertables.values()].map((hypertable) => ({
    hypertableId: hypertable.id,
    root: hypertable.oid,
    chunkSchema: hypertable.chunkSchema,
    chunkPrefix: hypertable.chunkPrefix,
  }));
  const remembered = source.relations.flatMap((relation) => {
    const key = streamKey({ name: relation.name, namespace: relation.schema });
    const rows = state.streams.get(key)?.progress;
    if (rows?.kind !== 'hypertable') return [];
    const { hypertableId, chunkSchema, chunkPrefix } = rows;
    const root = hypertableOf(relation, source)?.oid ?? relation.oid;
    return [{ hypertableId, root, chunkSchema, chunkPrefix }];
  });
  return [...present, ...remembered];
}
