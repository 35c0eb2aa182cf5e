/** A small source as the system catalog would describe it: one hypertable, one table, one view. */
import type { ConfiguredStream } from '../src/airbyte/protocol.ts';
import { type Config, loadSpec, parseConfig } from '../src/config.ts';
import type { SourceModel } from '../src/source-model.ts';
import { planSync, type SyncStream } from '../src/plan.ts';
import type { Column, Relation } from '../src/postgres/relations.ts';
import type { Hypertable } from '../src/timescaledb/hypertables.ts';

const spec = await loadSpec();
const MINIMAL = { host: 'db', port: 5432, database: 'metrics', username: 'reader' };

export const STANDARD: Config = parseConfig(MINIMAL, spec);
export const CDC: Config = parseConfig(
  {
    ...MINIMAL,
    replication_method: {
      method: 'CDC',
      replication_slot: 'airbyte_slot',
      publication: 'airbyte_publication',
    },
  },
  spec,
);

export const INT4 = 23;
export const TEXT = 25;
const FLOAT8 = 701;
const TIMESTAMPTZ = 1184;

export function column(name: string, typeOid: number, changes: Partial<Column> = {}): Column {
  return { name, typeOid, typmod: -1, dimensions: 0, notNull: false, generated: false, ...changes };
}

export function relation(
  oid: number,
  schema: string,
  name: string,
  changes: Partial<Relation> = {},
): Relation {
  const primaryKey = changes.primaryKey ?? ['id'];
  return {
    oid,
    schema,
    name,
    kind: 'table',
    columns: [column('id', INT4, { notNull: true }), column('note', TEXT)],
    primaryKey,
    replicaIdentity: 'default',
    identity: primaryKey,
    logged: true,
    heap: true,
    rowSecurity: false,
    selectable: true,
    rowEstimate: 10,
    byteEstimate: 1000,
    ...changes,
  };
}

export const METRICS = relation(1000, 'public', 'metrics', {
  columns: [
    column('ts', TIMESTAMPTZ, { notNull: true }),
    column('device', INT4, { notNull: true }),
    column('value', FLOAT8),
    column('twice', FLOAT8, { generated: true }),
  ],
  primaryKey: ['ts', 'device'],
  heap: false,
});
export const NOTES = relation(2000, 'public', 'notes');
export const REPORT = relation(3000, 'public', 'report', { kind: 'view', primaryKey: [] });

export const HYPERTABLE: Hypertable = {
  id: 1,
  oid: METRICS.oid,
  schema: 'public',
  name: 'metrics',
  chunkSchema: '_timescaledb_internal',
  chunkPrefix: '_hyper_1',
  dimensions: [
    dimension('device', 'closed', 'integer'),
    dimension('ts', 'open', 'timestamp with time zone'),
  ],
  compression: true,
  continuousAggregate: null,
};

function dimension(name: string, kind: 'open' | 'closed', type: string) {
  return {
    column: name,
    kind,
    type,
    intervalLength: kind === 'open' ? 86_400_000_000n : null,
    slices: kind === 'open' ? null : 4,
    hasPartitioningFunction: kind === 'closed',
  };
}

export function sourceOf(relations: readonly Relation[]): SourceModel {
  return {
    relations,
    hypertables: new Map([[HYPERTABLE.oid, HYPERTABLE]]),
    continuousAggregates: new Map(),
    parentOnly: new Set(),
    stats: new Map(),
    timescale: null,
    types: new Map(),
  };
}

export const SOURCE = sourceOf([METRICS, NOTES, REPORT]);

const CDC_COLUMNS = ['_ab_cdc_lsn', '_ab_cdc_updated_at', '_ab_cdc_deleted_at', '_ab_cdc_cursor'];

/** A stream of the configured catalog with all its columns selected. */
export function configured(
  from: Relation,
  changes: Partial<Omit<ConfiguredStream, 'stream'>> & {
    readonly namespace?: string | null;
    readonly select?: readonly string[];
  } = {},
): ConfiguredStream {
  const { namespace = from.schema, select, ...rest } = changes;
  const names = select ?? [...from.columns.map(({ name }) => name), ...CDC_COLUMNS];
  return {
    stream: {
      name: from.name,
      namespace,
      json_schema: {
        type: 'object',
        properties: Object.fromEntries(names.map((name) => [name, {}])),
      },
    },
    sync_mode: 'incremental',
    ...rest,
  };
}

/** The stream of a sync that reads this relation alone. */
export function planned(from: Relation, config: Config = CDC): SyncStream {
  const { streams } = planSync([configured(from)], sourceOf([from]), config);
  if (streams[0] === undefined) throw new Error(`${from.name} was not planned`);
  return streams[0];
}
