/**
 * SELECT on all that a stream consists of. Chunks and partitions are read directly, so a grant on the parent alone does not
 * do; and the change stream takes no privilege at all, so that a sync would go on with rows that it may not read any more.
 */
import { type ClientBase, escapeIdentifier } from 'pg';
import { failure, type Finding, listed, listedSql, tableLabel, tableSql } from './check-finding.ts';
import type { ServerFacts } from './check-server.ts';
import type { Config } from './config.ts';
import { ConnectorError } from './errors.ts';
import { label, type SyncStream } from './plan.ts';
import { insertsPublication, type TableName } from './postgres/publication.ts';
import { type Leaf, listLeaves } from './postgres/relations.ts';
import type { SourceModel } from './source-model.ts';
import { type Chunk, listChunks } from './timescaledb/chunks.ts';

/**
 * Before anything of a CDC sync is published or read.
 * @param leaves of the partitioned streams.
 * @throws ConnectorError (config) for the first stream of which the role may not read a part.
 */
export async function refuseUnreadable(
  client: ClientBase,
  streams: readonly SyncStream[],
  leaves: readonly Leaf[],
  chunksOf: (stream: SyncStream) => readonly Chunk[],
): Promise<void> {
  for (const stream of streams) {
    const { relation } = stream;
    const parts: readonly (TableName & { readonly selectable: boolean })[] = [
      ...leaves.filter(({ root }) => root === relation.oid),
      ...chunksOf(stream),
    ];
    const closed: readonly TableName[] = parts.filter(({ selectable }) => !selectable);
    const whole = relation.selectable || (await mayReadColumns(client, stream));
    if (whole && closed.length === 0) continue;
    const what = stream.hypertable === null ? 'partitions' : 'chunks';
    const tables = whole ? closed : [relation];
    throw new ConnectorError(
      whole
        ? `${label(stream.name)} cannot be read: this role may not select from ${closed.length} of its ${what} (${listed(closed.map(tableLabel))}).`
        : `${label(stream.name)} cannot be read: this role may not select from it.`,
      {
        kind: 'config_error',
        fix: `${listedSql('GRANT SELECT ON ', tables.map(tableSql)).replace(';', ' TO')} the role, or take the stream out of the connection.`,
        stream: stream.name,
      },
    );
  }
}

/** Asked only where some column of the table is closed to the role: it need not be one that the stream selects. */
async function mayReadColumns(client: ClientBase, stream: SyncStream): Promise<boolean> {
  const { rows } = await client.query<{ may: boolean | null }>(
    `SELECT bool_and(pg_catalog.has_column_privilege($1::oid, name, 'SELECT')) AS may
       FROM unnest($2::text[]) AS name`,
    [stream.relation.oid, stream.columns.map(({ name }) => name)],
  );
  return rows[0]?.may !== false;
}

/** Tables that somebody has published for this connection, or whose partitions may be read, and that show as no stream. */
const HIDDEN = `
SELECT n.nspname AS schema, c.relname AS name
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname !~ '^(pg_|_timescaledb_)'
   AND (cardinality($1::text[]) = 0 OR n.nspname = ANY ($1::text[]))
   AND NOT EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid)
   AND NOT (has_schema_privilege(n.oid, 'USAGE') AND has_any_column_privilege(c.oid, 'SELECT'))
   AND (EXISTS (SELECT FROM pg_publication_rel m JOIN pg_publication p ON p.oid = m.prpubid
                 WHERE m.prrelid = c.oid AND p.pubname = ANY ($2::text[]))
        OR c.relkind = 'p' AND EXISTS (
             SELECT FROM pg_partition_tree(c.oid) t
              WHERE t.isleaf AND t.level > 0 AND has_any_column_privilege(t.relid, 'SELECT')))
 ORDER BY n.nspname, c.relname`;

/** What `check` says of it. A fixed number of queries. */
export async function unreadable(
  client: ClientBase,
  config: Config,
  server: ServerFacts,
  source: SourceModel,
): Promise<readonly Finding[]> {
  const { replication } = config;
  const names =
    replication.method === 'CDC'
      ? [replication.publication, insertsPublication(replication.publication)]
      : [];
  const { rows: hidden } = await client.query<{ schema: string; name: string }>(HIDDEN, [
    config.schemas,
    names,
  ]);
  const to = ` TO ${escapeIdentifier(server.role)};`;
  const grant = (tables: readonly Pick<TableName, 'schema' | 'name'>[]): string =>
    listedSql('GRANT SELECT ON ', tables.map(tableSql)).replace(';', to);
  const findings =
    hidden.length === 0
      ? []
      : [
          failure(
            `This role may not select from ${listed(hidden.map(tableLabel))}, though it is published for this connection or parts of it may be read: as a stream it cannot be synced.`,
            grant(hidden),
          ),
        ];
  const closed = await closedParts(client, source);
  if (closed.length === 0) return findings;
  return [
    ...findings,
    failure(
      `This role may select from tables, but not from all of their partitions or chunks, which are read directly: ${listed(closed.map(tableLabel))}.`,
      grant(closed),
    ),
  ];
}

async function closedParts(client: ClientBase, source: SourceModel): Promise<readonly TableName[]> {
  const readable = source.relations.filter(({ selectable }) => selectable);
  const partitioned = readable.filter(({ kind }) => kind === 'partitioned').map(({ oid }) => oid);
  const ids = readable.flatMap(({ oid }) => source.hypertables.get(oid)?.id ?? []);
  const parts: readonly (TableName & { readonly selectable: boolean })[] = [
    ...(await listLeaves(client, partitioned)),
    ...(source.timescale === null ? [] : await listChunks(client, source.timescale, ids)),
  ];
  return parts.filter(({ selectable }) => !selectable);
}
