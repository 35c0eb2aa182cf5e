/**
 * Publication, then slot, then reads, then stream: what must be in place before the first row of a CDC sync, and whether
 * the state that came in can be gone on with.
 */
import { type Client, escapeIdentifier } from 'pg';
import type { Output } from './airbyte/output.ts';
import type { Config } from './config.ts';
import { ConnectorError, errorCode } from './errors.ts';
import { label, type SyncStream } from './plan.ts';
import {
  addTables,
  addTablesSql,
  createPublicationSql,
  insertsPublication,
  publicationStatus,
  publicationStatuses,
  type PublicationStatus,
  publishedWithoutIdentity,
  type TableName,
} from './postgres/publication.ts';
import type { Relation } from './postgres/relations.ts';
import { parseVisibility, type Visibility } from './postgres/visibility.ts';
import { sessionText } from './slot-care.ts';
import type { SharedState } from './state.ts';

export type CdcConfig = Extract<Config['replication'], { method: 'CDC' }>;

/** With the publications of a sync, as they were when it began: looking at them again would be most of an idle sync's queries. */
export type CdcRun = CdcConfig & {
  readonly main: PublicationStatus;
  readonly inserts: PublicationStatus | null;
  /** What pgoutput is told: the second one exists only where some table has no identity. */
  readonly publications: readonly string[];
};

/** What was visible when the publications were last looked at; null where no state tells. */
export function visibilityThen(shared: SharedState | null): Visibility | null {
  return shared?.publicationsSeen == null ? null : parseVisibility(shared.publicationsSeen);
}

/** Whether a row of the relation can be told from others in the WAL: without it neither updates nor deletes may be published. */
export function hasIdentity(relation: Relation): boolean {
  switch (relation.replicaIdentity) {
    case 'full':
      return true;
    case 'nothing':
      return false;
    case 'default':
    case 'index':
      return relation.identity.length > 0;
    default:
      return relation.replicaIdentity satisfies never;
  }
}

/**
 * One sync at a time on a slot: a session-level advisory lock, which ends with its session. A session left behind by a
 * killed process ends within seconds, so the lock is waited for.
 * @throws ConnectorError (transient) when another sync holds it.
 */
export async function claimSlot(client: Client, slot: string): Promise<void> {
  const begun = Date.now();
  for (;;) {
    const { rows } = await client.query<{ claimed: boolean }>(
      `SELECT pg_catalog.pg_try_advisory_lock(pg_catalog.hashtext('source-timescaledb'), pg_catalog.hashtext($1)) AS claimed`,
      [slot],
    );
    if (rows[0]?.claimed === true) return;
    if (Date.now() - begun > CLAIM_WAIT_MS) {
      const holder = await sessionText(client, CLAIM_HOLDER, [slot]);
      throw new ConnectorError(
        `Another sync is reading from the replication slot ${slot}: ${holder}.`,
        {
          kind: 'transient_error',
          fix: 'Give each connection a slot of its own, or wait until the other sync has ended.',
        },
      );
    }
    await new Promise((resolve) => setTimeout(resolve, 250));
  }
}

const CLAIM_WAIT_MS = 60_000;

const CLAIM_HOLDER = `
SELECT pid FROM pg_catalog.pg_locks
 WHERE locktype = 'advisory' AND granted AND objsubid = 2
   AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
   AND classid = pg_catalog.hashtext('source-timescaledb')::oid AND objid = pg_catalog.hashtext($1)::oid`;

/** What the settings cost, or do not mean here, as sentences. */
export function settingNotes(cdc: CdcConfig): readonly string[] {
  return [
    ...(cdc.confirmWhileReading
      ? [
          '`lsn_commit_behaviour` is "While reading Data": the server forgets changes as soon as a STATE with them was written. What the destination fails to store is lost; the next sync finds out and stops, or reads every stream anew.',
        ]
      : []),
    ...(cdc.asksForWal2json
      ? [
          '`plugin` asks for wal2json: only pgoutput is used, and a slot that was made with wal2json is refused.',
        ]
      : []),
  ];
}

/**
 * Makes sure that the publication exists, before the slot: decoding WAL that is older than a publication it names fails.
 * For that reason the second one, for tables without an identity, is made at the same time although it may stay empty.
 * @param shared of the state that came in; null: whatever slot there is will begin after this.
 * @returns what the sync goes by from here on.
 */
export async function ensurePublication(
  client: Client,
  config: Config,
  cdc: CdcConfig,
  shared: SharedState | null,
): Promise<CdcRun> {
  const second = insertsPublication(cdc.publication);
  const then = visibilityThen(shared);
  const statuses = await publicationStatuses(client, [cdc.publication, second], then);
  let inserts = statuses.get(second) ?? null;
  if (shared === null && config.managePublication && inserts === null) {
    await client.query(createPublicationSql(second, 'inserts')).catch((error: unknown) => {
      // Without the privilege tables without an identity cannot be published: said where one is asked for.
      if (errorCode(error) !== '42501') throw error;
    });
    inserts = await publicationStatus(client, second);
  }
  let main = statuses.get(cdc.publication) ?? null;
  if (main === null) {
    await makePublication(client, config, cdc);
    main = await publicationStatus(client, cdc.publication);
  }
  if (main === null) throw new Error('a publication is gone that was made a moment ago');
  const publications = inserts === null ? [cdc.publication] : [cdc.publication, second];
  return { ...cdc, main, inserts, publications };
}

async function makePublication(client: Client, config: Config, cdc: CdcConfig): Promise<void> {
  const sql = createPublicationSql(cdc.publication, 'all changes');
  if (!config.managePublication) {
    throw new ConnectorError(`The publication ${cdc.publication} does not exist.`, {
      kind: 'config_error',
      fix: `Create it with your tables: ${sql}; \`setup-sql\` prints this and the rest.`,
    });
  }
  await manage(client, sql);
}

/**
 * A publication that leaves out kinds of changes shows tables as they never were. Updates and deletes may be left out where
 * no stream has a replica identity: the server refuses such statements on published tables anyway.
 * @throws ConnectorError (config) naming the kinds.
 */
export function refuseSubset(cdc: CdcRun, streams: readonly SyncStream[]): void {
  const { publication, main } = cdc;
  const told = streams.some(({ relation }) => hasIdentity(relation));
  const kinds = told ? (['insert', 'update', 'delete'] as const) : (['insert'] as const);
  const lacking = kinds.filter((kind) => !main[kind]);
  if (lacking.length === 0) return;
  throw new ConnectorError(
    `The publication ${publication} does not publish ${lacking.map((kind) => `${kind}s`).join(' and ')}: they would be lost.`,
    {
      kind: 'config_error',
      fix: `Run: ALTER PUBLICATION ${escapeIdentifier(publication)} SET (publish = 'insert, update, delete, truncate'); and, if syncs have run with it, clear the connection. Tables that only ever get inserts belong into ${insertsPublication(publication)}.`,
    },
  );
}

/** DDL of ours, with the privilege named where it is missing. */
async function manage(client: Client, sql: string): Promise<void> {
  try {
    await client.query(sql);
  } catch (error) {
    if (errorCode(error) !== '42501') throw error;
    throw new ConnectorError('The role may not manage the publication.', {
      kind: 'config_error',
      fix: `Let somebody who may run: ${sql}; or grant CREATE on the database to this role.`,
      cause: error,
    });
  }
}

export type PublishResult = {
  /** Tables that are published now and were not before. */
  readonly added: readonly TableName[];
  /** Tables that the role may not publish. */
  readonly refused: readonly PublishableTable[];
};

/** With whether its rows can be told apart, which decides on the publication that may take it. */
type PublishableTable = TableName & { readonly identity: boolean };

/**
 * Adds tables to the publication, or, where rows cannot be told apart, to the one with inserts only.
 * With `verify only`, or without the privilege, nothing is done and the tables are returned as refused.
 */
export async function publish(
  client: Client,
  config: Config,
  cdc: CdcRun,
  tables: readonly PublishableTable[],
  output: Output,
): Promise<PublishResult> {
  if (tables.length === 0) return { added: [], refused: [] };
  if (!config.managePublication) return { added: [], refused: tables };
  const { publication } = cdc;
  if (!cdc.main.ours) {
    output.log(
      'WARN',
      `The role does not own the publication ${publication}: it adds nothing to it.`,
    );
    return { added: [], refused: tables };
  }
  const withIdentity = tables.filter((table) => table.identity);
  const without = tables.filter((table) => !table.identity);
  const refused = [...(await addTables(client, publication, withIdentity))];
  if (without.length > 0) {
    const inserts = insertsPublication(publication);
    if (cdc.inserts === null) throw tooLate(inserts, without);
    refused.push(...(cdc.inserts.ours ? await addTables(client, inserts, without) : without));
  }
  if (refused.length > 0) {
    output.log('WARN', `The role does not own ${refused.length} tables: it cannot publish them.`);
  }
  const left = new Set(refused);
  return { added: tables.filter((table) => !left.has(table)), refused };
}

function tooLate(publication: string, tables: readonly TableName[]): ConnectorError {
  const names = tables.slice(0, 5).map(({ schema, name }) => label({ namespace: schema, name }));
  return new ConnectorError(
    `${names.join(', ')} cannot be added to the publication: without a replica identity it needs ${publication}, which must be older than the position of the sync.`,
    {
      kind: 'config_error',
      fix: 'Give the table a primary key or ALTER TABLE ... REPLICA IDENTITY FULL, or clear the connection once.',
    },
  );
}

/** The sentence for tables that must be published first and that we may not publish. */
export function unpublished(cdc: CdcConfig, tables: readonly PublishableTable[]): ConnectorError {
  const names = tables.slice(0, 5).map(({ schema, name }) => label({ namespace: schema, name }));
  const more = tables.length > 5 ? ` and ${tables.length - 5} more` : '';
  return new ConnectorError(
    `The publication ${cdc.publication} does not cover ${names.join(', ')}${more}.`,
    {
      kind: 'config_error',
      // Without an identity the owner's own updates would fail from then on.
      fix: `Let its owner run: ${tables
        .slice(0, 20)
        .filter(({ identity }) => !identity)
        .map((table) => `${fullIdentitySql(table)}; `)
        .join(
          '',
        )}${addTablesSql(cdc.publication, tables.slice(0, 20))}; or what \`setup-sql\` prints.`,
    },
  );
}

/**
 * A stream must not be in a publication with updates and deletes when its rows have no replica identity: the server
 * refuses the owner's updates and deletes on it, chunk by chunk for a hypertable.
 * @throws ConnectorError (config) naming the first such stream.
 */
export async function refuseBareStreams(
  client: Client,
  cdc: CdcRun,
  streams: readonly SyncStream[],
): Promise<void> {
  if (!(cdc.main.update || cdc.main.delete)) return;
  if (streams.every(({ relation }) => hasIdentity(relation))) return;
  const bare = await publishedWithoutIdentity(client, [cdc.publication]);
  const oids = new Set(bare.flatMap(({ oid, parent }) => [oid, parent]));
  const stream = streams.find((it) => !hasIdentity(it.relation) && oids.has(it.relation.oid));
  if (stream === undefined) return;
  throw new ConnectorError(
    `${label(stream.name)} is in the publication ${cdc.publication} with updates and deletes, but its rows have no replica identity: the server refuses to update and delete them.`,
    {
      kind: 'config_error',
      fix: `${await identityAdvice(client, stream.relation)} Or take it out: ALTER PUBLICATION ${escapeIdentifier(cdc.publication)} DROP TABLE ${escapeIdentifier(stream.relation.schema)}.${escapeIdentifier(stream.relation.name)};`,
      stream: stream.name,
    },
  );
}

/** From PostgreSQL 18 on FULL is as good as none where columns are generated: see `fullIsNoIdentitySql`. */
async function identityAdvice(client: Client, relation: Relation): Promise<string> {
  const { rows } = await client.query<{ version: number }>(
    `SELECT current_setting('server_version_num')::int AS version`,
  );
  const generated = relation.columns.some((column) => column.generated);
  if ((rows[0]?.version ?? 0) < 180000 || !generated) return `Run ${fullIdentitySql(relation)};`;
  return 'Give it a primary key, or a unique index of NOT NULL columns as replica identity: REPLICA IDENTITY FULL does not do on PostgreSQL 18 for a table with generated columns.';
}

function fullIdentitySql({ schema, name }: Pick<TableName, 'schema' | 'name'>): string {
  return `ALTER TABLE ${escapeIdentifier(schema)}.${escapeIdentifier(name)} REPLICA IDENTITY FULL`;
}

/** A stream's own relation, as a member of the publication. */
export function publishedTable(stream: SyncStream): TableName & { readonly identity: boolean } {
  const { oid, schema, name } = stream.relation;
  return { oid, schema, name, identity: hasIdentity(stream.relation) };
}
