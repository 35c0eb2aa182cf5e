/**
 * The replication slot: looked at, created, confirmed once per sync, and copied. A sync reads a *temporary copy*, so
 * whatever it reads, the slot itself stays where the last stored STATE is; the copy dies with its session.
 * https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-REPLICATION
 */
import { randomBytes } from 'node:crypto';
import type { ClientBase } from 'pg';
import { ConnectorError, errorCode } from '../errors.ts';
import { formatLsn, type Lsn, parseLsn } from './lsn.ts';
import { parseVisibility, type Visibility } from './visibility.ts';

export type SlotStatus = {
  readonly plugin: string | null;
  readonly database: string | null;
  readonly active: boolean;
  /** reserved, extended, unreserved or lost; null where it reserves nothing. */
  readonly walStatus: string | null;
  readonly invalidationReason: string | null;
  readonly confirmed: Lsn | null;
  readonly restart: Lsn | null;
};

/** The slot as the server sees it, null where there is none of that name. */
export async function slotStatus(client: ClientBase, slot: string): Promise<SlotStatus | null> {
  const { rows } = await client.query<{
    plugin: string | null;
    database: string | null;
    active: boolean;
    wal_status: string | null;
    reason: string | null;
    confirmed: string | null;
    restart: string | null;
  }>(
    // invalidation_reason exists since PostgreSQL 17: taken from the row as JSON, so that older servers need no other query.
    `SELECT s.plugin, s.database, s.active, s.wal_status,
            to_jsonb(s) ->> 'invalidation_reason' AS reason,
            s.confirmed_flush_lsn::text AS confirmed, s.restart_lsn::text AS restart
       FROM pg_catalog.pg_replication_slots s WHERE s.slot_name = $1`,
    [slot],
  );
  const row = rows[0];
  if (row === undefined) return null;
  return {
    plugin: row.plugin,
    database: row.database,
    active: row.active,
    walStatus: row.wal_status,
    invalidationReason: row.reason,
    confirmed: row.confirmed === null ? null : parseLsn(row.confirmed),
    restart: row.restart === null ? null : parseLsn(row.restart),
  };
}

/**
 * Creates the slot. The server waits for every transaction that is writing at that moment.
 * @param waitSeconds how long to wait for them.
 * @returns its consistent point: the stream begins there.
 * @throws ConnectorError (transient) when those transactions last longer; (config) when no slot is free.
 */
export async function createSlot(
  client: ClientBase,
  slot: string,
  waitSeconds: number,
): Promise<Lsn> {
  await client.query(`SET statement_timeout = ${Math.trunc(waitSeconds * 1000)}`);
  try {
    for (let attempt = 1; ; attempt += 1) {
      const before = await currentVisibility(client);
      const { rows } = await client.query<{ lsn: string }>(
        `SELECT lsn::text AS lsn FROM pg_catalog.pg_create_logical_replication_slot($1, 'pgoutput')`,
        [slot],
      );
      if (!(await sawDdl(client, before))) return parseLsn(rows[0]?.lsn ?? '');
      await dropSlot(client, slot);
      if (attempt >= CREATE_ATTEMPTS) throw tooMuchDdl(slot);
    }
  } catch (error) {
    throw explainCreation(error, slot, waitSeconds);
  } finally {
    await client.query('SET statement_timeout = 0').catch(() => undefined);
  }
}

const CREATE_ATTEMPTS = 50;

function tooMuchDdl(slot: string): ConnectorError {
  return new ConnectorError(
    `The replication slot ${slot} could not be created: each time tables were made or published meanwhile, which the slot could have missed.`,
    { kind: 'transient_error', fix: 'Try again when fewer tables and chunks are made.' },
  );
}

/**
 * Whether tables were made or published by transactions that were not visible before the slot came into being. One that
 * commits between the slot's first look at the running transactions and its consistent point can be missed by the
 * decoder, which then fails for good ("could not map filenumber") or takes a published chunk for unpublished. With
 * TimescaleDB every new chunk is such a transaction, so the slot is made again until none came between.
 */
async function sawDdl(client: ClientBase, before: Visibility): Promise<boolean> {
  const { rows } = await client.query<{ ddl: boolean }>(
    `WITH made AS (
       SELECT c.xmin AS xid FROM pg_catalog.pg_class c WHERE c.relpersistence <> 't'
       UNION ALL SELECT p.xmin FROM pg_catalog.pg_publication_rel p)
     SELECT EXISTS (SELECT FROM made
                     WHERE pg_catalog.age(xid) BETWEEN 0 AND pg_catalog.age($1::xid)
                        OR xid = ANY ($2::xid[])) AS ddl`,
    [shortXid(before.xmax), [...before.running].map((xid) => shortXid(xid))],
  );
  return rows[0]?.ddl === true;
}

async function currentVisibility(client: ClientBase): Promise<Visibility> {
  const { rows } = await client.query<{ now: string }>(
    'SELECT pg_catalog.pg_current_snapshot()::text AS now',
  );
  return parseVisibility(rows[0]?.now ?? '');
}

/** The 32 bits that rows of the system catalog carry. */
function shortXid(xid: bigint): string {
  return String(BigInt.asUintN(32, xid));
}

function explainCreation(error: unknown, slot: string, waitSeconds: number): unknown {
  const code = errorCode(error);
  if (code === '57014') {
    return new ConnectorError(
      `The replication slot ${slot} could not be created within ${waitSeconds} s: a transaction that writes has been open all the time.`,
      {
        kind: 'transient_error',
        fix: 'Find it with SELECT pid, xact_start, query FROM pg_stat_activity WHERE backend_xid IS NOT NULL ORDER BY xact_start; and end it.',
        cause: error,
      },
    );
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

/** Tells the server that it may forget what lies before `lsn`. Does nothing where the slot is there already. */
export async function confirmSlot(client: ClientBase, slot: string, lsn: Lsn): Promise<void> {
  await client.query(
    `SELECT pg_catalog.pg_replication_slot_advance(slot_name, $2::pg_lsn)
       FROM pg_catalog.pg_replication_slots WHERE slot_name = $1 AND confirmed_flush_lsn < $2::pg_lsn`,
    [slot, formatLsn(lsn)],
  );
}

/** @returns the name of a temporary copy that lives as long as this session. */
export async function copySlot(client: ClientBase, slot: string): Promise<string> {
  const copy = `${slot.slice(0, 46)}_${randomBytes(8).toString('hex')}`;
  try {
    await client.query(
      'SELECT pg_catalog.pg_copy_logical_replication_slot($1::name, $2::name, true)',
      [slot, copy],
    );
  } catch (error) {
    throw explainCreation(error, slot, 0);
  }
  return copy;
}

export async function dropSlot(client: ClientBase, slot: string): Promise<void> {
  await client.query('SELECT pg_catalog.pg_drop_replication_slot($1)', [slot]);
}

export type ServerIdentity = { readonly systemIdentifier: string; readonly timeline: number };

/** Which cluster this is, and which of its histories. */
export async function serverIdentity(client: ClientBase): Promise<ServerIdentity> {
  const { rows } = await client.query<{ id: string; timeline: number }>(
    `SELECT (SELECT system_identifier::text FROM pg_catalog.pg_control_system()) AS id,
            (SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()) AS timeline`,
  );
  return { systemIdentifier: rows[0]?.id ?? '', timeline: rows[0]?.timeline ?? 0 };
}

const PAGE_BYTES = 8192n;
/** The largest header of a WAL page: an insert position may stand behind it while the flush position stands before it. */
const PAGE_HEADER_BYTES = 40n;
const FLUSH_WAIT_MS = 10_000;
/** Every commit is on disk by then. What a reader that was broken off has left (pruned pages) is not before the next one. */
const OWN_COMMIT_AFTER_MS = 600;
const OWN_COMMIT = `BEGIN; SET LOCAL synchronous_commit = local;
  SELECT pg_catalog.pg_logical_emit_message(true, 'source-timescaledb', ''); COMMIT`;

/**
 * A target for reading: everything visible now has its commit before it. Waits until that much WAL is on disk, since
 * decoding reads no further (commits with synchronous_commit = off are visible before).
 */
export async function targetLsn(client: ClientBase): Promise<Lsn> {
  const begun = Date.now();
  let target: Lsn | null = null;
  let pushed = false;
  for (;;) {
    const { rows } = await client.query<{ insert: string; flush: string }>(
      'SELECT pg_catalog.pg_current_wal_insert_lsn()::text AS insert, pg_catalog.pg_current_wal_flush_lsn()::text AS flush',
    );
    target ??= parseLsn(rows[0]?.insert ?? '');
    const flushed = parseLsn(rows[0]?.flush ?? '');
    const atPageStart = flushed % PAGE_BYTES === 0n && target - flushed <= PAGE_HEADER_BYTES;
    if (flushed >= target || atPageStart) return atPageStart ? flushed : target;
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
