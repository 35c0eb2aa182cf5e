/**
 * A database of its own for each test, on the server at `TIMESCALEDB_URL`.
 *
 *   await using db = await createDatabase();
 */
import { randomBytes } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import type { TestContext } from 'vitest';
import type { JsonObject } from '../src/airbyte/protocol.ts';

/** What the connector sets too; everything that reads values to compare them must. */
const SESSION = [
  'DateStyle=ISO',
  'TimeZone=UTC',
  'IntervalStyle=postgres',
  'extra_float_digits=1',
  'bytea_output=hex',
];

/** How long to wait for sessions and slots to let go of a database that is to be dropped. */
const RELEASE_SECONDS = 30;

export type Slot = {
  readonly name: string;
  readonly temporary: boolean;
  readonly active: boolean;
};

export type Row = Readonly<Record<string, unknown>>;

/** A database with TimescaleDB in it; dropped, with its slots, at the end of its scope. */
export class Database implements AsyncDisposable {
  readonly name: string;
  readonly url: string;
  /** Names that `config()` gives to the connector: no other database uses them. */
  readonly slot: string;
  readonly publication: string;
  readonly #serverUrl: string;
  readonly #pool: pg.Pool;

  constructor(serverUrl: string, name: string) {
    const url = new URL(serverUrl);
    url.pathname = `/${name}`;
    this.#serverUrl = serverUrl;
    this.name = name;
    this.url = url.href;
    this.slot = `slot_${name}`;
    this.publication = `pub_${name}`;
    this.#pool = new pg.Pool({ ...this.#settings(), max: 4 });
    // Sessions that a test ends on purpose, or that a server's restart ends, are opened anew when needed.
    this.#pool.on('error', () => undefined);
  }

  /** A configuration of the connector for this database; `overrides` replace whole properties. */
  config(overrides: JsonObject = {}): JsonObject {
    const { hostname, port, username, password } = new URL(this.url);
    return {
      host: hostname,
      port: Number(port === '' ? 5432 : port),
      database: this.name,
      username: decodeURIComponent(username),
      password: decodeURIComponent(password),
      schemas: [],
      ssl_mode: { mode: 'disable' },
      replication_method: {
        method: 'CDC',
        replication_slot: this.slot,
        publication: this.publication,
      },
      ...overrides,
    };
  }

  /** Runs SQL; several statements may stand in one text when there are no parameters. */
  async query<R extends Row = Row>(sql: string, parameters?: readonly unknown[]): Promise<R[]> {
    const result = await this.#pool.query<R>(sql, parameters && [...parameters]);
    return Array.isArray(result)
      ? ((result as pg.QueryResult<R>[]).at(-1)?.rows ?? [])
      : result.rows;
  }

  /** The one value of a query's one row. */
  async value<V = unknown>(sql: string, parameters?: readonly unknown[]): Promise<V> {
    const [row] = await this.query(sql, parameters);
    if (row === undefined) throw new Error(`no row from: ${sql}`);
    return Object.values(row)[0] as V;
  }

  /** A session of one's own, for open transactions; the caller ends it. */
  async client(): Promise<pg.Client> {
    const client = new pg.Client(this.#settings());
    client.on('error', () => undefined);
    await client.connect();
    return client;
  }

  /** The replication slots of this database, temporary ones too. */
  slots(): Promise<Slot[]> {
    return this.query<Slot>(
      `SELECT slot_name AS name, temporary, active FROM pg_replication_slots
        WHERE database = current_database() ORDER BY slot_name`,
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#pool.end();
    const server = new pg.Client({ connectionString: this.#serverUrl });
    await server.connect();
    try {
      await retry(() => dropSlots(server, this.name));
      await retry(() =>
        server.query(`DROP DATABASE IF EXISTS ${pg.escapeIdentifier(this.name)} WITH (FORCE)`),
      );
    } finally {
      await server.end();
    }
  }

  #settings(): pg.ClientConfig {
    return {
      connectionString: this.url,
      options: SESSION.map((setting) => `-c ${setting}`).join(' '),
    };
  }
}

/**
 * Makes an empty database with the extension in it.
 * @param serverUrl logs in as a superuser; the server at `TIMESCALEDB_URL` unless given.
 * @throws Error when there is no server.
 */
export async function createDatabase(
  serverUrl: string = process.env['TIMESCALEDB_URL'] ?? '',
): Promise<Database> {
  if (serverUrl === '') throw new Error('TIMESCALEDB_URL is not set');
  const name = `t${randomBytes(5).toString('hex')}`;
  const server = new pg.Client({ connectionString: serverUrl });
  await server.connect();
  try {
    await server.query(`CREATE DATABASE ${name}`);
  } finally {
    await server.end();
  }
  const db = new Database(serverUrl, name);
  // A server may have several versions of the extension.
  const version = process.env['TIMESCALEDB_VERSION'];
  try {
    await db.query(
      `CREATE EXTENSION timescaledb${version === undefined ? '' : ` VERSION '${version}'`}`,
    );
  } catch (error) {
    await db[Symbol.asyncDispose]();
    throw error;
  }
  return db;
}

/** Whether this is the full build: compression, policies and continuous aggregates are not in the Apache-only one. */
export async function hasCompression(db: Database): Promise<boolean> {
  // Any use of the extension loads its library, and with that its settings.
  await db.query('SELECT count(*) FROM timescaledb_information.hypertables');
  return (await db.value("SELECT current_setting('timescaledb.license', true)")) === 'timescale';
}

/** Skips where the build, or its version, lacks what the test is about. */
export async function requires(
  context: TestContext,
  db: Database,
  procedure?: string,
): Promise<void> {
  if (!(await hasCompression(db)))
    context.skip(
      'only the full build has the columnstore, and merges, splits, attaches and detaches chunks',
    );
  if (procedure === undefined) return;
  const there = await db.value<boolean>('SELECT EXISTS (SELECT FROM pg_proc WHERE proname = $1)', [
    procedure,
  ]);
  if (!there) context.skip(`this version has no ${procedure}`);
}

/** Polls until the condition holds. @throws Error when it does not within the time. */
export async function until(
  what: string,
  condition: () => Promise<boolean>,
  seconds = RELEASE_SECONDS,
): Promise<void> {
  const deadline = Date.now() + seconds * 1000;
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error(`not within ${seconds} s: ${what}`);
    await delay(50);
  }
}

/** A slot belongs to the server, not to the database: it is dropped first, as soon as no session uses it. */
async function dropSlots(server: pg.Client, database: string): Promise<void> {
  await server.query(
    `SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots
      WHERE database = $1 AND active_pid IS NOT NULL`,
    [database],
  );
  await server.query(
    `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
      WHERE database = $1 AND NOT temporary`,
    [database],
  );
}

/** Tries again while other sessions, which end in their own time, are in the way. */
async function retry(step: () => Promise<unknown>): Promise<void> {
  let failure: unknown;
  await until('the database is not used any more', async () => {
    try {
      await step();
      return true;
    } catch (error) {
      failure = error;
      if (!(error instanceof pg.DatabaseError) || !IN_USE.has(error.code ?? '')) throw error;
      return false;
    }
  }).catch((error: unknown) => {
    throw new Error('the database could not be dropped', { cause: failure ?? error });
  });
}

/** object_in_use; undefined_object, when a temporary slot ended meanwhile. */
const IN_USE = new Set(['55006', '42704']);
