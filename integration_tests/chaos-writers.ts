/** Writers of the chaos harness: sessions that run statements in transactions of every kind. */
import { setTimeout as delay } from 'node:timers/promises';
import type { Journal } from './chaos-report.ts';
import { ChaosSession, Counts } from './chaos-session.ts';
import { chooseStatement, type Floors } from './chaos-statements.ts';
import type { Database } from './database.ts';
import { Random } from './writers.ts';

export type WriterOptions = {
  readonly seed: number;
  readonly count: number;
  readonly floors: Floors;
  /** Left out of savepoints: a table read in several slices while subtransactions write to it may have rows twice. */
  readonly exact: boolean;
  /** Is told every statement. */
  readonly script: Journal;
};

/** Several writers, each a session with a generator of its own; they write until `stop`. */
export class ChaosWriters {
  readonly counts = new Counts();
  readonly #options: WriterOptions;
  readonly #running: Promise<void>;
  #stopping = false;

  constructor(db: Database, options: WriterOptions) {
    this.#options = options;
    this.#running = Promise.all(
      Array.from({ length: options.count }, (_, index) => this.#write(db, index)),
    ).then(() => undefined);
    // Whoever stops us sees it; until then it must not end the process.
    this.#running.catch(() => undefined);
  }

  /** Ends after the transactions at hand. @throws what a writer did not expect. */
  async stop(): Promise<void> {
    this.#stopping = true;
    await this.#running;
  }

  async #write(db: Database, index: number): Promise<void> {
    const random = new Random(this.#options.seed * 31 + index);
    const session = new ChaosSession(db, `SET lock_timeout = '3s'`);
    try {
      for (let n = 0; !this.#stopping; n += 1) {
        const refusal = await session.attempt(() =>
          this.#transaction(session, random, `w${index}.${n}`),
        );
        if (refusal !== null) {
          this.counts.refuse(refusal.code);
          this.#options.script.note(`w${index}.${n} ${refusal.code} ${refusal.text}`);
        }
        await delay(random.below(10));
      }
    } finally {
      await session.end();
    }
  }

  async #transaction(session: ChaosSession, random: Random, token: string): Promise<void> {
    if (random.below(4) === 0) {
      await this.#statement(session, random, token);
      return;
    }
    const { script } = this.#options;
    await session.query('BEGIN');
    for (let step = 1 + random.below(5); step > 0; step -= 1) {
      await this.#step(session, random, `${token}.${step}`);
    }
    if (random.below(8) === 0) {
      // Across the read of a chunk, sometimes across a sync.
      await session.query(`SELECT pg_sleep(${random.next() * (random.below(30) === 0 ? 3 : 0.3)})`);
      this.counts.add('transaction, long');
    }
    const rollback = random.below(6) === 0;
    script.note(`${token} ${rollback ? 'ROLLBACK' : 'COMMIT'}`);
    await session.query(rollback ? 'ROLLBACK' : 'COMMIT');
    script.note(`${token} has ended`);
    this.counts.add(rollback ? 'transaction, rolled back' : 'transaction');
  }

  async #step(session: ChaosSession, random: Random, token: string): Promise<void> {
    if (random.below(6) > 0) {
      await this.#statement(session, random, token);
      return;
    }
    await session.query('SAVEPOINT here');
    await this.#statement(session, random, `${token}.s`, this.#options.exact);
    const release = random.below(2) === 0;
    this.#options.script.note(`${token} ${release ? 'RELEASE' : 'ROLLBACK TO'} SAVEPOINT`);
    await session.query(release ? 'RELEASE SAVEPOINT here' : 'ROLLBACK TO SAVEPOINT here');
    this.counts.add(release ? 'savepoint, released' : 'savepoint, rolled back');
    await this.#statement(session, random, token);
  }

  async #statement(
    session: ChaosSession,
    random: Random,
    token: string,
    sparing = false,
  ): Promise<void> {
    const statement = chooseStatement(random, sparing);
    const { floors, script } = this.#options;
    const sql = statement.sql({ random, floors, token });
    script.note(`${token} ${sql.replaceAll(/\s+/g, ' ')}`);
    await session.query(sql);
    this.counts.add(`${statement.table}: ${statement.kind}`);
  }
}
