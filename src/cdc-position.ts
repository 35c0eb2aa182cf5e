/**
 * Whether the state that came in can be gone on with, and where the stream begins: the slot is found, made or moved here,
 * and confirmed, once in a sync.
 */
import type { Client } from 'pg';
import type { Output } from './airbyte/output.ts';
import type { CdcConfig, CdcRun } from './cdc-setup.ts';
import type { ChangesServer } from './changes-server.ts';
import type { Config } from './config.ts';
import { ConnectorError } from './errors.ts';
import { formatLsn, type Lsn } from './postgres/lsn.ts';
import {
  confirmSlot,
  createSlot,
  dropSlot,
  outliveItsCreation,
  type ServerIdentity,
  type SlotStatus,
  targetLsn,
} from './postgres/slot.ts';
import { awaitFreeSlot, logSlot } from './slot-care.ts';
import type { SharedState } from './state.ts';

export type StartPosition = {
  readonly shared: SharedState;
  /** Nothing that came in can be gone on with: every stream is read from the beginning. */
  readonly fresh: boolean;
};

/**
 * Finds, makes or moves the slot, and gives the position to stream from. The only confirmation of a sync happens here:
 * up to the state that came in. Without one nothing depends on the slot, so an existing one is moved to the present.
 * @param handedIn the platform has handed the state in. What an attempt before this one has written may not be stored
 * yet: it is gone on with, but nothing is confirmed.
 * @throws ConnectorError when slot and state do not fit and the user did not ask for a resync.
 */
export async function startPosition(
  client: Client,
  config: Config,
  cdc: CdcRun,
  { identity, database }: ChangesServer,
  shared: SharedState | null,
  handedIn: boolean,
  output: Output,
): Promise<StartPosition> {
  // Not before the publications are as they should be: that may take long, and what the slot was then says nothing.
  const status = await awaitFreeSlot(client, cdc.slot);
  logSlot(cdc.slot, status, 'At the start', output);
  const publicationOid = cdc.main.oid;
  if (shared !== null) {
    // A state is never beyond what was on disk when it was written.
    const now = status?.walEnd ?? (await targetLsn(client));
    const reason =
      cannotGoOn(shared, cdc, identity, status, database, now) ?? madeAgain(shared, publicationOid);
    if (reason === null) {
      if (handedIn) await confirmSlot(client, cdc.slot, shared.lsn);
      return { shared: { ...shared, publicationOid }, fresh: false };
    }
    if (!cdc.resyncOnInvalidPosition) throw invalidPosition(reason);
    output.log('WARN', `${reason} Every stream is read again, as configured.`);
  }
  const lsn = await freshSlot(client, config, cdc, database, status, output);
  return {
    shared: {
      lsn,
      cursorFloor: shared?.cursorFloor ?? 0,
      slot: cdc.slot,
      publication: cdc.publication,
      publicationOid,
      publicationsSeen: null,
      columns: null,
      settled: false,
      ...identity,
    },
    fresh: true,
  };
}

const OLDER_SLOT_WAIT_SECONDS = 10;

async function freshSlot(
  client: Client,
  config: Config,
  cdc: CdcConfig,
  database: string,
  status: SlotStatus | null,
  output: Output,
): Promise<Lsn> {
  if (status === null) {
    if (config.managePublication) return createSlot(client, cdc.slot, cdc.initialWaitingSeconds);
    throw new ConnectorError(`The replication slot ${cdc.slot} does not exist.`, {
      kind: 'config_error',
      fix: `Create it: SELECT pg_create_logical_replication_slot('${cdc.slot}', 'pgoutput');`,
    });
  }
  const unusable = slotProblem(cdc, status, database);
  if (unusable === null) {
    // Whoever made it may have done so just now. An older one needs no wait, but nothing tells its age.
    if (!(await outliveItsCreation(client, OLDER_SLOT_WAIT_SECONDS))) {
      output.log(
        'WARN',
        `Transactions are open that may be older than the replication slot ${cdc.slot}. If the sync fails later since their changes cannot be decoded, drop the slot, clear the connection and let the sync make the slot.`,
      );
    }
    const now = await targetLsn(client);
    await confirmSlot(client, cdc.slot, now);
    return now;
  }
  if (!cdc.resyncOnInvalidPosition || !config.managePublication || status.walStatus !== 'lost') {
    throw invalidPosition(unusable);
  }
  await dropSlot(client, cdc.slot);
  return createSlot(client, cdc.slot, cdc.initialWaitingSeconds);
}

function invalidPosition(reason: string): ConnectorError {
  return new ConnectorError(reason, {
    kind: 'config_error',
    fix: 'Changes may have been lost: clear the connection and sync again, or set `invalid_cdc_cursor_position_behavior` to "Re-sync data".',
  });
}

/** Why the state cannot be gone on with, null where it can. */
function cannotGoOn(
  shared: SharedState,
  cdc: CdcConfig,
  identity: ServerIdentity,
  status: SlotStatus | null,
  database: string,
  now: Lsn,
): string | null {
  if (shared.systemIdentifier !== identity.systemIdentifier) {
    return 'The state comes from another database server.';
  }
  if (shared.timeline !== identity.timeline) {
    return `The server is on timeline ${identity.timeline}, the state on ${shared.timeline}: another server took over, or it was restored.`;
  }
  if (shared.slot !== cdc.slot) {
    return `The state belongs to the replication slot ${shared.slot}, not to ${cdc.slot}.`;
  }
  if (shared.lsn > now) {
    return `The state is at ${formatLsn(shared.lsn)}, the server only at ${formatLsn(now)}: it has lost WAL, or was restored.`;
  }
  if (status === null) return `The replication slot ${cdc.slot} does not exist any more.`;
  const problem = slotProblem(cdc, status, database);
  if (problem !== null) return problem;
  if (status.confirmed !== null && status.confirmed > shared.lsn) {
    const why = cdc.confirmWhileReading
      ? ' `lsn_commit_behaviour` is "While reading Data", so a sync whose records were not stored may have confirmed them.'
      : '';
    return `The replication slot ${cdc.slot} has moved to ${formatLsn(status.confirmed)}, beyond the state at ${formatLsn(shared.lsn)}.${why}`;
  }
  return null;
}

/** PostgreSQL up to 17 stops at WAL that is older than its publication; 18 passes over it. */
function madeAgain(shared: SharedState, oid: number | null): string | null {
  if (shared.publicationOid === null || shared.publicationOid === oid) return null;
  return `The publication ${shared.publication} was made again: what was written before that cannot be seen any more.`;
}

/** What makes a slot unusable, whatever the state; null where nothing does. */
export function slotProblem(cdc: CdcConfig, status: SlotStatus, database: string): string | null {
  if (status.plugin !== 'pgoutput') {
    return `The replication slot ${cdc.slot} uses the plugin ${status.plugin ?? 'of physical replication'}, not pgoutput.`;
  }
  if (status.database !== database) {
    return `The replication slot ${cdc.slot} belongs to the database ${status.database}, not to ${database}.`;
  }
  if (status.walStatus === 'lost' || status.restart === null) {
    const why = status.invalidationReason === null ? '' : ` (${status.invalidationReason})`;
    return `The replication slot ${cdc.slot} is lost${why}: the server has removed WAL that it needs.`;
  }
  return null;
}
