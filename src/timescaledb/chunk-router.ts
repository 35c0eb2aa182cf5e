/**
 * Whose rows a relation of the WAL holds. Pure: the system catalog is asked elsewhere, the decision is here.
 * By OID, never by name: chunks may have any name in any schema. Only of a chunk that was dropped before its WAL was
 * read nothing but the name is left; then the hypertable's id and prefix, from the system catalog or the state, place it.
 */

/** A relation as pgoutput announced it, and what the system catalog says of it now. */
export type RelationFacts = {
  readonly oid: number;
  readonly schema: string;
  readonly name: string;
  /** False: dropped since. */
  readonly exists: boolean;
  /** Itself and every relation that it inherits from, directly or not. */
  readonly ancestors: readonly number[];
};

/** A hypertable whose chunks may turn up, with how TimescaleDB names them. */
export type ChunkNaming = {
  readonly hypertableId: number;
  /** OID of the hypertable. */
  readonly root: number;
  readonly chunkSchema: string;
  readonly chunkPrefix: string;
};

export type RouterKnowledge = {
  /** OIDs of the relations that are streams of this sync: tables, partitioned parents, hypertables. */
  readonly streams: ReadonlySet<number>;
  /** By schema and name, for a table that was dropped and made again: `"schema"."name"` quoted as SQL does. */
  readonly streamNames: ReadonlyMap<string, number>;
  /** Every hypertable of the database and of the state, selected or not. */
  readonly hypertables: readonly ChunkNaming[];
  /** Whether tables come into the publication by themselves (ALL TABLES, a whole schema): then it holds tables that nobody chose. */
  readonly publishesEverything: boolean;
};

export type Route =
  | {
      readonly kind: 'stream';
      /** OID of the stream's relation. */
      readonly root: number;
      /** Id of the chunk, where it can only be told from its name. */
      readonly droppedChunk: boolean;
    }
  | { readonly kind: 'ignored'; readonly why: 'not selected' | 'internal' | 'dropped' }
  | { readonly kind: 'unknown' };

/** How `streamNames` spells a relation. */
export function qualifiedName(schema: string, name: string): string {
  return `"${schema.replaceAll('"', '""')}"."${name.replaceAll('"', '""')}"`;
}

/** Decides what to do with a relation's rows. `unknown` must stop the sync: unknown is not ignored. */
export function route(facts: RelationFacts, known: RouterKnowledge): Route {
  const root = facts.ancestors.find((oid) => known.streams.has(oid));
  if (root !== undefined) return { kind: 'stream', root, droppedChunk: false };
  if (facts.schema === '_timescaledb_catalog') return { kind: 'ignored', why: 'internal' };
  if (facts.exists) return { kind: 'ignored', why: 'not selected' };
  const named = known.streamNames.get(qualifiedName(facts.schema, facts.name));
  if (named !== undefined) return { kind: 'stream', root: named, droppedChunk: false };
  const owners = known.hypertables.filter((hypertable) => isChunkName(facts, hypertable));
  const roots = new Set(owners.map((hypertable) => hypertable.root));
  const [owner] = [...roots].filter((oid) => known.streams.has(oid));
  if (owner !== undefined) {
    // A prefix given by hand may be that of several hypertables.
    return roots.size > 1
      ? { kind: 'unknown' }
      : { kind: 'stream', root: owner, droppedChunk: true };
  }
  if (roots.size > 0) return { kind: 'ignored', why: 'not selected' };
  if (isCompressedName(facts, known)) return { kind: 'ignored', why: 'internal' };
  // Of a dropped table that was published by its own name somebody meant the rows; of one that came in with
  // everything else nobody did.
  if (known.publishesEverything && !isChunkLike(facts)) return { kind: 'ignored', why: 'dropped' };
  return { kind: 'unknown' };
}

/** `<prefix>_<number>_chunk` in the hypertable's chunk schema: https://docs.tigerdata.com/api/latest/hypertable/create_hypertable/ */
function isChunkName(facts: RelationFacts, naming: ChunkNaming): boolean {
  if (facts.schema !== naming.chunkSchema) return false;
  const start = `${naming.chunkPrefix}_`;
  return facts.name.startsWith(start) && /^\d+_chunk$/.test(facts.name.slice(start.length));
}

/**
 * What held a chunk's rows in compressed form, which are no rows of a stream: `<chunk>_compressed`, up to 2.28
 * `compress_hyper_<number>_<number>_chunk`. Recompression and decompression drop it.
 */
function isCompressedName(facts: RelationFacts, known: RouterKnowledge): boolean {
  const { schema, name } = facts;
  if (schema === '_timescaledb_internal' && /^compress_hyper_\d+_\d+_chunk$/.test(name))
    return true;
  const suffix = '_compressed';
  if (!name.endsWith(suffix)) return false;
  const chunk = { ...facts, name: name.slice(0, -suffix.length) };
  return known.hypertables.some((it) => isChunkName({ ...chunk, schema: it.chunkSchema }, it));
}

function isChunkLike(facts: RelationFacts): boolean {
  return facts.schema === '_timescaledb_internal' || facts.name.endsWith('_chunk');
}
