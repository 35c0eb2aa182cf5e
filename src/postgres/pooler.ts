/**
 * Connection poolers between us and the server. In session mode a session is ours; in transaction mode each transaction
 * may run in another one, whose settings others have made, and what we set would stay with others. Reads bear that, with
 * the settings made anew in each transaction; a slot read in windows does not, since its copy belongs to a session.
 */
import type { Client, ClientBase, QueryConfig, QueryResult, Submittable } from 'pg';
import { ConnectorError, errorCode } from '../errors.ts';
import { transactionSettings } from './session-settings.ts';

/** The server process behind each session that goes through a pooler or a proxy. */
const backends = new WeakMap<ClientBase, number>();

async function backendOf(client: ClientBase): Promise<number> {
  const { rows } = await client.query<{ pid: number }>('SELECT pg_catalog.pg_backend_pid() AS pid');
  return rows[0]?.pid ?? 0;
}

/**
 * Whether two sessions stay apart, asked in turns: a pooler that gives away the session after each transaction gives
 * the second one what the first one has just left, or another one each time.
 * @param another opens a second session, which is ended here.
 * @throws ConnectorError (config) when they do not.
 */
export async function claimBackend(client: Client, another: () => Promise<Client>): Promise<void> {
  const own = await backendOf(client);
  const second = await another();
  try {
    const theirs = await backendOf(second);
    const rest = [];
    for (const each of [second, client, client, second]) rest.push(await backendOf(each));
    if (own === theirs || String(rest) !== String([theirs, own, own, theirs]))
      throw transactionMode();
  } finally {
    await second.end().catch(() => undefined);
  }
  backends.set(client, own);
}

/** @throws ConnectorError (config) when this transaction runs in another session than the one that was set up. */
export async function refuseOtherBackend(client: ClientBase): Promise<void> {
  if (backends.has(client)) refuseBackend(client, await backendOf(client));
}

/** The same, where the transaction has told its process. */
export function refuseBackend(client: ClientBase, pid: number): void {
  const own = backends.get(client);
  if (own !== undefined && pid !== own) throw transactionMode();
}

function transactionMode(): ConnectorError {
  return new ConnectorError(
    'Between us and the server is a connection pooler in transaction or statement mode: a slot cannot be read through it, and the settings that values depend on do not hold there.',
    {
      kind: 'config_error',
      fix: 'Point `host` and `port` at the server itself, or at a pool in session mode (pgbouncer: pool_mode = session).',
    },
  );
}

/** What has to be set in each transaction of a client. */
const settings = new WeakMap<ClientBase, readonly string[]>();

/** Statements for the beginning of a transaction that the caller opens: none where the session has been set up. */
export function settingsOf(client: ClientBase): readonly string[] {
  return settings.get(client) ?? [];
}

/**
 * From here on each statement outside of a transaction runs in one of its own, behind the settings, and none is prepared
 * under a name. Whoever begins a transaction himself takes `settingsOf` along.
 * @throws ConnectorError (config) where the pool allows no transactions.
 */
export async function setInEachTransaction(client: Client): Promise<void> {
  const send = client.query.bind(client) as (query: string | QueryConfig) => Promise<QueryResult>;
  const submit: (query: Submittable) => Submittable = client.query.bind(client);
  let encoding = '';
  try {
    await send('BEGIN');
    const { rows } = await send('SHOW server_encoding');
    await send('COMMIT');
    encoding = String(rows[0]?.server_encoding);
  } catch (error) {
    // https://www.pgbouncer.org/features.html: what it says where transactions are not allowed.
    if (errorCode(error) === '08P01') throw transactionsNotAllowed(error);
    throw error;
  }
  const made = transactionSettings(encoding);
  settings.set(client, made);
  const begin = ['BEGIN', ...made].join('; ');
  const apart = async (query: QueryConfig): Promise<QueryResult> => {
    await send(begin);
    try {
      return await send(query);
    } finally {
      // Of a transaction that failed it makes a ROLLBACK; of a session that broke, the query has told.
      await send('COMMIT').catch(() => undefined);
    }
  };
  let turn: Promise<unknown> = Promise.resolve();
  const query = (given: string | QueryConfig | Submittable, values?: unknown[]): unknown => {
    if (typeof given === 'object' && 'submit' in given) return submit(given);
    const { name: _, ...rest } = typeof given === 'string' ? { name: '', text: given } : given;
    const unnamed = values === undefined ? rest : { ...rest, values };
    const result = turn.then(() =>
      client.getTransactionStatus() === 'I' ? apart(unnamed) : send(unnamed),
    );
    turn = result.catch(() => undefined);
    return result;
  };
  client.query = query as Client['query'];
}

function transactionsNotAllowed(cause: unknown): ConnectorError {
  return new ConnectorError(
    'Between us and the server is a connection pooler in statement mode, which allows no transactions.',
    {
      kind: 'config_error',
      fix: 'Point `host` and `port` at the server itself, or at a pool in transaction or session mode (pgbouncer: pool_mode).',
      cause,
    },
  );
}
