/**
 * Whether the state that came in can be gone on with, and where the stream begins: the slot is found, made or moved here,
 * and confirmed, once in a sync.
 */
import type { Client } from 'pg';
import type { Output } from './airbyte/output.ts';
import type { CdcConfig, CdcRun } from './cdc-setup.ts';
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
import { awaitStandbys } from './postgres/standbys.ts';
import { createSlotSql, withFailover } from './failover-slot.ts';
import { awaitFreeSlot, logSlot } from './slot-care.ts';
import type { SharedState } from './state.ts';

/** What a sync comes with. */
export type Given = {
  readonly shared: SharedState | null;
  /**
   * The platform has handed the state in. What an attempt before this one has written may not be stored yet: it is gone on
   * with, but nothing is confirmed.
   */
  readonly handedIn: boolean;
  readonly identity: ServerIdentity;
  readonly database: string;
  /** Why the state does not fit this server; null where it does. */
  readonly refusal: string | null;
  /** That another server took over, as a sentence, where the state fits it nevertheless; else null. */
  readonly moved: string | null;
  /** A visibility from before this: what a new position begins with. */
  readonly seen: string;
};

export type StartPosition = {
  readonly shared: SharedState;
  /** Standbys keep a copy of the slot: it must not run ahead of them. */
  readonly failover: boolean;
  /** Nothing that came in can be gone on with: every stream is read from the beginning. */
  readonly fresh: boolean;
};

/**
 * Finds, makes or moves the slot, and gives the position to stream from. The only confirmation of a sync happens here:
 * up to the state that came in. Without one nothing depends on the slot, so an existing one is moved to the present.
 * @throws ConnectorError when slot and state do not fit and the user did not ask for a resync.
 */
export async function startPosition(
  client: Client,
  config: Config,
  cdc: CdcRun,
  given: Given,
  output: Output,
): Promise<StartPosition> {
  const { shared, identity, database } = given;
  // Not before the publications are as they should be: that may take long, and what the slot was then says nothing.
  const found = await awaitFreeSlot(client, cdc.slot);
  logSlot(cdc.slot, found, 'At the start', output);
  const status = await withFailover(config, cdc, found, output);
  const publicationOid = cdc.main.oid;
  if (shared !== null) {
    // A state is never beyond what was on disk when it was written.
    const now = status?.walEnd ?? (await targetLsn(client));
    const reason =
      cannotGoOn(given, shared, cdc, status, database, now) ?? madeAgain(shared, publicationOid);
    const { moved } = given;
    if (reason === null) {
      const failover = status?.failover === true;
      if (given.handedIn) await confirm(client, cdc.slot, shared.lsn, failover);
      return { shared: { ...shared, publicationOid }, failover, fresh: false };
    }
    const whole = moved === null ? reason : `${reason} ${moved}`;
    if (!cdc.resyncOnInvalidPosition) throw invalidPosition(whole);
    output.log('WARN', `${whole} Every stream is read again, as configured.`);
  }
  const lsn = await freshSlot(client, config, cdc, database, status, output);
  return {
    shared: {
      lsn,
      lsnSeen: given.seen,
      emittedTo: null,
      cursorFloor: shared?.cursorFloor ?? 0,
      slot: cdc.slot,
      publication: cdc.publication,
      publicationOid,
      publicationsSeen: null,
      columns: null,
      settled: false,
      ...identity,
    },
    failover: status?.failover ?? cdc.failoverSlot,
    fresh: true,
  };
}

/** The server holds such a slot back until its standbys are there: that is waited for where somebody hears of it. */
async function confirm(client: Client, slot: string, lsn: Lsn, failover: boolean): Promise<void> {
  if (failover) await awaitStandbys(client, slot, lsn);
  await confirmSlot(client, slot, lsn);
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
    if (config.managePublication) {
      return createSlot(client, cdc.slot, cdc.initialWaitingSeconds, cdc.failoverSlot);
    }
    throw new ConnectorError(`The replication slot ${cdc.slot} does not exist.`, {
      kind: 'config_error',
      fix: `Create it: ${createSlotSql(cdc)}`,
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
    await confirm(client, cdc.slot, now, status.failover);
    return now;
  }
  if (!cdc.resyncOnInvalidPosition || !config.managePublication || status.walStatus !== 'lost') {
    throw invalidPosition(unusable);
  }
  await dropSlot(client, cdc.slot);
  return createSlot(client, cdc.slot, cdc.initialWaitingSeconds, cdc.failoverSlot);
}

function invalidPosition(reason: string): ConnectorError {
  return new ConnectorError(reason, {
    kind: 'config_error',
    fix: 'Changes may have been lost: clear the connection and sync again, or set `invalid_cdc_cursor_position_behavior` to "Re-sync data".',
  });
}

/** Why the state cannot be gone on with, null where it can. */
function cannotGoOn(
  { identity, refusal }: Given,
  shared: SharedState,
  cdc: CdcConfig,
  status: SlotStatus | null,
  database: string,
  now: Lsn,
): string | null {
  if (shared.systemIdentifier !== identity.systemIdentifier) {
    return 'The state comes from another database server.';
  }
  if (refusal !== null) return refusal;
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
  if (status.temporary) {
    return `The replication slot ${cdc.slot} is a temporary one: it ends with the session that made it.`;
  }
  if (status.walStatus === 'lost' || status.restart === null) {
    const why = status.invalidationReason === null ? '' : ` (${status.invalidationReason})`;
    return `The replication slot ${cdc.slot} is lost${why}: the server has removed WAL that it needs.`;
  }
  return null;
}
