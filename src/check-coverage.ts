/** What the publications hold of what a CDC sync may read, and what this role may do about the rest. */
import { type ClientBase, escapeIdentifier } from 'pg';
import { type CdcConfig, hasIdentity } from './cdc-setup.ts';
import { listedSql, tableSql } from './check-finding.ts';
import { changeRelation, hasChanges, type SourceModel } from './source-model.ts';
import type { Config } from './config.ts';
import {
  type BareTable,
  insertsPublication,
  publicationStatuses,
  type PublicationStatus,
  publishedRelations,
  publishedWithoutIdentity,
  type TableName,
} from './postgres/publication.ts';
import { type Leaf, listLeaves, type Relation } from './postgres/relations.ts';
import { type Chunk, listChunks } from './timescaledb/chunks.ts';
import type { Hypertable } from './timescaledb/hypertables.ts';

/** A stream whose changes can be had from the WAL. */
export type StreamCoverage = {
  readonly relation: Relation;
  readonly hypertable: Hypertable | null;
  /** Whether the publications hold the relation itself: of a hypertable that brings TRUNCATE only. */
  readonly rootPublished: boolean;
  /** Chunks or partitions that no publication holds; the relation itself where it has none of its own. */
  readonly missing: readonly TableName[];
  /** 'all': a sync needs nothing more. 'none': it would see no change. */
  readonly extent: 'all' | 'some' | 'none';
  /** Some chunk is tiered: naming the hypertable would name it too, and no publication takes it. */
  readonly tiered: boolean;
  readonly identity: boolean;
  /** Whether it is in the publication with inserts only, and not in the other one. */
  readonly insertsOnly: boolean;
  /** Whether a sync will put what is missing into a publication. */
  readonly addable: boolean;
};

export type PublicationFacts = {
  readonly name: string;
  readonly status: PublicationStatus | null;
  readonly insertsName: string;
  readonly inserts: PublicationStatus | null;
  /** Schemas that are published as such. */
  readonly schemas: readonly string[];
  readonly streams: readonly StreamCoverage[];
  readonly bare: readonly BareTable[];
  /** What publishes new chunks without us, as a sentence names it; null where nothing does. */
  readonly chunkPublisher: string | null;
};

const DETAILS = `
SELECT ARRAY (SELECT oid::bigint FROM pg_class
               WHERE oid = ANY ($1::oid[]) AND pg_has_role(relowner, 'MEMBER')) AS owned,
       ARRAY (SELECT n.nspname::text
                FROM pg_depend m
                JOIN pg_depend s ON s.classid = m.classid AND s.objid = m.objid
                                AND s.refclassid = 'pg_namespace'::regclass
                JOIN pg_namespace n ON n.oid = s.refobjid
               WHERE m.classid = to_regclass('pg_catalog.pg_publication_namespace')::oid
                 AND m.refclassid = 'pg_publication'::regclass AND m.refobjid = $2::oid
               ORDER BY n.nspname) AS schemas,
       (SELECT e.evtname::text FROM pg_event_trigger e JOIN pg_proc p ON p.oid = e.evtfoid
         WHERE e.evtevent = 'ddl_command_end' AND e.evtenabled IN ('O', 'A')
           AND p.prosrc ~* 'alter\\s+publication'
           -- One that setup-sql made serves its own publication alone.
           AND (NOT starts_with(e.evtname, 'source_timescaledb_chunks_') OR strpos(p.prosrc, quote_literal($3)) > 0)
         ORDER BY e.evtname LIMIT 1) AS "eventTrigger",
       EXISTS (SELECT FROM pg_settings WHERE name = 'timescaledb.enable_chunk_auto_publication'
                AND setting = 'on' AND source IN ('configuration file', 'command line', 'database')) AS setting`;

type Details = {
  readonly owned: readonly string[];
  readonly schemas: readonly string[];
  readonly eventTrigger: string | null;
  readonly setting: boolean;
};

/** A fixed number of queries, whatever the number of tables and chunks. */
export async function publicationFacts(
  client: ClientBase,
  config: Config,
  cdc: CdcConfig,
  source: SourceModel,
  mayCreate: boolean,
): Promise<PublicationFacts> {
  const insertsName = insertsPublication(cdc.publication);
  const statuses = await publicationStatuses(client, [cdc.publication, insertsName]);
  const status = statuses.get(cdc.publication) ?? null;
  const inserts = statuses.get(insertsName) ?? null;
  const relations = source.relations
    .filter((relation) => hasChanges(relation, source, config))
    .map((relation) => changeRelation(relation, source));
  const oids = relations.map(({ oid }) => oid);
  const ids = relations.flatMap(({ oid }) => source.hypertables.get(oid)?.id ?? []);
  const { rows } = await client.query<Details>(DETAILS, [oids, status?.oid ?? 0, cdc.publication]);
  const [details = { owned: [], schemas: [], eventTrigger: null, setting: false }] = rows;
  const owned = new Set(details.owned.map(Number));
  const parts = {
    chunks: source.timescale === null ? [] : await listChunks(client, source.timescale, ids),
    leaves: await listLeaves(client, oids),
    full: await publishedRelations(client, [cdc.publication]),
    inserts: await publishedRelations(client, [insertsName]),
  };
  const mayAdd = (relation: Relation): boolean => {
    if (!config.managePublication || !owned.has(relation.oid)) return false;
    const target = hasIdentity(relation) ? status : inserts;
    return target === null ? mayCreate : target.ours;
  };
  return {
    name: cdc.publication,
    status,
    insertsName,
    inserts,
    schemas: details.schemas,
    streams: relations.map((relation) =>
      coverage(relation, source.hypertables.get(relation.oid) ?? null, parts, mayAdd(relation)),
    ),
    bare: await publishedWithoutIdentity(client, [cdc.publication, insertsName]),
    chunkPublisher: chunkPublisher(status, details),
  };
}

function chunkPublisher(status: PublicationStatus | null, details: Details): string | null {
  if (status?.allTables === true) return 'the publication, which holds every table';
  // The setting first: an event trigger is not told of the chunks of every hypertable.
  if (details.setting) return 'timescaledb.enable_chunk_auto_publication';
  return details.eventTrigger === null ? null : `the event trigger "${details.eventTrigger}"`;
}

type Parts = {
  readonly chunks: readonly Chunk[];
  readonly leaves: readonly Leaf[];
  readonly full: ReadonlySet<number>;
  readonly inserts: ReadonlySet<number>;
};

function coverage(
  relation: Relation,
  hypertable: Hypertable | null,
  parts: Parts,
  addable: boolean,
): StreamCoverage {
  const { full, inserts } = parts;
  const isPublished = ({ oid }: { readonly oid: number }): boolean =>
    full.has(oid) || inserts.has(oid);
  const rootPublished = isPublished(relation);
  const chunks = parts.chunks.filter((chunk) => chunk.hypertableId === hypertable?.id);
  const leaves = rootPublished ? [] : parts.leaves.filter((leaf) => leaf.root === relation.oid);
  // A partitioned table that is published stands for its partitions; a hypertable never does for its chunks.
  const own = hypertable === null ? leaves : chunks.filter((chunk) => !chunk.foreign);
  const holding: readonly TableName[] = own.length > 0 ? own : [relation];
  const missing = holding.filter((table) => !isPublished(table));
  const all = [relation, ...holding];
  const none = !rootPublished && missing.length === holding.length;
  return {
    relation,
    hypertable,
    rootPublished,
    missing,
    extent: missing.length === 0 ? 'all' : none ? 'none' : 'some',
    tiered: chunks.some((chunk) => chunk.foreign),
    identity: hasIdentity(relation),
    insertsOnly: all.some(({ oid }) => inserts.has(oid)) && !all.some(({ oid }) => full.has(oid)),
    addable,
  };
}

/** SQL that publishes what the streams lack, without breaking statements of the tables' owner. */
export function publishSql(facts: PublicationFacts, streams: readonly StreamCoverage[]): string {
  const bare = (stream: StreamCoverage): boolean => !stream.identity;
  const toInserts = facts.inserts === null ? [] : streams.filter(bare);
  const toFull = streams.filter((stream) => !toInserts.includes(stream));
  const identities = toFull
    .filter(bare)
    .map((stream) => `ALTER TABLE ${tableSql(stream.relation)} REPLICA IDENTITY FULL`);
  return [
    ...(identities.length === 0 ? [] : [listedSql('', identities, '; ')]),
    ...addSql(facts.name, toFull),
    ...addSql(facts.insertsName, toInserts),
  ].join(' ');
}

function addSql(publication: string, streams: readonly StreamCoverage[]): readonly string[] {
  if (streams.length === 0) return [];
  const head = `ALTER PUBLICATION ${escapeIdentifier(publication)} ADD TABLE `;
  return [listedSql(head, streams.flatMap(members))];
}

/** Named without ONLY a hypertable brings its chunks, but only if none of them is published already. */
function members(stream: StreamCoverage): readonly string[] {
  const { relation, hypertable, missing, rootPublished, extent, tiered } = stream;
  if (hypertable === null) return [`ONLY ${tableSql(relation)}`];
  if (extent === 'none' && !tiered) return [tableSql(relation)];
  const tables = [...(rootPublished ? [] : [relation]), ...missing];
  const names = new Set(tables.map((table) => `ONLY ${tableSql(table)}`));
  return [...names];
}
