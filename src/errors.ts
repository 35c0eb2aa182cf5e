/**
 * Every failure has a kind, a sentence for the user and a way out.
 * The one table from SQLSTATE and socket errors to kinds lives here; nothing else decides whose fault something is.
 */

/** Airbyte's `failure_type`: a person must act, try again, or our bug. */
export type FailureKind = 'config_error' | 'transient_error' | 'system_error';

export type ConnectorErrorDetails = {
  readonly kind: FailureKind;
  /** What to do about it: a sentence, or the SQL to run. */
  readonly fix?: string;
  readonly cause?: unknown;
  /** The stream that failed, where it is only one. */
  readonly stream?: { readonly name: string; readonly namespace: string };
  readonly again?: Again;
};

/** What passes by itself, so that a sync tries again: 'always', or only where the server was there before. */
type Again = 'always' | 'once connected';

/** The only error that reaches the user: `message` is the sentence, `fix` what to do about it. */
export class ConnectorError extends Error {
  override readonly name = 'ConnectorError';
  readonly kind: FailureKind;
  readonly fix: string | undefined;
  readonly stream: { readonly name: string; readonly namespace: string } | undefined;
  readonly again: Again | undefined;

  constructor(message: string, details: ConnectorErrorDetails) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.kind = details.kind;
    this.fix = details.fix;
    this.stream = details.stream;
    this.again = details.again;
  }

  /** Sentence and way out as the user reads them. */
  get userMessage(): string {
    return this.fix === undefined ? this.message : `${this.message} ${this.fix}`;
  }
}

type Rule = {
  readonly kind: FailureKind;
  readonly what: string;
  readonly fix?: string;
  readonly again?: Again;
};

/** SQLSTATE (or its two-letter class) to what it means for a sync: https://www.postgresql.org/docs/current/errcodes-appendix.html */
const SQLSTATES: Readonly<Record<string, Rule>> = {
  '28P01': {
    kind: 'config_error',
    what: 'The server refused the user name or password.',
    fix: 'Check `username` and `password`.',
  },
  '28000': {
    kind: 'config_error',
    what: 'The server does not let this user in.',
    fix: 'Check `username`, `ssl_mode`, and the pg_hba.conf line for this host, database and user.',
  },
  '3D000': {
    kind: 'config_error',
    what: 'The database does not exist.',
    fix: 'Check `database`; names are case-sensitive.',
  },
  '42501': {
    kind: 'config_error',
    what: 'The role lacks a privilege.',
    fix: 'Grant what the message names, for example GRANT USAGE ON SCHEMA and GRANT SELECT ON the table, or ALTER ROLE ... REPLICATION for replication slots.',
  },
  '42704': {
    kind: 'config_error',
    what: 'An object that the sync needs does not exist.',
    fix: 'Run `check`: it names what is missing and the SQL that makes it.',
  },
  '42P01': {
    kind: 'config_error',
    what: 'A table that the sync needs does not exist any more.',
    fix: 'Refresh the schema of the connection.',
  },
  '42703': {
    kind: 'config_error',
    what: 'A column that the sync needs does not exist any more.',
    fix: 'Refresh the schema of the connection.',
  },
  '53300': {
    kind: 'transient_error',
    what: 'The server has no free connection slot.',
    again: 'always',
  },
  '53400': {
    kind: 'config_error',
    what: 'A limit set on the server was exceeded.',
    fix: 'If the message names temp_file_limit, raise it or set it to -1 for this role: ALTER ROLE ... SET temp_file_limit.',
  },
  '53': { kind: 'transient_error', what: 'The server is short of a resource.' },
  '55006': { kind: 'transient_error', what: 'An object is in use by another session.' },
  '55P03': {
    kind: 'transient_error',
    what: 'A lock could not be had in time; DDL or maintenance is running on the table.',
  },
  '55000': {
    kind: 'config_error',
    what: 'The server cannot do this in its present state.',
    fix: 'Run `check`: it names the setting, slot or publication at fault.',
  },
  '57014': {
    kind: 'transient_error',
    what: 'A statement was cancelled or ran into statement_timeout.',
  },
  '57': {
    kind: 'transient_error',
    what: 'The server is shutting down, starting up or ended our session.',
    again: 'always',
  },
  '40': {
    kind: 'transient_error',
    what: 'The server rolled our transaction back.',
    again: 'always',
  },
  '08': {
    kind: 'transient_error',
    what: 'The connection to the server broke.',
    again: 'once connected',
  },
  '25006': {
    kind: 'config_error',
    what: 'The server is read-only (a standby).',
    fix: 'Point `host` at the primary.',
  },
  '58P01': {
    kind: 'config_error',
    what: 'WAL that the replication slot needs is gone.',
    fix: 'Drop the slot, clear the connection and sync again.',
  },
};

/** What a standby says when a read would hold up its recovery: https://www.postgresql.org/docs/current/hot-standby.html#HOT-STANDBY-CONFLICT */
const RECOVERY_CONFLICT: Rule = {
  kind: 'transient_error',
  what: 'The standby cancelled a read that held up its recovery.',
  again: 'always',
  fix: 'Set hot_standby_feedback = on at the standby, or raise its max_standby_streaming_delay, or read from the primary.',
};

const SOCKET_ERRORS: Readonly<Record<string, Rule>> = {
  ENOTFOUND: {
    kind: 'config_error',
    what: 'The host name cannot be resolved.',
    fix: 'Check `host`.',
  },
  EAI_AGAIN: {
    kind: 'transient_error',
    what: 'The host name cannot be resolved at the moment.',
    again: 'once connected',
  },
  ECONNREFUSED: {
    kind: 'transient_error',
    what: 'Nothing accepts connections at this host and port.',
    again: 'once connected',
    fix: 'Check `host` and `port`, that the server runs, and that it listens on that address.',
  },
  ETIMEDOUT: {
    kind: 'transient_error',
    what: 'The server did not answer in time.',
    again: 'once connected',
    fix: 'Check `host`, `port`, firewalls and IP allow lists.',
  },
  EHOSTUNREACH: {
    kind: 'transient_error',
    what: 'The host cannot be reached.',
    again: 'once connected',
  },
  ENETUNREACH: {
    kind: 'transient_error',
    what: 'The network cannot be reached.',
    again: 'once connected',
  },
  ECONNRESET: {
    kind: 'transient_error',
    what: 'The connection to the server broke.',
    again: 'once connected',
  },
  EPIPE: {
    kind: 'transient_error',
    what: 'The connection to the server broke.',
    again: 'once connected',
  },
};

/**
 * Gives any thrown value its kind and sentence; a ConnectorError passes unchanged.
 * @param doing what was being done, as the end of "while ...", for the message.
 */
export function asConnectorError(error: unknown, doing: string): ConnectorError {
  if (error instanceof ConnectorError) return error;
  const text = textOf(error);
  const rule = ruleOf(error);
  if (rule === undefined) {
    return new ConnectorError(`Failed while ${doing}: ${text}`, {
      kind: 'system_error',
      cause: error,
    });
  }
  return new ConnectorError(`${rule.what} (while ${doing}: ${text})`, {
    kind: rule.kind,
    cause: error,
    ...(rule.fix === undefined ? {} : { fix: rule.fix }),
    ...(rule.again === undefined ? {} : { again: rule.again }),
  });
}

/**
 * Whether the same may well succeed in a moment. What we have a sentence of our own for has waited long enough already.
 * @param connected whether the server was there in this run: where it never was, the address may be wrong.
 */
export function passesByItself(error: unknown, connected: boolean): boolean {
  const again = error instanceof ConnectorError ? error.again : ruleOf(error)?.again;
  return again === 'always' || (again === 'once connected' && connected);
}

/** Every code (or two-letter class) that there is a rule for, with when the same is tried again; undefined: never. */
export function retryRules(): ReadonlyMap<string, Again | undefined> {
  const rules = Object.entries({ ...SQLSTATES, ...SOCKET_ERRORS });
  return new Map(rules.map(([code, { again }]) => [code, again]));
}

function ruleOf(error: unknown): Rule | undefined {
  const code = errorCode(error);
  if (code === '40001' && /conflict with recovery/.test(textOf(error))) return RECOVERY_CONFLICT;
  return (
    SOCKET_ERRORS[code] ??
    SQLSTATES[code] ??
    SQLSTATES[code.slice(0, 2)] ??
    uncoded(code, textOf(error))
  );
}

/** SQLSTATE or errno code of a thrown value, '' where it has none. */
export function errorCode(error: unknown): string {
  if (typeof error === 'object' && error !== null && 'code' in error) {
    return typeof error.code === 'string' ? error.code : '';
  }
  return '';
}

/** What a thrown value says; for a host with several addresses that is said once for each. */
function textOf(error: unknown): string {
  if (error instanceof AggregateError && error.message === '') {
    return error.errors.map((each) => textOf(each)).join('; ');
  }
  return withoutPasswords(error instanceof Error ? error.message : String(error));
}

/** Connection strings can come along in what servers and libraries say. */
export function withoutPasswords(text: string): string {
  return text
    .replace(/(:\/\/[^\s:/@]*):\S*@/g, '$1:***@')
    .replace(/\b(password\s*=\s*)('[^']*'|[^\s&'"]+)/gi, '$1***');
}

/** `pg` reports a socket that ended in mid-query without any code: the text is all there is. */
function uncoded(code: string, text: string): Rule | undefined {
  // With a SQLSTATE it comes from the server: the connection is there.
  if (/^[0-9A-Z]{5}$/.test(code)) return undefined;
  if (
    /Connection terminated|Client has encountered a connection error|timeout expired/i.test(text)
  ) {
    return {
      kind: 'transient_error',
      what: 'The connection to the server broke.',
      again: 'once connected',
    };
  }
  if (/does not support SSL|self.signed certificate|certificate|SSL/i.test(text)) {
    return {
      kind: 'config_error',
      what: 'The TLS connection could not be made as `ssl_mode` asks.',
      fix: 'Check `ssl_mode` and the certificates.',
    };
  }
  return undefined;
}
