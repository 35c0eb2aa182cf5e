/**
 * Rows that were written straight into the columnstore ("direct compress", TimescaleDB 2.21 and later): no change of the
 * chunk tells of them. Their traces: the chunk is unordered from then on, and there are compressed batches which are
 * younger than what was seen of the chunk. A row trigger or a unique index on the hypertable prevents such writes.
 */
import { type ClientBase, escapeIdentifier as ident } from 'pg';
import { shortXid, type Visibility } from '../postgres/visibility.ts';
import type { Chunk } from './chunks.ts';
import { isAtLeast, type TimescaleCatalog } from './hypertables.ts';

/** Bit of a chunk's status: written to in compressed form, out of order. */
const UNORDERED = 2;
const COMPRESSED = 1;

/** OIDs of those hypertables that nothing keeps from being written to directly. One query. */
export async function openToDirectWrites(
  client: ClientBase,
  catalog: TimescaleCatalog,
  oids: readonly number[],
): Promise<ReadonlySet<number>> {
  if (oids.length === 0 || !isAtLeast(catalog.version, 2, 21)) return new Set();
  // tgtype: 1 for each row.
  const { rows } = await client.query<{ oid: string }>(
    `SELECT h.oid::bigint AS oid FROM unnest($1::oid[]) AS h (oid)
      WHERE NOT EXISTS (SELECT FROM pg_index x WHERE x.indrelid = h.oid AND x.indisunique)
        AND NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = h.oid AND NOT t.tgisinternal
                         AND t.tgenabled IN ('O', 'A') AND t.tgtype & 1 = 1)`,
    [oids],
  );
  return new Set(rows.map(({ oid }) => Number(oid)));
}

/** Whether rows of a chunk may be there that no change has told of: it is compressed, and was made by its first write. */
export function isBornCompressed(chunk: Chunk): boolean {
  return (chunk.status & COMPRESSED) !== 0;
}

/** Whether a chunk has been written to directly since. @param since what was seen of the chunk last. */
export async function wasWrittenDirectly(
  client: ClientBase,
  chunk: Chunk,
  since: Visibility,
): Promise<boolean> {
  if ((chunk.status & UNORDERED) === 0) return false;
  const { rows } = await client.query<{ schema: string; name: string }>(
    `SELECT n.nspname AS schema, r.relname AS name
       FROM _timescaledb_catalog.compression_settings s
       JOIN pg_class r ON r.oid = s.compress_relid JOIN pg_namespace n ON n.oid = r.relnamespace
      WHERE s.relid = $1::oid AND pg_catalog.has_table_privilege(r.oid, 'SELECT')`,
    [chunk.oid],
  );
  const [compressed] = rows;
  if (compressed === undefined) return false;
  // Rows carry 32 bits of a transaction's id: newer than `since`, or running then.
  const found = await client.query<{ newer: boolean }>(
    `SELECT EXISTS (SELECT FROM ${ident(compressed.schema)}.${ident(compressed.name)} b
                     WHERE pg_catalog.age(b.xmin) BETWEEN 0 AND pg_catalog.age($1::xid)
                        OR b.xmin = ANY ($2::xid[])) AS newer`,
    [shortXid(since.xmax), [...since.running].map(shortXid)],
  );
  return found.rows[0]?.newer === true;
}
