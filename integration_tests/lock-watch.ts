/** Watches, from a session of its own, which locks some sessions hold, who waits for them, and how old their transactions get. */
import type { Client } from 'pg';
import { setTimeout as delay } from 'node:timers/promises';
import type { Database } from './database.ts';

const EVERY_MS = 5;

/** What was seen of the sessions of one name; times in milliseconds, as fine as the samples are close. */
export type Held = {
  /** How long a transaction lasted at most. */
  longestTransaction: number;
  /** How long a transaction held a lock on one chunk at most. */
  longestChunkLock: number;
  /** How many chunks one transaction had locked at once at most. */
  mostChunksAtOnce: number;
  /** Chunks that were seen locked. */
  readonly chunks: Set<string>;
  /** Modes of the locks on chunks. */
  readonly modes: Set<string>;
};

export type LockReport = {
  readonly samples: number;
  /** How long somebody else waited for one of the sessions at most. */
  readonly longestWait: number;
  /** By application_name. */
  readonly held: ReadonlyMap<string, Held>;
};

type Sample = {
  readonly kind: 'transaction' | 'chunk' | 'waiting';
  readonly session: string;
  /** What the time is of: a transaction, its lock on a chunk, or the statement that waits. */
  readonly key: string;
  readonly transaction: string;
  readonly mode: string;
  readonly chunk: string;
  /** Since the transaction, or the waiting, began. */
  readonly age: number;
};

/** $1: pattern of application_name. A chunk is what inherits from a hypertable of the current database. */
const SAMPLE = `
WITH ours AS MATERIALIZED (
  SELECT pid, application_name AS session, xact_start FROM pg_stat_activity
   WHERE datname = current_database() AND application_name LIKE $1 AND backend_type = 'client backend'
)
SELECT 'transaction' AS kind, session, pid || ' ' || xact_start AS key, '' AS transaction, '' AS mode, '' AS chunk,
       extract(epoch FROM clock_timestamp() - xact_start)::float8 * 1000 AS age
  FROM ours WHERE xact_start IS NOT NULL
UNION ALL
SELECT 'chunk', session, l.virtualtransaction || ' ' || l.relation, l.virtualtransaction, l.mode, l.relation::text, 0
  FROM pg_locks l JOIN ours USING (pid)
 WHERE l.locktype = 'relation' AND l.granted
   AND EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = l.relation)
UNION ALL
SELECT 'waiting', '', w.pid || ' ' || w.query_start, '', '', '', 0
  FROM pg_stat_activity w
 WHERE w.datname = current_database() AND w.wait_event_type = 'Lock' AND w.application_name NOT LIKE $1
   AND EXISTS (SELECT FROM ours WHERE ours.pid = ANY (pg_blocking_pids(w.pid)))`;

/**
 * Watches while something is done.
 * @param sessions pattern of their application_name.
 * @throws Error with what the work throws.
 */
export async function watchLocks<T>(
  db: Database,
  sessions: string,
  work: () => Promise<T>,
): Promise<{ readonly result: T; readonly report: LockReport }> {
  const client = await db.client();
  const watch = new Watch();
  const end = new AbortController();
  const watching = (async (): Promise<void> => {
    while (!end.signal.aborted) {
      await watch.sample(client, sessions);
      await delay(EVERY_MS);
    }
  })();
  try {
    const result = await work();
    end.abort();
    await watching;
    return { result, report: watch.report() };
  } finally {
    end.abort();
    await watching.catch(() => undefined);
    await client.end();
  }
}

class Watch {
  #samples = 0;
  #longestWait = 0;
  readonly #held = new Map<string, Held>();
  /** When what is seen now was first seen. */
  #since = new Map<string, number>();

  async sample(client: Client, sessions: string): Promise<void> {
    const { rows } = await client.query<Sample>(SAMPLE, [sessions]);
    const now = performance.now();
    this.#samples += 1;
    const since = new Map<string, number>();
    const locked = new Map<string, Set<string>>();
    for (const { kind, session, key, transaction, mode, chunk, age } of rows) {
      const begun = this.#since.get(key) ?? now;
      since.set(key, begun);
      if (kind === 'waiting') {
        this.#longestWait = Math.max(this.#longestWait, now - begun);
        continue;
      }
      const held = this.#of(session);
      if (kind === 'transaction') held.longestTransaction = Math.max(held.longestTransaction, age);
      else {
        held.longestChunkLock = Math.max(held.longestChunkLock, now - begun);
        held.chunks.add(chunk);
        held.modes.add(mode);
        const chunks = locked.get(transaction) ?? new Set();
        locked.set(transaction, chunks.add(chunk));
        held.mostChunksAtOnce = Math.max(held.mostChunksAtOnce, chunks.size);
      }
    }
    this.#since = since;
  }

  #of(session: string): Held {
    let held = this.#held.get(session);
    if (held === undefined) {
      held = {
        longestTransaction: 0,
        longestChunkLock: 0,
        mostChunksAtOnce: 0,
        chunks: new Set(),
        modes: new Set(),
      };
      this.#held.set(session, held);
    }
    return held;
  }

  report(): LockReport {
    return { samples: this.#samples, longestWait: this.#longestWait, held: this.#held };
  }
}
