/**
 * Hypertables as TimescaleDB's system catalog describes them, on 2.13 to 2.31. The catalog's layout changed in 2.26,
 * 2.28 and 2.29: what differs is probed once, by column; version numbers are not parsed. Everything read here is
 * readable by every role. https://github.com/timescale/timescaledb/blob/main/sql/pre_install/tables.sql
 */
import type { ClientBase } from 'pg';

export type Dimension = {
  readonly column: string;
  /** Open: ranges of time or integers. Closed: slices of a hash ("space"). */
  readonly kind: 'open' | 'closed';
  /** The column's type, as format_type() names it. */
  readonly type: string;
  /** Of open dimensions: microseconds for time types and UUIDv7, else the integer's own unit. */
  readonly intervalLength: bigint | null;
  /** Of closed dimensions. */
  readonly slices: number | null;
  /** Ranges are those of a function of the column. Every closed dimension has one. */
  readonly hasPartitioningFunction: boolean;
};

export type Hypertable = {
  readonly id: number;
  readonly oid: number;
  readonly schema: string;
  readonly name: string;
  /** associated_schema_name: where new chunks are made; older or attached ones may lie elsewhere. */
  readonly chunkSchema: string;
  /** associated_table_prefix of new chunks' names; nothing may be routed by it. */
  readonly chunkPrefix: string;
  /** By id: the first open one is what chunks have their range in. */
  readonly dimensions: readonly Dimension[];
  /** Whether the columnstore is switched on; single chunks may be compressed without it. */
  readonly compression: boolean;
  /** Set when it holds the materialized rows of this continuous aggregate. */
  readonly continuousAggregate: { readonly schema: string; readonly name: string } | null;
};

/** What this database's TimescaleDB looks like. */
export type TimescaleCatalog = {
  readonly version: string;
  /** 2.29+: chunks are named by OID; before, by schema and name. */
  readonly chunkHasRelid: boolean;
  /** 2.28+: a slice belongs to one chunk; before, chunk_constraint joins them. */
  readonly sliceHasChunkId: boolean;
  /** Up to 2.25: rows of dropped chunks may be left. */
  readonly chunkHasDropped: boolean;
  /** Up to 2.28 it tells internal compressed hypertables (2) from those of users; unused since. */
  readonly hypertableHasCompressedState: boolean;
  /** 2.19+: names the compressed relation of a chunk. */
  readonly settingsHaveCompressRelid: boolean;
  /** 2.25+: jobs moved from _timescaledb_config to _timescaledb_catalog. */
  readonly jobsInCatalog: boolean;
  /**
   * Which of the rows that compression moves the WAL marks as moved: 2.16 and later can, unless it is switched off; the
   * recompression of policies is marked from 2.19 on.
   */
  readonly markers: 'all moves' | 'not of policies' | 'none';
};

/** The setting exists once the extension's library is loaded, which the analysis of a session's first statement brings about. */
const PROBE = `
SELECT e.extversion AS version, current_setting('timescaledb.enable_compression_wal_markers', true) AS markers,
       ARRAY (SELECT (c.relname || '.' || a.attname)::text
              FROM pg_class c
              JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = '_timescaledb_catalog'
              JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
              WHERE c.relname IN ('hypertable', 'chunk', 'dimension_slice', 'compression_settings', 'bgw_job')
             ) AS columns
FROM pg_extension e WHERE e.extname = 'timescaledb'`;

/** Probed once a session. null: the extension is not installed in this database. */
export async function probeTimescale(client: ClientBase): Promise<TimescaleCatalog | null> {
  const { rows } = await client.query<{
    version: string;
    markers: string | null;
    columns: readonly string[];
  }>(PROBE);
  const [row] = rows;
  if (row === undefined) return null;
  const has = (column: string): boolean => row.columns.includes(column);
  const marked = row.markers === 'on';
  return {
    version: row.version,
    chunkHasRelid: has('chunk.relid'),
    sliceHasChunkId: has('dimension_slice.chunk_id'),
    chunkHasDropped: has('chunk.dropped'),
    hypertableHasCompressedState: has('hypertable.compression_state'),
    settingsHaveCompressRelid: has('compression_settings.compress_relid'),
    jobsInCatalog: has('bgw_job.hypertable_id'),
    markers: !marked ? 'none' : isAtLeast(row.version, 2, 19) ? 'all moves' : 'not of policies',
  };
}

/** Whether a version such as "2.19.3" or "2.30-dev" is this one or newer. */
export function isAtLeast(version: string, major: number, minor: number): boolean {
  const [, first = '0', second = '0'] = /^(\d+)\.(\d+)/.exec(version) ?? [];
  return Number(first) > major || (Number(first) === major && Number(second) >= minor);
}

type DimensionRow = {
  readonly column: string;
  readonly type: string;
  readonly interval_length: string | null;
  readonly slices: number | null;
  readonly has_function: boolean;
};

type HypertableRow = {
  readonly id: number;
  readonly oid: string;
  readonly schema: string;
  readonly name: string;
  readonly chunk_schema: string;
  readonly chunk_prefix: string;
  readonly compression: boolean;
  readonly aggregate_schema: string | null;
  readonly aggregate_name: string | null;
  readonly dimensions: readonly DimensionRow[];
  readonly chunks: string;
  readonly rows: number;
  readonly bytes: string;
  readonly compressed: string;
  readonly retention: string | null;
};

/** Names lead to OIDs through pg_class, since a cast to regclass needs USAGE on the schema. */
function hypertablesSql(catalog: TimescaleCatalog): string {
  const state = catalog.hypertableHasCompressedState ? 'h.compression_state' : '0';
  const jobs = catalog.jobsInCatalog ? '_timescaledb_catalog' : '_timescaledb_config';
  return `
WITH sized AS (
  SELECT ch.hypertable_id, ch.status, ${CHUNK_SIZE_SQL}
  FROM ${chunkRelationsSql(catalog)}
  LEFT JOIN _timescaledb_catalog.compression_chunk_size z ON z.chunk_id = ch.id
), total AS (
  SELECT hypertable_id, count(*) AS chunks, sum(greatest(rows, 0)) AS rows, sum(bytes) AS bytes,
         count(*) FILTER (WHERE status & 1 <> 0) AS compressed
  FROM sized GROUP BY hypertable_id
), policy AS (
  SELECT hypertable_id, min(coalesce(config ->> 'drop_after', config ->> 'drop_created_before')) AS retention
  FROM ${jobs}.bgw_job WHERE proc_name = 'policy_retention' GROUP BY hypertable_id
)
SELECT h.id, r.oid::bigint AS oid, h.schema_name AS schema, h.table_name AS name,
       h.associated_schema_name AS chunk_schema, h.associated_table_prefix AS chunk_prefix,
       ${state} = 1 OR h.status & 4 <> 0 AS compression,
       ca.user_view_schema AS aggregate_schema, ca.user_view_name AS aggregate_name, d.dimensions,
       coalesce(t.chunks, 0) AS chunks, coalesce(t.rows, 0) AS rows, coalesce(t.bytes, 0) AS bytes,
       coalesce(t.compressed, 0) AS compressed, p.retention
FROM _timescaledb_catalog.hypertable h
JOIN pg_namespace n ON n.nspname = h.schema_name
JOIN pg_class r ON r.relnamespace = n.oid AND r.relname = h.table_name
LEFT JOIN _timescaledb_catalog.continuous_agg ca ON ca.mat_hypertable_id = h.id
CROSS JOIN LATERAL (
  SELECT json_agg(json_build_object(
           'column', d.column_name, 'type', format_type(d.column_type::oid, NULL),
           'interval_length', d.interval_length::text, 'slices', d.num_slices,
           'has_function', d.partitioning_func IS NOT NULL) ORDER BY d.id) AS dimensions
  FROM _timescaledb_catalog.dimension d WHERE d.hypertable_id = h.id
) d
LEFT JOIN total t ON t.hypertable_id = h.id
LEFT JOIN policy p ON p.hypertable_id = h.id
WHERE ${state} <> 2 AND d.dimensions IS NOT NULL
ORDER BY h.id`;
}

/**
 * Every hypertable of the database, materialization hypertables too, but not the internal compressed ones (up to 2.28).
 * Sizes are from statistics that are there already: no chunk is opened. One query.
 */
export async function listHypertables(
  client: ClientBase,
  catalog: TimescaleCatalog,
): Promise<readonly { readonly hypertable: Hypertable; readonly stats: HypertableStats }[]> {
  const { rows } = await client.query<HypertableRow>(hypertablesSql(catalog));
  return rows.map((row) => ({ hypertable: toHypertable(row), stats: toStats(row) }));
}

function toHypertable(row: HypertableRow): Hypertable {
  return {
    id: row.id,
    oid: Number(row.oid),
    schema: row.schema,
    name: row.name,
    chunkSchema: row.chunk_schema,
    chunkPrefix: row.chunk_prefix,
    dimensions: row.dimensions.map(toDimension),
    compression: row.compression,
    continuousAggregate:
      row.aggregate_schema === null || row.aggregate_name === null
        ? null
        : { schema: row.aggregate_schema, name: row.aggregate_name },
  };
}

function toStats(row: HypertableRow): HypertableStats {
  return {
    chunks: Number(row.chunks),
    approximateRows: Math.round(row.rows),
    approximateBytes: Number(row.bytes),
    compressedChunks: Number(row.compressed),
    retention: row.retention,
  };
}

function toDimension(row: DimensionRow): Dimension {
  return {
    column: row.column,
    kind: row.interval_length === null ? 'closed' : 'open',
    type: row.type,
    intervalLength: row.interval_length === null ? null : BigInt(row.interval_length),
    slices: row.slices,
    hasPartitioningFunction: row.has_function,
  };
}

/**
 * FROM items `ch` (catalog row), `r` (pg_class) and `n` (pg_namespace) of every chunk that has a relation. Up to 2.28
 * the compressed relations are among them, under their own, internal hypertables.
 */
export function chunkRelationsSql(catalog: TimescaleCatalog): string {
  if (catalog.chunkHasRelid) {
    return `_timescaledb_catalog.chunk ch
JOIN pg_class r ON r.oid = ch.relid
JOIN pg_namespace n ON n.oid = r.relnamespace`;
  }
  return `_timescaledb_catalog.chunk ch
JOIN pg_namespace n ON n.nspname = ch.schema_name
JOIN pg_class r ON r.relnamespace = n.oid AND r.relname = ch.table_name${catalog.chunkHasDropped ? ' AND NOT ch.dropped' : ''}`;
}

/**
 * Select list items `rows` and `bytes` of a chunk, over `r` and its row `z` of compression_chunk_size. Compressing
 * empties the heap and its statistics; what was compressed is known from then only.
 */
export const CHUNK_SIZE_SQL = `CASE WHEN r.reltuples < 0 AND z.chunk_id IS NULL THEN -1
     ELSE greatest(r.reltuples, 0) + coalesce(z.numrows_pre_compression, 0) END::float8 AS rows,
r.relpages * current_setting('block_size')::bigint
  + coalesce(z.compressed_heap_size + z.compressed_toast_size, 0) AS bytes`;

export type HypertableStats = {
  readonly chunks: number;
  /** As of the chunks' last ANALYZE and compression; chunks never analyzed count as empty. */
  readonly approximateRows: number;
  readonly approximateBytes: number;
  readonly compressedChunks: number;
  /** What the retention policy drops after: an interval, or a number in the integer dimension's unit. */
  readonly retention: string | null;
};
