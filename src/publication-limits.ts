/**
 * What publications made by others leave out of a stream: columns that are not in a column list, rows that do not pass a
 * row filter (PostgreSQL 15 and later). Reads keep to the same limits as the changes do, so that a stream is one thing:
 * a row that is read and whose changes then never come would stay as it was, in silence.
 * https://www.postgresql.org/docs/current/logical-replication-row-filter.html
 */
import { type ClientBase, escapeIdentifier as ident } from 'pg';
import { type Finding, listed, listedSql, tableLabel, tableSql, warning } from './check-finding.ts';
import { ConnectorError } from './errors.ts';
import { label, type SyncStream } from './plan.ts';
import type { PublicationStatus } from './postgres/publication.ts';
import { changeRelation, type SourceModel } from './source-model.ts';

/** Of one published relation. */
export type PublicationLimit = {
  readonly oid: number;
  readonly schema: string;
  readonly name: string;
  /** The publications that limit it. */
  readonly publications: readonly string[];
  /** OIDs of what it inherits from, and of what that inherits from. */
  readonly ancestors: readonly number[];
  /** Columns that are not published. */
  readonly unpublished: readonly string[];
  /** SQL: the condition for a row to be published; null: every row is. */
  readonly filter: string | null;
  /** Another publication takes its rows without a condition: which of the two a change meets depends on its kind. */
  readonly mixed: boolean;
};

const LIMITS = `
WITH RECURSIVE published AS (
  SELECT c.oid, n.nspname, c.relname, t.pubname, t.rowfilter,
         ARRAY (SELECT a.attname::text FROM pg_catalog.pg_attribute a
                 WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
                   AND a.attname <> ALL (t.attnames) ORDER BY a.attnum) AS unpublished
    FROM pg_catalog.pg_publication_tables t
    JOIN pg_catalog.pg_namespace n ON n.nspname = t.schemaname
    JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename
   WHERE t.pubname = ANY ($1)
), limited AS (
  SELECT oid, nspname::text AS schema, relname::text AS name, array_agg(DISTINCT pubname::text) AS publications,
         string_agg(DISTINCT '(' || rowfilter || ')', ' OR ') AS filter,
         bool_or(rowfilter IS NULL) AS open,
         ARRAY (SELECT DISTINCT x FROM published p, unnest(p.unpublished) x WHERE p.oid = published.oid) AS unpublished
    FROM published
   GROUP BY oid, nspname, relname
  HAVING bool_or(rowfilter IS NOT NULL OR cardinality(unpublished) > 0)
), up AS (
  SELECT oid, oid AS ancestor FROM limited
  UNION SELECT up.oid, i.inhparent FROM up JOIN pg_catalog.pg_inherits i ON i.inhrelid = up.ancestor
)
SELECT l.oid::int8::float8 AS oid, l.schema, l.name, l.publications, l.filter, l.unpublished,
       l.filter IS NOT NULL AND l.open AS mixed,
       ARRAY (SELECT up.ancestor::int8::float8 FROM up WHERE up.oid = l.oid AND up.ancestor <> l.oid) AS ancestors
  FROM limited l ORDER BY l.schema, l.name`;

/** Published relations of which something is left out. One query, and none where the publications are known to limit nothing. */
export async function publicationLimits(
  client: ClientBase,
  publications: readonly string[],
  statuses: readonly (PublicationStatus | null)[],
): Promise<readonly PublicationLimit[]> {
  if (!statuses.some((status) => status?.limited === true)) return [];
  return (await client.query<PublicationLimit>(LIMITS, [publications])).rows;
}

/**
 * The streams as the publications show them: without the columns that they leave out, and only the rows that pass.
 * @param tell gets a sentence for each stream that is less than its table.
 * @throws ConnectorError (config) where reads cannot keep to the limits.
 */
export function withinLimits(
  streams: readonly SyncStream[],
  limits: readonly PublicationLimit[],
  tell: (sentence: string) => void,
): readonly SyncStream[] {
  return streams.map((stream) => {
    const own = limitsOf(stream.relation.oid, limits);
    if (own.length === 0) return stream;
    const why = unusable(stream.relation.oid, stream.hypertable !== null, stream.identity, own);
    if (why !== null) {
      throw new ConnectorError(`${label(stream.name)} cannot be followed: ${why}.`, {
        kind: 'config_error',
        fix: `Run: ${withoutLimitsSql(own)}`,
        stream: stream.name,
      });
    }
    const unpublished = new Set(own.flatMap((limit) => limit.unpublished));
    const selected = new Set(stream.columns.map(({ name }) => name));
    const lacking = [...unpublished].filter((name) => selected.has(name));
    const rowFilter = own.find(({ oid }) => oid === stream.relation.oid)?.filter ?? null;
    if (lacking.length > 0 || rowFilter !== null) {
      tell(`${sentence(label(stream.name), lacking, rowFilter !== null)} ${withoutLimitsSql(own)}`);
    }
    return {
      ...stream,
      columns: stream.columns.filter(({ name }) => !unpublished.has(name)),
      rowFilter,
    };
  });
}

/** The same for `check`, which does not know what will be selected. */
export function limitFindings(
  source: SourceModel,
  limits: readonly PublicationLimit[],
): readonly Finding[] {
  return source.relations.flatMap((it) => {
    const relation = changeRelation(it, source);
    const own = limitsOf(relation.oid, limits);
    if (own.length === 0) return [];
    const name = tableLabel(it);
    const why = unusable(relation.oid, source.hypertables.has(relation.oid), [], own);
    const unpublished = [...new Set(own.flatMap((limit) => limit.unpublished))];
    const said =
      why === null
        ? sentence(
            name,
            unpublished,
            own.some(({ filter }) => filter !== null),
          )
        : `${name} cannot be followed: ${why}.`;
    return [warning(said, withoutLimitsSql(own))];
  });
}

function limitsOf(oid: number, limits: readonly PublicationLimit[]): readonly PublicationLimit[] {
  return limits.filter((limit) => limit.oid === oid || limit.ancestors.includes(oid));
}

/** Why reads cannot keep to the limits; null where they can. */
function unusable(
  oid: number,
  hypertable: boolean,
  identity: readonly string[],
  own: readonly PublicationLimit[],
): string | null {
  const filtered = own.filter(({ filter }) => filter !== null);
  if (filtered.some(({ mixed }) => mixed)) {
    return 'it is published with a row filter and once more without';
  }
  // New chunks come without it, and TimescaleDB may copy it to columns that it does not mean.
  if (hypertable && filtered.length > 0) return 'a hypertable with a row filter has chunks without';
  if (filtered.some((limit) => limit.oid !== oid)) {
    return 'some of its partitions have row filters of their own';
  }
  const key = identity.filter((name) => own.some(({ unpublished }) => unpublished.includes(name)));
  return key.length === 0 ? null : `its key (${key.join(', ')}) is not in the column list`;
}

function sentence(name: string, columns: readonly string[], filtered: boolean): string {
  const parts = [
    ...(columns.length === 0 ? [] : [`without ${listed(columns)} (a column list)`]),
    ...(filtered
      ? ['only the rows that pass a row filter; a row that does not any more counts as deleted']
      : []),
  ];
  return `The publication shows ${name} ${parts.join(', and ')}: so it is synced. To have all of it:`;
}

function withoutLimitsSql(own: readonly PublicationLimit[]): string {
  return listedSql(
    '',
    own.flatMap((limit) =>
      limit.publications.map(
        (publication) =>
          `ALTER PUBLICATION ${ident(publication)} DROP TABLE ONLY ${tableSql(limit)}; ALTER PUBLICATION ${ident(publication)} ADD TABLE ONLY ${tableSql(limit)}`,
      ),
    ),
    '; ',
  );
}
