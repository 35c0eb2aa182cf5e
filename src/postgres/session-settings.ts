/** What is set in each session. */
import { type Client, escapeLiteral } from 'pg';

/** The encoders rely on these (`column-types.ts`). */
const FORMATS: Readonly<Record<string, string>> = {
  client_encoding: 'UTF8',
  DateStyle: 'ISO, MDY',
  IntervalStyle: 'postgres',
  TimeZone: 'UTC',
  extra_float_digits: '1',
  bytea_output: 'hex',
  xmloption: 'content',
  // A scan that starts in mid-table would break the order of ctid slices.
  synchronize_seqscans: 'off',
};

/** They keep us from harming or outliving the server; a value among the user's own `options` stays. */
const LIMITS: Readonly<Record<string, string>> = {
  statement_timeout: '0',
  // While a slow destination stops us a session may wait between two statements of a transaction, but not for ever.
  idle_in_transaction_session_timeout: '1h',
  tcp_keepalives_idle: '60',
  tcp_keepalives_interval: '10',
  tcp_keepalives_count: '6',
  // The server notices within seconds that we are gone, also in the middle of a long statement. PostgreSQL 14 and later,
  // where the operating system can tell.
  client_connection_check_interval: '5s',
};

function rowsOf(settings: Readonly<Record<string, string>>, limits: boolean): readonly string[] {
  return Object.entries(settings).map(
    ([name, value]) => `(${escapeLiteral(name)}, ${escapeLiteral(value)}, ${limits})`,
  );
}

/** In a database without an encoding the server converts nothing, but under UTF8 it would refuse bytes that are not. */
const VALUE = `CASE WHEN v.name = 'client_encoding' AND pg_catalog.current_setting('server_encoding') = 'SQL_ASCII'
            THEN 'SQL_ASCII' ELSE v.value END`;

/** Settings of a transaction; those of the connection to the server are the pooler's own affair. */
const TRANSACTION: readonly (readonly [string, string])[] = Object.entries({
  ...FORMATS,
  ...LIMITS,
}).filter(([name]) => !name.startsWith('tcp_') && name !== 'client_connection_check_interval');

/**
 * The settings for one transaction, to be made first in it. Statements that take no snapshot, so that what has to come
 * before a transaction's snapshot still can.
 * @param encoding of the database.
 */
export function transactionSettings(encoding: string): readonly string[] {
  return TRANSACTION.map(([name, value]) => {
    const ascii = name === 'client_encoding' && encoding === 'SQL_ASCII';
    return `SET LOCAL ${name} = ${escapeLiteral(ascii ? encoding : value)}`;
  });
}

const SESSION = `
SELECT pg_catalog.set_config(s.name, ${VALUE}, false)
  FROM (VALUES ${[...rowsOf(FORMATS, false), ...rowsOf(LIMITS, true)].join(', ')}) v(name, value, limits)
  JOIN pg_catalog.pg_settings s ON s.name = v.name
 WHERE NOT (v.limits AND s.source = 'client')
   AND (s.name <> 'client_connection_check_interval' OR pg_catalog.version() ~ 'linux')`;

/**
 * Makes the settings of a session, in one exchange.
 * @param ifOwn only where the server process is the one that greeted us, so that a pooler's sessions stay as they are.
 * @returns false when it is another one, and nothing was set.
 */
export async function setUp(client: Client, ifOwn: boolean): Promise<boolean> {
  const { processID } = client as Client & { readonly processID: number | null };
  const own = ifOwn ? ` AND pg_catalog.pg_backend_pid() = ${processID ?? 0}` : '';
  const { rowCount } = await client.query(SESSION + own);
  return (rowCount ?? 0) > 0;
}
