/**
 * What the streams of a CDC sync consist of, brought into the publications. A look at these is good until somebody adds to
 * them: what we add ourselves makes us look again, what others add is told by the visibility of the look.
 */
import type { Client } from 'pg';
import type { Output } from './airbyte/output.ts';
import { type CdcRun, publish, publishedTable, unpublished } from './cdc-setup.ts';
import type { ChunkBook } from './chunk-book.ts';
import type { Config } from './config.ts';
import type { SyncStream } from './plan.ts';
import { awaitWriters, type TableName } from './postgres/publication.ts';
import { type Membership, membership } from './postgres/publication-members.ts';
import { type Leaf, listLeaves } from './postgres/relations.ts';
import type { Visibility } from './postgres/visibility.ts';
import { refuseUnreadable } from './select-privilege.ts';

type Covering = {
  readonly main: Client;
  readonly config: Config;
  readonly cdc: CdcRun;
  readonly book: ChunkBook;
  readonly output: Output;
};

export type Coverage = {
  /** What was added just now; who was writing to it has ended. */
  readonly added: readonly TableName[];
  /** OIDs of what was added since the state, by whomever: a killed sync of ours, or somebody by hand. Who writes to it may still do so. */
  readonly unseen: ReadonlySet<number>;
  /** Of the streams' own relations, their partitions, and the chunks that are listed: as it is with `added`. */
  readonly membership: Membership;
};

/**
 * Lists the chunks and puts what the streams consist of into the publication, before slot and reads.
 * @param then decides which members are `unseen`.
 * @throws ConnectorError (config) for a table that is not covered and may not be added.
 */
export async function coverStreams(
  context: Covering,
  streams: readonly SyncStream[],
  then: Visibility | null,
): Promise<Coverage> {
  const { main, book } = context;
  const partitioned = streams.filter(({ relation }) => relation.kind === 'partitioned');
  const roots = partitioned.map(({ relation }) => relation.oid);
  const leaves = roots.length === 0 ? [] : await listLeaves(main, roots);
  await book.refresh();
  await refuseUnreadable(main, streams, leaves, (stream) => book.of(stream));
  const look = (): Promise<Membership> => membershipOf(context, streams, leaves, then);
  const before = await look();
  const added = [
    ...(await coverTables(context, streams, leaves, before)),
    ...(await book.publishMissing(before)),
  ];
  const now = added.length === 0 ? before : await look();
  const tables = streams.map(({ relation }) => relation);
  const recent = tables.filter(({ oid }) => now.members.get(oid)?.recent === true);
  // A transaction that straddles the moment at which its table was published is sent by halves.
  await awaitWriters(
    main,
    [...added, ...recent].map(({ oid }) => oid),
  );
  const unseen = [...now.members].flatMap(([oid, member]) => (member.unseen ? [oid] : []));
  return { added, unseen: new Set(unseen), membership: now };
}

/** The streams' own tables, where neither they nor all of their partitions are published. */
async function coverTables(
  { main, config, cdc, output }: Covering,
  streams: readonly SyncStream[],
  leaves: readonly Leaf[],
  { members }: Membership,
): Promise<readonly TableName[]> {
  const missing = streams.filter(({ relation }) => {
    const own = leaves.filter((leaf) => leaf.root === relation.oid);
    if (members.has(relation.oid)) return false;
    return own.length === 0 || own.some((leaf) => !members.has(leaf.oid));
  });
  const { added, refused } = await publish(
    main,
    config,
    cdc,
    missing.map((stream) => publishedTable(stream)),
    output,
  );
  // A hypertable's own relation only brings TRUNCATE; its rows are in the chunks.
  const hypertables = new Set(streams.filter((it) => it.hypertable).map((it) => it.relation.oid));
  const needed = refused.filter((table) => !hypertables.has(table.oid));
  if (needed.length > 0) throw unpublished(cdc, needed);
  return added;
}

/**
 * Publishes listed chunks that are not, in the middle of a sync: what others have published since is no news, since the
 * chunks are listed at the same time. @param then decides which members are `unseen`.
 */
export async function coverChunks(
  context: Covering,
  streams: readonly SyncStream[],
  then: Visibility | null,
): Promise<Coverage> {
  const look = (): Promise<Membership> => membershipOf(context, streams, [], then);
  const before = await look();
  const added = await context.book.publishMissing(before);
  if (added.length === 0) return { added, unseen: new Set(), membership: before };
  const now = await look();
  await awaitWriters(
    context.main,
    added.map(({ oid }) => oid),
  );
  return { added, unseen: new Set(), membership: now };
}

async function membershipOf(
  { main, cdc, book }: Covering,
  streams: readonly SyncStream[],
  leaves: readonly Leaf[],
  then: Visibility | null,
): Promise<Membership> {
  const relations = [...streams.map(({ relation }) => relation), ...leaves];
  const oids = [...relations.map(({ oid }) => oid), ...book.oids];
  return membership(main, oids, cdc.publications, then);
}
