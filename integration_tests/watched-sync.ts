/**
 * A sync in this process, so that a test can choose what tells it of new chunks, and hold it at a chunk: nothing else
 * stops a read at a known place without stopping what listens beside it.
 */
import type pg from 'pg';
import { Output } from '../src/airbyte/output.ts';
import type { JsonObject } from '../src/airbyte/protocol.ts';
import { loadSpec, parseConfig } from '../src/config.ts';
import { read } from '../src/read.ts';
import { ALL_SOURCES, type WatchOptions } from '../src/timescaledb/watcher.ts';
import { configuredCatalog, run } from './connector.ts';
import { type Database, until } from './database.ts';
import { Destination } from './destination.ts';
import { type ConfiguredCatalog, type Message, parseMessage } from './messages.ts';
import { untilWaiting } from './scenario.ts';

/** None of the sources that can be switched off. */
export const NO_SOURCE: WatchOptions = {
  catalog: false,
  notifications: false,
  polling: false,
  sessionAfterMs: 0,
};

export class WatchedConnection {
  readonly db: Database;
  readonly config: JsonObject;
  readonly catalog: ConfiguredCatalog;
  readonly destination: Destination;
  /** Of the last sync. */
  messages: Message[] = [];
  #sees: (message: Message) => void;

  private constructor(
    db: Database,
    config: JsonObject,
    catalog: ConfiguredCatalog,
    sees: (message: Message) => void,
  ) {
    this.db = db;
    this.config = config;
    this.catalog = catalog;
    this.destination = new Destination(catalog);
    this.#sees = sees;
  }

  /** @param sees gets each message as it is written. */
  static async to(
    db: Database,
    overrides: JsonObject,
    sees: (message: Message) => void = () => undefined,
  ): Promise<WatchedConnection> {
    const config = db.config(overrides);
    const discovered = (await run('discover', { config })).succeeded().catalog();
    return new WatchedConnection(db, config, configuredCatalog(discovered), sees);
  }

  async sync(watching: WatchOptions = ALL_SOURCES): Promise<void> {
    this.messages = [];
    const output = new Output((bytes) => {
      for (const line of Buffer.from(bytes).toString().split('\n')) {
        if (line === '') continue;
        const message = parseMessage(line);
        this.messages.push(message);
        this.#sees(message);
      }
    }, true);
    const config = parseConfig(this.config, await loadSpec());
    const state = this.destination.state ?? null;
    await read({ config, catalog: this.catalog, state }, output, watching);
    output.flush();
    this.destination.apply(this.messages);
  }

  /**
   * Syncs, and once the read waits for this chunk does the work, before it lets the read go on.
   * @param chunk as SQL names it.
   */
  async syncHeldAt(
    chunk: string,
    watching: WatchOptions,
    work: () => Promise<void>,
  ): Promise<void> {
    const holder = await this.db.client();
    try {
      await holder.query('BEGIN');
      // After the first STATE the publications are settled: a lock does not count as a writer any more. What is read before
      // this chunk must take longer than to lock it.
      const locked = this.#onFirstState(() =>
        holder.query(`LOCK TABLE ${chunk} IN ACCESS EXCLUSIVE MODE`),
      );
      const sync = this.sync(watching);
      // A sync that fails must not leave the test waiting, nor its failure unheard.
      let held = true;
      const ended = sync.then(() => {
        if (held) throw new Error('the chunk was read before it was locked');
      });
      await Promise.race([this.#heldWork(holder, locked, work), ended]);
      held = false;
      await ended;
    } finally {
      await holder.end();
    }
  }

  /** Begins the work as soon as the message is written: before any chunk is read. */
  #onFirstState(work: () => Promise<unknown>): Promise<unknown> {
    const sees = this.#sees;
    return new Promise((resolve) => {
      this.#sees = (message) => {
        if (message.type === 'STATE') {
          this.#sees = sees;
          resolve(work());
        }
        sees(message);
      };
    });
  }

  async #heldWork(
    holder: pg.Client,
    locked: Promise<unknown>,
    work: () => Promise<void>,
  ): Promise<void> {
    await locked;
    await untilWaiting(this.db, 'rows');
    await work();
    await holder.query('COMMIT');
  }

  logs(pattern: RegExp): readonly string[] {
    return this.messages.flatMap((message) =>
      message.type === 'LOG' && pattern.test(message.log.message) ? [message.log.message] : [],
    );
  }

  records(stream: string): readonly Readonly<Record<string, unknown>>[] {
    return this.messages.flatMap((message) =>
      message.type === 'RECORD' && message.record.stream === stream ? [message.record.data] : [],
    );
  }
}

/** The server process of the watcher's session; null while there is none. */
export async function watcherPid(db: Database): Promise<number | null> {
  const rows = await db.query<{ pid: number }>(
    `SELECT pid FROM pg_stat_activity
      WHERE datname = current_database() AND application_name = 'source-timescaledb: chunk watcher'
        AND state = 'idle' AND query NOT LIKE 'SET %'`,
  );
  return rows[0]?.pid ?? null;
}

/** Waits until the watcher has asked for something that it begins after now. */
export async function untilPolled(db: Database): Promise<void> {
  const now = await db.value<string>('SELECT clock_timestamp()::text');
  await until('the watcher polls', () =>
    db.value<boolean>(
      `SELECT EXISTS (SELECT FROM pg_stat_activity
         WHERE datname = current_database() AND application_name = 'source-timescaledb: chunk watcher'
           AND state = 'idle' AND query_start > $1::timestamptz)`,
      [now],
    ),
  );
}
