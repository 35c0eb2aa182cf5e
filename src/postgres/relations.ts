/**
 * The relations of the database as pg_catalog describes them: what can be read, by which columns, and what tells rows
 * apart. A fixed number of queries, whatever the number of relations; nothing here knows TimescaleDB.
 */
import type { ClientBase } from 'pg';

export type Column = {
  readonly name: string;
  readonly typeOid: number;
  readonly typmod: number;
  /** attndims as declared; 0 also for arrays in views and tables made by a query. */
  readonly dimensions: number;
  readonly notNull: boolean;
  /** Computed by the server, stored or virtual: SELECT shows it, the WAL (up to PostgreSQL 17) does not. */
  readonly generated: boolean;
};

type RelationKind = 'table' | 'partitioned' | 'view' | 'materialized view' | 'foreign table';

export type Relation = {
  readonly oid: number;
  readonly schema: string;
  readonly name: string;
  readonly kind: RelationKind;
  /** In the relation's order; without those that this role may not select, if privileges were to be checked. */
  readonly columns: readonly Column[];
  /** In key order; may name columns that are not in `columns`. */
  readonly primaryKey: readonly string[];
  readonly replicaIdentity: 'default' | 'full' | 'nothing' | 'index';
  /** What identifies a row in the WAL: the primary key under default, the index' columns under index, else nothing. */
  readonly identity: readonly string[];
  /** False for unlogged tables: their changes never reach the WAL, and no publication takes them. */
  readonly logged: boolean;
  /** Whether it can be read by ranges of ctid, which takes the privilege on the table, not on its columns. */
  readonly heap: boolean;
  /** Whether row level security would filter what the current role sees: not for its owner, superusers, BYPASSRLS. */
  readonly rowSecurity: boolean;
  /** Whether the role may use the schema and select every column. */
  readonly selectable: boolean;
  /** reltuples, summed over the leaves of a partitioned table; -1 when it was never analyzed. */
  readonly rowEstimate: number;
  /** The pages that the last VACUUM or ANALYZE counted, in bytes. */
  readonly byteEstimate: number;
};

/** A partition that holds rows. */
export type Leaf = {
  readonly oid: number;
  /** The top-level partitioned table that it belongs to, at whatever depth. */
  readonly root: number;
  readonly schema: string;
  readonly name: string;
  readonly kind: 'table' | 'foreign table';
  readonly heap: boolean;
  /** Whether this role may read it: a grant on the parent is not one on its partitions. */
  readonly selectable: boolean;
};

type RelationRow = {
  readonly oid: string;
  readonly schema: string;
  readonly name: string;
  readonly kind: string;
  readonly identity: string;
  readonly logged: boolean;
  readonly heap: boolean;
  readonly row_security: boolean;
  readonly columns: readonly Column[];
  readonly selectable: boolean;
  readonly primary_key: readonly string[] | null;
  readonly key_immediate: boolean | null;
  readonly identity_index: readonly string[] | null;
  readonly rows: number;
  readonly bytes: string;
};

type LeafRow = {
  readonly oid: string;
  readonly root: string;
  readonly schema: string;
  readonly name: string;
  readonly kind: string;
  readonly heap: boolean;
  readonly selectable: boolean;
};

/** https://www.postgresql.org/docs/current/catalog-pg-class.html */
const KINDS: Readonly<Record<string, RelationKind>> = {
  r: 'table',
  p: 'partitioned',
  v: 'view',
  m: 'materialized view',
  f: 'foreign table',
};

const IDENTITIES: Readonly<Record<string, Relation['replicaIdentity']>> = {
  d: 'default',
  f: 'full',
  n: 'nothing',
  i: 'index',
};

/** Schemas that belong to the server or to an extension's machinery: never the user's data. */
const USER_SCHEMA = `(n.nspname !~ '^(pg_|_timescaledb_)'
    AND n.nspname NOT IN ('information_schema', 'timescaledb_information', 'timescaledb_experimental',
                          'toolkit_experimental'))`;

/**
 * SQL over a relation's pg_class row: whether REPLICA IDENTITY FULL is as good as none. From PostgreSQL 18 on the server
 * refuses to update such a table while it is published, if it has generated columns that the publication leaves out:
 * https://www.postgresql.org/docs/18/logical-replication-gencols.html
 */
export function fullIsNoIdentitySql(relation: string): string {
  return `(current_setting('server_version_num')::int >= 180000
           AND EXISTS (SELECT FROM pg_attribute g WHERE g.attrelid = ${relation}.oid
                        AND g.attgenerated <> '' AND NOT g.attisdropped))`;
}

/**
 * $1 schemas (empty for all), $2 whether privileges are checked, $3 OIDs to leave out.
 * The leaves carry a partitioned table's statistics: up to PostgreSQL 13 always, and later too until somebody runs
 * ANALYZE on the parent, since autovacuum does not.
 */
const RELATIONS = `
WITH RECURSIVE partition (root, oid) AS (
  SELECT c.oid, c.oid FROM pg_class c WHERE c.relkind = 'p' AND NOT c.relispartition
  UNION ALL
  SELECT p.root, i.inhrelid FROM partition p JOIN pg_inherits i ON i.inhparent = p.oid
), partition_total AS (
  SELECT p.root, sum(greatest(c.reltuples, 0)) AS reltuples, sum(c.relpages) AS relpages
  FROM partition p JOIN pg_class c ON c.oid = p.oid AND c.relkind <> 'p'
  GROUP BY p.root
), relation AS (
  SELECT c.*, n.nspname, has_schema_privilege(n.oid, 'USAGE') AS may_use,
         has_table_privilege(c.oid, 'SELECT') AS may_select
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relpersistence <> 't' AND NOT c.relispartition
    AND ${USER_SCHEMA}
    AND (cardinality($1::text[]) = 0 OR n.nspname = ANY ($1::text[]))
    AND NOT EXISTS (SELECT FROM unnest($3::oid[]) AS hidden (oid) WHERE hidden.oid = c.oid)
    AND NOT EXISTS (SELECT FROM pg_depend d
                    WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
)
SELECT r.oid::bigint AS oid, r.nspname AS schema, r.relname AS name, r.relkind AS kind,
       CASE WHEN r.relreplident = 'f' AND ${fullIsNoIdentitySql('r')} THEN 'n'
            ELSE r.relreplident::text END AS identity, r.relpersistence <> 'u' AS logged,
       CASE WHEN r.relkind IN ('r', 'm') AND am.amname = 'heap'
            THEN has_column_privilege(r.oid, 'ctid', 'SELECT') ELSE false END AS heap,
       r.relrowsecurity AND row_security_active(r.oid) AS row_security,
       col.columns, r.may_use AND col.selectable AS selectable,
       key.primary_key, key.key_immediate, key.identity_index,
       coalesce(t.reltuples, r.reltuples)::float8 AS rows,
       coalesce(t.relpages, r.relpages) * current_setting('block_size')::bigint AS bytes
FROM relation r
LEFT JOIN pg_am am ON am.oid = r.relam
LEFT JOIN partition_total t ON t.root = r.oid
CROSS JOIN LATERAL (
  SELECT bool_and(a.may_select) AS selectable,
         json_agg(json_build_object(
           'name', a.attname, 'typeOid', a.atttypid::bigint, 'typmod', a.atttypmod, 'dimensions', a.attndims,
           'notNull', a.attnotnull, 'generated', a.attgenerated <> '') ORDER BY a.attnum)
           FILTER (WHERE a.may_select OR NOT $2) AS columns
  FROM (SELECT a.*, r.may_select OR has_column_privilege(r.oid, a.attnum, 'SELECT') AS may_select
        FROM pg_attribute a WHERE a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped) a
) col
LEFT JOIN LATERAL (
  SELECT json_agg(a.attname ORDER BY k.position) FILTER (WHERE i.indisprimary) AS primary_key,
         bool_and(i.indimmediate) FILTER (WHERE i.indisprimary) AS key_immediate,
         json_agg(a.attname ORDER BY k.position) FILTER (WHERE i.indisreplident) AS identity_index
  FROM pg_index i
  CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k (attnum, position)
  JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
  WHERE i.indrelid = r.oid AND (i.indisprimary OR i.indisreplident) AND k.position <= i.indnkeyatts
) key ON true
WHERE col.columns IS NOT NULL AND (r.may_use OR NOT $2)
ORDER BY r.oid`;

/**
 * The relations of the schemas that a user may want to read. Partitions do not show, only their topmost parents; nor do
 * temporary tables, what belongs to an extension, and relations without a column to read.
 * @param schemas names as they are; empty for every schema but the server's own. Names that do not exist are ignored.
 * @param checkPrivileges leave out what the current role may not select.
 * @param hidden OIDs to leave out, for tables that are another relation's storage.
 */
export async function listRelations(
  client: ClientBase,
  schemas: readonly string[],
  checkPrivileges: boolean,
  hidden: readonly number[] = [],
): Promise<readonly Relation[]> {
  const { rows } = await client.query<RelationRow>(RELATIONS, [schemas, checkPrivileges, hidden]);
  return rows.map(toRelation);
}

function toRelation(row: RelationRow): Relation {
  const primaryKey = row.primary_key ?? [];
  const replicaIdentity = IDENTITIES[row.identity] ?? 'nothing';
  return {
    oid: Number(row.oid),
    schema: row.schema,
    name: row.name,
    kind: KINDS[row.kind] ?? 'table',
    columns: row.columns,
    primaryKey,
    replicaIdentity,
    identity: identityColumns(
      replicaIdentity,
      // The server takes no deferrable key for an identity, and refuses updates of published tables that have no other.
      row.key_immediate === true ? primaryKey : [],
      row.identity_index ?? [],
    ),
    logged: row.logged,
    heap: row.heap,
    rowSecurity: row.row_security,
    selectable: row.selectable,
    rowEstimate: row.rows,
    byteEstimate: Number(row.bytes),
  };
}

/** https://www.postgresql.org/docs/current/sql-altertable.html#SQL-ALTERTABLE-REPLICA-IDENTITY */
function identityColumns(
  replicaIdentity: Relation['replicaIdentity'],
  primaryKey: readonly string[],
  index: readonly string[],
): readonly string[] {
  if (replicaIdentity === 'default') return primaryKey;
  // The index may have been dropped since: then there is none, and the server treats it as "nothing".
  return replicaIdentity === 'index' ? index : [];
}

const LEAVES = `
WITH RECURSIVE partition (root, oid) AS (
  SELECT root.oid, root.oid FROM unnest($1::oid[]) AS root (oid)
  UNION ALL
  SELECT p.root, i.inhrelid FROM partition p JOIN pg_inherits i ON i.inhparent = p.oid
)
SELECT c.oid::bigint AS oid, p.root::bigint AS root, n.nspname AS schema, c.relname AS name, c.relkind AS kind,
       CASE WHEN c.relkind = 'r' AND am.amname = 'heap'
            THEN has_column_privilege(c.oid, 'ctid', 'SELECT') ELSE false END AS heap,
       has_any_column_privilege(c.oid, 'SELECT') AS selectable
FROM partition p
JOIN pg_class c ON c.oid = p.oid AND c.relkind IN ('r', 'f') AND c.relispartition
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_am am ON am.oid = c.relam
ORDER BY c.oid`;

/** The leaf partitions of partitioned tables, ordered by oid. */
export async function listLeaves(
  client: ClientBase,
  roots: readonly number[],
): Promise<readonly Leaf[]> {
  const { rows } = await client.query<LeafRow>(LEAVES, [roots]);
  return rows.map((row) => ({
    oid: Number(row.oid),
    root: Number(row.root),
    schema: row.schema,
    name: row.name,
    kind: row.kind === 'f' ? 'foreign table' : 'table',
    heap: row.heap,
    selectable: row.selectable,
  }));
}

/**
 * The relations under a table, at whatever depth, that were attached to it, or lie under one that was, by a transaction of
 * this kind.
 * @param since gives SQL over the `xmin` of that name; null: every transaction is of the kind.
 */
export async function joinedSince(
  client: ClientBase,
  root: number,
  since: (xmin: string) => string | null,
): Promise<ReadonlySet<number>> {
  const joined = since('i.xmin') ?? 'true';
  const { rows } = await client.query<{ oid: string }>(
    `WITH RECURSIVE below (oid, joined) AS (
       SELECT $1::oid, false
       UNION ALL
       SELECT i.inhrelid, b.joined OR ${joined} FROM below b JOIN pg_inherits i ON i.inhparent = b.oid
     )
     SELECT oid::bigint AS oid FROM below WHERE joined`,
    [root],
  );
  return new Set(rows.map(({ oid }) => Number(oid)));
}
