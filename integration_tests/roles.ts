/** Roles of the server that a test needs: made with random names, dropped at the end of their scope. */
import { randomBytes } from 'node:crypto';
import pg from 'pg';

/** Declared before the database whose objects the roles own, so that it ends after it. */
export class Roles implements AsyncDisposable {
  readonly #client: pg.Client;
  readonly #names: string[] = [];

  constructor(client: pg.Client) {
    this.#client = client;
  }

  /**
   * Makes a role.
   * @param options of CREATE ROLE, such as `LOGIN REPLICATION`.
   * @returns its name, which needs no quoting.
   */
  async create(options: string): Promise<string> {
    const name = `r${randomBytes(5).toString('hex')}`;
    await this.#client.query(`CREATE ROLE ${name} ${options}`);
    this.#names.push(name);
    return name;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      for (const name of this.#names) await this.#client.query(`DROP ROLE IF EXISTS ${name}`);
    } finally {
      await this.#client.end();
    }
  }
}

/** @throws Error when there is no server at `TIMESCALEDB_URL`. */
export async function createRoles(): Promise<Roles> {
  const client = new pg.Client({ connectionString: process.env['TIMESCALEDB_URL'] ?? '' });
  client.on('error', () => undefined);
  await client.connect();
  return new Roles(client);
}
