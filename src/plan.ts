/**
 * From the configured catalog and the source to the streams of a sync: what is read of each, how, and by which columns.
 * Pure.
 */
import type { ConfiguredStream, JsonObject, SyncMode } from './airbyte/protocol.ts';
import { isCursorType, typeName } from './column-types.ts';
import type { Config } from './config.ts';
import { ConnectorError } from './errors.ts';
import type { Column, Relation } from './postgres/relations.ts';
import { CDC_COLUMNS, CHUNK_COLUMN } from './record.ts';
import { schemaChanges } from './schema-changes.ts';
import {
  changeRelation,
  hasChanges,
  hasColumnstore,
  hasXmin,
  hypertableOf,
  keyColumns,
  type SourceModel,
} from './source-model.ts';
import { type StreamName, streamKey } from './state.ts';
import type { Hypertable } from './timescaledb/hypertables.ts';

export type SyncStream = {
  readonly name: StreamName;
  readonly key: string;
  /** What its rows are read from and its changes come from: of a continuous aggregate under CDC the hypertable behind it. */
  readonly relation: Relation;
  readonly hypertable: Hypertable | null;
  readonly mode: 'cdc' | 'full_refresh' | 'cursor' | 'xmin';
  /** Of mode cursor. */
  readonly cursorField: string;
  /** Of mode cursor: its type, of a domain the base (`typname`). */
  readonly cursorType: string;
  /** The platform's ids of a full refresh, '' where there are none: only within one refresh is a finished stream left alone. */
  readonly refresh: string;
  /** What the records hold: selected by the user, and there. */
  readonly columns: readonly Column[];
  /** SQL: the rows that the publication shows; null: every one. */
  readonly rowFilter: string | null;
  /** Which of CDC_COLUMNS the records hold. */
  readonly cdcColumns: readonly string[];
  /** Whether the records hold CHUNK_COLUMN. */
  readonly namesChunk: boolean;
  /** What identifies a row; empty for a table without a key, whose rows are their own identity. */
  readonly identity: readonly string[];
  /**
   * Which deletions in the WAL may be moves, so that each counts only if its row is gone: 'none'; those of compressed
   * chunks, which maintenance can empty without a marker; 'all' where markers are missing, and of a continuous
   * aggregate, whose refresh deletes a group and inserts it again.
   */
  readonly doubtfulDeletes: 'none' | 'of compressed chunks' | 'all';
};

export type SyncPlan = {
  readonly streams: readonly SyncStream[];
  /** Configured, but not in the database (any more). */
  readonly missing: readonly StreamName[];
  readonly warnings: readonly string[];
};

/**
 * Checks the configured catalog's form.
 * @throws ConnectorError (config) naming what is wrong.
 */
export function parseCatalog(value: unknown): readonly ConfiguredStream[] {
  const streams = (value as { streams?: unknown } | null)?.streams;
  if (!Array.isArray(streams)) throw invalidCatalog('it has no `streams`');
  return streams.map((stream: unknown) => {
    const configured = stream as Partial<ConfiguredStream> | null;
    const name = configured?.stream?.name;
    if (typeof name !== 'string') throw invalidCatalog('a stream has no name');
    if (!isSyncMode(configured?.sync_mode)) {
      throw invalidCatalog(
        `the sync_mode of ${JSON.stringify(name)} must be "full_refresh" or "incremental"`,
      );
    }
    return configured as ConfiguredStream;
  });
}

function isSyncMode(value: unknown): value is SyncMode {
  return value === 'full_refresh' || value === 'incremental';
}

function invalidCatalog(what: string): ConnectorError {
  return new ConnectorError(`The configured catalog is not valid: ${what}.`, {
    kind: 'config_error',
    fix: 'Refresh the schema of the connection and save it.',
  });
}

export function planSync(
  catalog: readonly ConfiguredStream[],
  source: SourceModel,
  config: Config,
): SyncPlan {
  const streams: SyncStream[] = [];
  const missing: StreamName[] = [];
  const warnings: string[] = [];
  for (const configured of catalog) {
    const { name } = configured.stream;
    const namespace = configured.stream.namespace ?? '';
    const matches = source.relations.filter(
      (relation) => relation.name === name && (namespace === '' || relation.schema === namespace),
    );
    const relation = matches[0];
    if (relation === undefined || matches.length > 1) missing.push({ name, namespace });
    else streams.push(planStream(configured, relation, source, config, warnings));
  }
  const keys = new Set(streams.map((stream) => stream.key));
  if (keys.size < streams.length) throw invalidCatalog('it holds the same stream twice');
  return { streams, missing, warnings };
}

function planStream(
  configured: ConfiguredStream,
  relation: Relation,
  source: SourceModel,
  config: Config,
  warnings: string[],
): SyncStream {
  const name = { name: relation.name, namespace: relation.schema };
  const ownHypertable = source.hypertables.get(relation.oid) ?? null;
  const cursorField = cursorOf(configured, ownHypertable);
  const mode = modeOf(configured.sync_mode, relation, source, config, cursorField);
  // Without CDC a continuous aggregate is the view that it is, with what is not materialized yet.
  const hypertable = mode === 'cdc' ? hypertableOf(relation, source) : ownHypertable;
  if (configured.sync_mode === 'incremental' && mode === 'full_refresh') {
    warnings.push(`${label(name)} is read in full: ${WHY_IN_FULL[config.replication.method]}.`);
  }
  const selected = new Set(Object.keys(propertiesOf(configured)));
  warnings.push(...schemaChanges(label(name), propertiesOf(configured), relation, source));
  const cursor = mode === 'cursor' ? cursorColumn(configured, relation, cursorField, source) : null;
  const stream: SyncStream = {
    name,
    key: streamKey(name),
    relation: mode === 'cdc' ? changeRelation(relation, source) : relation,
    hypertable,
    mode,
    cursorField,
    cursorType: cursor === null ? '' : typeName(cursor.typeOid, source.types),
    refresh: refreshOf(configured),
    columns: relation.columns.filter(
      // The WAL does not carry generated columns, so a changed row would lose them: left out from the start.
      (column) => selected.has(column.name) && !(mode === 'cdc' && column.generated),
    ),
    rowFilter: null,
    cdcColumns: mode === 'cdc' ? CDC_COLUMNS.filter((column) => selected.has(column)) : [],
    namesChunk:
      config.timescaledb.recordMetadata && ownHypertable !== null && selected.has(CHUNK_COLUMN),
    identity: keyColumns(relation, config),
    doubtfulDeletes: doubtfulDeletes(hypertable, source),
  };
  if (mode === 'cdc') refuseUnmarkedMoves(stream, source);
  return stream;
}

const WHY_IN_FULL: Readonly<Record<Config['replication']['method'], string>> = {
  CDC: 'it has no changes in the WAL',
  Xmin: 'its rows have no xmin that tells when they were written',
  Standard: 'it has no cursor',
};

/** @throws ConnectorError (config) where it cannot be one. */
function cursorColumn(
  configured: ConfiguredStream,
  relation: Relation,
  cursorField: string,
  source: SourceModel,
): Column {
  const stream = { name: relation.name, namespace: relation.schema };
  const refuse = (what: string): ConnectorError =>
    new ConnectorError(what, {
      kind: 'config_error',
      fix: 'Choose another cursor for the stream.',
      stream,
    });
  const path = configured.cursor_field ?? [];
  if (path.length > 1) {
    throw refuse(
      `The cursor ${path.join(', ')} of ${label(stream)} is of several columns: it must be one.`,
    );
  }
  const column = relation.columns.find(({ name }) => name === cursorField);
  if (column === undefined) {
    throw refuse(`The cursor ${cursorField} of ${label(stream)} is not one of its columns.`);
  }
  if (!isCursorType(column.typeOid, source.types)) {
    throw refuse(
      `The cursor ${cursorField} of ${label(stream)} is of a type whose values have no order to follow.`,
    );
  }
  return column;
}

/** Rows that compression moves without a marker look inserted and deleted: only by a key can it be told that they were not. */
function refuseUnmarkedMoves(stream: SyncStream, source: SourceModel): void {
  const markers = source.timescale?.markers;
  if (stream.doubtfulDeletes !== 'all' || stream.identity.length > 0) return;
  // Policies delete from the heap what they have compressed; where deletes are not published that does not show.
  if (markers === 'not of policies' && stream.relation.replicaIdentity !== 'full') return;
  const why =
    markers === 'none'
      ? 'this server does not mark in the WAL what compression moves'
      : 'this version of TimescaleDB does not mark in the WAL what its policies recompress';
  throw new ConnectorError(
    `${label(stream.name)} has no key, and ${why}: moved rows would be taken for new or deleted ones.`,
    {
      kind: 'config_error',
      fix: 'Give it a primary key or a unique index as replica identity, or update TimescaleDB to 2.19 or later with timescaledb.enable_compression_wal_markers on, or read it by full refresh.',
      stream: stream.name,
    },
  );
}

function doubtfulDeletes(
  hypertable: Hypertable | null,
  source: SourceModel,
): SyncStream['doubtfulDeletes'] {
  if (hypertable === null || source.timescale === null) return 'none';
  if (hypertable.continuousAggregate !== null) return 'all';
  if (!hasColumnstore(hypertable, source)) return 'none';
  return source.timescale.markers === 'all moves' ? 'of compressed chunks' : 'all';
}

function modeOf(
  syncMode: SyncMode,
  relation: Relation,
  source: SourceModel,
  config: Config,
  cursorField: string,
): SyncStream['mode'] {
  if (syncMode === 'full_refresh') return 'full_refresh';
  switch (config.replication.method) {
    case 'CDC':
      return hasChanges(relation, source, config) ? 'cdc' : 'full_refresh';
    case 'Xmin':
      return hasXmin(relation, source) ? 'xmin' : 'full_refresh';
    case 'Standard':
      return cursorField === '' ? 'full_refresh' : 'cursor';
    default:
      return config.replication satisfies never;
  }
}

function refreshOf(configured: ConfiguredStream): string {
  const { sync_mode: syncMode, generation_id: generation, sync_id: sync } = configured;
  if (syncMode !== 'full_refresh' || generation == null || sync == null) return '';
  return `${generation}/${sync}`;
}

/** The user's choice, else the time dimension, else none. */
function cursorOf(configured: ConfiguredStream, hypertable: Hypertable | null): string {
  const chosen = configured.cursor_field?.[0];
  if (chosen !== undefined && chosen !== '') return chosen;
  return hypertable?.dimensions.find((dimension) => dimension.kind === 'open')?.column ?? '';
}

function propertiesOf(configured: ConfiguredStream): Readonly<Record<string, unknown>> {
  const properties = (configured.stream.json_schema as JsonObject | null)?.['properties'];
  return (properties ?? {}) as Readonly<Record<string, unknown>>;
}

/** How messages name a stream. */
export function label(stream: StreamName): string {
  return stream.namespace === '' ? stream.name : `${stream.namespace}.${stream.name}`;
}
