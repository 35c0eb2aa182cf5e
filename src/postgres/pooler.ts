/**
 * Connection poolers between us and the server. In session mode a session is ours; in transaction mode each transaction
 * may run in another one, whose settings others have made, and what we set would stay with others.
 */
import type { Client, ClientBase } from 'pg';
import { ConnectorError } from '../errors.ts';

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
  const own = backends.get(client);
  if (own !== undefined && (await backendOf(client)) !== own) throw transactionMode();
}

function transactionMode(): ConnectorError {
  return new ConnectorError(
    'Between us and the server is a connection pooler in transaction or statement mode: the settings that values depend on do not hold there.',
    {
      kind: 'config_error',
      fix: 'Point `host` and `port` at the server itself, or at a pool in session mode (pgbouncer: pool_mode = session).',
    },
  );
}
