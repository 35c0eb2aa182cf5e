/**
 * What can be read: every table, view, hypertable and continuous aggregate as one stream. The number of queries is fixed,
 * whatever the number of tables and chunks.
 */
import type { ClientBase } from 'pg';
import type { AirbyteCatalog, AirbyteStream, JsonObject, SyncMode } from './airbyte/protocol.ts';
import { columnType, isCursorType } from './column-types.ts';
import type { Config } from './config.ts';
import { listRelations, type Relation } from './postgres/relations.ts';
import { CHUNK_COLUMN } from './record.ts';
import {
  hasChanges,
  hasColumnstore,
  hasXmin,
  keyColumns,
  loadSource,
  type SourceModel,
} from './source-model.ts';
import type { Materialization } from './timescaledb/continuous-aggregates.ts';
import type { Dimension, Hypertable } from './timescaledb/hypertables.ts';

/** Columns that every CDC stream has, with or without a key: destinations refuse a catalog whose cursor is not in it. */
const CDC_PROPERTIES: JsonObject = {
  _ab_cdc_lsn: { type: 'number' },
  _ab_cdc_updated_at: { type: 'string' },
  _ab_cdc_deleted_at: { type: 'string' },
  _ab_cdc_cursor: { type: 'number', airbyte_type: 'integer' },
};

const CHUNK_PROPERTY: JsonObject = { [CHUNK_COLUMN]: { type: 'string' } };

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
      ...annotation('continuous aggregate', aggregate?.hypertable, source),
    },
    ...syncModes(relation, source, config),
    source_defined_primary_key: keyColumns(relation, config).map((column) => [column]),
    is_resumable: isResumable(relation, source, config),
  };
}

function isResumable(relation: Relation, source: SourceModel, config: Config): boolean {
  if (source.parentOnly.has(relation.oid)) return false;
  if (hasChanges(relation, source, config)) return true;
  return relation.kind !== 'view' && relation.kind !== 'foreign table';
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
  const aggregate = source.continuousAggregates.get(relation.oid);
  if (aggregate !== undefined && config.replication.method === 'CDC') {
    warnings.push(...aggregateWarnings(name, aggregate, hasChanges(relation, source, config)));
  }
  if (config.replication.method === 'Xmin' && hasColumnstore(hypertable, source)) {
    warnings.push(
      `The hypertable "${name}" uses the columnstore, whose rows have no xmin: it can only be read by full refresh. Use CDC or a cursor.`,
    );
  }
  return warnings;
}

/** Why the changes of a continuous aggregate cannot be followed. */
function aggregateWarnings(
  name: string,
  aggregate: Materialization,
  followed: boolean,
): readonly string[] {
  if (followed) return [];
  const { schema, name: table } = aggregate.hypertable;
  const full = `The continuous aggregate "${name}" can only be read in full`;
  if (aggregate.groupColumns.length === 0) {
    return [`${full}: its rows cannot be told apart by the columns that it shows.`];
  }
  if (!aggregate.selectable) {
    return [`${full}: this role may not select from "${schema}"."${table}", which holds its rows.`];
  }
  return [
    `${full}. To follow its refreshes its owner can run: ALTER TABLE "${schema}"."${table}" REPLICA IDENTITY FULL;`,
  ];
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
