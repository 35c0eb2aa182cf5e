/**
 * A CDC sync: rounds of reading what is pending, each followed by the changes up to now, until nothing is left to read.
 * Reading and streaming alternate; they never overlap on a chunk. See docs/consistency.md.
 */
import type { Client } from 'pg';
import { ChangeApplier } from './cdc.ts';
import type { ChangeRouting } from './cdc-routing.ts';
import type { CdcRun } from './cdc-setup.ts';
import type { ChunkBook } from './chunk-book.ts';
import { coverChunks } from './coverage.ts';
import { ConnectorError, errorCode } from './errors.ts';
import {
  type Budget,
  hypertableRows,
  inOrder,
  type LoadContext,
  loadChunks,
  wholeSelection,
} from './load.ts';
import { loadTable } from './load-table.ts';
import { label, type SyncStream } from './plan.ts';
import type { ChangeReader } from './postgres/changes.ts';
import { formatLsn, type Lsn } from './postgres/lsn.ts';
import { confirmSlot, presentTarget, type Target } from './postgres/slot.ts';
import { awaitStandbys } from './postgres/standbys.ts';
import { RowLookup } from './row-lookup.ts';
import { isVisible, parseVisibility } from './postgres/visibility.ts';
import type { ChunkWatcher } from './timescaledb/watcher.ts';

/** Chunks of a round: each keeps its visibility in the state until the stream has passed it. */
const ROUND_CHUNKS = 40;
const ROUND_MS = 60_000;
/** A STATE in the middle of a long stream: after this many records, or after the configured time. */
const STATE_RECORDS = 50_000;
/** Each time the server decodes again from the slot's restart position. */
const CONFIRM_EVERY_MS = 10_000;
const OBJECT_IN_USE = '55006';
const VISIBLE_WAIT_MS = 60_000;
/** So often a sync that has read all it knew looks for new chunks and finds some: then it leaves them to the next one. */
const LAST_LOOKS = 20;

export type CdcContext = LoadContext & {
  readonly main: Client;
  readonly cdc: CdcRun;
  readonly book: ChunkBook;
  readonly routing: ChangeRouting;
  readonly changes: ChangeReader;
  readonly watch: ChunkWatcher;
  /** Standbys keep a copy of the slot: what has left must be theirs, too. */
  readonly failover: boolean;
  /** The CDC streams; there is at least one. */
  readonly streams: readonly SyncStream[];
};

/** Runs the rounds and leaves every stream at one recent position. */
export async function syncChanges(context: CdcContext): Promise<void> {
  context.watch.start();
  try {
    await runRounds(context);
  } finally {
    await context.watch.close();
  }
}

async function runRounds(context: CdcContext): Promise<void> {
  const { cdc, ledger, streams, routing, output, watch } = context;
  const deadline = Date.now() + cdc.initialLoadTimeoutHours * 3_600_000;
  let first = isUpToDate(context) ? await presentTarget(context.main) : null;
  ledger.emitsTo(first?.lsn ?? null);
  // Before the first record: whatever is emitted without a state of its own, this one tells where to go on from.
  ledger.checkpoint(firstOf(streams));
  for (const stream of streams) {
    const rows = ledger.rows(stream);
    if (rows?.kind !== 'hypertable') continue;
    output.watcher.left(stream.name, 'chunk', context.book.pending(stream, rows).length);
  }
  let looks = 0;
  const caughtUp = new Set<SyncStream>();
  for (;;) {
    const pending = streams.filter((stream) => ledger.rows(stream)?.complete !== true);
    for (const stream of streams) if (!pending.includes(stream)) caughtUp.add(stream);
    // A new chunk of a stream that was up to date does not wait for the first load of another.
    const inTurn = pending.toSorted((a, b) => Number(caughtUp.has(b)) - Number(caughtUp.has(a)));
    const timeUp = Date.now() > deadline;
    if (context.book.drainFirst) {
      await drain(context, first);
      first = null;
    }
    context.book.drainFirst = false;
    if (pending.length > 0 && !timeUp) await loadRound(context, inTurn);
    routing.foundUnread = false;
    await drain(context, first);
    first = null;
    const known = streams.some((stream) => hasRowsLeft(context, stream));
    if (known && !timeUp && !watch.isDue && !context.book.unjudged) continue;
    await lookForChunks(context);
    if (!known) looks += 1;
    const left = streams.filter((stream) => ledger.rows(stream)?.complete !== true);
    const over = timeUp || looks >= LAST_LOOKS;
    if (over && left.length > 0) {
      const names = left.map((stream) => label(stream.name)).join(', ');
      output.log('WARN', `The initial load goes on in the next sync: ${names}.`);
    }
    if (over || (left.length === 0 && !routing.foundUnread)) break;
  }
}

/** Whether nothing but changes leaves, up to the first target: rows are of the moment at which they are read. */
function isUpToDate({ ledger, streams }: CdcContext): boolean {
  return streams.every((stream) => {
    const rows = ledger.rows(stream);
    if (rows?.complete !== true) return false;
    return rows.kind === 'table' ? rows.seen === null : rows.seen.size === 0;
  });
}

/** What leaves from here on is bound by nothing that a STATE has told of. */
function unbound({ ledger, streams }: CdcContext): void {
  if (ledger.emitsTo(null)) ledger.checkpoint(firstOf(streams));
}

/** By the list of chunks at hand. */
function hasRowsLeft({ ledger, book }: CdcContext, stream: SyncStream): boolean {
  const rows = ledger.rows(stream);
  if (rows?.kind !== 'hypertable') return rows?.complete !== true;
  return book.pending(stream, rows).length > 0;
}

/** New chunks since the last look: published where that is missing, and judged. */
async function lookForChunks(context: CdcContext): Promise<void> {
  const { book, ledger, watch, streams } = context;
  if (watch.looksUnasked) await book.refresh();
  const seen = ledger.publicationsSeen;
  const then = seen === null ? null : parseVisibility(seen);
  const coverage = await coverChunks(context, streams, then);
  // A stream's own table that somebody has published anew meanwhile has a gap, which the next sync is to find.
  const gap = streams.some(
    ({ relation }) => coverage.membership.members.get(relation.oid)?.unseen === true,
  );
  if (!gap) ledger.publicationsSeen = coverage.membership.visibility;
  await book.adopt(ledger, coverage, false);
}

async function loadRound(context: CdcContext, pending: readonly SyncStream[]): Promise<void> {
  const { ledger, book, config, watch } = context;
  unbound(context);
  const until = Date.now() + ROUND_MS;
  let chunksLeft = ROUND_CHUNKS;
  for (const stream of pending) {
    if (Date.now() > until || chunksLeft <= 0 || watch.hasNews) return;
    const selection = wholeSelection(stream);
    if (stream.hypertable === null) {
      await loadTable(context, stream, () => selection, until);
      continue;
    }
    const chunks = book.of(stream);
    const wanted = inOrder(config, book.pending(stream, hypertableRows(ledger, stream)));
    const budget: Budget = {
      chunks: chunksLeft,
      // News ends the round, never the read of a chunk.
      get until() {
        return watch.hasNews ? 0 : until;
      },
    };
    book.forget(await loadChunks(context, stream, chunks, wanted, () => selection, budget));
    chunksLeft -= Math.min(chunksLeft, wanted.length);
  }
}

async function nextTarget(context: CdcContext, first: Target | null): Promise<Target> {
  const { main, cdc, failover, output } = context;
  if (first === null) unbound(context);
  const next = first ?? (await presentTarget(main));
  if (failover) await awaitStandbys(main, cdc.slot, next.lsn);
  output.watcher.target(next.lsn);
  return next;
}

/**
 * Emits the changes up to now, with a STATE now and then at commits.
 * @param first the target that the last STATE has told of as a bound; null: there is none.
 */
async function drain(context: CdcContext, first: Target | null): Promise<void> {
  const { ledger, changes, output, routing, main, streams, watch } = context;
  const { lsn: target, seen } = await nextTarget(context, first);
  const every = context.config.checkpointTargetIntervalSeconds * 1000;
  const lookup = new RowLookup(main, context.book);
  let invisible: number[] = [];
  let lastState = Date.now();
  let lastConfirmed = lastState;
  const checkpoint = async (end: Lsn): Promise<void> => {
    await awaitVisible(main, invisible);
    invisible = [];
    ledger.passed(end);
    ledger.checkpoint(firstOf(streams));
    lastState = Date.now();
    if (lastState - lastConfirmed < CONFIRM_EVERY_MS) return;
    await confirmStated(context);
    lastConfirmed = lastState;
  };
  const applier = new ChangeApplier(output, {
    sinkFor: (relation) => routing.sinkFor(relation),
    fetchCells: (sink, key, positions) => lookup.fetchCells(sink, key, positions),
    rowsPresent: (sink, keys) => lookup.rowsPresent(sink, keys),
    truncated: (sink) => {
      output.log(
        'WARN',
        `${label(sink.stream.name)} was truncated (${label({ namespace: sink.relation.schema, name: sink.relation.name })}); no deletes are emitted.`,
      );
    },
    committed: (end, xid) => {
      invisible.push(xid);
      const due = output.recordsSinceState >= STATE_RECORDS || Date.now() - lastState > every;
      return due ? checkpoint(end) : undefined;
    },
  });
  const start = ledger.position;
  while (ledger.position < target) {
    output.watcher.changes(Number(ledger.position - start) / Number(target - start));
    applier.begin();
    const begun = Date.now();
    const from = ledger.position;
    const reached = await changes.readWindow(ledger.position, target, (src, at, end) => {
      watch.see(src, at, end);
      return applier.apply(src, at, end);
    });
    await awaitVisible(main, invisible);
    invisible = [];
    ledger.passed(applier.end(reached));
    const milliseconds = Date.now() - begun;
    output.watcher.windowRead(milliseconds);
    output.log(
      'DEBUG',
      `Changes from ${formatLsn(from)} to ${formatLsn(ledger.position)} read in ${milliseconds} ms.`,
    );
  }
  ledger.lsnSeen(seen);
  if (output.recordsSinceState > 0) ledger.checkpoint(firstOf(streams));
  await confirmStated(context);
}

/** With `lsn_commit_behaviour` "While reading Data" the server may forget what a STATE has told of: that, and no more. */
export async function confirmStated(
  context: Pick<CdcContext, 'main' | 'cdc' | 'ledger'>,
): Promise<void> {
  const { cdc, ledger, main } = context;
  if (cdc.confirmWhileReading && ledger.stated !== null) {
    try {
      await confirmSlot(main, cdc.slot, ledger.stated);
    } catch (error) {
      // The heartbeat has it at this moment: the next confirmation is one for this too.
      if (errorCode(error) !== OBJECT_IN_USE) throw error;
    }
  }
}

/** Under CDC a STATE is one of the whole connection, whichever stream asks. */
export function firstOf(streams: readonly SyncStream[]): SyncStream {
  const stream = streams[0];
  if (stream === undefined) throw new Error('a CDC sync without a stream');
  return stream;
}

/** What a query sees at this moment, as `pg_current_snapshot()` prints it. */
async function visibilityNow(client: Client): Promise<string> {
  const { rows } = await client.query<{ now: string }>(
    'SELECT pg_catalog.pg_current_snapshot()::text AS now',
  );
  return rows[0]?.now ?? '';
}

/**
 * Waits until everybody sees the transactions that the stream has delivered. A commit that waits for a synchronous
 * standby is in the WAL before it is visible: a chunk read now would lack it, and the stream would not bring it again.
 */
async function awaitVisible(client: Client, xids: readonly number[]): Promise<void> {
  const begun = Date.now();
  let waiting = xids;
  while (waiting.length > 0) {
    const now = parseVisibility(await visibilityNow(client));
    waiting = waiting.filter((xid) => !isVisible(xid, now));
    if (waiting.length === 0) return;
    if (Date.now() - begun > VISIBLE_WAIT_MS) {
      throw new ConnectorError(
        'A transaction is committed in the WAL but not visible: it waits for a synchronous standby.',
        {
          kind: 'transient_error',
          fix: 'Bring the standby back, or see synchronous_standby_names.',
        },
      );
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
