/**
 * The command `read`: the story of a sync. State and catalog become a plan; the plan is carried out by one of two ways,
 * with the WAL or by queries; every stream ends with its last STATE and its status.
 */
import type { Client } from 'pg';
import type { Output } from './airbyte/output.ts';
import type { ConfiguredStream } from './airbyte/protocol.ts';
import { ChangeRouting } from './cdc-routing.ts';
import {
  type CdcConfig,
  claimSlot,
  ensurePublication,
  publicationsInUse,
  refuseBareStreams,
  refuseStandby,
  startPosition,
} from './cdc-setup.ts';
import { coverStreams, firstOf, syncChanges, visibilityNow } from './cdc-sync.ts';
import { guards, timescaleFacts } from './check-timescale.ts';
import { ChunkBook } from './chunk-book.ts';
import { type Config, unsupportedSettings } from './config.ts';
import { syncCursor } from './cursor.ts';
import { hypertableOf, loadSource, type SourceModel } from './source-model.ts';
import { ConnectorError } from './errors.ts';
import { Ledger } from './ledger.ts';
import {
  inOrder,
  hypertableRows,
  type LoadContext,
  loadChunks,
  loadTable,
  ReaderPool,
  wholeSelection,
} from './load.ts';
import { label, parseCatalog, planSync, type SyncPlan, type SyncStream } from './plan.ts';
import { ChangeReader } from './postgres/changes.ts';
import { connect } from './postgres/connection.ts';
import { publicationStatus, publishedSince, type TableName } from './postgres/publication.ts';
import { parseVisibility } from './postgres/visibility.ts';
import { completed, pendingChunks, replayed, startHypertable, startTable } from './progress.ts';
import { RecordClock } from './record.ts';
import { withRetries } from './retries.ts';
import { visibilityIsExact } from './snapshot.ts';
import { type InputState, parseState, type SharedState, streamKey } from './state.ts';
import { Statuses } from './statuses.ts';
import { listChunks } from './timescaledb/chunks.ts';
import type { ChunkNaming } from './timescaledb/chunk-router.ts';

export type ReadInput = {
  readonly config: Config;
  /** Contents of the files, not yet looked at. */
  readonly catalog: unknown;
  readonly state: unknown;
};

/** What the attempts of one sync share. */
type Run = {
  readonly config: Config;
  readonly catalog: readonly ConfiguredStream[];
  readonly state: unknown;
  readonly output: Output;
  readonly statuses: Statuses;
  readonly clock: RecordClock;
  attempts: number;
  connected: boolean;
};

/**
 * Reads every stream of the catalog. What passes by itself (a broken connection, a restart) is tried again, from the last
 * STATE on, as the next sync would.
 * @throws ConnectorError after the streams that could be read were read; those that were not have the status INCOMPLETE.
 */
export async function read(input: ReadInput, output: Output): Promise<void> {
  const { config, state } = input;
  refuseUnsupported(config, output);
  const catalog = parseCatalog(input.catalog);
  const statuses = new Statuses(output);
  const clock = new RecordClock(0);
  const run: Run = {
    config,
    catalog,
    state,
    output,
    statuses,
    clock,
    attempts: 0,
    connected: false,
  };
  try {
    const plan = await withRetries(
      output,
      () => run.connected,
      () => attempt(run),
    );
    refuseMissing(plan, output);
  } catch (error) {
    statuses.incomplete();
    throw error;
  }
}

async function attempt(run: Run): Promise<SyncPlan> {
  const { config, catalog, output, statuses } = run;
  run.attempts += 1;
  const main = await connect(config, 'system catalog');
  run.connected = true;
  try {
    const source = await loadSource(main, config);
    const plan = planSync(catalog, source, config);
    if (run.attempts === 1) for (const warning of plan.warnings) output.log('WARN', warning);
    const names = plan.streams.map((stream) => stream.name);
    const state = withEmitted(parseState(run.state, names), parseState(run.output.states, names));
    statuses.expect(plan.streams);
    await sync(run, main, source, plan, state);
    return plan;
  } finally {
    await main.end().catch(() => undefined);
  }
}

/** The state that came in, brought up to what an attempt before this one has written. */
function withEmitted(given: InputState, emitted: InputState): InputState {
  if (emitted.kind === 'none') return given;
  return {
    kind: emitted.kind,
    shared: emitted.shared,
    streams: new Map([...given.streams, ...emitted.streams]),
  };
}

/** Settings that this version does not have must not be passed over in silence. */
function refuseUnsupported(config: Config, output: Output): void {
  const settings = unsupportedSettings(config);
  for (const { sentence, severity } of settings) {
    if (severity === 'warning') output.log('WARN', sentence);
  }
  const errors = settings.filter(({ severity }) => severity === 'error');
  if (errors.length === 0) return;
  throw new ConnectorError(errors.map(({ sentence }) => sentence).join(' '), {
    kind: 'config_error',
  });
}

/** The other streams have been read by now. */
function refuseMissing(plan: SyncPlan, output: Output): void {
  const [first] = plan.missing;
  if (first === undefined) return;
  for (const stream of plan.missing) {
    // The platform takes no other order.
    output.status(stream, 'STARTED');
    output.status(stream, 'INCOMPLETE');
  }
  throw new ConnectorError(
    `${plan.missing.map((stream) => label(stream)).join(', ')} cannot be read: no such table, or no privilege to select from it.`,
    { kind: 'config_error', fix: 'Refresh the schema of the connection.', stream: first },
  );
}

async function sync(
  run: Run,
  main: Client,
  source: SourceModel,
  plan: SyncPlan,
  state: InputState,
): Promise<void> {
  const { config, output, statuses, clock } = run;
  const { replication } = config;
  const cdc = replication.method === 'CDC' ? replication : null;
  refuseOtherKind(state, cdc !== null);
  const readers = new ReaderPool(() => connect(config, 'rows'));
  try {
    const changing = plan.streams.filter((stream) => stream.mode === 'cdc');
    const base = { config, main, source, output, readers, clock };
    if (cdc !== null && changing.length > 0) {
      await syncWithWal(base, cdc, plan, changing, state, statuses);
    } else {
      const kind = cdc === null ? 'STREAM' : 'GLOBAL';
      const ledger = new Ledger(output, clock, plan.streams, state.streams, kind, null);
      const context = { ...base, ledger, book: null, exactXmin: false };
      for (const stream of plan.streams) await readByQuery(context, stream, statuses);
    }
  } finally {
    await readers.close();
  }
}

/** The platform keeps a connection's kind of state; a blank one of the other kind is a fresh start. */
function refuseOtherKind(state: InputState, cdc: boolean): void {
  if (state.kind === 'none' || (state.kind === 'global') === cdc) return;
  throw new ConnectorError('The state was made with another update method.', {
    kind: 'config_error',
    fix: 'Clear the connection: a change of the update method begins anew.',
  });
}

type Base = Omit<LoadContext, 'ledger' | 'book' | 'exactXmin'> & {
  readonly main: Client;
};

async function syncWithWal(
  base: Base,
  cdc: CdcConfig,
  plan: SyncPlan,
  changing: readonly SyncStream[],
  state: InputState,
  statuses: Statuses,
): Promise<void> {
  const { config, main, source, output, clock } = base;
  await refuseStandby(main);
  await claimSlot(main, cdc.slot);
  await ensurePublication(main, config, cdc, state.shared === null);
  await refuseBareStreams(main, cdc, changing);
  await warnOfUnseenWrites(base, changing);
  const book = new ChunkBook(main, config, cdc, source.timescale, changing, output);
  const publications = await publicationsInUse(main, cdc);
  const covered = await coverStreams({ main, config, cdc, book, output }, changing, publications);
  const added = [...covered, ...(await publishedUnseen(main, cdc, state.shared))];
  const seen = await visibilityNow(main);
  const start = await startPosition(main, config, cdc, state.shared, output);
  clock.raise(start.shared.cursorFloor);
  const ledger = new Ledger(
    output,
    clock,
    plan.streams,
    withoutGaps(state, changing, start.fresh ? null : added, output),
    'GLOBAL',
    { ...start.shared, publicationsSeen: seen },
  );
  const interrupted = !start.fresh && !start.shared.settled;
  await book.adopt(ledger, added, interrupted);
  beginTables(ledger, changing, interrupted);
  // What is replayed comes before the rows: a rewrite may have changed them since, without a change to tell of it.
  if (interrupted) book.drainFirst = true;
  const exactXmin = visibilityIsExact(seen);
  const context = { ...base, ledger, book, exactXmin };
  const routing = new ChangeRouting(
    main,
    ledger,
    book,
    clock,
    changing,
    namings(source, state),
    (await publicationStatus(main, cdc.publication))?.allTables === true,
    source.types,
  );
  const names = await publicationsInUse(main, cdc);
  const changes = await ChangeReader.open(await connect(config, 'changes'), cdc.slot, names);
  try {
    for (const stream of changing) statuses.started(stream);
    await syncChanges({ ...context, cdc, routing, changes, streams: changing });
  } finally {
    await changes.close();
  }
  for (const stream of plan.streams) {
    if (stream.mode !== 'cdc') await readByQuery(context, stream, statuses);
  }
  // Also where nothing happened: the position moves on, and with it what the server may forget.
  ledger.checkpoint(firstOf(changing), true);
  for (const stream of changing) statuses.complete(stream);
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

/** What was added to the publications since the state, by whomever: a killed sync of ours, or somebody by hand. */
async function publishedUnseen(
  main: Client,
  cdc: CdcConfig,
  shared: SharedState | null,
): Promise<readonly TableName[]> {
  if (shared?.publicationsSeen == null) return [];
  const then = parseVisibility(shared.publicationsSeen);
  return publishedSince(main, await publicationsInUse(main, cdc), then);
}

/**
 * A stream whose own table was not in the publication until now has a gap in its changes: it is read again.
 * Chunks are judged one by one elsewhere.
 * @param added tables that were published just now; null: the position begins anew, and every stream that follows it.
 */
function withoutGaps(
  state: InputState,
  changing: readonly SyncStream[],
  added: readonly TableName[] | null,
  output: Output,
): InputState['streams'] {
  const late = new Set(added?.map(({ oid }) => oid));
  const streams = new Map(state.streams);
  for (const stream of changing) {
    if (added === null) streams.delete(stream.key);
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

/** A stream without CDC, from its first row to its last STATE. */
async function readByQuery(
  context: LoadContext,
  stream: SyncStream,
  statuses: Statuses,
): Promise<void> {
  if (statuses.isComplete(stream)) return;
  statuses.started(stream);
  if (stream.mode === 'cursor') await syncCursor(context, stream);
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
    await loadTable(context, stream, wholeSelection(stream), Number.POSITIVE_INFINITY);
    return;
  }
  const chunks = await listChunks(main, source.timescale, [stream.hypertable.id]);
  if (!goesOn) {
    const progress = startHypertable(stream.hypertable, chunks);
    ledger.set(stream, { mode: 'full_refresh', refresh: stream.refresh, progress });
  }
  const wanted = inOrder(config, pendingChunks(hypertableRows(ledger, stream), chunks));
  await loadChunks(context, stream, chunks, wanted, wholeSelection(stream), {
    chunks: wanted.length,
    until: Number.POSITIVE_INFINITY,
  });
  ledger.setRows(stream, completed(hypertableRows(ledger, stream)));
  ledger.checkpoint(stream);
}
