/**
 * The source as the system catalog describes it: what can be read, where the rows of each lie, what tells them apart and
 * whether their changes can be followed. What discover shows, check asks and a sync starts from.
 */
import type { ClientBase } from 'pg';
import { isBuiltInType, type TypeCatalog } from './column-types.ts';
import type { Config } from './config.ts';
import { listRelations, type Relation } from './postgres/relations.ts';
import { loadTypes } from './postgres/types.ts';
import { listStorage } from './timescaledb/chunks.ts';
import { listMaterializations, type Materialization } from './timescaledb/continuous-aggregates.ts';
import {
  type Hypertable,
  type HypertableStats,
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
  readonly continuousAggregates: ReadonlyMap<number, Materialization>;
  /** Hypertables when `timescaledb_support` is off: only SELECT from the parent as a whole reads them. */
  readonly parentOnly: ReadonlySet<number>;
  /** By hypertable id. */
  readonly stats: ReadonlyMap<number, HypertableStats>;
  readonly timescale: TimescaleCatalog | null;
  readonly types: TypeCatalog;
};

/** Also what a sync starts from. */
export async function loadSource(client: ClientBase, config: Config): Promise<SourceModel> {
  const timescale = await probeTimescale(client);
  const rows = timescale === null ? [] : await listHypertables(client, timescale);
  const found = rows.map(({ hypertable }) => hypertable);
  const stats = new Map(rows.map((row) => [row.hypertable.id, row.stats]));
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
  const aggregates = aggregatesByView(listed, await listMaterializations(client, found));
  const { support } = config.timescaledb;
  return {
    relations: listed.map((relation) => {
      const hypertable = byOid.get(relation.oid);
      if (hypertable !== undefined) return overChunks(relation, stats.get(hypertable.id));
      const aggregate = aggregates.get(relation.oid);
      return aggregate === undefined ? relation : overGroups(relation, aggregate, stats);
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

/** A continuous aggregate: a view, whose rows are told apart by what its query groups by. */
function overGroups(
  relation: Relation,
  aggregate: Materialization,
  stats: ReadonlyMap<number, HypertableStats>,
): Relation {
  return {
    ...overChunks(relation, stats.get(aggregate.hypertable.id)),
    primaryKey: aggregate.groupColumns,
    replicaIdentity: aggregate.fullIdentity ? 'full' : 'nothing',
  };
}

function aggregatesByView(
  relations: readonly Relation[],
  materializations: ReadonlyMap<number, Materialization>,
): ReadonlyMap<number, Materialization> {
  const views = new Map(
    relations
      .filter((relation) => relation.kind === 'view')
      .map((view) => [JSON.stringify([view.schema, view.name]), view.oid]),
  );
  const found = new Map<number, Materialization>();
  for (const materialization of materializations.values()) {
    const aggregate = materialization.hypertable.continuousAggregate;
    if (aggregate === null) continue;
    const oid = views.get(JSON.stringify([aggregate.schema, aggregate.name]));
    if (oid !== undefined) found.set(oid, materialization);
  }
  return found;
}

/** Whether its changes can be had from the WAL. */
export function hasChanges(relation: Relation, source: SourceModel, config: Config): boolean {
  if (config.replication.method !== 'CDC') return false;
  const aggregate = source.continuousAggregates.get(relation.oid);
  if (aggregate !== undefined) return canFollow(relation, aggregate);
  return (
    (relation.kind === 'table' || relation.kind === 'partitioned') &&
    relation.logged &&
    !source.parentOnly.has(relation.oid)
  );
}

/**
 * A continuous aggregate whose groups can be told apart, and whose materialized rows this role may read. A refresh
 * deletes and inserts: published without a replica identity, it would fail.
 */
function canFollow(relation: Relation, aggregate: Materialization): boolean {
  const stored = new Set(aggregate.columns);
  return (
    aggregate.fullIdentity &&
    aggregate.selectable &&
    aggregate.groupColumns.length > 0 &&
    relation.columns.every((column) => stored.has(column.name))
  );
}

/** The relation whose rows and changes a CDC stream is made of: of a continuous aggregate the hypertable behind it. */
export function changeRelation(relation: Relation, source: SourceModel): Relation {
  const aggregate = source.continuousAggregates.get(relation.oid);
  if (aggregate === undefined) return relation;
  const { oid, schema, name } = aggregate.hypertable;
  const notNull = new Set(aggregate.notNull);
  const columns = relation.columns.map((column) => ({
    ...column,
    notNull: notNull.has(column.name),
  }));
  return { ...relation, oid, schema, name, columns, kind: 'table' };
}

/** The hypertable that a relation's rows lie in: its own, or the one behind a continuous aggregate. */
export function hypertableOf(relation: Relation, source: SourceModel): Hypertable | null {
  const aggregate = source.continuousAggregates.get(relation.oid);
  return source.hypertables.get(relation.oid) ?? aggregate?.hypertable ?? null;
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

/** Whether rows of it are, or will be, compressed. */
export function hasColumnstore(hypertable: Hypertable | undefined, source: SourceModel): boolean {
  if (hypertable === undefined) return false;
  return hypertable.compression || (source.stats.get(hypertable.id)?.compressedChunks ?? 0) > 0;
}

/**
 * Whether its rows carry the transaction that wrote them. Not so rows of views and of other servers, and rows in the
 * columnstore: "transparent decompression only supports tableoid system column".
 */
export function hasXmin(relation: Relation, source: SourceModel): boolean {
  const hypertable = source.hypertables.get(relation.oid);
  if (hypertable !== undefined) return !hasColumnstore(hypertable, source);
  return relation.heap || relation.kind === 'partitioned';
}
