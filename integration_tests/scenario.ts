/**
 * A connection as the platform keeps it: configuration, catalog, and a destination with the stored state. And the means
 * to stop its process at a chosen moment, so that a test can act on the database in between.
 */
import type { ChildProcess } from 'node:child_process';
import { readFileSync } from 'node:fs';
import type { JsonObject } from '../src/airbyte/protocol.ts';
import { expectEqual } from './comparison.ts';
import { type CatalogChoice, configuredCatalog, run, type RunOptions } from './connector.ts';
import { type Database, type Row, until } from './database.ts';
import { Destination } from './destination.ts';
import type { ConfiguredCatalog, Message } from './messages.ts';
import type { RunResult } from './run-result.ts';

/** The first day of all test data. */
export const DAY_ZERO = '2026-01-01Z';

export class Connection {
  readonly db: Database;
  readonly config: JsonObject;
  readonly catalog: ConfiguredCatalog;
  destination: Destination;

  constructor(db: Database, config: JsonObject, catalog: ConfiguredCatalog) {
    this.db = db;
    this.config = config;
    this.catalog = catalog;
    this.destination = new Destination(catalog);
  }

  /** Runs a read from the stored state; what it delivers is kept. */
  async sync(options: RunOptions = {}): Promise<RunResult> {
    const result = await this.attempt(options);
    this.destination.apply(result.messages);
    return result;
  }

  /** Runs a read from the stored state; nothing of it is kept. */
  attempt(options: RunOptions = {}): Promise<RunResult> {
    const { config, catalog, destination } = this;
    return run('read', { config, catalog, state: destination.state, ...options });
  }

  /** As a cleared connection: nothing is delivered, nothing is set up on the server. */
  async clear(): Promise<void> {
    this.destination = new Destination(this.catalog);
    const { db } = this;
    await until('no session of the connector is left', async () => !(await hasSessions(db)));
    await db.query(
      'SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1',
      [db.slot],
    );
    await db.query(`DROP PUBLICATION IF EXISTS ${db.publication};
                    DROP PUBLICATION IF EXISTS ${db.publication}_inserts`);
  }

  /** @throws Error when a stream differs from its table. */
  async expectEqual(...names: readonly string[]): Promise<void> {
    for (const name of names) await expectEqual(this.db, this.destination, name);
  }
}

/** Discovers and configures. */
export async function connectTo(
  db: Database,
  choice: CatalogChoice = {},
  overrides: JsonObject = {},
): Promise<Connection> {
  const config = db.config(overrides);
  const discovered = (await run('discover', { config })).succeeded().catalog();
  return new Connection(db, config, configuredCatalog(discovered, choice));
}

async function hasSessions(db: Database): Promise<boolean> {
  return (await sessions(db)).length > 0;
}

/** A database, or one session of it. */
export type Queryable = { query<R extends Row>(sql: string): Promise<R[]> };

export type Session = {
  readonly pid: number;
  readonly purpose: string;
  readonly state: string | null;
  readonly query: string;
  readonly waiting: boolean;
};

/** The connector's sessions in this database. */
export function sessions(db: Queryable): Promise<Session[]> {
  return db.query<Session>(
    `SELECT pid, substr(application_name, 21) AS purpose, state, query,
            wait_event_type IS NOT DISTINCT FROM 'Lock' AS waiting
       FROM pg_stat_activity
      WHERE datname = current_database() AND application_name LIKE 'source-timescaledb: %'`,
  );
}

/** Waits until a session of the connector waits for a lock. @param purpose of the session. */
export async function untilWaiting(db: Queryable, purpose: string): Promise<void> {
  await until(`the session "${purpose}" waits for a lock`, async () =>
    (await sessions(db)).some((session) => session.purpose === purpose && session.waiting),
  );
}

/** True from the nth STATE on. */
export function nthState(n: number): (message: Message) => boolean {
  let states = 0;
  return (message) => {
    if (message.type === 'STATE') states += 1;
    return states >= n;
  };
}

/** True at the first record whose row satisfies the condition. */
export function recordWhere(
  condition: (data: Readonly<Record<string, unknown>>) => boolean,
): (message: Message) => boolean {
  return (message) => message.type === 'RECORD' && condition(message.record.data);
}

/**
 * Stops the process when a message arrives, does the work, and lets it go on. By then the process is further on by what
 * the pipe holds: about 64 KiB.
 */
export function stopWhen(
  isTime: (message: Message) => boolean,
  work: (child: ChildProcess) => Promise<void>,
): Pick<RunOptions, 'onStart' | 'onMessage'> {
  let child: ChildProcess | undefined;
  let over = false;
  return {
    onStart: (started) => {
      child = started;
    },
    onMessage: async (message) => {
      if (over || child === undefined || !isTime(message)) return;
      over = true;
      await whileStopped(child, () => work(child!));
    },
  };
}

/** Stops the process at each STATE, looks, and lets it go on. */
export function atEachState(look: () => Promise<void>): Pick<RunOptions, 'onStart' | 'onMessage'> {
  let child: ChildProcess | undefined;
  return {
    onStart: (started) => {
      child = started;
    },
    onMessage: async (message) => {
      if (message.type === 'STATE' && child !== undefined) await whileStopped(child, look);
    },
  };
}

/** SIGSTOP, the work, SIGCONT. */
async function whileStopped(child: ChildProcess, work: () => Promise<void>): Promise<void> {
  child.kill('SIGSTOP');
  try {
    await until('the process has stopped', () => Promise.resolve(isStopped(child)));
    await work();
  } finally {
    child.kill('SIGCONT');
  }
}

/** A process that has ended meanwhile counts as stopped. */
function isStopped(child: ChildProcess): boolean {
  if (child.exitCode !== null || child.signalCode !== null) return true;
  try {
    const status = readFileSync(`/proc/${child.pid}/status`, 'utf8');
    return /^State:\s+[TZX]/m.test(status);
  } catch {
    return true;
  }
}

/** The position of the last STATE among these, as PostgreSQL writes it. */
export function lsnOf(states: readonly unknown[]): string {
  const last = states.at(-1) as
    | {
        readonly state?: { readonly global?: { readonly shared_state: { readonly lsn: string } } };
        readonly global?: { readonly shared_state: { readonly lsn: string } };
      }
    | undefined;
  const lsn = (last?.state?.global ?? last?.global)?.shared_state.lsn;
  if (lsn === undefined) throw new Error('no GLOBAL state');
  return lsn;
}
