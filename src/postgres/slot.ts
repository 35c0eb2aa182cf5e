/**
 * The replication slot: looked at, created, confirmed once per sync, and copied. A sync reads a *temporary copy*, so
 * whatever it reads, the slot itself stays where the last stored STATE is; the copy dies with its session.
 * https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-REPLICATION
 */
import { randomBytes } from 'node:crypto';
import type { ClientBase } from 'pg';
import { ConnectorError, errorCode } from '../errors.ts';
import { formatLsn, type Lsn, parseLsn } from './lsn.ts';
import { awaitStandbys } from './standbys.ts';
import { parseVisibility, type Visibility } from './visibility.ts';

export type SlotStatus = {
  readonly plugin: string | null;
  readonly database: string | null;
  readonly active: boolean;
  /** It ends with the session that made it; one that a standby has not taken over whole yet is such a one, too. */
  readonly temporary: boolean;
  /** Standbys keep a copy of it (PostgreSQL 17). */
  readonly failover: boolean;
  /** reserved, extended, unreserved or lost; null where it reserves nothing. */
  readonly walStatus: string | null;
  readonly invalidationReason: string | null;
  readonly confirmed: Lsn | null;
  readonly restart: Lsn | null;
};

/** A row of `SLOT_STATUS`. */
export type SlotStatusRow = {
  readonly plugin: string | null;
  readonly database: string | null;
  readonly active: boolean;
  readonly temporary: boolean;
  readonly failover: boolean;
  readonly wal_status: string | null;
  readonly reason: string | null;
  readonly confirmed: string | null;
  readonly restart: string | null;
};

/**
 * Columns of pg_replication_slots `s`. invalidation_reason and failover exist since PostgreSQL 17: taken from the row as
 * JSON, so that older servers need no other query.
 */
export const SLOT_STATUS = `s.plugin, s.database, s.active, s.temporary, s.wal_status,
       to_jsonb(s) ->> 'invalidation_reason' AS reason,
       coalesce((to_jsonb(s) ->> 'failover')::boolean, false) AS failover,
       s.confirmed_flush_lsn::text AS confirmed, s.restart_lsn::text AS restart`;

export function toSlotStatus(row: SlotStatusRow): SlotStatus {
  return {
    plugin: row.plugin,
    database: row.database,
    active: row.active,
    temporary: row.temporary,
    failover: row.failover,
    walStatus: row.wal_status,
    invalidationReason: row.reason,
    confirmed: row.confirmed === null ? null : parseLsn(row.confirmed),
    restart: row.restart === null ? null : parseLsn(row.restart),
  };
}

/**
 * Creates the slot, and moves it to where it can be trusted. The server waits for every transaction that is writing at
 * that moment, and so does the move.
 *
 * The decoder of a new slot keeps the picture of the system catalog that it made while it waited, until the first change
 * of the catalog after that; tables made in the meantime are not in the picture. A transaction that begins under it and
 * writes to such a table cannot be decoded, for good: "could not map filenumber" (seen in half of the slots created
 * under a load of new chunks on PostgreSQL 17). So a change of the catalog is made, transactions from before it are
 * awaited, and the slot starts behind them.
 * @param waitSeconds how long to wait for transactions, each time.
 * @param failover standbys are to keep a copy of it; PostgreSQL 17 or later.
 * @returns where the stream begins: every transaction that commits later is decoded.
 * @throws ConnectorError (transient) when those transactions last longer; (config) when no slot is free.
 */
export async function createSlot(
  client: ClientBase,
  slot: string,
  waitSeconds: number,
  failover = false,
): Promise<Lsn> {
  const { rows } = await client.query<{ before: string }>(
    `SELECT pg_catalog.current_setting('statement_timeout') AS before`,
  );
  await client.query(`SET statement_timeout = ${Math.trunc(waitSeconds * 1000)}`);
  try {
    // Neither temporary nor two-phase; older servers do not know the last one.
    const more = failover ? ', false, false, true' : '';
    await client.query(
      `SELECT pg_catalog.pg_create_logical_replication_slot($1, 'pgoutput'${more})`,
      [slot],
    );
    return await behindItsCreation(client, slot, waitSeconds, failover);
  } catch (error) {
    throw explainCreation(error, slot, waitSeconds);
  } finally {
    const before = rows[0]?.before ?? '0';
    await client
      .query(`SELECT pg_catalog.set_config('statement_timeout', $1, false)`, [before])
      .catch(() => undefined);
  }
}

async function behindItsCreation(
  client: ClientBase,
  slot: string,
  waitSeconds: number,
  failover: boolean,
): Promise<Lsn> {
  try {
    if (!(await outliveItsCreation(client, waitSeconds))) throw tooLong(slot, waitSeconds, null);
    const upTo = failover ? await targetLsn(client) : null;
    if (upTo !== null) await awaitStandbys(client, slot, upTo);
    const { rows } = await client.query<{ lsn: string }>(
      `SELECT end_lsn::text AS lsn
         FROM pg_catalog.pg_replication_slot_advance($1, coalesce($2::pg_lsn, pg_catalog.pg_current_wal_insert_lsn()))`,
      [slot, upTo === null ? null : formatLsn(upTo)],
    );
    return parseLsn(rows[0]?.lsn ?? '');
  } catch (error) {
    // Half made it must not stay: the next sync would take it for a good one.
    await dropSlot(client, slot).catch(() => undefined);
    throw error;
  }
}

/**
 * From the present on, a slot that was made a short while ago can be trusted: see `createSlot`.
 * @param waitSeconds how long to wait for transactions that are running.
 * @returns false where some last longer.
 */
export async function outliveItsCreation(
  client: ClientBase,
  waitSeconds: number,
): Promise<boolean> {
  await changeCatalog(client);
  return awaitTransactions(client, waitSeconds);
}

/** Any change would do; this one leaves nothing, and every role may make it unless TEMPORARY was taken from PUBLIC. */
async function changeCatalog(client: ClientBase): Promise<void> {
  try {
    await client.query(
      'BEGIN; CREATE TEMPORARY TABLE source_timescaledb_start () ON COMMIT DROP; COMMIT',
    );
  } catch (error) {
    await client.query('ROLLBACK');
    if (errorCode(error) !== INSUFFICIENT_PRIVILEGE) throw error;
  }
}

const INSUFFICIENT_PRIVILEGE = '42501';

/** Waits until every transaction has ended that is running now. @returns false where one lasts longer. */
async function awaitTransactions(client: ClientBase, waitSeconds: number): Promise<boolean> {
  const deadline = Date.now() + waitSeconds * 1000;
  const start = await currentVisibility(client);
  for (let pause = 5; ; pause = Math.min(pause * 2, 500)) {
    const now = await currentVisibility(client);
    if (now.xmin >= start.xmax) return true;
    if (Date.now() > deadline) return false;
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}

async function currentVisibility(client: ClientBase): Promise<Visibility> {
  const { rows } = await client.query<{ now: string }>(
    'SELECT pg_catalog.pg_current_snapshot()::text AS now',
  );
  return parseVisibility(rows[0]?.now ?? '');
}

function tooLong(slot: string, waitSeconds: number, cause: unknown): ConnectorError {
  return new ConnectorError(
    `The replication slot ${slot} could not be created within ${waitSeconds} s: a transaction that writes has been open all the time.`,
    {
      kind: 'transient_error',
      fix: 'Find it with SELECT pid, xact_start, query FROM pg_stat_activity WHERE backend_xid IS NOT NULL ORDER BY xact_start; and end it.',
      cause,
    },
  );
}

function explainCreation(error: unknown, slot: string, waitSeconds: number): unknown {
  const code = errorCode(error);
  if (code === '57014') {
    return tooLong(slot, waitSeconds, error);
  }
  if (code === '53400') {
    return new ConnectorError('The server has no free replication slot.', {
      kind: 'config_error',
      fix: 'Raise max_replication_slots (the connector needs one, and one more while it reads), or drop slots that nobody uses.',
      cause: error,
    });
  }
  return error;
}

/**
 * Tells the server that it may forget what lies before `lsn`. Does nothing where the slot is there already.
 *
 * It is told twice. While a slot moves, the server notes the first position behind the old one from which decoding could
 * begin, and keeps the WAL from there on: about as much as was confirmed a moment ago (two syncs' worth for us). Asked to
 * move to where the slot stands by now it takes the last such position. See LogicalIncreaseRestartDecodingForSlot() in
 * https://github.com/postgres/postgres/blob/master/src/backend/replication/logical/logical.c
 */
export async function confirmSlot(client: ClientBase, slot: string, lsn: Lsn): Promise<void> {
  await client.query(
    `SELECT again.end_lsn
       FROM pg_catalog.pg_replication_slots s
      CROSS JOIN LATERAL pg_catalog.pg_replication_slot_advance(s.slot_name, $2::pg_lsn) AS moved
      CROSS JOIN LATERAL pg_catalog.pg_replication_slot_advance(s.slot_name, moved.end_lsn) AS again
      WHERE s.slot_name = $1 AND s.confirmed_flush_lsn < $2::pg_lsn`,
    [slot, formatLsn(lsn)],
  );
}

/** Moves the slot to where it is: nothing more is confirmed, but the server counts it as used, and may keep less for it. */
export async function touchSlot(client: ClientBase, slot: string): Promise<void> {
  await client.query(
    `SELECT pg_catalog.pg_replication_slot_advance(slot_name, confirmed_flush_lsn)
       FROM pg_catalog.pg_replication_slots WHERE slot_name = $1 AND confirmed_flush_lsn IS NOT NULL`,
    [slot],
  );
}

/** Copies the slot for as long as this session lives. @returns the copy's name, and where it stands. */
export async function copySlot(
  client: ClientBase,
  slot: string,
): Promise<{ readonly name: string; readonly position: Lsn }> {
  const name = `${slot.slice(0, 46)}_${randomBytes(8).toString('hex')}`;
  try {
    const { rows } = await client.query<{ lsn: string }>(
      `SELECT lsn::text AS lsn FROM pg_catalog.pg_copy_logical_replication_slot($1::name, $2::name, true)`,
      [slot, name],
    );
    return { name, position: parseLsn(rows[0]?.lsn ?? '') };
  } catch (error) {
    throw explainCreation(error, slot, 0);
  }
}

export async function dropSlot(client: ClientBase, slot: string): Promise<void> {
  await client.query('SELECT pg_catalog.pg_drop_replication_slot($1)', [slot]);
}

/**
 * The oldest transaction whose changes of the system catalog the slot may still need to see, 32 bits: every older one had
 * ended before anything that the slot can decode. Null where there is no slot, or none for changes.
 */
export async function slotCatalogXmin(client: ClientBase, slot: string): Promise<number | null> {
  const { rows } = await client.query<{ xmin: string | null }>(
    `SELECT s.catalog_xmin::text AS xmin FROM pg_catalog.pg_replication_slots s WHERE s.slot_name = $1`,
    [slot],
  );
  const xmin = rows[0]?.xmin ?? null;
  return xmin === null ? null : Number(xmin);
}

export type ServerIdentity = { readonly systemIdentifier: string; readonly timeline: number };

/**
 * Which cluster this is, and which of its histories. The control file tells the timeline of the last checkpoint, which
 * comes a while after a promotion; the name of the WAL file that is written to tells today's.
 */
export const SERVER_IDENTITY = `
       (SELECT system_identifier::text FROM pg_catalog.pg_control_system()) AS "systemIdentifier",
       CASE WHEN pg_catalog.pg_is_in_recovery()
            THEN (SELECT timeline_id FROM pg_catalog.pg_control_checkpoint())
            ELSE ('x' || substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int4
       END AS timeline`;

export async function serverIdentity(client: ClientBase): Promise<ServerIdentity> {
  const { rows } = await client.query<ServerIdentity>(`SELECT ${SERVER_IDENTITY}`);
  const [identity] = rows;
  if (identity === undefined) throw new Error('a query without FROM gave no row');
  return identity;
}

const PAGE_BYTES = 8192n;
/** The largest header of a WAL page: an insert position may stand behind it while the flush position stands before it. */
const PAGE_HEADER_BYTES = 40n;
const FLUSH_WAIT_MS = 10_000;
/** Every commit is on disk by then. What a reader that was broken off has left (pruned pages) is not before the next one. */
const OWN_COMMIT_AFTER_MS = 600;
const OWN_COMMIT = `BEGIN; SET LOCAL synchronous_commit = local;
  SELECT pg_catalog.pg_logical_emit_message(true, 'source-timescaledb', ''); COMMIT`;

export type Target = {
  readonly lsn: Lsn;
  /** A visibility: everything in it has its commit before `lsn`. */
  readonly seen: string;
};

/** As `presentTarget`, the position alone. */
export async function targetLsn(client: ClientBase): Promise<Lsn> {
  return (await presentTarget(client)).lsn;
}

/** The query's own snapshot is older than the position that it asks for. */
const TARGET = `
SELECT pg_catalog.pg_current_snapshot()::text AS seen, pg_catalog.pg_current_wal_insert_lsn()::text AS insert,
       pg_catalog.pg_current_wal_flush_lsn()::text AS flush`;

/**
 * A target for reading: everything visible now has its commit before it. Waits until that much WAL is on disk, since
 * decoding reads no further (commits with synchronous_commit = off are visible before).
 */
export async function presentTarget(client: ClientBase): Promise<Target> {
  const begun = Date.now();
  let found: Target | null = null;
  let pushed = false;
  for (;;) {
    const { rows } = await client.query<{ seen: string; insert: string; flush: string }>(TARGET);
    found ??= { lsn: parseLsn(rows[0]?.insert ?? ''), seen: rows[0]?.seen ?? '' };
    const flushed = parseLsn(rows[0]?.flush ?? '');
    const atPageStart = flushed % PAGE_BYTES === 0n && found.lsn - flushed <= PAGE_HEADER_BYTES;
    if (flushed >= found.lsn || atPageStart)
      return atPageStart ? { ...found, lsn: flushed } : found;
    if (!pushed && Date.now() - begun > OWN_COMMIT_AFTER_MS) {
      await client.query(OWN_COMMIT);
      pushed = true;
    }
    if (Date.now() - begun > FLUSH_WAIT_MS) {
      throw new ConnectorError('The server did not flush its WAL in time.', {
        kind: 'transient_error',
        fix: 'Its disk or WAL writer is stalled; try again later.',
      });
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
