/**
 * Continuous aggregates: the hypertable that holds the materialized rows of each, and what tells these rows apart. The
 * hypertable has no key of its own, so the columns that the query groups by are looked up in the query.
 */
import type { ClientBase } from 'pg';
import type { Hypertable } from './hypertables.ts';

export type Materialization = {
  readonly hypertable: Hypertable;
  /** Columns that the query groups by, which tell its rows apart; empty where the view does not show all of them. */
  readonly groupColumns: readonly string[];
  /** Columns of the hypertable; those of the view have the same names unless it stores partials (made before 2.7). */
  readonly columns: readonly string[];
  /** Those of `columns` that are never null. */
  readonly notNull: readonly string[];
  /** REPLICA IDENTITY FULL: without it a published hypertable makes every refresh fail. */
  readonly fullIdentity: boolean;
  /** Whether this role may select from the hypertable. */
  readonly selectable: boolean;
};

type MaterializationRow = {
  readonly id: number;
  readonly full_identity: boolean;
  readonly selectable: boolean;
  readonly finalized: boolean;
  readonly action: string;
  readonly view_columns: readonly string[];
  readonly columns: readonly string[];
  readonly not_null: readonly string[];
};

/** `finalized` is a column up to 2.24; later there are no others. The direct view keeps the query as the user wrote it. */
const MATERIALIZATIONS = `
SELECT ca.mat_hypertable_id AS id, m.relreplident = 'f' AS full_identity,
       has_table_privilege(m.oid, 'SELECT') AS selectable,
       coalesce((to_jsonb(ca) ->> 'finalized')::boolean, true) AS finalized,
       r.ev_action::text AS action,
       ARRAY (SELECT a.attname::text FROM pg_attribute a
               WHERE a.attrelid = u.oid AND a.attnum > 0 ORDER BY a.attnum) AS view_columns,
       ARRAY (SELECT a.attname::text FROM pg_attribute a
               WHERE a.attrelid = m.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns,
       ARRAY (SELECT a.attname::text FROM pg_attribute a
               WHERE a.attrelid = m.oid AND a.attnum > 0 AND a.attnotnull) AS not_null
  FROM _timescaledb_catalog.continuous_agg ca
  JOIN _timescaledb_catalog.hypertable h ON h.id = ca.mat_hypertable_id
  JOIN pg_namespace mn ON mn.nspname = h.schema_name
  JOIN pg_class m ON m.relnamespace = mn.oid AND m.relname = h.table_name
  JOIN pg_namespace un ON un.nspname = ca.user_view_schema
  JOIN pg_class u ON u.relnamespace = un.oid AND u.relname = ca.user_view_name
  JOIN pg_namespace dn ON dn.nspname = ca.direct_view_schema
  JOIN pg_class d ON d.relnamespace = dn.oid AND d.relname = ca.direct_view_name
  JOIN pg_rewrite r ON r.ev_class = d.oid AND r.rulename = '_RETURN'`;

/** By hypertable id. One query; none where no hypertable belongs to a continuous aggregate. */
export async function listMaterializations(
  client: ClientBase,
  hypertables: readonly Hypertable[],
): Promise<ReadonlyMap<number, Materialization>> {
  const materialized = new Map(
    hypertables.filter((it) => it.continuousAggregate !== null).map((it) => [it.id, it]),
  );
  if (materialized.size === 0) return new Map();
  const { rows } = await client.query<MaterializationRow>(MATERIALIZATIONS);
  return new Map(
    rows.flatMap((row) => {
      const hypertable = materialized.get(row.id);
      if (hypertable === undefined) return [];
      return [[row.id, toMaterialization(row, hypertable)] as const];
    }),
  );
}

function toMaterialization(row: MaterializationRow, hypertable: Hypertable): Materialization {
  // Numbers, not names: the query keeps the names of its creation when a column of the view is renamed.
  const names = groupPositions(row.action).map((position) => row.view_columns[position - 1] ?? '');
  const known = row.finalized && names.every((name) => row.columns.includes(name));
  return {
    hypertable,
    groupColumns: known ? names : [],
    columns: row.finalized ? row.columns : [],
    notNull: row.not_null,
    fullIdentity: row.full_identity,
    selectable: row.selectable,
  };
}

/**
 * The positions, from 1, of the output columns that a query groups by; empty where it does not put out all of them.
 * @param action the rule of a view as pg_rewrite.ev_action shows it: PostgreSQL's node tree as text,
 * https://github.com/postgres/postgres/blob/master/src/backend/nodes/outfuncs.c
 */
export function groupPositions(action: string): readonly number[] {
  const query = fields(action.slice(action.indexOf('{')));
  const entries = nodes(query.get('targetList') ?? '').map(fields);
  const clauses = nodes(query.get('groupClause') ?? '').map(fields);
  const positions = clauses.map((clause) => {
    const entry = entries.find((it) => it.get('ressortgroupref') === clause.get('tleSortGroupRef'));
    return entry === undefined || entry.get('resjunk') === 'true' ? 0 : Number(entry.get('resno'));
  });
  return positions.includes(0) ? [] : positions;
}

/** The fields of a node `{NAME :field value ...}`, those of nodes within it left as text. */
function fields(node: string): ReadonlyMap<string, string> {
  const found = new Map<string, string>();
  let name: string | null = null;
  let from = 0;
  scan(node, (at, depth) => {
    if (depth !== 1 || node[at] !== ':' || node[at - 1] !== ' ') return;
    if (name !== null) found.set(name, node.slice(from, at).trim());
    from = node.indexOf(' ', at);
    name = node.slice(at + 1, from);
  });
  if (name !== null) found.set(name, node.slice(from, node.lastIndexOf('}')).trim());
  return found;
}

/** The nodes of a list `({...} {...})`. */
function nodes(list: string): readonly string[] {
  const found: string[] = [];
  let from = -1;
  scan(list, (at, depth) => {
    if (list[at] === '{' && depth === 2) from = at;
    if (list[at] === '}' && depth === 2) found.push(list.slice(from, at + 1));
  });
  return found;
}

/** Visits every character with its depth in braces and parentheses, brackets counted as inside; a backslash hides one. */
function scan(text: string, visit: (at: number, depth: number) => void): void {
  let depth = 0;
  for (let at = 0; at < text.length; at += 1) {
    const character = text[at];
    if (character === '\\') {
      at += 1;
      continue;
    }
    if (character === '{' || character === '(') depth += 1;
    visit(at, depth);
    if (character === '}' || character === ')') depth -= 1;
  }
}
