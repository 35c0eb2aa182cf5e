/** Which relations the publications hold, since when, and who may still write to them unpublished. */
import type { ClientBase } from 'pg';
import { newerThanSql, shortXid, type Visibility } from './visibility.ts';

/** Of a relation that some publication holds. */
export type Member = {
  /**
   * Published by the transaction that made the chunk, or by an older publication of everything or of its schema: every
   * row ever inserted into this chunk was inserted under the publication. False where that cannot be told. True does not
   * tell of rows that a split moved here, nor of a chunk older than the slot, nor of rows inserted in one transaction
   * *before* a hand-written ALTER PUBLICATION: ranges, the slot's age and the way of publishing do.
   */
  readonly sinceBirth: boolean;
  /**
   * Transactions older than its membership may still be writing to it, whoever added it: also a sync that was killed while
   * it awaited them. By transaction ids that shows only where the one that added it began last, so what is unseen counts.
   */
  readonly recent: boolean;
  /** Added by a transaction which was not visible at the time that was asked about. */
  readonly unseen: boolean;
};

/** What the publications hold of some relations, as one query saw it. */
export type Membership = {
  /** Members that other transactions have added since are those which are not visible in this. */
  readonly visibility: string;
  /** By OID; what is in none of the publications is missing. */
  readonly members: ReadonlyMap<number, Member>;
};

/**
 * $1 OIDs, $2 publications, $3 and $4 as `newerThanSql` needs them.
 *
 * Birth is the xmin of a system attribute, which no later command rewrites. TimescaleDB makes a chunk and lets it inherit
 * in two consecutive commands (2.19 to 2.31); a table that was filled and then attached has more between. Schema
 * publications are read from pg_depend because pg_publication_namespace does not exist before PostgreSQL 15. Where xids
 * are too old to compare, and where the cmin is not the first one any more, the answer is false: one read too many.
 *
 * A publication of everything says nothing of when a table came in: what altered it is in its own status.
 */
const MEMBERS = `
WITH publication AS (
  SELECT p.oid, p.puballtables, p.pubviaroot, p.xmin FROM pg_publication p WHERE p.pubname = ANY ($2::text[])
), relation AS (
  SELECT c.oid, c.relnamespace, c.relispartition,
         CASE WHEN i.xmin = a.xmin AND i.cmin::text::bigint - a.cmin::text::bigint <= 1 THEN a.xmin END AS birth
  FROM unnest($1::oid[]) AS wanted (oid)
  JOIN pg_class c ON c.oid = wanted.oid AND c.relkind IN ('r', 'p')
  LEFT JOIN pg_inherits i ON i.inhrelid = c.oid AND i.inhseqno = 1
  LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tableoid' AND a.attnum < 0
), part AS (
  SELECT oid, oid AS whole, relnamespace, birth FROM relation
  UNION ALL
  SELECT r.oid, c.oid, c.relnamespace, NULL::xid
  FROM relation r
  CROSS JOIN LATERAL pg_partition_ancestors(r.oid) AS up
  JOIN pg_class c ON c.oid = up.relid AND c.oid <> r.oid
  WHERE r.relispartition
), published AS (
  SELECT t.oid, m.xmin, m.xmin = t.birth AS since_birth
  FROM part t
  JOIN pg_publication_rel m ON m.prrelid = t.whole
  JOIN publication p ON p.oid = m.prpubid AND (t.whole = t.oid OR NOT p.pubviaroot)
  UNION ALL
  SELECT r.oid, NULL::xid, age(p.xmin) > age(r.birth) FROM relation r JOIN publication p ON p.puballtables
  UNION ALL
  SELECT t.oid, s.xmin, age(s.xmin) > age(t.birth)
  FROM publication p
  JOIN pg_depend m ON m.refclassid = 'pg_publication'::regclass AND m.refobjid = p.oid
    AND m.classid = to_regclass('pg_catalog.pg_publication_namespace')::oid
  JOIN pg_depend s ON s.classid = m.classid AND s.objid = m.objid AND s.refclassid = 'pg_namespace'::regclass
  JOIN part t ON t.relnamespace = s.refobjid AND (t.whole = t.oid OR NOT p.pubviaroot)
), member AS (
  SELECT p.oid, coalesce(bool_or(p.since_birth), false) AS since_birth,
         coalesce(bool_or(age(p.xmin) <= age((pg_snapshot_xmin(pg_current_snapshot())::text::numeric % 4294967296)::text::xid)),
                  false) AS recent,
         coalesce(bool_or(${newerThanSql('p', 3)}), false) AS unseen
  FROM published p GROUP BY p.oid
)
SELECT pg_current_snapshot()::text AS visibility,
       (SELECT coalesce(json_agg(json_build_array(m.oid::bigint, m.since_birth, m.recent, m.unseen)), '[]')
          FROM member m) AS members`;

/** @param then tells which members are `unseen`; null: none is. One query, whatever the number of relations. */
export async function membership(
  client: ClientBase,
  oids: readonly number[],
  publications: readonly string[],
  then: Visibility | null,
): Promise<Membership> {
  const { rows } = await client.query<{
    visibility: string;
    members: readonly (readonly [number, boolean, boolean, boolean])[];
  }>(MEMBERS, [
    oids,
    publications,
    shortXid(then?.xmax ?? 0n),
    [...(then?.running ?? [])].map(shortXid),
  ]);
  const [row] = rows;
  if (row === undefined) throw new Error('a query without FROM gave no row');
  return {
    visibility: row.visibility,
    members: new Map(
      row.members.map(([oid, sinceBirth, recent, newer]) => {
        const unseen = then !== null && newer;
        return [oid, { sinceBirth, recent: recent || unseen, unseen }];
      }),
    ),
  };
}
