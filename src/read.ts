/**
 * The command `read`: the story of a sync. State and catalog become a plan; the plan is carried out by one of two ways,
 * with the WAL or by queries; every stream ends with its last STATE and its status.
 */
import type { Client } from 'pg';
import { adoptState } from './adopt-state.ts';
import type { Output } from './airbyte/output.ts';
import type { ConfiguredStream } from './airbyte/protocol.ts';
import { type Config, settingWarnings } from './config.ts';
import { ConnectorError } from './errors.ts';
import { Ledger } from './ledger.ts';
import { ReaderPool } from './load.ts';
import { label, parseCatalog, planSync, type SyncPlan } from './plan.ts';
import { connect } from './postgres/connection.ts';
import { syncWithWal } from './read-changes.ts';
import { readByQuery } from './read-query.ts';
import { RecordClock } from './record.ts';
import { withRetries } from './retries.ts';
import { loadSource, type SourceModel } from './source-model.ts';
import { type InputState, parseState } from './state.ts';
import { Statuses } from './statuses.ts';
import { ALL_SOURCES, type WatchOptions } from './timescaledb/watcher.ts';

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
  readonly watching: WatchOptions;
  attempts: number;
  connected: boolean;
};

/**
 * Reads every stream of the catalog. What passes by itself (a broken connection, a restart) is tried again, from the last
 * STATE on, as the next sync would.
 * @param watching which sources tell of new chunks: all, but in tests.
 * @throws ConnectorError after the streams that could be read were read; those that were not have the status INCOMPLETE.
 */
export async function read(
  input: ReadInput,
  output: Output,
  watching: WatchOptions = ALL_SOURCES,
): Promise<void> {
  const { config, state } = input;
  for (const { sentence } of settingWarnings(config)) output.log('WARN', sentence);
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
    watching,
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
    output.log('DEBUG', `Attempt ${run.attempts}: ${names.map((name) => label(name)).join(', ')}.`);
    const emitted = parseState(output.states, names);
    const state = withEmitted(await takenOver(run, main, source, plan), emitted);
    statuses.expect(plan.streams);
    await sync(run, main, source, plan, state, emitted.kind === 'none');
    return plan;
  } finally {
    await main.end().catch(() => undefined);
  }
}

/** The state that came in, with what Airbyte's own Postgres source has left. */
async function takenOver(
  run: Run,
  client: Client,
  source: SourceModel,
  plan: SyncPlan,
): Promise<InputState> {
  const names = plan.streams.map((stream) => stream.name);
  const cdc = run.config.replication.method === 'CDC' ? run.config.replication : null;
  const warn = (sentence: string): void => {
    if (run.attempts === 1) run.output.log('WARN', sentence);
  };
  return adoptState({ client, source, cdc, warn }, plan.streams, parseState(run.state, names));
}

/** The state that came in, brought up to what an attempt before this one has written. */
function withEmitted(given: InputState, emitted: InputState): InputState {
  if (emitted.kind === 'none') return given;
  return {
    ...given,
    kind: emitted.kind,
    shared: emitted.shared,
    streams: new Map([...given.streams, ...emitted.streams]),
  };
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
    {
      kind: 'config_error',
      fix: 'Grant SELECT on it, or refresh the schema of the connection.',
      stream: first,
    },
  );
}

async function sync(
  run: Run,
  main: Client,
  source: SourceModel,
  plan: SyncPlan,
  state: InputState,
  handedIn: boolean,
): Promise<void> {
  const { config, output, statuses, clock } = run;
  const { replication } = config;
  const cdc = replication.method === 'CDC' ? replication : null;
  refuseOtherKind(state, cdc !== null);
  if (run.attempts === 1) warnOfOtherModes(plan, state, output);
  const readers = new ReaderPool(() => connect(config, 'rows'));
  try {
    const changing = plan.streams.filter((stream) => stream.mode === 'cdc');
    const { watching } = run;
    const base = { config, main, source, output, readers, clock, handedIn, watching };
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

/** What was read in another way says nothing about this one. */
function warnOfOtherModes(plan: SyncPlan, state: InputState, output: Output): void {
  for (const stream of plan.streams) {
    const known = state.streams.get(stream.key);
    if (known === undefined || known.mode === stream.mode) continue;
    output.log(
      'WARN',
      `${label(stream.name)} is read from the beginning: its sync mode or the update method is another one now.`,
    );
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
