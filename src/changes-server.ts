/** The server that changes are to be read from: asked once, at the beginning of a sync. */
import type { Client } from 'pg';
import { ConnectorError } from './errors.ts';
import { SERVER_IDENTITY, type ServerIdentity } from './postgres/slot.ts';

/** What stays as it is while a session to a primary lasts. */
export type ChangesServer = {
  readonly identity: ServerIdentity;
  readonly database: string;
  /** idle_replication_slot_timeout in seconds; null where there is none, and before PostgreSQL 18. */
  readonly idleTimeout: number | null;
};

/** https://www.postgresql.org/docs/current/runtime-config-replication.html#GUC-IDLE-REPLICATION-SLOT-TIMEOUT */
const CHANGES_SERVER = `
SELECT ${SERVER_IDENTITY}, pg_catalog.current_database()::text AS database,
       nullif(extract(epoch FROM current_setting('idle_replication_slot_timeout', true)::interval)::float8, 0)
         AS "idleTimeout",
       pg_catalog.pg_is_in_recovery() AS standby`;

/**
 * What a read has seen decides which changes come after it, and a snapshot taken on a standby does not list the
 * transactions that are running on the primary: their rows would be taken for seen, and lost.
 * @throws ConnectorError (config) on a standby.
 */
export async function primaryServer(client: Client): Promise<ChangesServer> {
  const { rows } = await client.query<
    ServerIdentity & Omit<ChangesServer, 'identity'> & { readonly standby: boolean }
  >(CHANGES_SERVER);
  const [row] = rows;
  if (row === undefined) throw new Error('a query without FROM gave no row');
  const { systemIdentifier, timeline, database, idleTimeout, standby } = row;
  if (!standby) return { identity: { systemIdentifier, timeline }, database, idleTimeout };
  throw new ConnectorError(
    'The server is a standby, where a snapshot does not tell which transactions are running: changes can be read from a primary only.',
    {
      kind: 'config_error',
      fix: 'Point `host` at the primary, or choose an update method without changes, which reads from a standby as well.',
    },
  );
}
