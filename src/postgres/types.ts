/** Types that have no fixed OID: enums, domains, composites, extensions' types, and arrays of these. */
import type { ClientBase } from 'pg';

/** A row of pg_type: https://www.postgresql.org/docs/current/catalog-pg-type.html */
export type PgType = {
  readonly oid: number;
  readonly name: string;
  /** typtype. */
  readonly kind: 'b' | 'c' | 'd' | 'e' | 'p' | 'r' | 'm';
  /** typelem of true arrays, else 0. */
  readonly element: number;
  /** typbasetype of domains, else 0. */
  readonly base: number;
  /** typtypmod of domains. */
  readonly baseTypmod: number;
  /** typndims of domains. */
  readonly baseDimensions: number;
  /** typdelim. */
  readonly delimiter: string;
  /** Whether it has an order of its own: a default operator class for B-trees. */
  readonly ordered: boolean;
};

type TypeRow = {
  readonly oid: string;
  readonly name: string;
  readonly kind: PgType['kind'];
  readonly element: string;
  readonly base: string;
  readonly base_typmod: number;
  readonly base_dimensions: number;
  readonly delimiter: string;
  readonly ordered: boolean;
};

/** A true array is what its element names as typarray: point and name have a typelem too, and so has a domain over an array. */
const TYPES = `
WITH RECURSIVE type AS (
  SELECT t.*, CASE WHEN e.typarray = t.oid THEN e.oid ELSE 0::oid END AS element
  FROM pg_type t LEFT JOIN pg_type e ON e.oid = t.typelem
), wanted (oid) AS (
  SELECT wanted.oid FROM unnest($1::oid[]) AS wanted (oid)
  UNION
  SELECT next.oid
  FROM wanted w JOIN type t ON t.oid = w.oid
  CROSS JOIN LATERAL (VALUES (t.element), (t.typbasetype)) AS next (oid)
  WHERE next.oid <> 0
)
SELECT t.oid::bigint AS oid, t.typname AS name, t.typtype AS kind, t.element::bigint AS element,
       t.typbasetype::bigint AS base, t.typtypmod AS base_typmod, t.typndims AS base_dimensions,
       t.typdelim AS delimiter,
       EXISTS (SELECT FROM pg_opclass o JOIN pg_am m ON m.oid = o.opcmethod
                WHERE o.opcintype = t.oid AND o.opcdefault AND m.amname = 'btree') AS ordered
FROM wanted w JOIN type t ON t.oid = w.oid`;

/** These types, and the element and base types that they lead to, in one query; in none where there are none. */
export async function loadTypes(
  client: ClientBase,
  oids: readonly number[],
): Promise<Map<number, PgType>> {
  if (oids.length === 0) return new Map();
  const { rows } = await client.query<TypeRow>(TYPES, [oids]);
  return new Map(
    rows.map((row) => [
      Number(row.oid),
      {
        oid: Number(row.oid),
        name: row.name,
        kind: row.kind,
        element: Number(row.element),
        base: Number(row.base),
        baseTypmod: row.base_typmod,
        baseDimensions: row.base_dimensions,
        delimiter: row.delimiter,
        ordered: row.ordered,
      },
    ]),
  );
}
