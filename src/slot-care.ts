/**
 * What the replication slot costs the server, and what threatens it: measured at the start and the end of each sync and by
 * `check`, so that somebody hears of it before the server gives the slot up.
 */
import type { ClientBase } from 'pg';
import type { Output } from './airbyte/output.ts';
import { type Finding, warning } from './check-finding.ts';
import { ConnectorError } from './errors.ts';
import { type Lsn, parseLsn } from './postgres/lsn.ts';
import { SLOT_STATUS, type SlotStatus, type SlotStatusRow, toSlotStatus } from './postgres/slot.ts';

/** Sizes in bytes, times in seconds. */
export type SlotUse = SlotStatus & {
  /** WAL that the server keeps for it, and that it has not confirmed. */
  readonly retained: number | null;
  readonly lag: number | null;
  /** WAL that may still be written before it is lost; null where there is no limit. */
  readonly safe: number | null;
  /** max_slot_wal_keep_size; null where there is no limit. */
  readonly limit: number | null;
  /** WAL that the server writes in a second, over the time that its statistics cover; asked for near the limit only. */
  readonly walPerSecond: number | null;
  /** idle_replication_slot_timeout (PostgreSQL 18); null where there is none. */
  readonly idleTimeout: number | null;
  /** For how long nobody has used it (PostgreSQL 17). */
  readonly idle: number | null;
  /** Where the server's WAL ends. */
  readonly walEnd: Lsn;
};

const USE = `
SELECT ${SLOT_STATUS}, pg_wal_lsn_diff(now.lsn, s.restart_lsn)::float8 AS retained,
       pg_wal_lsn_diff(now.lsn, s.confirmed_flush_lsn)::float8 AS lag, s.safe_wal_size::float8 AS safe,
       (SELECT nullif(setting::float8, -1) * 1048576 FROM pg_settings
         WHERE name = 'max_slot_wal_keep_size') AS "limit",
       nullif(extract(epoch FROM current_setting('idle_replication_slot_timeout', true)::interval)::float8, 0)
         AS "idleTimeout",
       extract(epoch FROM clock_timestamp() - (to_jsonb(s) ->> 'inactive_since')::timestamptz)::float8 AS idle,
       now.lsn::text AS "walEnd"
  FROM pg_replication_slots s
 CROSS JOIN (SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
                         ELSE pg_current_wal_lsn() END AS lsn) now
 WHERE s.slot_name = $1`;

const WAL_RATE = `
SELECT wal_bytes::float8 / greatest(1, extract(epoch FROM clock_timestamp() - stats_reset))::float8 AS rate
  FROM pg_stat_wal`;

/** Of what the server allows: from here on somebody should know. */
const SHARE_TO_TELL = 0.5;

/** Null: there is no slot of that name. */
export async function slotUse(client: ClientBase, slot: string): Promise<SlotUse | null> {
  const { rows } = await client.query<
    SlotStatusRow &
      Omit<SlotUse, keyof SlotStatus | 'walPerSecond' | 'walEnd'> & { readonly walEnd: string }
  >(USE, [slot]);
  const [row] = rows;
  if (row === undefined) return null;
  const { retained, lag, safe, limit, idleTimeout, idle } = row;
  const rates = isNearLimit(row)
    ? (await client.query<{ rate: number | null }>(WAL_RATE)).rows
    : [];
  const walPerSecond = rates[0]?.rate ?? null;
  const walEnd = parseLsn(row.walEnd);
  const use = { retained, lag, safe, limit, walPerSecond, idleTimeout, idle, walEnd };
  return { ...toSlotStatus(row), ...use };
}

function isNearLimit({ limit, safe }: Pick<SlotUse, 'limit' | 'safe'>): boolean {
  return limit !== null && safe !== null && 1 - safe / limit >= SHARE_TO_TELL;
}

/** What will make the server give the slot up, before it does. */
export function slotDangers(slot: string, use: SlotUse): readonly Finding[] {
  const findings: Finding[] = [];
  const { limit, safe, idle, idleTimeout } = use;
  if (limit !== null && safe !== null && isNearLimit(use)) {
    findings.push(
      warning(
        `The replication slot "${slot}" is lost after another ${bytesText(safe)} of WAL${timeLeft(safe, use.walPerSecond)}: ${percent(1 - safe / limit)} of max_slot_wal_keep_size (${bytesText(limit)}) is used up.`,
        `Sync soon and more often, end transactions that stay open, or ALTER SYSTEM SET max_slot_wal_keep_size = '${Math.ceil((limit * 4) / MEGABYTE)}MB'; SELECT pg_reload_conf();`,
      ),
    );
  }
  if (idle !== null && idleTimeout !== null && idle / idleTimeout >= SHARE_TO_TELL) {
    findings.push(
      warning(
        `The replication slot "${slot}" has not been used for ${duration(idle)}: after ${duration(idleTimeout)} (idle_replication_slot_timeout) it is lost.`,
        `Sync more often, or ALTER SYSTEM SET idle_replication_slot_timeout = '${Math.ceil(idleTimeout * 4)}s'; SELECT pg_reload_conf();`,
      ),
    );
  }
  return findings;
}

function timeLeft(bytes: number, perSecond: number | null): string {
  if (perSecond === null || perSecond <= 0) return '';
  return `, which the server writes in ${duration(bytes / perSecond)} on average`;
}

/**
 * Logs what the slot costs; nothing where there is none.
 * @param when of the sync, as a sentence begins: "At the start".
 */
export function logSlot(slot: string, use: SlotUse | null, when: string, output: Output): void {
  if (use === null) return;
  output.log(
    'INFO',
    `${when} the server keeps ${bytesText(use.retained)} of WAL for the replication slot ${slot}; ${bytesText(use.lag)} are not confirmed.`,
  );
  for (const { sentence } of slotDangers(slot, use)) output.log('WARN', sentence);
}

const HOLDER_WAIT_MS = 60_000;

/**
 * Waits until nobody else uses the slot. The session of a process that was killed ends within seconds.
 * @returns the slot as it is then; null where there is none.
 * @throws ConnectorError (transient) that names who does.
 */
export async function awaitFreeSlot(client: ClientBase, slot: string): Promise<SlotUse | null> {
  const begun = Date.now();
  for (;;) {
    const use = await slotUse(client, slot);
    if (use?.active !== true) return use;
    if (Date.now() - begun > HOLDER_WAIT_MS) {
      const holder = await slotHolder(client, slot);
      throw new ConnectorError(
        `The replication slot ${slot} is in use by ${holder}: what that one confirms would be missing here.`,
        {
          kind: 'transient_error',
          fix: 'Give each consumer a slot of its own, or end that session: SELECT pg_terminate_backend(its process id);',
        },
      );
    }
    await new Promise((resolve) => setTimeout(resolve, 250));
  }
}

/** Who uses the slot, as a sentence names it. */
export function slotHolder(client: ClientBase, slot: string): Promise<string> {
  return sessionText(
    client,
    'SELECT active_pid FROM pg_catalog.pg_replication_slots WHERE slot_name = $1 AND active_pid IS NOT NULL',
    [slot],
  );
}

/**
 * A session as a sentence names it: process, application, address, since when. What the role may not see is left out.
 * @param pidSql a query for the process id.
 */
export async function sessionText(
  client: ClientBase,
  pidSql: string,
  parameters: readonly unknown[],
): Promise<string> {
  const { rows } = await client.query<{
    pid: number;
    application: string | null;
    address: string | null;
    since: string | null;
  }>(
    `SELECT holder.pid, nullif(a.application_name, '') AS application, host(a.client_addr) AS address,
            to_char(a.backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') AS since
       FROM (${pidSql}) AS holder (pid) LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = holder.pid`,
    [...parameters],
  );
  const [session] = rows;
  if (session === undefined) return 'a session that has just ended';
  const { pid, application, address, since } = session;
  const details = [
    ...(application === null ? [] : [`application_name "${application}"`]),
    ...(address === null ? [] : [`from ${address}`]),
    ...(since === null ? [] : [`since ${since} UTC`]),
  ];
  return `server process ${pid}${details.length === 0 ? '' : ` (${details.join(', ')})`}`;
}

const MEGABYTE = 1024 ** 2;
const GIGABYTE = 1024 ** 3;

/** For a sentence: MB, or GB from one on. */
export function bytesText(bytes: number | null): string {
  const size = Math.max(0, bytes ?? 0);
  return size < GIGABYTE
    ? `${(size / MEGABYTE).toFixed(1)} MB`
    : `${(size / GIGABYTE).toFixed(2)} GB`;
}

function percent(share: number): string {
  return `${Math.min(100, Math.round(share * 100))} %`;
}

function duration(seconds: number): string {
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172_800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86_400)} days`;
}
