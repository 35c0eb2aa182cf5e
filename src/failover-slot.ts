/**
 * A slot that standbys keep a copy of, so that one that takes over can serve it (PostgreSQL 17): `failover_slot`.
 * https://www.postgresql.org/docs/current/logicaldecoding-explanation.html#LOGICALDECODING-REPLICATION-SLOTS-SYNCHRONIZATION
 */
import type { Client } from 'pg';
import type { Output } from './airbyte/output.ts';
import type { CdcConfig } from './cdc-setup.ts';
import type { Config } from './config.ts';
import { asConnectorError, ConnectorError } from './errors.ts';
import { connectForReplication } from './postgres/connection.ts';
import type { SlotStatus } from './postgres/slot.ts';

/** server_version_num of the first that knows them. */
export const FAILOVER_VERSION = 170000;

/** @param version of the server, as people write it. */
export function failoverNeeds(version: string): string {
  return `\`failover_slot\` needs PostgreSQL 17 or later, and the server is PostgreSQL ${version}.`;
}

export const FAILOVER_OFF = 'Switch `failover_slot` off; after a failover clear the connection.';

/** The setting must not be without effect. @throws ConnectorError (config) on a server that knows no such slots. */
export async function refuseFailover(client: Client, cdc: CdcConfig): Promise<void> {
  if (!cdc.failoverSlot) return;
  const { rows } = await client.query<{ number: number; text: string }>(
    `SELECT current_setting('server_version_num')::int AS number, current_setting('server_version') AS text`,
  );
  const [version] = rows;
  if (version === undefined || version.number >= FAILOVER_VERSION) return;
  throw new ConnectorError(failoverNeeds(version.text), {
    kind: 'config_error',
    fix: FAILOVER_OFF,
  });
}

/** The SQL that makes the slot as it is wanted. */
export function createSlotSql({ slot, failoverSlot }: CdcConfig): string {
  return failoverSlot
    ? `SELECT pg_create_logical_replication_slot('${slot}', 'pgoutput', failover => true);`
    : `SELECT pg_create_logical_replication_slot('${slot}', 'pgoutput');`;
}

/** What makes an existing slot one of these: a command of streaming replication, since no SQL function does it. */
function alterCommand(slot: string): string {
  return `ALTER_REPLICATION_SLOT ${slot} (FAILOVER true)`;
}

/** For a person, who has psql. */
export function alterSlotAdvice(slot: string, database: string): string {
  const name = database.replaceAll(/([\\'])/g, '\\$1');
  const shell = `dbname='${name}' replication=database`.replaceAll(/(["$`\\])/g, '\\$1');
  return `psql "${shell}" -c "${alterCommand(slot)}" (while nobody uses the slot), or drop it, clear the connection and let it be made anew.`;
}

/**
 * Where the slot is to be one of these and is not: made one, if slots are ours to manage.
 * @returns the slot as it is now.
 */
export async function withFailover<S extends SlotStatus>(
  config: Config,
  cdc: CdcConfig,
  status: S | null,
  output: Output,
): Promise<S | null> {
  if (!cdc.failoverSlot || status === null || status.failover) return status;
  const lost = status.plugin !== 'pgoutput' || status.walStatus === 'lost';
  if (lost || status.database !== config.database) return status;
  const sentence = `The replication slot ${cdc.slot} is not one that standbys keep a copy of, as \`failover_slot\` asks for`;
  const advice = alterSlotAdvice(cdc.slot, config.database);
  if (!config.managePublication) {
    output.log('WARN', `${sentence}. To make it one: ${advice}`);
    return status;
  }
  try {
    const session = await connectForReplication(config, 'failover slot');
    try {
      await session.query(alterCommand(cdc.slot));
    } finally {
      await session.end().catch(() => undefined);
    }
  } catch (error) {
    const { message } = asConnectorError(error, 'altering the replication slot');
    output.log('WARN', `${sentence}, and could not be made one: ${message} By hand: ${advice}`);
    return status;
  }
  output.log('INFO', `The replication slot ${cdc.slot} is one that standbys keep a copy of now.`);
  return { ...status, failover: true };
}
