/**
 * Opens sessions. Every session has a name, fixed text formats, and ends by itself when our process dies,
 * so that a value looks the same wherever it is read and nothing of ours is left on the server.
 */
import { Client, type ClientConfig } from 'pg';
import { asConnectorError, ConnectorError, errorCode } from '../errors.ts';
import { receivingSocket } from './hot-reader.ts';

export type ConnectionSettings = {
  readonly hosts: readonly string[];
  readonly port: number;
  readonly database: string;
  readonly username: string;
  readonly password: string;
  readonly tls: {
    readonly mode: 'disable' | 'allow' | 'prefer' | 'require' | 'verify-ca' | 'verify-full';
    readonly caCertificate?: string;
    readonly clientCertificate?: string;
    readonly clientKey?: string;
    readonly clientKeyPassword?: string;
  };
};

/** Formats that the encoders rely on (`column-types.ts`), and limits that keep us from harming or outliving the server. */
const SESSION = [
  // In a database without an encoding the server converts nothing, but under UTF8 it would refuse bytes that are not.
  `SELECT pg_catalog.set_config('client_encoding',
     CASE pg_catalog.current_setting('server_encoding') WHEN 'SQL_ASCII' THEN 'SQL_ASCII' ELSE 'UTF8' END, false)`,
  `SET DateStyle = 'ISO, MDY'`,
  `SET IntervalStyle = 'postgres'`,
  `SET TimeZone = 'UTC'`,
  `SET extra_float_digits = 1`,
  `SET bytea_output = 'hex'`,
  `SET xmloption = 'content'`,
  // A scan that starts in mid-table would break the order of ctid slices.
  `SET synchronize_seqscans = off`,
  `SET statement_timeout = 0`,
  // While a slow destination stops us a session may wait between two statements of a transaction, but not for ever.
  `SET idle_in_transaction_session_timeout = '1h'`,
  `SET tcp_keepalives_idle = 60`,
  `SET tcp_keepalives_interval = 10`,
  `SET tcp_keepalives_count = 6`,
  // The server notices within seconds that we are gone, also in the middle of a long statement. PostgreSQL 14 and later,
  // where the operating system can tell.
  `SELECT pg_catalog.set_config(name, '5s', false) FROM pg_catalog.pg_settings
    WHERE name = 'client_connection_check_interval' AND pg_catalog.version() ~ 'linux'`,
].join('; ');

const CONNECT_TIMEOUT_MS = 30_000;

/**
 * A session of its own; the caller ends it with `client.end()`.
 * @param purpose shown in pg_stat_activity as `source-timescaledb: purpose`.
 * @throws ConnectorError with the kind of the failure; never with the password.
 */
export async function connect(settings: ConnectionSettings, purpose: string): Promise<Client> {
  const attempts = tlsAttempts(settings.tls);
  let failure: unknown;
  for (const ssl of attempts) {
    try {
      return await open(settings, purpose, ssl);
    } catch (error) {
      failure = error;
      if (!worthAnotherTlsAttempt(error)) break;
    }
  }
  const where = `${settings.hosts.join(',')}:${settings.port}`;
  throw asConnectorError(explainTls(failure, settings), `connecting to ${where}`);
}

async function open(
  settings: ConnectionSettings,
  purpose: string,
  ssl: ClientConfig['ssl'],
): Promise<Client> {
  const client = new Client({
    host: settings.hosts[0] ?? 'localhost',
    port: settings.port,
    database: settings.database,
    user: settings.username,
    password: settings.password,
    ssl: ssl ?? false,
    application_name: `source-timescaledb: ${purpose}`,
    connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
    keepAlive: true,
    stream: receivingSocket,
  });
  // A socket that breaks between two queries reaches us only here; the next query reports it. Without a listener
  // Node would end the process.
  client.on('error', () => undefined);
  try {
    await client.connect();
    await client.query(SESSION);
    return client;
  } catch (error) {
    await client.end().catch(() => undefined);
    throw error;
  }
}

type Tls = NonNullable<ClientConfig['ssl']>;

/** libpq's meaning of sslmode: https://www.postgresql.org/docs/current/libpq-ssl.html#LIBPQ-SSL-PROTECTION */
function tlsAttempts(tls: ConnectionSettings['tls']): readonly Tls[] {
  const certificates = {
    ...(tls.caCertificate === undefined ? {} : { ca: tls.caCertificate }),
    ...(tls.clientCertificate === undefined ? {} : { cert: tls.clientCertificate }),
    ...(tls.clientKey === undefined ? {} : { key: tls.clientKey }),
    ...(tls.clientKeyPassword === undefined ? {} : { passphrase: tls.clientKeyPassword }),
  };
  const unverified: Tls = { rejectUnauthorized: false };
  switch (tls.mode) {
    case 'disable':
      return [false];
    case 'allow':
      return [false, unverified];
    case 'prefer':
      return [unverified, false];
    case 'require':
      return [unverified];
    case 'verify-ca':
      return [{ ...certificates, rejectUnauthorized: true, checkServerIdentity: () => undefined }];
    case 'verify-full':
      return [{ ...certificates, rejectUnauthorized: true }];
    default:
      return tls.mode satisfies never;
  }
}

/** `prefer` and `allow` go on only where the other kind of connection can succeed. */
function worthAnotherTlsAttempt(error: unknown): boolean {
  return error instanceof Error && (/SSL|TLS/.test(error.message) || errorCode(error) === '28000');
}

function explainTls(error: unknown, settings: ConnectionSettings): unknown {
  if (!(error instanceof Error) || !/does not support SSL/.test(error.message)) return error;
  return new ConnectorError('The server does not offer TLS.', {
    kind: 'config_error',
    fix: `Turn TLS on at the server, or set \`ssl_mode\` to "prefer" or "disable" (now "${settings.tls.mode}").`,
    cause: error,
  });
}
