/**
 * The bounds of a pass by a cursor, as SQL and as PostgreSQL's own text of the values: it goes into the state as the server
 * wrote it, and back as a parameter that takes the column's type from the comparison.
 */
import { type ClientBase, escapeIdentifier as ident } from 'pg';
import { baseType, type TypeCatalog } from './column-types.ts';
import { wholeSelection } from './load.ts';
import type { SyncStream } from './plan.ts';
import type { Selection } from './snapshot.ts';
import type { CursorProgress } from './state.ts';

export type CursorTerms = {
  /** The column, as SQL. */
  readonly column: string;
  /**
   * SQL for the least value that no finite one comes after; null where the type has none. Such values (infinity, NaN) never
   * become a bound, or nothing would ever come after them: their rows come with every pass.
   */
  readonly endless: string | null;
};

export async function cursorTerms(
  client: ClientBase,
  stream: SyncStream,
  types: TypeCatalog,
): Promise<CursorTerms> {
  const column = ident(stream.cursorField);
  const typeOid = stream.relation.columns.find(({ name }) => name === stream.cursorField)?.typeOid;
  const base = baseType(typeOid ?? 0, types);
  // The operators of enums take no domain for one.
  const cast = base !== typeOid && types.get(base)?.kind === 'e';
  return {
    column: cast ? `${column}::${await typeSql(client, base)}` : column,
    endless: await endlessSql(client, stream.cursorType),
  };
}

/** A type's name as SQL reads it. Without the -1 the names of some types would stand for their shortest form: character(1). */
export async function typeSql(client: ClientBase, typeOid: number): Promise<string> {
  const { rows } = await client.query<{ type: string }>(
    'SELECT pg_catalog.format_type($1::oid, -1) AS type',
    [typeOid],
  );
  return rows[0]?.type ?? 'text';
}

async function endlessSql(client: ClientBase, cursorType: string): Promise<string | null> {
  switch (cursorType) {
    case 'date':
    case 'timestamp':
    case 'timestamptz':
    case 'float4':
    case 'float8':
    case 'numeric':
      return `'infinity'::pg_catalog.${cursorType}`;
    case 'interval':
      return (await hasInfiniteIntervals(client)) ? `'infinity'::pg_catalog.interval` : null;
    default:
      return null;
  }
}

/** https://www.postgresql.org/docs/17/release-17.html */
async function hasInfiniteIntervals(client: ClientBase): Promise<boolean> {
  const { rows } = await client.query<{ has: boolean }>(
    `SELECT current_setting('server_version_num')::int >= 170000 AS has`,
  );
  return rows[0]?.has === true;
}

/** Whether a value of such a type, as the server prints it, is one that must not become a bound. */
export function isEndless(value: string): boolean {
  return /^(infinity|NaN)$/i.test(value);
}

/**
 * The greater of `floor` and the column's greatest value in one relation; null when it has none. Not `max`, which some
 * types that can be sorted do not have.
 */
export async function greatestValue(
  client: ClientBase,
  { column, endless }: CursorTerms,
  relation: { readonly schema: string; readonly name: string },
  floor: string | null,
): Promise<string | null> {
  const finite = endless === null ? '' : ` AND ${column} < ${endless}`;
  const { rows } = await client.query<{ value: string | null }>(
    `SELECT greatest((SELECT ${column} FROM ${ident(relation.schema)}.${ident(relation.name)}
                       WHERE ${column} IS NOT NULL${finite} ORDER BY ${column} DESC LIMIT 1), $1)::text AS value`,
    [floor],
  );
  return rows[0]?.value ?? null;
}

/** The rows of a pass. Those without a cursor value come with the first one. */
export function boundedSelection(
  stream: SyncStream,
  state: CursorProgress,
  { column, endless }: CursorTerms,
): Selection {
  const whole = wholeSelection(stream);
  const values: string[] = [];
  const place = (value: string): string => `$${values.push(value)}`;
  const from = state.cursor === null ? null : `${column} >= ${place(state.cursor)}`;
  if (state.upper === null) return { ...whole, where: from, values };
  const kinds = [`${column} <= ${place(state.upper)}`];
  if (endless !== null) kinds.push(`${column} >= ${endless}`);
  if (from === null) kinds.push(`${column} IS NULL`);
  const upTo = kinds.join(' OR ');
  return { ...whole, where: from === null ? upTo : `${from} AND (${upTo})`, values };
}

const FAMILIES: Readonly<Record<string, string>> = {
  int2: 'integer',
  int4: 'integer',
  int8: 'integer',
  varchar: 'text',
};

/** Whether values of the cursor's type of before have the same order now: an integer may have become a larger one. */
export function sameOrder(before: string | null, now: string): boolean {
  if (before === null) return true;
  return (FAMILIES[before] ?? before) === (FAMILIES[now] ?? now);
}
