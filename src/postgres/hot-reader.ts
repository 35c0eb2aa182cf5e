/**
 * Statements whose rows are taken as bytes, and what belongs to them in the same round trip.
 *
 * A named portal, not FETCH: its snapshot and plan are made at Bind, like a cursor's, but it streams its rows while
 * FETCH would first put them into a tuplestore on the server.
 * https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-EXT-QUERY
 */
import type { Client } from 'pg';
import { exchange, readInt32, type RowHandler } from './exchange.ts';
import { type ColumnFormat, MessageWriter } from './message-writer.ts';
import { refuseOtherBackend, settingsOf } from './pooler.ts';

/** A statement of one row, prepared under its name where it has one. */
export type OneRow = {
  readonly name: string;
  readonly sql: string;
  /** Parameters as text. */
  readonly values: readonly (string | null)[];
};

/** Statements that a session has prepared, by name. */
const prepared = new WeakMap<Client, Set<string>>();

function writeOneRow(writer: MessageWriter, client: Client, query: OneRow): void {
  const { sql, values } = query;
  const name = nameOf(client, query);
  if (name === '') writer.parse('', sql);
  // It may be there all the same: the exchange that made it can have failed behind it.
  else if (prepared.get(client)?.has(name) !== true) writer.closeStatement(name).parse(name, sql);
  writer.bind('', name, values).execute('');
}

/** In another session of a pool the statement would not be prepared. */
function nameOf(client: Client, { name }: OneRow): string {
  return settingsOf(client).length === 0 ? name : '';
}

function remember(client: Client, query: OneRow): void {
  const name = nameOf(client, query);
  if (name === '') return;
  const names = prepared.get(client) ?? new Set();
  prepared.set(client, names.add(name));
}

/** The columns of a row as text. */
function fields(src: Buffer, start: number): (string | null)[] {
  let at = start + 2;
  return Array.from({ length: src.readInt16BE(start) }, () => {
    const size = readInt32(src, at);
    at += 4 + Math.max(size, 0);
    return size < 0 ? null : src.toString('utf8', at - size, at);
  });
}

/**
 * Opens a portal inside the session's open transaction: what it will return is decided when this resolves.
 * Parse and Bind leave in one write, so that snapshot and plan are made together.
 * @param values parameters as text.
 * @param formats of the result columns, one for each; one for all of them; none: text.
 * @param before statements to run first, in the same round trip; one that fails is the last.
 */
export async function bindPortal(
  client: Client,
  portal: string,
  sql: string,
  values: readonly (string | null)[] = [],
  formats: readonly ColumnFormat[] = [],
  before: readonly string[] = [],
): Promise<void> {
  const writer = new MessageWriter();
  for (const text of before) writer.statement(text);
  writer.parse('', sql).bind(portal, '', values, formats);
  await exchange(client, writer, NO_ROWS);
  await refuseOtherBackend(client);
}

/** Runs a statement. @returns the columns of its first row as text; empty where there is none. */
export async function queryRow(client: Client, query: OneRow): Promise<readonly (string | null)[]> {
  if (settingsOf(client).length > 0) {
    const { sql: text, values } = query;
    const { rows } = await client.query<string[]>({ text, values: [...values], rowMode: 'array' });
    return rows[0] ?? [];
  }
  const writer = new MessageWriter();
  writeOneRow(writer, client, query);
  let row: readonly (string | null)[] = [];
  await exchange(client, writer, (src, start) => {
    row = fields(src, start);
    return undefined;
  });
  remember(client, query);
  return row;
}

const NO_ROWS: RowHandler = () => undefined;

/** A whole transaction in one round trip. */
export type CheckedRead = {
  readonly before: readonly string[];
  readonly sql: string;
  /** Parameters as text. */
  readonly values: readonly (string | null)[];
  readonly formats: readonly ColumnFormat[];
  /** Runs when `sql` is bound: its snapshot and plan are made then. */
  readonly check: OneRow;
  readonly after: readonly string[];
};

/**
 * Reads what a check lets pass. The server begins to send the rows at once; they wait in the socket until `admit` has
 * decided on the row of the check. If it rejects, the session is given up: the server cannot be told to stop sending.
 * @returns the number of rows. @throws what `admit` throws.
 */
export async function readChecked(
  client: Client,
  { before, sql, values, formats, check, after }: CheckedRead,
  admit: (row: readonly (string | null)[]) => Promise<void>,
  onRow: RowHandler,
): Promise<number> {
  const writer = new MessageWriter();
  for (const text of before) writer.statement(text);
  writer.parse('', sql).bind('rows', '', values, formats);
  writeOneRow(writer, client, check);
  writer.execute('rows');
  for (const text of after) writer.statement(text);
  let checked = false;
  const rows = await exchange(client, writer, (src, start, end) => {
    if (checked) return onRow(src, start, end);
    checked = true;
    return admit(fields(src, start));
  });
  remember(client, check);
  return rows - 1;
}

/**
 * Runs an open portal to its end. If the handler throws, or its promise rejects, the session is broken off.
 * @param after statements to run then, in the same round trip, unless the portal fails.
 * @param ready nothing is taken from the socket before this resolves; null: at once. The server works on meanwhile, until
 * the socket is full.
 * @returns the number of rows.
 */
export async function executePortal(
  client: Client,
  portal: string,
  onRow: RowHandler,
  after: readonly string[] = [],
  ready: Promise<void> | null = null,
): Promise<number> {
  const writer = new MessageWriter().execute(portal);
  for (const text of after) writer.statement(text);
  return exchange(client, writer, onRow, ready);
}
