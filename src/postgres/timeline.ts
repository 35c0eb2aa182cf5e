/**
 * The histories of a cluster: each server that takes over begins a timeline of its own, and remembers where it left the one
 * before.
 */
import type { Client } from 'pg';
import { type Lsn, parseLsn } from './lsn.ts';

/**
 * What the server knows of how it came to a timeline: the content of its history file.
 * A role with REPLICATION may ask; reading the file by SQL takes a superuser.
 * https://www.postgresql.org/docs/current/protocol-replication.html#PROTOCOL-REPLICATION-TIMELINE-HISTORY
 * @param session one for replication commands.
 * @param timeline from 2 on: the first has no history.
 */
export async function timelineHistory(session: Client, timeline: number): Promise<string> {
  const { rows } = await session.query<{ content: string }>(`TIMELINE_HISTORY ${timeline}`);
  return rows[0]?.content ?? '';
}

/**
 * Where a timeline was left for the next: what was written on it behind that is not in the history. Null: it does not belong
 * to it. Pure.
 * @param history lines of a timeline, a tab, and a position, as `readTimeLineHistory()` reads them:
 * https://github.com/postgres/postgres/blob/master/src/backend/access/transam/timeline.c
 */
export function branchPoint(history: string, timeline: number): Lsn | null {
  for (const line of history.split('\n')) {
    const entry = /^\s*(\d+)\s+([0-9A-Fa-f]+\/[0-9A-Fa-f]+)/.exec(line);
    if (Number(entry?.[1]) === timeline) return parseLsn(entry?.[2] ?? '');
  }
  return null;
}
