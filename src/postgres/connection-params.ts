/**
 * `jdbc_url_params`: what it says to a JDBC driver, said to ours.
 * https://jdbc.postgresql.org/documentation/use/#connection-parameters
 */
import type { Target } from './hosts.ts';
import type { TlsSettings } from './tls.ts';

export type ConnectionParams = {
  /** For the login as a whole; 0 is no limit. */
  readonly connectTimeoutMs: number;
  /** Longest silence of the server while it owes an answer; 0 is no limit. */
  readonly socketTimeoutMs: number;
  readonly keepAlive: boolean;
  /** For startup: `-c name=value ...`. */
  readonly options: string;
  /** Stands before the purpose of a session in pg_stat_activity. */
  readonly applicationName: string;
  /** Null: the primary where there are several hosts, else the one that there is. */
  readonly target: Target | null;
};

export type ParsedParams = {
  readonly params: ConnectionParams;
  /** `sslmode`, for configurations without `ssl_mode`. */
  readonly sslMode: TlsSettings['mode'] | null;
  /** Clauses: what cannot be right. */
  readonly problems: readonly string[];
  /** Names that have no effect here. */
  readonly ignored: readonly string[];
};

export const DEFAULT_PARAMS: ConnectionParams = {
  connectTimeoutMs: 30_000,
  socketTimeoutMs: 0,
  keepAlive: true,
  options: '',
  applicationName: 'source-timescaledb',
  target: null,
};

const TARGETS: Readonly<Record<string, Target>> = {
  any: 'any',
  primary: 'primary',
  master: 'primary',
  secondary: 'secondary',
  slave: 'secondary',
  preferprimary: 'preferPrimary',
  prefersecondary: 'preferSecondary',
  preferslave: 'preferSecondary',
};

/** Tuning of that driver, without a meaning for what is read. */
const HARMLESS: ReadonlySet<string> = new Set(
  `adaptiveFetch adaptiveFetchMaximum adaptiveFetchMinimum allowEncodingChanges assumeMinServerVersion autosave
   binaryTransfer binaryTransferDisable binaryTransferEnable cancelSignalTimeout cleanupSavepoints
   databaseMetadataCacheFields databaseMetadataCacheFieldsMiB defaultRowFetchSize disableColumnSanitiser
   escapeSyntaxCallMode groupStartupParameters hideUnprivilegedObjects hostRecheckSeconds logUnclosedConnections
   loggerFile loggerLevel logServerErrorDetail maxResultBuffer preferQueryMode prepareThreshold
   preparedStatementCacheQueries preparedStatementCacheSizeMiB quoteReturningIdentifiers readOnly readOnlyMode
   receiveBufferSize reWriteBatchedInserts sendBufferSize sslResponseTimeout stringtype tcpNoDelay
   unknownLength zeroDateTimeBehavior`.split(/\s+/),
);

const LOGIN: ReadonlySet<string> = new Set(['user', 'password', 'PGHOST', 'PGPORT', 'PGDBNAME']);
const PLAIN_MODES = ['disable', 'allow', 'prefer', 'require'] as const;

/** @param text pairs `key=value` joined by `&`, their values URL-encoded. @param hasTls `ssl_mode` is configured. */
export function parseParams(text: string, hasTls: boolean): ParsedParams {
  const problems: string[] = [];
  const ignored: string[] = [];
  const values = pairsIn(text, problems);
  const take = (name: string): string | undefined => {
    const value = values.get(name);
    values.delete(name);
    return value;
  };
  const bad = (name: string, must: string): void => {
    problems.push(`\`${name}\` in \`jdbc_url_params\` must be ${must}`);
  };
  const milliseconds = (name: string): number | undefined => {
    const value = take(name);
    if (value === undefined) return undefined;
    if (/^\d{1,6}(\.\d+)?$/.test(value)) return Number(value) * 1000;
    bad(name, 'a number of seconds');
    return undefined;
  };
  const timeouts = [milliseconds('connectTimeout'), milliseconds('loginTimeout')];
  const socketTimeoutMs = milliseconds('socketTimeout') ?? DEFAULT_PARAMS.socketTimeoutMs;
  const keepAlive = take('tcpKeepAlive') ?? 'true';
  if (!/^(true|false)$/i.test(keepAlive)) bad('tcpKeepAlive', 'true or false');
  const targetName = take('targetServerType');
  const target = targetName === undefined ? undefined : TARGETS[targetName.toLowerCase()];
  if (targetName !== undefined && target === undefined) {
    bad('targetServerType', 'any, primary, secondary, preferPrimary or preferSecondary');
  }
  const applicationName = take('ApplicationName') ?? '';
  const schema = take('currentSchema');
  const options = [take('options') ?? '', schema === undefined ? '' : searchPath(schema)];
  if (options.some((option) => option.includes('\0'))) bad('options', 'text without zero bytes');
  const sslMode = tlsIn(take, hasTls, problems, ignored);
  for (const name of values.keys()) {
    if (LOGIN.has(name))
      problems.push(`\`${name}\` must not be in \`jdbc_url_params\`: it has a field of its own`);
    else if (!HARMLESS.has(name)) ignored.push(name);
  }
  return {
    params: {
      connectTimeoutMs: shortest(timeouts),
      socketTimeoutMs,
      keepAlive: keepAlive.toLowerCase() !== 'false',
      options: options.filter((option) => option !== '').join(' '),
      applicationName: applicationName === '' ? DEFAULT_PARAMS.applicationName : applicationName,
      target: target ?? null,
    },
    sslMode,
    problems,
    ignored,
  };
}

function pairsIn(text: string, problems: string[]): Map<string, string> {
  const values = new Map<string, string>();
  const pairs = text
    .trim()
    .split('&')
    .filter((pair) => pair !== '');
  for (const pair of pairs) {
    const at = pair.indexOf('=');
    try {
      if (at < 1) throw new URIError('no name, or no value');
      values.set(decodeURIComponent(pair.slice(0, at)), decodeURIComponent(pair.slice(at + 1)));
    } catch {
      problems.push(
        '`jdbc_url_params` must be pairs key=value joined by &, with values URL-encoded',
      );
      break;
    }
  }
  return values;
}

/** Of the limits that were given; 0 is none. */
function shortest(given: readonly (number | undefined)[]): number {
  const set = given.filter((each) => each !== undefined);
  if (set.length === 0) return DEFAULT_PARAMS.connectTimeoutMs;
  const limits = set.filter((each) => each > 0);
  return limits.length === 0 ? 0 : Math.min(...limits);
}

/** In `options` a backslash keeps the character after it: https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNECT-OPTIONS */
function searchPath(schemas: string): string {
  return `-c search_path=${schemas.replaceAll(/[\s\\]/g, String.raw`\$&`)}`;
}

/** The form's `ssl_mode` wins. Without it nobody gets less than what is asked for here. */
function tlsIn(
  take: (name: string) => string | undefined,
  hasTls: boolean,
  problems: string[],
  ignored: string[],
): TlsSettings['mode'] | null {
  const mode = take('sslmode');
  const ssl = take('ssl');
  if (hasTls) {
    if (mode !== undefined) ignored.push('sslmode');
    if (ssl !== undefined) ignored.push('ssl');
    return null;
  }
  const plain = PLAIN_MODES.find((each) => each === mode);
  if (mode !== undefined && plain === undefined) {
    problems.push(
      '`sslmode` in `jdbc_url_params` must be disable, allow, prefer or require: for the others set `ssl_mode`, which holds the certificates',
    );
  }
  // There it means verify-full.
  if (mode === undefined && ssl !== undefined && ssl.toLowerCase() !== 'false') {
    problems.push(
      '`ssl` in `jdbc_url_params` does not say how the server is verified: set `ssl_mode`',
    );
  }
  return plain ?? null;
}
