/**
 * What can be read: every table, view, hypertable and continuous aggregate as one stream. The number of queries is fixed,
 * whatever the number of tables and chunks.
 */
import type { ClientBase } from 'pg';
import type { AirbyteCatalog, AirbyteStream, JsonObject, SyncMode } from './airbyte/protocol.ts';
import { columnType, isBuiltInType, isCursorType, type TypeCatalog } from './column-types.ts';
import type { Config } from './config.ts';
import { listRelations, type Relation } from './postgres/relations.ts';
import { loadTypes } from './postgres/types.ts';
import { listStorage } from './timescaledb/chunks.ts';
import {
  type Dimension,
  type Hypertable,
  type HypertableStats,
  hypertableStats,
  listHypertables,
  probeTimescale,
  type TimescaleCatalog,
} from './timescaledb/hypertables.ts';

/** The source as the connector sees it. */
export type SourceModel = {
  readonly relations: readonly Relation[];
  /** By OID; materialization hypertables too, though they are no relations of the model. Empty without support. */
  readonly hypertables: ReadonlyMap<number, Hypertable>;
  /** OIDs of views that are continuous aggregates, with the hypertable that holds their rows. Empty without support. */
  readonly continuousAggregates: ReadonlyMap<number, Hypertable>;
  /** Hypertables when `timescaledb_support` is off: only SELECT from the parent as a whole reads them. */
  readonly parentOnly: ReadonlySet<number>;
  /** By hypertable id. */
  readonly stats: ReadonlyMap<number, HypertableStats>;
  readonly timescale: TimescaleCatalog | null;
  readonly types: TypeCatalog;
};

/** Columns that every CDC stream has, with or without a key: destinations refuse a catalog whose cursor is not in it. */
const CDC_PROPERTIES: JsonObject = {
  _ab_cdc_lsn: { type: 'number' },
  _ab_cdc_updated_at: { type: 'string' },
  _ab_cdc_deleted_at: { type: 'string' },
  _ab_cdc_cursor: { type: 'number', airbyte_type: 'integer' },
};

const CHUNK_PROPERTY: JsonObject = { _ab_timescaledb_chunk: { type: 'string' } };

/** The catalog, and what a person should know about it before choosing streams. */
export async function discover(
  client: ClientBase,
  config: Config,
): Promise<{ readonly catalog: AirbyteCatalog; readonly warnings: readonly string[] }> {
  const source = await loadSource(client, config);
  const streams = source.relations
    .map((relation) => toStream(relation, source, config))
    .toSorted((a, b) => compare(a.namespace, b.namespace) || compare(a.name, b.name));
  const warnings = [
    ...(await schemaWarnings(client, config, streams.length === 0)),
    ...source.relations.flatMap((relation) => relationWarnings(relation, source, config)),
  ];
  return { catalog: { streams }, warnings };
}

/** Also what a sync starts from. */
export async function loadSource(client: ClientBase, config: Config): Promise<SourceModel> {
  const timescale = await probeTimescale(client);
  const found = timescale === null ? [] : await listHypertables(client, timescale);
  const ids = found.map((hypertable) => hypertable.id);
  const stats = timescale === null ? new Map() : await hypertableStats(client, timescale, ids);
  const storage = timescale === null ? [] : await listStorage(client, timescale);
  const materialized = found.filter((it) => it.continuousAggregate !== null).map((it) => it.oid);
  const listed = await listRelations(client, config.schemas, config.checkPrivileges, [
    ...storage,
    ...materialized,
  ]);
  const typeOids = new Set(listed.flatMap((it) => it.columns.map((column) => column.typeOid)));
  const types = await loadTypes(
    client,
    [...typeOids].filter((oid) => !isBuiltInType(oid)),
  );

  const byOid = new Map(found.map((hypertable) => [hypertable.oid, hypertable]));
  const aggregates = aggregatesByView(listed, found);
  const { support } = config.timescaledb;
  return {
    relations: listed.map((relation) => {
      const hypertable = byOid.get(relation.oid) ?? aggregates.get(relation.oid);
      return hypertable === undefined ? relation : overChunks(relation, stats.get(hypertable.id));
    }),
    hypertables: support ? byOid : new Map(),
    continuousAggregates: support ? aggregates : new Map(),
    parentOnly: support ? new Set() : new Set(byOid.keys()),
    stats,
    timescale,
    types,
  };
}

/** The root's own heap is empty: its size says nothing, and reading it by ctid would find nothing. */
function overChunks(relation: Relation, stats: HypertableStats | undefined): Relation {
  return {
    ...relation,
    heap: false,
    rowEstimate: stats?.approximateRows ?? -1,
    byteEstimate: stats?.approximateBytes ?? 0,
  };
}

function aggregatesByView(
  relations: readonly Relation[],
  hypertables: readonly Hypertable[],
): ReadonlyMap<number, Hypertable> {
  const views = new Map(
    relations
      .filter((relation) => relation.kind === 'view')
      .map((view) => [JSON.stringify([view.schema, view.name]), view.oid]),
  );
  const found = new Map<number, Hypertable>();
  for (const hypertable of hypertables) {
    const aggregate = hypertable.continuousAggregate;
    if (aggregate === null) continue;
    const oid = views.get(JSON.stringify([aggregate.schema, aggregate.name]));
    if (oid !== undefined) found.set(oid, hypertable);
  }
  return found;
}

function toStream(relation: Relation, source: SourceModel, config: Config): AirbyteStream {
  const hypertable = source.hypertables.get(relation.oid);
  const aggregate = source.continuousAggregates.get(relation.oid);
  const columns = relation.columns.map((column): [string, JsonObject] => {
    const { typeOid, typmod, dimensions } = column;
    return [column.name, columnType(typeOid, typmod, dimensions, source.types).jsonSchema];
  });
  const properties: JsonObject = {
    ...Object.fromEntries(columns),
    ...(hypertable !== undefined && config.timescaledb.recordMetadata ? CHUNK_PROPERTY : {}),
    ...(hasChanges(relation, source, config) ? CDC_PROPERTIES : {}),
  };
  return {
    name: relation.name,
    namespace: relation.schema,
    json_schema: {
      type: 'object',
      properties,
      ...annotation('hypertable', hypertable, source),
      ...annotation('continuous aggregate', aggregate, source),
    },
    ...syncModes(relation, source, config),
    source_defined_primary_key: keyColumns(relation, config).map((column) => [column]),
    is_resumable: isResumable(relation, source),
  };
}

/** Whether its changes can be had from the WAL. */
export function hasChanges(relation: Relation, source: SourceModel, config: Config): boolean {
  return (
    config.replication.method === 'CDC' &&
    (relation.kind === 'table' || relation.kind === 'partitioned') &&
    relation.logged &&
    !source.parentOnly.has(relation.oid)
  );
}

function isResumable(relation: Relation, source: SourceModel): boolean {
  if (source.parentOnly.has(relation.oid)) return false;
  return relation.kind !== 'view' && relation.kind !== 'foreign table';
}

/**
 * The primary key, or for tables without one the unique index that is the replica identity. Under CDC that index goes
 * first: a deletion carries its columns and no others.
 */
export function keyColumns(relation: Relation, config: Config): readonly string[] {
  const inWal = config.replication.method === 'CDC' && relation.replicaIdentity === 'index';
  const preferred = inWal ? relation.identity : relation.primaryKey;
  const columns = preferred.length > 0 ? preferred : [...relation.primaryKey, ...relation.identity];
  const readable = new Set(relation.columns.map((column) => column.name));
  return columns.every((column) => readable.has(column)) ? columns : [];
}

type SyncModes = Pick<
  AirbyteStream,
  'supported_sync_modes' | 'source_defined_cursor' | 'default_cursor_field'
>;

const FULL_REFRESH: SyncModes = {
  supported_sync_modes: ['full_refresh'],
  source_defined_cursor: false,
  default_cursor_field: [],
};

const BOTH: readonly SyncMode[] = ['full_refresh', 'incremental'];

const SOURCE_DEFINED: SyncModes = {
  supported_sync_modes: BOTH,
  source_defined_cursor: true,
  default_cursor_field: [],
};

function syncModes(relation: Relation, source: SourceModel, config: Config): SyncModes {
  if (source.parentOnly.has(relation.oid)) return FULL_REFRESH;
  switch (config.replication.method) {
    case 'CDC':
      if (!hasChanges(relation, source, config)) return FULL_REFRESH;
      return { ...SOURCE_DEFINED, default_cursor_field: ['_ab_cdc_cursor'] };
    case 'Xmin':
      return hasXmin(relation, source) ? SOURCE_DEFINED : FULL_REFRESH;
    case 'Standard':
      return cursorModes(relation, source);
    default:
      return config.replication satisfies never;
  }
}

/** Rows of the columnstore have no xmin: "transparent decompression only supports tableoid system column". */
function hasXmin(relation: Relation, source: SourceModel): boolean {
  return (
    relation.kind !== 'view' &&
    relation.kind !== 'foreign table' &&
    !hasColumnstore(source.hypertables.get(relation.oid), source)
  );
}

function hasColumnstore(hypertable: Hypertable | undefined, source: SourceModel): boolean {
  if (hypertable === undefined) return false;
  return hypertable.compression || (source.stats.get(hypertable.id)?.compressedChunks ?? 0) > 0;
}

function cursorModes(relation: Relation, source: SourceModel): SyncModes {
  const cursors = relation.columns.filter((column) => isCursorType(column.typeOid, source.types));
  if (cursors.length === 0) return FULL_REFRESH;
  const time = timeDimension(source.hypertables.get(relation.oid));
  return {
    supported_sync_modes: BOTH,
    source_defined_cursor: false,
    default_cursor_field: cursors.map((it) => it.name).filter((name) => name === time?.column),
  };
}

function timeDimension(hypertable: Hypertable | undefined): Dimension | undefined {
  return hypertable?.dimensions.find((dimension) => dimension.kind === 'open');
}

function annotation(
  kind: 'hypertable' | 'continuous aggregate',
  hypertable: Hypertable | undefined,
  source: SourceModel,
): JsonObject {
  if (hypertable === undefined) return {};
  const stats = source.stats.get(hypertable.id);
  const time = timeDimension(hypertable);
  const facts: JsonObject = {
    kind,
    dimensions: hypertable.dimensions.map((dimension) => ({
      column: dimension.column,
      type: dimension.type,
      ...(dimension.kind === 'open'
        ? { interval: formatInterval(dimension) }
        : { partitions: dimension.slices }),
    })),
    chunk_interval: time === undefined ? null : formatInterval(time),
    chunks: stats?.chunks ?? 0,
    approximate_rows: stats?.approximateRows ?? 0,
    approximate_bytes: stats?.approximateBytes ?? 0,
    compression: hasColumnstore(hypertable, source),
    retention: stats?.retention ?? null,
  };
  return { 'x-timescaledb': facts };
}

const TIME_TYPES: ReadonlySet<string> = new Set([
  'timestamp with time zone',
  'timestamp without time zone',
  'date',
  'uuid',
]);

const UNITS: readonly (readonly [string, bigint])[] = [
  ['day', 86_400_000_000n],
  ['hour', 3_600_000_000n],
  ['minute', 60_000_000n],
  ['second', 1_000_000n],
];

/** In the greatest unit that divides it, as PostgreSQL reads intervals; integers, which may pass 2^53, as digits. */
function formatInterval(dimension: Dimension): string {
  const length = dimension.intervalLength ?? 0n;
  if (!TIME_TYPES.has(dimension.type)) return String(length);
  const [name, size] = UNITS.find(([, unit]) => length % unit === 0n) ?? ['microsecond', 1n];
  const count = length / size;
  return `${count} ${name}${count === 1n ? '' : 's'}`;
}

/** What a person should know about a stream before choosing it. */
export function relationWarnings(
  relation: Relation,
  source: SourceModel,
  config: Config,
): readonly string[] {
  const name = `${relation.schema}.${relation.name}`;
  const hypertable = source.hypertables.get(relation.oid);
  const warnings: string[] = [];
  if (relation.rowSecurity && hypertable !== undefined) {
    warnings.push(
      `Row level security on the hypertable "${name}" has no effect here: chunks are read directly, policies do not apply to them, all rows will be synced.`,
    );
  } else if (relation.rowSecurity && hasChanges(relation, source, config)) {
    warnings.push(
      `Row level security on "${name}" filters the rows of the snapshot but not the changes: rows hidden from this role will be synced once they change. Use a role with BYPASSRLS.`,
    );
  }
  if (config.replication.method === 'Xmin' && hasColumnstore(hypertable, source)) {
    warnings.push(
      `The hypertable "${name}" uses the columnstore, whose rows have no xmin: it can only be read by full refresh. Use CDC or a cursor.`,
    );
  }
  return warnings;
}

/** Why streams that somebody expects are not there. */
export async function schemaWarnings(
  client: ClientBase,
  config: Config,
  isEmpty: boolean,
): Promise<readonly string[]> {
  const { rows } = await client.query<{ database: string; role: string; schemas: string[] }>(
    `SELECT current_database() AS database, current_user AS role,
            ARRAY (SELECT nspname::text FROM pg_namespace WHERE nspname = ANY ($1::text[])) AS schemas`,
    [config.schemas],
  );
  const [{ database, role, schemas } = { database: '', role: '', schemas: [] }] = rows;
  const warnings = config.schemas
    .filter((schema) => !schemas.includes(schema))
    .map(
      (schema) =>
        `The schema "${schema}" does not exist in the database "${database}"; names are case-sensitive.`,
    );
  if (!isEmpty) return warnings;
  const hidden = (await listRelations(client, config.schemas, false)).length;
  const reason =
    hidden === 0
      ? 'There are none: check `database` and `schemas`.'
      : `There are ${hidden}, but the role "${role}" may read none of them: GRANT USAGE ON SCHEMA ... and GRANT SELECT ON ALL TABLES IN SCHEMA ... to it.`;
  return [...warnings, `No table or view was found in the database "${database}". ${reason}`];
}

function compare(a: string, b: string): number {
  return a < b ? -1 : Number(a > b);
}
