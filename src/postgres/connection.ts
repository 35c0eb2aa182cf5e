/**
 * Opens sessions. Every session has a name, fixed text formats, and ends by itself when our process dies,
 * so that a value looks the same wherever it is read and nothing of ours is left on the server.
 *
 * The sessions that are open at one time share the way: one host of several, one tunnel.
 */
import { Client, type ClientConfig, type Connection } from 'pg';
import type { Duplex } from 'node:stream';
import { asConnectorError, errorCode } from '../errors.ts';
import type { ConnectionParams } from './connection-params.ts';
import { entraToken, type EntraSettings } from './entra.ts';
import {
  type Host,
  hostLabel,
  noneFits,
  OtherServer,
  type Refusal,
  wantedStandby,
} from './hosts.ts';
import { claimBackend, setInEachTransaction } from './pooler.ts';
import { receivingSocket } from './receiving-socket.ts';
import { setUp } from './session-settings.ts';
import type { Tunnel, TunnelSettings } from './ssh-tunnel.ts';
import { explainTls, tlsAttempts, tlsOptions, type TlsSettings } from './tls.ts';

export type ConnectionSettings = {
  readonly hosts: readonly Host[];
  readonly database: string;
  readonly username: string;
  readonly password: string;
  readonly tls: TlsSettings;
  readonly tunnel: TunnelSettings;
  /** Null: `password` is a password, otherwise a client secret. */
  readonly entra: EntraSettings | null;
  readonly params: ConnectionParams;
  /** Whether a pooler may run each transaction in another session: nothing that lives in a session is needed. */
  readonly transactionsApart: boolean;
};

/** The way that all open sessions of a configuration take; chosen anew once none is left. */
type Route = { sessions: number; tunnel: Promise<Tunnel> | null; host: Host | null };

const routes = new WeakMap<ConnectionSettings, Route>();

/**
 * A session of its own; the caller ends it with `client.end()`.
 * @param purpose shown in pg_stat_activity as `source-timescaledb: purpose`.
 * @throws ConnectorError with the kind of the failure; never with the password.
 */
export function connect(settings: ConnectionSettings, purpose: string): Promise<Client> {
  return openSession(settings, { purpose, replication: false });
}

/**
 * A session that takes the commands of streaming replication besides SQL without parameters.
 * https://www.postgresql.org/docs/current/protocol-replication.html
 */
export function connectForReplication(
  settings: ConnectionSettings,
  purpose: string,
): Promise<Client> {
  return openSession(settings, { purpose, replication: true });
}

type SessionKind = { readonly purpose: string; readonly replication: boolean };

async function openSession(settings: ConnectionSettings, kind: SessionKind): Promise<Client> {
  const route = routes.get(settings) ?? { sessions: 0, tunnel: null, host: null };
  routes.set(settings, route);
  route.sessions += 1;
  const leave = (): void => {
    route.sessions -= 1;
    if (route.sessions > 0) return;
    // It would keep the process from ending. What became of one that failed was told where it was opened.
    void route.tunnel?.then(
      (tunnel) => tunnel.end(),
      () => undefined,
    );
    route.tunnel = null;
    route.host = null;
  };
  try {
    const client = await openSomewhere(settings, route, kind);
    client.once('end', leave);
    return client;
  } catch (error) {
    leave();
    const where = settings.hosts.map((host) => hostLabel(host)).join(', ');
    throw asConnectorError(error, `connecting to ${where}`);
  }
}

/** On the host that the other sessions are on; the first one looks for it. */
async function openSomewhere(
  settings: ConnectionSettings,
  route: Route,
  kind: SessionKind,
): Promise<Client> {
  if (route.host !== null) return openOn(settings, route, route.host, kind);
  const several = settings.hosts.length > 1;
  const target = settings.params.target ?? (several ? 'primary' : 'any');
  let refusals: Refusal[] = [];
  for (const standby of wantedStandby(target)) {
    refusals = [];
    for (const host of settings.hosts) {
      try {
        const client = await openOn(settings, route, host, kind);
        await refuseOther(client, standby);
        route.host = host;
        return client;
      } catch (error) {
        // As libpq: a name or a password that one of them refuses is not tried on the next.
        if ((!several && !(error instanceof OtherServer)) || /^(28|3D)/.test(sqlState(error)))
          throw error;
        refusals.push({ host, error });
      }
    }
  }
  throw noneFits(refusals, target);
}

function sqlState(error: unknown): string {
  const cause = error instanceof Error ? error.cause : undefined;
  return errorCode(error) || errorCode(cause);
}

async function refuseOther(client: Client, standby: boolean | null): Promise<void> {
  if (standby === null) return;
  const { rows } = await client.query<{ standby: boolean }>(
    'SELECT pg_catalog.pg_is_in_recovery() AS standby',
  );
  const is = rows[0]?.standby === true;
  if (is === standby) return;
  await client.end().catch(() => undefined);
  throw new OtherServer(is ? 'is a standby' : 'is the primary');
}

async function openOn(
  settings: ConnectionSettings,
  route: Route,
  host: Host,
  kind: SessionKind,
): Promise<Client> {
  const open = (): Promise<Client> => logIn(settings, route, host, kind);
  const client = await open();
  try {
    const own = await setUp(client, true);
    if (!own && settings.transactionsApart) await setInEachTransaction(client);
    else if (!own) {
      await claimBackend(client, open);
      await setUp(client, false);
    }
    limitSilence(client, settings.params.socketTimeoutMs);
    return client;
  } catch (error) {
    await client.end().catch(() => undefined);
    throw error;
  }
}

/** With TLS and without, in the order and under the conditions of libpq. */
async function logIn(
  settings: ConnectionSettings,
  route: Route,
  host: Host,
  kind: SessionKind,
): Promise<Client> {
  const { tls } = settings;
  const failures: unknown[] = [];
  for (const encrypted of tlsAttempts(tls.mode)) {
    const attempt: Attempt = { encrypted, reached: false, authenticated: false };
    try {
      return await logInOnce(settings, route, host, kind, attempt);
    } catch (error) {
      failures.push(explainTls(error, tls.mode, host.host));
      if (!mayGoOn(attempt, error)) break;
    }
  }
  // The other kind of connection may be turned away for being what it is: the password is what matters.
  throw failures.find((each) => errorCode(each) === '28P01') ?? failures.at(-1);
}

type Attempt = { readonly encrypted: boolean; reached: boolean; authenticated: boolean };

/** A server that was reached and turned us away before the login was done may take the other kind of connection. */
function mayGoOn(attempt: Attempt, error: unknown): boolean {
  if (!attempt.reached || attempt.authenticated) return false;
  if (/^[0-9A-Z]{5}$/.test(errorCode(error))) return true;
  return attempt.encrypted && !(error instanceof Error && error.message === 'timeout expired');
}

async function logInOnce(
  settings: ConnectionSettings,
  route: Route,
  host: Host,
  kind: SessionKind,
  attempt: Attempt,
): Promise<Client> {
  const { tls, params, entra } = settings;
  const ssl = attempt.encrypted ? tlsOptions(tls, host.host, new Date()) : false;
  const password = entra === null ? settings.password : await entraToken(entra, settings.password);
  const tunnel = await tunnelOf(settings.tunnel, route);
  const channel = tunnel === null ? null : await tunnel.channel(host.host, host.port);
  // Not in the types of `pg`.
  const replication: ClientConfig & { readonly replication?: string } = kind.replication
    ? { replication: 'database' }
    : {};
  const client = new Client({
    ...replication,
    host: host.host,
    port: host.port,
    database: settings.database,
    user: settings.username,
    password,
    ssl,
    application_name: `${params.applicationName}: ${kind.purpose}`,
    ...(params.options === '' ? {} : { options: params.options }),
    connectionTimeoutMillis: params.connectTimeoutMs,
    keepAlive: params.keepAlive,
    // Reads of a channel are what `ssh2` makes of its own socket's.
    stream: () => channel ?? receivingSocket(),
  });
  // A socket that breaks between two queries reaches us only here; the next query reports it. Without a listener
  // Node would end the process.
  client.on('error', () => undefined);
  const { connection } = client as Client & { readonly connection: Connection };
  connection.once('connect', () => (attempt.reached = true));
  connection.once('authenticationOk', () => (attempt.authenticated = true));
  try {
    await client.connect();
    return client;
  } catch (error) {
    // Not awaited: a login that failed may have ended already, and then nothing would settle this.
    void client.end().catch(() => undefined);
    throw error;
  }
}

/** Opened by the first session; one that broke is not used again. */
async function tunnelOf(settings: TunnelSettings, route: Route): Promise<Tunnel | null> {
  if (settings.method === 'NO_TUNNEL') return null;
  // Loaded where it is needed only: it is larger than all the rest.
  const opening = route.tunnel ?? import('./ssh-tunnel.ts').then((it) => it.Tunnel.open(settings));
  route.tunnel = opening;
  const forget = (): void => {
    if (route.tunnel === opening) route.tunnel = null;
  };
  try {
    const tunnel = await opening;
    tunnel.onClose(forget);
    return tunnel;
  } catch (error) {
    forget();
    throw error;
  }
}

/** Breaks a session whose server owes an answer and is silent for too long; while we do not read, that is no silence. */
function limitSilence(client: Client, milliseconds: number): void {
  if (milliseconds === 0) return;
  const { connection } = client as Client & { readonly connection: Connection };
  const stream: Duplex & { setTimeout?: (ms: number, listener: () => void) => unknown } =
    connection.stream;
  const { readyForQuery } = client as Client & { readonly readyForQuery?: boolean };
  if (readyForQuery === undefined) return;
  stream.setTimeout?.(milliseconds, () => {
    const idle = (client as Client & { readonly readyForQuery?: boolean }).readyForQuery;
    if (idle === true || stream.isPaused()) return;
    stream.destroy(
      Object.assign(new Error('socketTimeout of `jdbc_url_params` has passed'), {
        code: 'ETIMEDOUT',
      }),
    );
  });
}
