/** One round: a fresh database, writers and maintenance, disturbed syncs one after the other, then equality. */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { JsonObject } from '../src/airbyte/protocol.ts';
import { compareAll, expectNothingLeft, untilNoSession } from './chaos-compare.ts';
import { Delivery } from './chaos-delivery.ts';
import { Disturbance } from './chaos-disturbance.ts';
import { Maintenance } from './chaos-maintenance.ts';
import { Network } from './chaos-network.ts';
import { type Journal, RoundFailure, type Totals } from './chaos-report.ts';
import type { Floors } from './chaos-statements.ts';
import { CHAOS_TABLES, chaosTables, createTables } from './chaos-tables.ts';
import { ChaosWriters } from './chaos-writers.ts';
import { configuredCatalog, run } from './connector.ts';
import { createDatabase, type Database } from './database.ts';
import type { ConfiguredCatalog } from './messages.ts';
import type { RunResult } from './run-result.ts';
import type { TimescaleServer } from './server.ts';
import { Random } from './writers.ts';

export type RoundPlan = {
  readonly seed: number;
  readonly seconds: number;
  /** Nothing interrupts a sync: then tables without a key are exact too. */
  readonly exact: boolean;
  readonly settings: JsonObject;
  /** Streams of the first syncs; the others join one by one. */
  readonly firstStreams: number;
  /** The stream that comes first. */
  readonly shift: number;
  readonly writers: number;
};

export function planRound(seed: number, seconds: number, kills: boolean): RoundPlan {
  const random = new Random(seed * 7919);
  return {
    seed,
    seconds,
    exact: !kills || random.below(4) === 0,
    settings: {
      checkpoint_target_interval_seconds: random.pick([1, 1, 2, 300]),
      timescaledb_max_concurrent_chunks: 1 + random.below(4),
      timescaledb_chunk_order: random.pick(['oldest first', 'newest first']),
    },
    firstStreams: random.pick([CHAOS_TABLES.length, 6, 3, 1]),
    shift: random.below(CHAOS_TABLES.length),
    writers: 2 + random.below(3),
  };
}

/** What a round works with. */
export type RoundContext = {
  readonly server: TimescaleServer;
  readonly journal: Journal;
  /** All statements of the writers. */
  readonly script: Journal;
  readonly totals: Totals;
  /** Takes the output of the syncs. */
  readonly folder: string;
  /** Ends the round early, but in order. */
  readonly signal: AbortSignal;
};

const RUN_TIMEOUT_SECONDS = 180;
const FIRST_SYNC_MS = 5000;
/** So many syncs go by before the first stream joins. */
const ALONE_SYNCS = 2;

type ErrorTrace = ReturnType<RunResult['errors']>[number];

type SyncEnd = { readonly result: RunResult; readonly errors: readonly ErrorTrace[] };

/** @throws RoundFailure, or any error of a sync that no disturbance explains. */
export async function runRound(plan: RoundPlan, context: RoundContext): Promise<void> {
  const { server, totals, journal } = context;
  await using db = await createDatabase(server.url);
  await createTables(db);
  await using network = await Network.to(db.url);
  const round = await Round.begin(db, network, plan, context);
  journal.note('the tables are filled, writers begin');
  const floors: Floors = new Map();
  const { seed, exact } = plan;
  const writers = new ChaosWriters(db, {
    seed,
    count: plan.writers,
    floors,
    exact,
    script: context.script,
  });
  const maintenance = new Maintenance(db, { seed, floors, journal, exact });
  try {
    const end = journal.seconds() + plan.seconds;
    while (journal.seconds() < end && !context.signal.aborted) await round.disturbedSync();
  } finally {
    await Promise.all([writers.stop(), maintenance.stop()]);
    totals.statements.merge(writers.counts);
    totals.maintenance.merge(maintenance.counts);
  }
  journal.note('writers and maintenance have stopped');
  await untilNoSession(db);
  await round.lastSync();
  await expectNothingLeft(db);
  const compared = await compareAll(db, round.delivery, floors, plan.exact);
  totals.comparedRows += compared.rows;
  totals.retained += compared.retained;
  totals.records += round.delivery.records;
  totals.rounds += 1;
}

class Round {
  readonly delivery: Delivery;
  readonly #plan: RoundPlan;
  readonly #context: RoundContext;
  readonly #network: Network;
  readonly #config: JsonObject;
  readonly #catalog: ConfiguredCatalog;
  readonly #random: Random;
  #typicalMs = FIRST_SYNC_MS;
  #lastFailed = false;

  private constructor(
    plan: RoundPlan,
    context: RoundContext,
    network: Network,
    config: JsonObject,
    catalog: ConfiguredCatalog,
  ) {
    this.#plan = plan;
    this.#context = context;
    this.#network = network;
    this.#config = config;
    this.#catalog = catalog;
    this.#random = new Random(plan.seed * 104_729);
    this.delivery = new Delivery(catalog, context.folder);
  }

  static async begin(
    db: Database,
    network: Network,
    plan: RoundPlan,
    context: RoundContext,
  ): Promise<Round> {
    const config = db.config({ host: '127.0.0.1', port: network.port, ...plan.settings });
    const discovered = (await run('discover', { config })).succeeded().catalog();
    const names = (await chaosTables(db)).map(({ name }) => name);
    const streams = [...names.slice(plan.shift), ...names.slice(0, plan.shift)];
    const catalog = configuredCatalog(discovered, { streams });
    await writeFile(join(context.folder, 'config.json'), JSON.stringify(config));
    await writeFile(join(context.folder, 'catalog.json'), JSON.stringify(catalog));
    return new Round(plan, context, network, config, catalog);
  }

  /** A sync with whatever comes in its way; a transient failure is one if something did. */
  async disturbedSync(): Promise<void> {
    const { journal, totals } = this.#context;
    const around = { ...this.#context, random: this.#random, network: this.#network };
    const disturbance = new Disturbance(around, this.#plan.exact, this.#typicalMs);
    let ended: SyncEnd;
    try {
      ended = await this.#sync(disturbance);
    } finally {
      await disturbance.end();
    }
    const { result, errors } = ended;
    const excused = disturbance.broken || this.#lastFailed;
    this.#lastFailed = result.exitCode !== 0;
    if (result.exitCode === 0 && !disturbance.broken) this.#typicalMs = result.seconds * 1000;
    if (result.exitCode === 0 || result.signal !== null) return;
    const [error] = errors;
    if (!excused || errors.some(({ failure_type }) => failure_type !== 'transient_error')) {
      throw failed(ended);
    }
    totals.transient += 1;
    journal.note(`  transient: ${error?.message ?? ''}`);
  }

  /** Nothing disturbs it, so it must succeed. */
  async lastSync(): Promise<void> {
    const ended = await this.#sync(null);
    if (ended.result.exitCode !== 0) throw failed(ended);
  }

  async #sync(disturbance: Disturbance | null): Promise<SyncEnd> {
    const { delivery } = this;
    const { journal, totals } = this.#context;
    delivery.begin();
    totals.syncs += 1;
    const streams = this.#streams(disturbance === null);
    journal.note(
      `sync ${delivery.syncs} of ${streams.length} streams: ${disturbance?.what ?? 'the last'}`,
    );
    const errors: ErrorTrace[] = [];
    const result = await run('read', {
      config: this.#config,
      catalog: { streams },
      state: delivery.destination.state,
      keepMessages: false,
      timeoutSeconds: RUN_TIMEOUT_SECONDS,
      ...disturbance?.options(),
      onMessage: async (message) => {
        if (message.type === 'TRACE' && message.trace.type === 'ERROR') {
          errors.push(message.trace.error);
        }
        if (message.type === 'LOG' && message.log.level === 'WARN') {
          journal.note(`  WARN ${message.log.message.slice(0, 200)}`);
        }
        disturbance?.see(message);
        await delivery.see(message);
      },
    });
    const fate = await delivery.end(this.#random, result.exitCode !== 0, this.#plan.exact);
    totals.longestSync = Math.max(totals.longestSync, result.seconds);
    const end = result.signal ?? `exit code ${result.exitCode}`;
    journal.note(`  ${end} after ${result.seconds.toFixed(2)} s; ${fate}`);
    return { result, errors };
  }

  /** Some streams join only after a while, one with each sync. */
  #streams(last: boolean): ConfiguredCatalog['streams'] {
    const { streams } = this.#catalog;
    const joined = Math.max(0, this.delivery.syncs - ALONE_SYNCS);
    return last ? streams : streams.slice(0, this.#plan.firstStreams + joined);
  }
}

function failed({ result, errors }: SyncEnd): RoundFailure {
  return new RoundFailure(
    [
      `a sync ended with exit code ${result.exitCode}, signal ${result.signal}`,
      ...errors.map((error) => JSON.stringify(error, null, 2)),
      result.stderr,
    ].join('\n'),
  );
}
