/** A session that opens itself anew after a cut or a restart, and counts what it does by kind. */
import { type Client, DatabaseError } from 'pg';
import { type Database, until } from './database.ts';

/** How often each kind of work was done, or refused with which SQLSTATE. */
export class Counts {
  readonly done = new Map<string, number>();
  readonly refused = new Map<string, number>();

  add(kind: string): void {
    this.done.set(kind, (this.done.get(kind) ?? 0) + 1);
  }

  refuse(kind: string): void {
    this.refused.set(kind, (this.refused.get(kind) ?? 0) + 1);
  }

  merge(other: Counts): void {
    for (const [kind, count] of other.done) this.done.set(kind, (this.done.get(kind) ?? 0) + count);
    for (const [kind, count] of other.refused) {
      this.refused.set(kind, (this.refused.get(kind) ?? 0) + count);
    }
  }
}

export class ChaosSession {
  readonly #db: Database;
  readonly #setup: string;
  #client: Client | null = null;

  /** @param setup SQL that each new session begins with. */
  constructor(db: Database, setup: string) {
    this.#db = db;
    this.#setup = setup;
  }

  async query<R>(sql: string): Promise<R[]> {
    this.#client ??= await this.#open();
    return (await this.#client.query(sql)).rows as R[];
  }

  /**
   * Does the work; a refusal by the server, of which there are many, is rolled back.
   * @returns the SQLSTATE and the message of a refusal, or null. @throws Error when the SQL is wrong.
   */
  async attempt(
    work: () => Promise<void>,
  ): Promise<{ readonly code: string; readonly text: string } | null> {
    try {
      await work();
      return null;
    } catch (error) {
      if (!(error instanceof Error)) throw error;
      const code = error instanceof DatabaseError ? (error.code ?? '') : 'connection';
      if (isWrong(code)) throw error;
      try {
        await this.#client?.query('ROLLBACK');
      } catch {
        await this.end();
      }
      return { code, text: error.message };
    }
  }

  async end(): Promise<void> {
    await this.#client?.end().catch(() => undefined);
    this.#client = null;
  }

  async #open(): Promise<Client> {
    let client: Client | null = null;
    await until(
      'the server takes connections',
      async () => {
        try {
          client = await this.#db.client();
          await client.query(this.#setup);
          return true;
        } catch {
          return false;
        }
      },
      60,
    );
    return client!;
  }
}

/** Syntax errors and unknown names; but chunks and partitions come and go (42P01), and objects exist already. */
function isWrong(code: string): boolean {
  return code.startsWith('42') && !['42P01', '42P07', '42704', '42809'].includes(code);
}
