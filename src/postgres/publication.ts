/**
 * The publication: what it covers, and adding to it. Never ALL TABLES and never a schema: both break statements of the
 * database's owner (refreshes of continuous aggregates, create_hypertable).
 */
import { type ClientBase, escapeIdentifier as ident } from 'pg';
import { ConnectorError, errorCode } from '../errors.ts';
import { fullIsNoIdentitySql } from './relations.ts';
import { newerThanSql, shortXid, type Visibility } from './visibility.ts';

export type PublicationStatus = {
  readonly oid: number;
  readonly allTables: boolean;
  readonly insert: boolean;
  readonly update: boolean;
  readonly delete: boolean;
  readonly truncate: boolean;
  readonly viaRoot: boolean;
  /** Whether the role may alter it. */
  readonly ours: boolean;
  /** Whether it leaves out columns or rows of some table. */
  readonly limited: boolean;
  /** Its own row is newer than what was asked about: what it publishes of a change, its owner or name may have been another. */
  readonly altered: boolean;
};

export type TableName = { readonly oid: number; readonly schema: string; readonly name: string };

/** Tables without a usable replica identity are published with inserts only: with updates or deletes the owner's own statements would fail. */
export function insertsPublication(publication: string): string {
  return `${publication.slice(0, 55)}_inserts`;
}

/**
 * The publications of these names that exist, by name. One query.
 * @param then tells which of them are `altered`; null: none is.
 */
export async function publicationStatuses(
  client: ClientBase,
  names: readonly string[],
  then: Visibility | null = null,
): Promise<ReadonlyMap<string, PublicationStatus>> {
  const { rows } = await client.query<PublicationStatus & { readonly name: string }>(STATUSES, [
    names,
    shortXid(then?.xmax ?? 0n),
    [...(then?.running ?? [])].map(shortXid),
  ]);
  return new Map(
    rows.map(({ name, ...status }) => [
      name,
      { ...status, altered: then !== null && status.altered },
    ]),
  );
}

export async function publicationStatus(
  client: ClientBase,
  publication: string,
): Promise<PublicationStatus | null> {
  return (await publicationStatuses(client, [publication])).get(publication) ?? null;
}

/** Row filters and column lists do not exist before PostgreSQL 15: taken from the row as JSON. */
const STATUSES = `
SELECT p.pubname::text AS name, p.oid::int8::int4 AS oid, p.puballtables AS "allTables", p.pubinsert AS insert,
       p.pubupdate AS update, p.pubdelete AS delete, p.pubtruncate AS truncate, p.pubviaroot AS "viaRoot",
       pg_catalog.pg_has_role(p.pubowner, 'MEMBER') AS ours, ${newerThanSql('p', 2)} AS altered,
       EXISTS (SELECT FROM pg_catalog.pg_publication_rel m
                WHERE m.prpubid = p.oid
                  AND (to_jsonb(m) ->> 'prqual' IS NOT NULL OR to_jsonb(m) ->> 'prattrs' IS NOT NULL)) AS limited
  FROM pg_catalog.pg_publication p WHERE p.pubname = ANY ($1)`;

/** OIDs of all relations that the publications publish: members as they were added, and leaf partitions. One query. */
export async function publishedRelations(
  client: ClientBase,
  publications: readonly string[],
): Promise<ReadonlySet<number>> {
  const { rows } = await client.query<{ oid: string }>(
    `SELECT c.oid::text AS oid
       FROM pg_catalog.pg_publication_tables t
       JOIN pg_catalog.pg_namespace n ON n.nspname = t.schemaname
       JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename
      WHERE t.pubname = ANY ($1)
      UNION
     SELECT m.prrelid::text
       FROM pg_catalog.pg_publication_rel m
       JOIN pg_catalog.pg_publication p ON p.oid = m.prpubid
      WHERE p.pubname = ANY ($1)`,
    [publications],
  );
  return new Set(rows.map(({ oid }) => Number(oid)));
}

export type BareTable = TableName & {
  readonly publication: string;
  /** What it inherits from, which is a chunk's hypertable; null for a table that inherits nothing. */
  readonly parent: number | null;
};

/**
 * Published relations whose rows have no replica identity. Where the publication has updates or deletes, the server
 * refuses such statements on them. The key must be checked at once: a deferrable one does not count. One query.
 */
export async function publishedWithoutIdentity(
  client: ClientBase,
  publications: readonly string[],
): Promise<readonly BareTable[]> {
  const { rows } = await client.query<{
    publication: string;
    oid: string;
    parent: string | null;
    schema: string;
    name: string;
  }>(
    `SELECT t.pubname AS publication, c.oid::bigint AS oid, i.inhparent::bigint AS parent,
            n.nspname AS schema, c.relname AS name
       FROM pg_catalog.pg_publication_tables t
       JOIN pg_catalog.pg_namespace n ON n.nspname = t.schemaname
       JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename
       LEFT JOIN pg_catalog.pg_inherits i ON i.inhrelid = c.oid AND i.inhseqno = 1
      WHERE t.pubname = ANY ($1) AND (c.relreplident <> 'f' OR ${fullIsNoIdentitySql('c')})
        AND NOT EXISTS (SELECT FROM pg_catalog.pg_index x
                         WHERE x.indrelid = c.oid AND x.indimmediate AND x.indisvalid
                           AND CASE c.relreplident WHEN 'd' THEN x.indisprimary
                                                   WHEN 'i' THEN x.indisreplident ELSE false END)
      ORDER BY n.nspname, c.relname`,
    [publications],
  );
  return rows.map((row) => ({
    publication: row.publication,
    oid: Number(row.oid),
    parent: row.parent === null ? null : Number(row.parent),
    schema: row.schema,
    name: row.name,
  }));
}

/** SQL that makes the publication of the given kind, empty. */
export function createPublicationSql(publication: string, kind: 'all changes' | 'inserts'): string {
  const publish = kind === 'inserts' ? 'insert, truncate' : 'insert, update, delete, truncate';
  return `CREATE PUBLICATION ${ident(publication)} WITH (publish = '${publish}')`;
}

/** SQL that adds tables: ONLY, since chunks are added one by one and a tiered chunk would make the whole fail. */
export function addTablesSql(publication: string, tables: readonly TableName[]): string {
  // TABLE once: PostgreSQL 14 does not know it before each name.
  const list = tables.map(({ schema, name }) => `ONLY ${ident(schema)}.${ident(name)}`);
  return `ALTER PUBLICATION ${ident(publication)} ADD TABLE ${list.join(', ')}`;
}

/** Few enough for the server's lock table: each takes a lock until the statement ends. */
const TABLES_PER_STATEMENT = 200;
const LOCK_ATTEMPTS = 6;

/**
 * Adds tables to a publication, some hundred at a time. A table that vanished or was added meanwhile is passed over.
 * @returns the tables that the role does not own.
 * @throws ConnectorError (transient) when DDL or maintenance keeps a table locked; errors of the server otherwise.
 */
export async function addTables<T extends TableName>(
  client: ClientBase,
  publication: string,
  tables: readonly T[],
): Promise<readonly T[]> {
  const refused: T[] = [];
  for (let at = 0; at < tables.length; at += TABLES_PER_STATEMENT) {
    const batch = tables.slice(at, at + TABLES_PER_STATEMENT);
    const code = await tryAdd(client, publication, batch);
    if (code === null) continue;
    for (const table of batch) {
      if (!(await addOne(client, publication, table))) refused.push(table);
    }
  }
  return refused;
}

/** @returns null, or the SQLSTATE for which adding one by one is worth a try. */
async function tryAdd(
  client: ClientBase,
  publication: string,
  tables: readonly TableName[],
): Promise<string | null> {
  try {
    // Many locks at once can meet others in a deadlock: ours gives way before the server looks for whom to end.
    await client.query(`SET lock_timeout = '${tables.length > 1 ? '500ms' : '5s'}'`);
    await client.query(addTablesSql(publication, tables));
    return null;
  } catch (error) {
    const code = errorCode(error);
    if (RETRY_ONE_BY_ONE.has(code)) return code;
    throw error;
  } finally {
    await client.query('SET lock_timeout = 0').catch(() => undefined);
  }
}

const LOCK_NOT_AVAILABLE = '55P03';
const DEADLOCK = '40P01';
const DUPLICATE_OBJECT = '42710';
const UNDEFINED_TABLE = '42P01';
const INSUFFICIENT_PRIVILEGE = '42501';
const RETRY_ONE_BY_ONE = new Set([
  LOCK_NOT_AVAILABLE,
  DEADLOCK,
  DUPLICATE_OBJECT,
  UNDEFINED_TABLE,
  INSUFFICIENT_PRIVILEGE,
]);

/** @returns false when the role may not. */
async function addOne(client: ClientBase, publication: string, table: TableName): Promise<boolean> {
  for (let attempt = 1; attempt <= LOCK_ATTEMPTS; attempt += 1) {
    const code = await tryAdd(client, publication, [table]);
    if (code !== LOCK_NOT_AVAILABLE && code !== DEADLOCK) return code !== INSUFFICIENT_PRIVILEGE;
  }
  throw new ConnectorError(
    `${table.schema}.${table.name} could not be added to the publication ${publication}: DDL or maintenance keeps it locked.`,
    { kind: 'transient_error' },
  );
}

/**
 * Whether the publication was made or changed, or was given a schema, by a transaction which was not visible then. Schemas
 * are read from pg_depend: pg_publication_namespace does not exist before PostgreSQL 15.
 */
export async function publicationsSince(
  client: ClientBase,
  publication: string,
  then: Visibility,
): Promise<boolean> {
  const { rows } = await client.query<{ changed: boolean }>(
    `SELECT EXISTS (
       SELECT FROM pg_catalog.pg_publication p
         LEFT JOIN pg_catalog.pg_depend d
           ON d.refclassid = 'pg_publication'::regclass AND d.refobjid = p.oid
          AND d.classid = to_regclass('pg_catalog.pg_publication_namespace')::oid
        WHERE p.pubname = $1
          AND (pg_catalog.age(p.xmin) BETWEEN 0 AND pg_catalog.age($2::xid)
               OR pg_catalog.age(d.xmin) BETWEEN 0 AND pg_catalog.age($2::xid))) AS changed`,
    [publication, shortXid(then.xmax)],
  );
  return rows[0]?.changed === true;
}

const WRITER_WAIT_MS = 15 * 60_000;

/**
 * Waits until every transaction that could have written to the tables before now has ended. A transaction that straddles
 * the moment at which its table was published is sent by halves; once it has ended, a read sees all of it.
 * @throws ConnectorError (transient) naming the sessions when one does not end.
 */
export async function awaitWriters(client: ClientBase, oids: readonly number[]): Promise<void> {
  if (oids.length === 0) return;
  let waiting = await writers(client, oids, null);
  const begun = Date.now();
  for (let pause = 20; waiting.length > 0; pause = Math.min(pause * 2, 1000)) {
    if (Date.now() - begun > WRITER_WAIT_MS) {
      const pids = waiting.map(({ pid }) => pid).join(', ');
      throw new ConnectorError(
        `Transactions that write to tables which were just published do not end (server processes ${pids}).`,
        { kind: 'transient_error', fix: 'End them, or try again when they have ended.' },
      );
    }
    await new Promise((resolve) => setTimeout(resolve, pause));
    waiting = await writers(
      client,
      oids,
      waiting.map(({ vxid }) => vxid),
    );
  }
}

/** The virtual transactions, of those given, that hold a lock which writing takes. */
async function writers(
  client: ClientBase,
  oids: readonly number[],
  among: readonly string[] | null,
): Promise<readonly { readonly vxid: string; readonly pid: number }[]> {
  const { rows } = await client.query<{ vxid: string; pid: number }>(
    `SELECT DISTINCT l.virtualtransaction AS vxid, l.pid
       FROM pg_catalog.pg_locks l
      WHERE l.locktype = 'relation' AND l.granted
        AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
        AND l.relation = ANY ($1::oid[])
        AND l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
        AND ($2::text[] IS NULL OR l.virtualtransaction = ANY ($2::text[]))`,
    [oids, among],
  );
  return rows;
}
