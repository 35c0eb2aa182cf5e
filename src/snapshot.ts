/**
 * Reads existing rows: a chunk as a whole, a table in slices of pages, each in a short transaction of its own.
 *
 * The order inside a transaction is what makes a chunk's read whole: lock, then bind the reading statement (its snapshot
 * and plan are made together), then compare the chunk's status as of that snapshot with the newest one, and only then
 * let rows flow. TimescaleDB plans with the newest system catalog but executes with the snapshot, so a chunk compressed
 * between the two would silently lack rows. See docs/consistency.md.
 */
import { type Client, type ClientBase, escapeIdentifier as ident } from 'pg';
import { ConnectorError, errorCode } from './errors.ts';
import type { ColumnFormat } from './postgres/bind-message.ts';
import { bindPortal, executePortal, type RowHandler } from './postgres/hot-reader.ts';
import { parseLsn } from './postgres/lsn.ts';
import { settingsOf } from './postgres/pooler.ts';
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

/**
 * Reads one chunk whole or not at all; begins again while maintenance changes it.
 * @param main another session: it sees the chunk's newest state. @param root the chunk's hypertable.
 * @param checkSql `chunkCheckSql` of this server. @param onRow is not called before the check has passed.
 * @throws ConnectorError (transient) when the chunk stays locked or keeps changing.
 */
export async function readChunk(
  client: Client,
  main: ClientBase,
  root: TableName,
  chunk: Chunk,
  selection: Selection,
  checkSql: string,
  onRow: RowHandler,
): Promise<ChunkRead> {
  let target: TableName = chunk;
  let above: TableName | null = root;
  let reason = '';
  let emitted = false;
  const emit: RowHandler = (src, start, end) => {
    emitted = true;
    return onRow(src, start, end);
  };
  for (let attempt = 0; attempt < ATTEMPTS; attempt += 1) {
    if (attempt > 0) await pause(Math.min(2000, 25 * 2 ** attempt));
    try {
      const read = await attemptChunk(
        client,
        main,
        chunk,
        lockSql(above, target, chunk.foreign),
        target,
        selection,
        checkSql,
        emit,
      );
      if (read !== null) return read.kind === 'read' ? { ...read, retries: attempt } : read;
      reason = 'it was compressed or recompressed each time';
    } catch (error) {
      const code = errorCode(error);
      const busy = BUSY.get(code);
      // Once rows have left, beginning again would double them.
      if (emitted) throw error;
      if (code === UNDEFINED_TABLE) {
        await client.query('ROLLBACK');
        const renamed = await nameOf(client, chunk.oid);
        if (renamed === null) return { kind: 'gone' };
        // The hypertable was renamed: its lock is a courtesy, the chunk's is not.
        if (renamed.schema === target.schema && renamed.name === target.name) above = null;
        target = renamed;
      } else if (busy !== undefined) {
        await client.query('ROLLBACK');
        reason = busy;
      } else throw error;
    }
  }
  throw new ConnectorError(
    `The chunk ${chunk.schema}.${chunk.name} could not be read: ${reason}.`,
    { kind: 'transient_error', fix: 'The next attempt goes on with it.' },
  );
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

/** @returns null when the chunk changed between snapshot and plan; nothing was emitted then. */
async function attemptChunk(
  client: Client,
  main: ClientBase,
  chunk: Chunk,
  lock: readonly string[],
  target: TableName,
  selection: Selection,
  checkSql: string,
  onRow: RowHandler,
): Promise<Attempted<ChunkRead> | null> {
  // One round trip: a hypertable may have thousands of chunks with few rows in each.
  const before = [...BEGIN, ...settingsOf(client), ...lock];
  const sql = selectSql(qualified(target), selection);
  await bindPortal(client, 'rows', sql, selection.values, formats(selection), before);
  const query = { name: 'chunk check', text: checkSql, values: [chunk.id] };
  const [own, other] = await Promise.all(
    [client, main].map((session) => session.query<ChunkCheck>(query)),
  );
  const [check] = own?.rows ?? [];
  const [newest] = other?.rows ?? [];
  if (check === undefined || check.version !== newest?.version) {
    await client.query('ROLLBACK');
    return null;
  }
  if (check.version === null) {
    await client.query('ROLLBACK');
    return { kind: 'gone' };
  }
  const count = await executePortal(client, 'rows', onRow, ['COMMIT']);
  return {
    kind: 'read',
    seen: { visibility: check.snapshot, until: parseLsn(check.lsn) },
    rows: count,
  };
}

type ChunkCheck = {
  readonly snapshot: string;
  readonly lsn: string;
  readonly version: string | null;
};

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
