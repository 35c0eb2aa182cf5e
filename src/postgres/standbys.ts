/** Standbys that a slot must not run ahead of: where `failover` is on, the server holds it back for them, without a word. */
import type { ClientBase } from 'pg';
import { setTimeout as delay } from 'node:timers/promises';
import { ConnectorError } from '../errors.ts';
import { formatLsn, type Lsn } from './lsn.ts';

const WAIT_MS = 60_000;

/**
 * Slots of `synchronized_standby_slots` (PostgreSQL 17) whose standby has not got as far: the list holds identifiers,
 * quoted or not.
 * https://www.postgresql.org/docs/current/runtime-config-replication.html#GUC-SYNCHRONIZED-STANDBY-SLOTS
 */
const BEHIND = `
SELECT n.name, s.slot_name IS NOT NULL AS known, coalesce(s.active, false) AS active
  FROM (SELECT btrim(part, E' \\t\\n"') AS name
          FROM unnest(string_to_array(current_setting('synchronized_standby_slots', true), ',')) part) n
  LEFT JOIN pg_catalog.pg_replication_slots s ON s.slot_name = n.name
 WHERE n.name <> '' AND NOT coalesce(s.restart_lsn >= $1::pg_lsn AND s.wal_status <> 'lost', false)`;

/**
 * Waits until those standbys have received the WAL up to `lsn`, for a minute at most. Moving a slot beyond that
 * (pg_replication_slot_advance) would wait without end.
 * @param slot ours, for the message.
 * @throws ConnectorError (transient) that names one that has not.
 */
export async function awaitStandbys(client: ClientBase, slot: string, lsn: Lsn): Promise<void> {
  const begun = Date.now();
  for (let pause = 10; ; pause = Math.min(pause * 2, 250)) {
    const { rows } = await client.query<{ name: string; known: boolean; active: boolean }>(BEHIND, [
      formatLsn(lsn),
    ]);
    const [behind] = rows;
    if (behind === undefined) return;
    if (Date.now() - begun > WAIT_MS) {
      const why = !behind.known ? 'does not exist' : behind.active ? 'is behind' : 'is not in use';
      throw new ConnectorError(
        `The replication slot ${slot} has to wait for standbys (synchronized_standby_slots), and the slot ${behind.name} of one of them ${why}.`,
        {
          kind: 'transient_error',
          fix: 'Bring the standby back, or take its slot out of synchronized_standby_slots and reload the configuration.',
        },
      );
    }
    await delay(pause);
  }
}
