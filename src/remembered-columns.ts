/**
 * What the columns of each stream were in the last sync. No change of a row tells of another type, of a column that was
 * added, or of a rewrite of the table, so the state remembers a digest and the next sync tells the user.
 */
import { createHash } from 'node:crypto';
import type { ClientBase } from 'pg';
import { label, type SyncStream } from './plan.ts';
import { newerThanSql, shortXid, type Visibility } from './postgres/visibility.ts';

/** By the stream's label: a digest of its columns, and the table's file ('0' where it has none). */
export type ColumnMemory = ReadonlyMap<string, string>;

/**
 * The columns now, and what has happened to them since the state, as sentences.
 * @param before of the state; null: nothing is known.
 * @param then what was visible when it was made; null: not known.
 */
export async function compareColumns(
  client: ClientBase,
  streams: readonly SyncStream[],
  before: ColumnMemory | null,
  then: Visibility | null,
): Promise<{ readonly now: ColumnMemory; readonly changes: readonly string[] }> {
  const { rows } = await client.query<{ oid: string; file: string | null; altered: boolean }>(
    `SELECT c.oid::text AS oid, pg_catalog.pg_relation_filenode(c.oid)::text AS file,
            EXISTS (SELECT FROM pg_catalog.pg_attribute a
                     WHERE a.attrelid = c.oid AND a.attnum > 0 AND ${newerThanSql('a', 2)}) AS altered
       FROM pg_catalog.pg_class c WHERE c.oid = ANY ($1::oid[])`,
    [
      streams.map(({ relation }) => relation.oid),
      shortXid(then?.xmax ?? 0n),
      [...(then?.running ?? [])].map(shortXid),
    ],
  );
  const facts = new Map(rows.map((row) => [Number(row.oid), row]));
  const now = new Map<string, string>();
  const changes: string[] = [];
  for (const stream of streams) {
    const name = label(stream.name);
    const fact = facts.get(stream.relation.oid);
    const file = fact?.file ?? '0';
    const digest = columnDigest(stream);
    now.set(name, `${digest}/${file}`);
    const [knownDigest, knownFile] = before?.get(name)?.split('/') ?? [];
    if (knownDigest === undefined) continue;
    if (knownDigest !== digest) {
      changes.push(
        `The columns of ${name} that are synced, or their types, are not those of the last sync. ${KEPT}`,
      );
      // VACUUM FULL and CLUSTER make another file as well, but leave the columns' catalog rows alone.
    } else if (knownFile !== file && then !== null && fact?.altered === true) {
      changes.push(
        `${name} was rewritten by ALTER TABLE since the last sync, which is no change in the WAL. ${KEPT}`,
      );
    }
  }
  return { now, changes };
}

const KEPT =
  'Rows that were synced before keep what they had until they change or the stream is refreshed.';

function columnDigest(stream: SyncStream): string {
  const texts = stream.columns.map(({ name, typeOid, typmod }) => [name, typeOid, typmod]);
  const sorted = texts.map((text) => JSON.stringify(text)).toSorted();
  return createHash('sha256').update(sorted.join('\n')).digest('hex').slice(0, 8);
}
