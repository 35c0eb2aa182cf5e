/**
 * The chunks of hypertables: where their rows lie, what range they cover, whether a publication has them. Chunks are
 * named by OID and catalog id; names follow no rule (custom prefixes, attached tables, renames).
 */
import { type ClientBase, escapeIdentifier } from 'pg';
import { CHUNK_SIZE_SQL, chunkRelationsSql, type TimescaleCatalog } from './hypertables.ts';

export type Chunk = {
  readonly id: number;
  readonly oid: number;
  readonly hypertableId: number;
  readonly schema: string;
  readonly name: string;
  /** Tiered to object storage: a foreign table, which no publication takes. */
  readonly foreign: boolean;
  /** Whether this role may read it: a grant on the hypertable is passed on to its chunks, but can be taken back. */
  readonly selectable: boolean;
  /** Bits: 1 compressed, 2 unordered, 4 frozen, 8 partial (rows in the heap as well). */
  readonly status: number;
  /**
   * Range in the first open dimension, in TimescaleDB's internal unit: microseconds since the Unix epoch for time types,
   * else the integer itself. Half-open, but for the outermost chunks, which hold the infinities too: rows must never be
   * looked for by this range.
   */
  readonly rangeStart: bigint;
  readonly rangeEnd: bigint;
  /** As of the last ANALYZE and compression, -1 when unknown. */
  readonly rows: number;
  readonly bytes: number;
};

/** The name of a chunk as SQL would write it, with its schema: quoted only where it must be. */
export function chunkName({ schema, name }: Pick<Chunk, 'schema' | 'name'>): string {
  return [schema, name]
    .map((part) => (/^[a-z_][a-z0-9_]*$/.test(part) ? part : escapeIdentifier(part)))
    .join('.');
}

type ChunkRow = {
  readonly id: number;
  readonly oid: string;
  readonly hypertable_id: number;
  readonly schema: string;
  readonly name: string;
  readonly foreign: boolean;
  readonly selectable: boolean;
  readonly status: number;
  readonly range_start: string | null;
  readonly range_end: string | null;
  readonly rows: number;
  readonly bytes: string;
};

/** TimescaleDB's own open ends: DIMENSION_SLICE_MINVALUE and MAXVALUE. */
const OPEN_START = -(2n ** 63n);
export const OPEN_END = 2n ** 63n - 1n;

/**
 * Slices of the hypertable's first open dimension; a chunk without one must still be listed, or its rows were lost. Looked up
 * chunk by chunk, and each by its own key, which OFFSET 0 keeps apart from the condition on its dimension: without statistics
 * of the system catalog, as after many new chunks, a join takes quadratic time, and so does an index of the dimensions.
 */
function chunksSql(catalog: TimescaleCatalog): string {
  const slices = catalog.sliceHasChunkId
    ? '(SELECT * FROM _timescaledb_catalog.dimension_slice o WHERE o.chunk_id = ch.id OFFSET 0) s'
    : `_timescaledb_catalog.chunk_constraint k
  CROSS JOIN LATERAL (
    SELECT * FROM _timescaledb_catalog.dimension_slice o WHERE o.id = k.dimension_slice_id OFFSET 0) s`;
  const own = catalog.sliceHasChunkId ? 'true' : 'k.chunk_id = ch.id';
  return `
SELECT ch.id, r.oid::bigint AS oid, ch.hypertable_id, n.nspname AS schema, r.relname AS name,
       r.relkind = 'f' AS foreign, has_any_column_privilege(r.oid, 'SELECT') AS selectable, ch.status, slice.range_start, slice.range_end, ${CHUNK_SIZE_SQL}
FROM ${chunkRelationsSql(catalog)}
LEFT JOIN LATERAL (
  SELECT s.range_start, s.range_end FROM ${slices}
   WHERE ${own} AND s.dimension_id = (
      SELECT min(d.id) FROM _timescaledb_catalog.dimension d
       WHERE d.interval_length IS NOT NULL AND d.hypertable_id = ch.hypertable_id)
   LIMIT 1) slice ON true
LEFT JOIN _timescaledb_catalog.compression_chunk_size z ON z.chunk_id = ch.id
WHERE ch.hypertable_id = ANY ($1::int[])
ORDER BY coalesce(slice.range_start, ${OPEN_START}), ch.id`;
}

/** The chunks of these hypertables, tiered ones too, by range, then id. One query whatever their number. */
export async function listChunks(
  client: ClientBase,
  catalog: TimescaleCatalog,
  hypertableIds: readonly number[],
): Promise<readonly Chunk[]> {
  const { rows } = await client.query<ChunkRow>(chunksSql(catalog), [hypertableIds]);
  return rows.map((row) => ({
    id: row.id,
    oid: Number(row.oid),
    hypertableId: row.hypertable_id,
    schema: row.schema,
    name: row.name,
    foreign: row.foreign,
    selectable: row.selectable,
    status: row.status,
    rangeStart: row.range_start === null ? OPEN_START : BigInt(row.range_start),
    rangeEnd: row.range_end === null ? OPEN_END : BigInt(row.range_end),
    rows: Math.round(row.rows),
    bytes: Number(row.bytes),
  }));
}

/**
 * OIDs of relations outside TimescaleDB's own schemas that store some hypertable's rows: chunks (custom schema, attached
 * or moved) and compressed relations. They look like ordinary tables and must not become streams of their own.
 */
export async function listStorage(
  client: ClientBase,
  catalog: TimescaleCatalog,
): Promise<readonly number[]> {
  // Up to 2.18 the compressed relations are rows of `chunk` only, later (also) named in the settings.
  const compressed = catalog.settingsHaveCompressRelid
    ? `UNION
SELECT r.oid::bigint
FROM _timescaledb_catalog.compression_settings s
JOIN pg_class r ON r.oid = s.compress_relid
JOIN pg_namespace n ON n.oid = r.relnamespace
WHERE n.nspname !~ '^_timescaledb_'`
    : '';
  const { rows } = await client.query<{ oid: string }>(`
SELECT r.oid::bigint AS oid
FROM ${chunkRelationsSql(catalog)}
WHERE n.nspname !~ '^_timescaledb_'
${compressed}`);
  return rows.map((row) => Number(row.oid));
}

/**
 * SQL ($1: the chunk's id) that gives one row: `snapshot` and `lsn` of the session, `version`, which changes with every
 * change of the chunk's catalog row (null: it is no chunk any more), and `backend`, the process of the session. Asked
 * inside the reading transaction, after the reading statement is bound, and then from another session, which sees the
 * newest committed row. Different: the chunk was compressed or recompressed between snapshot and plan, and what is read
 * may lack rows.
 * (Not chunk_status(): it takes a transaction id and row locks up to 2.19.)
 */
export function chunkCheckSql(catalog: TimescaleCatalog): string {
  return `
SELECT pg_current_snapshot()::text AS snapshot,
       CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END::text AS lsn,
       (SELECT ch.status || ' ' || ch.xmin FROM _timescaledb_catalog.chunk ch
         WHERE ch.id = $1${catalog.chunkHasDropped ? ' AND NOT ch.dropped' : ''}) AS version,
       pg_backend_pid()::text AS backend`;
}
