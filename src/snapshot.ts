/**
 * Reads existing rows: a chunk as a whole, a table in slices of pages, each in a short transaction of its own.
 *
 * The order inside a transaction is what makes a chunk's read whole: lock, then bind the reading statement (its snapshot
 * and plan are made together), then compare the chunk's status as of that snapshot with the newest one, and only then
 * let rows flow. TimescaleDB plans with the newest system catalog but executes with the snapshot, so a chunk compressed
 * between the two would silently lack rows. See docs/consistency.md.
 */
import { type Client, escapeIdentifier as ident } from 'pg';
import { ConnectorError, errorCode } from './errors.ts';
import type { RowHandler } from './postgres/exchange.ts';
import {
  bindPortal,
  executePortal,
  type OneRow,
  queryRow,
  readChecked,
} from './postgres/hot-reader.ts';
import { parseLsn } from './postgres/lsn.ts';
import type { ColumnFormat } from './postgres/message-writer.ts';
import { refuseBackend, settingsOf } from './postgres/pooler.ts';
import type { Seen } from './progress.ts';
import { conditions, isQuiet, type Slice, type SliceSource } from './slice-conditions.ts';
import type { Chunk } from './timescaledb/chunks.ts';

type SelectedColumn = {
  readonly name: string;
  /** In which format its values come: what its encoder reads. */
  readonly binary: boolean;
};

/** What to select, and a condition on it ($1... are `values`). */
export type Selection = {
  readonly columns: readonly SelectedColumn[];
  readonly where: string | null;
  readonly values: readonly (string | null)[];
  /** A column to sort by, where the order of rows matters. */
  readonly orderBy: string | null;
};

export type ChunkRead =
  | {
      readonly kind: 'read';
      readonly seen: Seen;
      readonly rows: number;
      /** How often it was begun again, before its first row. */
      readonly retries: number;
    }
  /** Dropped or detached since it was listed: its rows are not in the hypertable any more. */
  | { readonly kind: 'gone' };

/** One attempt does not know of the others. */
type Attempted<R extends { readonly kind: string }> =
  Exclude<R, { kind: 'read' }> | Omit<Extract<R, { kind: 'read' }>, 'retries'>;

const LOCK_NOT_AVAILABLE = '55P03';
const UNDEFINED_TABLE = '42P01';
const DEADLOCK = '40P01';
/** On a standby: the read held up its recovery (https://www.postgresql.org/docs/current/hot-standby.html#HOT-STANDBY-CONFLICT). */
const SERIALIZATION_FAILURE = '40001';
/** Why a read that was ended before its first row is begun again. */
export const BUSY: ReadonlyMap<string, string> = new Map([
  [LOCK_NOT_AVAILABLE, 'DDL or maintenance kept it locked'],
  [DEADLOCK, 'DDL or maintenance kept it locked'],
  [SERIALIZATION_FAILURE, 'the standby cancelled each read for the sake of its recovery'],
]);
const ATTEMPTS = 40;
/** Shorter than deadlock_timeout would be useless, longer would let writers queue behind us. */
const BEGIN = [
  'BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY',
  `SET LOCAL lock_timeout = '5s'`,
] as const;

type TableName = { readonly schema: string; readonly name: string };

/** Lends a session for as long as `work` takes; one whose work failed is not lent again. */
export type Readers = { readonly use: <T>(work: (client: Client) => Promise<T>) => Promise<T> };

/**
 * Reads one chunk whole or not at all; begins again while maintenance changes it.
 * @param main another session: it sees the chunk's newest state. @param root the chunk's hypertable.
 * @param checkSql `chunkCheckSql` of this server. @param onRow is not called before the check has passed.
 * @throws ConnectorError (transient) when the chunk stays locked or keeps changing.
 */
export async function readChunk(
  readers: Readers,
  main: Client,
  root: TableName,
  chunk: Chunk,
  selection: Selection,
  checkSql: string,
  onRow: RowHandler,
): Promise<ChunkRead> {
  let place: Place = { root, target: chunk };
  let reason = '';
  for (let attempt = 0; attempt < ATTEMPTS; attempt += 1) {
    if (attempt > 0) await pause(Math.min(2000, 25 * 2 ** attempt));
    try {
      const { target } = place;
      const read = await readers.use((client) =>
        attemptChunk(client, main, chunk, place, selection, checkSql, onRow),
      );
      if (read.kind === 'read') return { ...read, retries: attempt };
      if (read.kind === 'gone') return read;
      if (read.kind === 'busy') ({ reason } = read);
      // The hypertable was renamed: its lock is a courtesy, the chunk's is not.
      else if (read.schema === target.schema && read.name === target.name)
        place = { root: null, target };
      else place = { ...place, target: read };
    } catch (error) {
      if (!(error instanceof NotAdmitted)) throw error;
      if (error.gone) return { kind: 'gone' };
      reason = 'it was compressed or recompressed each time';
    }
  }
  throw new ConnectorError(
    `The chunk ${chunk.schema}.${chunk.name} could not be read: ${reason}.`,
    { kind: 'transient_error', fix: 'The next attempt goes on with it.' },
  );
}

/** Where a chunk is looked for; a root that is null is not locked. */
type Place = { readonly root: TableName | null; readonly target: TableName };

type ChunkAttempt =
  | Attempted<ChunkRead>
  /** It was locked, before its first row. */
  | { readonly kind: 'busy'; readonly reason: string }
  /** Something of that place is not there: this is what the chunk is called now. */
  | ({ readonly kind: 'elsewhere' } & TableName);

/** @throws NotAdmitted, when nothing was emitted. */
async function attemptChunk(
  client: Client,
  main: Client,
  chunk: Chunk,
  { root, target }: Place,
  selection: Selection,
  checkSql: string,
  onRow: RowHandler,
): Promise<ChunkAttempt> {
  let emitted = false;
  const check = { name: 'chunk check', sql: checkSql, values: [String(chunk.id)] };
  const admission = new Admission(client, main, check);
  const read = {
    // One round trip: a hypertable may have thousands of chunks with few rows in each.
    before: [...BEGIN, ...settingsOf(client), ...lockSql(root, target, chunk.foreign)],
    sql: selectSql(qualified(target), selection),
    values: selection.values,
    formats: formats(selection),
    check,
    after: ['COMMIT'],
  };
  try {
    const rows = await readChecked(client, read, admission.admit, (src, start, end) => {
      emitted = true;
      return onRow(src, start, end);
    });
    return { kind: 'read', seen: admission.seen, rows };
  } catch (error) {
    const busy = BUSY.get(errorCode(error));
    const missing = errorCode(error) === UNDEFINED_TABLE;
    // Once rows have left, beginning again would double them.
    if (emitted || (busy === undefined && !missing)) throw error;
    await client.query('ROLLBACK');
    if (busy !== undefined) return { kind: 'busy', reason: busy };
    const renamed = await nameOf(client, chunk.oid);
    return renamed === null ? { kind: 'gone' } : { kind: 'elsewhere', ...renamed };
  }
}

/** What was read of the chunk may lack rows. The session is given up, since they are on their way. */
class NotAdmitted extends Error {
  /** It is no chunk any more; else it changed between snapshot and plan. */
  readonly gone: boolean;

  constructor(gone: boolean) {
    super('the chunk is not what it was');
    this.gone = gone;
  }
}

/**
 * The chunk's catalog row as the reading transaction sees it beside the newest one. Rows that were sent in the meantime
 * are those of the statement's snapshot and plan, which were made before either is looked at.
 */
class Admission {
  readonly #client: Client;
  readonly #main: Client;
  readonly #check: OneRow;
  #own: ChunkCheck | null = null;

  constructor(client: Client, main: Client, check: OneRow) {
    this.#client = client;
    this.#main = main;
    this.#check = check;
  }

  readonly admit = async (row: readonly (string | null)[]): Promise<void> => {
    this.#own = chunkCheck(row);
    refuseBackend(this.#client, this.#own.backend);
    const newest = chunkCheck(await queryRow(this.#main, this.#check));
    const { version } = this.#own;
    if (version !== newest.version) throw new NotAdmitted(false);
    if (version === null) throw new NotAdmitted(true);
  };

  get seen(): Seen {
    if (this.#own === null) throw new Error('no rows were asked to be let pass');
    return { visibility: this.#own.snapshot, until: parseLsn(this.#own.lsn) };
  }
}

type ChunkCheck = {
  readonly snapshot: string;
  readonly lsn: string;
  /** Null: it is no chunk any more. */
  readonly version: string | null;
  readonly backend: number;
};

function chunkCheck([snapshot, lsn, version, backend]: readonly (string | null)[]): ChunkCheck {
  if (typeof snapshot !== 'string' || typeof lsn !== 'string' || version === undefined)
    throw new Error('a query without FROM gave no row');
  return { snapshot, lsn, version, backend: Number(backend) };
}

/**
 * The chunk is locked because of what happens to it. The hypertable first, as DDL does: whoever alters the whole of it
 * waits for the chunks that are being read, and the next ones wait for him; else he would follow us from chunk to chunk.
 */
function lockSql(root: TableName | null, chunk: TableName, foreign: boolean): readonly string[] {
  // A tiered chunk is a foreign table: it cannot be locked, and nothing compresses it.
  const tables = [...(root === null ? [] : [root]), ...(foreign ? [] : [chunk])];
  if (tables.length === 0) return [];
  const list = tables.map((table) => `ONLY ${qualified(table)}`).join(', ');
  return [`LOCK TABLE ${list} IN ACCESS SHARE MODE`];
}

function qualified({ schema, name }: TableName): string {
  return `${ident(schema)}.${ident(name)}`;
}

function selectSql(relation: string, selection: Selection): string {
  // A row without any selected column still counts as a row.
  const columns = selection.columns.map(({ name }) => ident(name)).join(', ');
  const where = selection.where === null ? '' : ` WHERE ${selection.where}`;
  const order = selection.orderBy === null ? '' : ` ORDER BY ${ident(selection.orderBy)}`;
  return `SELECT ${columns} FROM ${relation}${where}${order}`;
}

function formats({ columns }: Selection): readonly ColumnFormat[] {
  return columns.map(({ binary }) => (binary ? 'binary' : 'text'));
}

async function nameOf(client: Client, oid: number): Promise<TableName | null> {
  const { rows } = await client.query<{ schema: string; name: string }>(
    `SELECT n.nspname AS schema, c.relname AS name
       FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1`,
    [oid],
  );
  return rows[0] ?? null;
}

export type SliceRead =
  | {
      readonly kind: 'read';
      readonly seen: Seen;
      readonly rows: number;
      /** How often it was begun again, before its first row. */
      readonly retries: number;
      readonly filenode: number;
    }
  /** The table was rewritten since `filenode` was taken: ctids mean nothing any more. */
  | { readonly kind: 'rewritten'; readonly filenode: number }
  | { readonly kind: 'gone' };

/**
 * Reads one slice.
 * @param filenode what the table's file was when its first slice was read; 0 for the first slice.
 * @param quiet relations whose writers the visibility should be free of (see `isQuiet`); null: it does not matter.
 * @throws ConnectorError or the server's error when the table stays locked.
 */
export async function readSlice(
  client: Client,
  source: SliceSource,
  slice: Slice,
  selection: Selection,
  filenode: number,
  quiet: readonly number[] | null,
  onRow: RowHandler,
): Promise<SliceRead> {
  let emitted = false;
  const emit: RowHandler = (src, start, end) => {
    emitted = true;
    return onRow(src, start, end);
  };
  for (let attempt = 0; ; attempt += 1) {
    if (attempt > 0) await pause(Math.min(1000, 25 * 2 ** attempt));
    try {
      const read = await attemptSlice(client, source, slice, selection, filenode, emit, async () =>
        quiet === null || attempt >= QUIET_ATTEMPTS ? true : isQuiet(client, quiet),
      );
      if (read !== null) return read.kind === 'read' ? { ...read, retries: attempt } : read;
    } catch (error) {
      const code = errorCode(error);
      const busy = BUSY.has(code);
      if (emitted || !(code === UNDEFINED_TABLE || (busy && attempt < ATTEMPTS))) throw error;
      await client.query('ROLLBACK');
      if (code === UNDEFINED_TABLE) return { kind: 'gone' };
    }
  }
}

const QUIET_ATTEMPTS = 8;

async function attemptSlice(
  client: Client,
  source: SliceSource,
  slice: Slice,
  selection: Selection,
  filenode: number,
  onRow: RowHandler,
  accept: () => Promise<boolean>,
): Promise<Attempted<SliceRead> | null> {
  const relation = `${ident(source.schema)}.${ident(source.name)}`;
  const lock = source.lockable ? [`LOCK TABLE ONLY ${relation} IN ACCESS SHARE MODE`] : [];
  const before = [...BEGIN, ...settingsOf(client), ...lock];
  const narrowed = { ...selection, where: conditions(source, slice, selection.where) };
  const only = source.heap ? `ONLY ${relation}` : relation;
  const sql = selectSql(only, narrowed);
  await bindPortal(client, 'rows', sql, selection.values, formats(selection), before);
  const { rows } = await client.query<{ snapshot: string; lsn: string; filenode: string | null }>(
    `SELECT pg_catalog.pg_current_snapshot()::text AS snapshot,
            CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
                 ELSE pg_catalog.pg_current_wal_insert_lsn() END::text AS lsn,
            pg_catalog.pg_relation_filenode($1::oid)::text AS filenode`,
    [source.oid],
  );
  const check = rows[0];
  const now = Number(check?.filenode ?? 0);
  if (check === undefined || (filenode !== 0 && now !== filenode)) {
    await client.query('ROLLBACK');
    return { kind: 'rewritten', filenode: now };
  }
  if (!(await accept())) {
    await client.query('ROLLBACK');
    return null;
  }
  const count = await executePortal(client, 'rows', onRow, ['COMMIT']);
  return {
    kind: 'read',
    seen: { visibility: check.snapshot, until: parseLsn(check.lsn) },
    rows: count,
    filenode: now,
  };
}

async function pause(milliseconds: number): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, milliseconds));
}
