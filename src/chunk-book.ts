/**
 * The chunks of the hypertables of a CDC sync: which there are, which are published, which are left to read. Looked at
 * anew between rounds of reading; the stream adds those that it meets before that.
 */
import type { Client } from 'pg';
import type { Output } from './airbyte/output.ts';
import { type CdcRun, hasIdentity, publish } from './cdc-setup.ts';
import type { Config } from './config.ts';
import type { Ledger } from './ledger.ts';
import { label, type SyncStream } from './plan.ts';
import type { Coverage } from './coverage.ts';
import { awaitWriters, type TableName } from './postgres/publication.ts';
import { type Member, type Membership, membership } from './postgres/publication-members.ts';
import { parseVisibility } from './postgres/visibility.ts';
import {
  chunkDone,
  chunkUndone,
  completed,
  type HypertableProgress,
  isDone,
  mayHaveBeenEmitted,
  rebased,
  reopened,
  replayed,
  startHypertable,
  unreadChunks,
} from './progress.ts';
import type { UnreadChunks } from './unread-chunks.ts';
import { type Chunk, listChunks } from './timescaledb/chunks.ts';
import {
  isBornCompressed,
  openToDirectWrites,
  wasWrittenDirectly,
} from './timescaledb/direct-writes.ts';
import type { TimescaleCatalog } from './timescaledb/hypertables.ts';
import type { ChunkWatcher } from './timescaledb/watcher.ts';

export class ChunkBook {
  /** The list was read anew in mid-stream: chunks in it may be unpublished, or have other ranges, until `adopt`. */
  unjudged = false;
  /** Rows may have been emitted, or have moved, without a state that says so: what they went through comes before they are read again. */
  drainFirst = false;
  readonly #client: Client;
  readonly #config: Config;
  readonly #cdc: CdcRun;
  readonly #catalog: TimescaleCatalog | null;
  readonly #output: Output;
  readonly #watch: ChunkWatcher;
  /** Streams that are hypertables, by hypertable id. */
  readonly #streams: ReadonlyMap<number, SyncStream>;
  #chunks: readonly Chunk[] = [];
  /** By hypertable id. */
  #byHypertable: ReadonlyMap<number, readonly Chunk[]> = new Map();
  #byOid: ReadonlyMap<number, Chunk> = new Map();
  /** Chunks that are not published and that we may not publish, by OID: their changes are not in the WAL's stream. */
  #unpublished: ReadonlySet<number> = new Set();
  /** Those of them that this sync has read. */
  readonly #readInVain = new Set<number>();
  /** What the reads of this sync saw, by chunk OID. */
  readonly #seen = new Map<number, string>();
  /** OIDs of hypertables into which rows can be written that no change tells of; null until they are looked for. */
  #openToDirectWrites: ReadonlySet<number> | null = null;
  readonly #unread = new Map<string, UnreadChunks<Chunk>>();
  /** By stream: ids of chunks that did not exist at the last look are greater. */
  readonly #newest = new Map<string, number>();

  constructor(
    client: Client,
    config: Config,
    cdc: CdcRun,
    catalog: TimescaleCatalog | null,
    streams: readonly SyncStream[],
    output: Output,
    watch: ChunkWatcher,
  ) {
    this.#watch = watch;
    this.#client = client;
    this.#config = config;
    this.#cdc = cdc;
    this.#catalog = catalog;
    this.#output = output;
    this.#streams = new Map(
      streams.flatMap((stream) =>
        stream.hypertable === null ? [] : [[stream.hypertable.id, stream] as const],
      ),
    );
  }

  /** Reads the list of chunks anew. One query. */
  async refresh(): Promise<void> {
    if (this.#catalog === null || this.#streams.size === 0) return;
    this.#list(await listChunks(this.#client, this.#catalog, [...this.#streams.keys()]));
    this.#watch.looked(this.#chunks);
  }

  #list(chunks: readonly Chunk[]): void {
    this.#chunks = chunks;
    this.#byOid = new Map(chunks.map((chunk) => [chunk.oid, chunk]));
    const lists = new Map<number, Chunk[]>([...this.#streams.keys()].map((id) => [id, []]));
    for (const chunk of chunks) lists.get(chunk.hypertableId)?.push(chunk);
    this.#byHypertable = lists;
    this.#unread.clear();
  }

  /** Of every chunk that exists. */
  get oids(): readonly number[] {
    return this.#chunks.map(({ oid }) => oid);
  }

  /** The chunks of a stream that exist, by range. */
  of(stream: SyncStream): readonly Chunk[] {
    return this.#byHypertable.get(stream.hypertable?.id ?? 0) ?? [];
  }

  /** The chunks of a stream that are left to read in this sync, by range. */
  pending(stream: SyncStream, progress: HypertableProgress): readonly Chunk[] {
    const { chunks } = this.unread(stream, progress);
    return chunks.filter(({ oid }) => !this.#readInVain.has(oid));
  }

  /** All that are not done, as `chunkDone` keeps it up to date; only what else happens to a stream makes it anew. */
  unread(stream: SyncStream, progress: HypertableProgress): UnreadChunks<Chunk> {
    const kept = this.#unread.get(stream.key);
    if (kept?.covered === progress.covered) return kept;
    const made = unreadChunks(progress, this.of(stream));
    this.#unread.set(stream.key, made);
    return made;
  }

  /**
   * A chunk was read. True where that does not count: it is not published, so what happens to it from now on is seen only
   * by reading it again.
   */
  readonly readInVain = (chunk: Chunk, visibility: string): boolean => {
    this.#seen.set(chunk.oid, visibility);
    if (!this.#unpublished.has(chunk.oid)) return false;
    this.#readInVain.add(chunk.oid);
    return true;
  };

  /** Chunks that turned out to be gone while they were to be read. */
  forget(oids: ReadonlySet<number>): void {
    if (oids.size === 0) return;
    this.#list(this.#chunks.filter(({ oid }) => !oids.has(oid)));
  }

  get(oid: number): Chunk | undefined {
    return this.#byOid.get(oid);
  }

  /** Publishes chunks that are not. Returns those that were added: their writers have to be awaited before they are read. */
  async publishMissing({ members }: Membership): Promise<readonly TableName[]> {
    const missing: (TableName & { readonly identity: boolean })[] = [];
    for (const chunk of this.#chunks) {
      const stream = this.#streams.get(chunk.hypertableId);
      if (stream === undefined || chunk.foreign || members.has(chunk.oid)) continue;
      const { oid, schema, name } = chunk;
      missing.push({ oid, schema, name, identity: hasIdentity(stream.relation) });
    }
    const { added, refused } = await publish(
      this.#client,
      this.#config,
      this.#cdc,
      missing,
      this.#output,
    );
    if (refused.length > 0) {
      this.#output.log(
        'WARN',
        `${refused.length} chunks are not in the publication ${this.#cdc.publication} and may not be added: each sync reads them again, and their deletes are not seen, until somebody adds them. \`setup-sql\` prints the SQL for a DBA.`,
      );
    }
    return added;
  }

  /**
   * Brings every stream's progress up to what exists: new chunks that were published since their birth need no read,
   * any other that is not done has to be read.
   * @param coverage with the chunks that `publishMissing` has added, and whose writers have ended.
   * @param interrupted the sync before ended without its last state.
   */
  async adopt(
    ledger: Ledger,
    { added, unseen, membership: { members, visibility } }: Coverage,
    interrupted: boolean,
  ): Promise<void> {
    this.unjudged = false;
    if (this.#streams.size === 0) return;
    const awaited = new Set(added.map(({ oid }) => oid));
    const late = new Set([...awaited, ...unseen]);
    this.#unpublished = new Set(
      this.#chunks
        .filter(({ oid, foreign }) => !foreign && !members.has(oid))
        .map(({ oid }) => oid),
    );
    for (const stream of this.#streams.values()) {
      const chunks = this.of(stream);
      const before = progressOf(ledger, stream);
      const known =
        before === null ? startHypertable(hypertableOf(stream), chunks) : rebased(before, chunks);
      const start = await this.#withoutDirectWrites(stream, known, visibility);
      // Ids that the state knew nothing of are greater than what it knew.
      const newFrom = before?.complete === true ? before.chunkIdMax : Infinity;
      const progress = this.#judged(start, chunks, members, late, newFrom);
      this.#newest.set(stream.key, progress.chunkIdMax);
      this.#watch.judged(progress.hypertableId, progress.chunkIdMax);
      const pending = this.pending(stream, progress);
      // Published by somebody else, or by a sync that ended before it had awaited their writers.
      await awaitWriters(
        this.#client,
        pending
          .map(({ oid }) => oid)
          .filter((oid) => members.get(oid)?.recent === true && !awaited.has(oid)),
      );
      const open = pending.length > 0 ? reopened(progress) : completed(progress);
      // A split or a merge: what the rows went through in their old chunk and in the new one is replayed.
      // So it is where the hypertable was made anew under its name, or made of a table: what the WAL has of before comes first.
      const moved =
        before === null
          ? ledger.rows(stream) !== undefined
          : pending.some((chunk) => mayHaveBeenEmitted(before, chunk));
      if (moved) this.drainFirst = true;
      const suspect = (interrupted || moved) && stream.identity.length > 0;
      ledger.setRows(stream, suspect ? replayed(open) : open);
    }
  }

  /** Chunks that were written to directly since they were looked at are to be read again. @param now what a query has seen before. */
  async #withoutDirectWrites(
    stream: SyncStream,
    progress: HypertableProgress,
    now: string,
  ): Promise<HypertableProgress> {
    const { compression } = hypertableOf(stream);
    if (this.#catalog === null || !compression) return { ...progress, judged: null };
    this.#openToDirectWrites ??= await openToDirectWrites(
      this.#client,
      this.#catalog,
      [...this.#streams.values()].map(({ relation }) => relation.oid),
    );
    if (!this.#openToDirectWrites.has(stream.relation.oid)) return { ...progress, judged: null };
    let next = { ...progress, judged: now };
    for (const chunk of this.of(stream)) {
      const since = this.#seen.get(chunk.oid) ?? progress.judged;
      if (since === null || !isDone(progress, chunk)) continue;
      if (!(await wasWrittenDirectly(this.#client, chunk, parseVisibility(since)))) continue;
      this.#output.log(
        'WARN',
        `${label(stream.name)}: rows were written to the chunk ${chunk.name} directly in compressed form, which the WAL does not show. It is read again, so rows without a key come twice. A row trigger on the hypertable prevents such writes: see check.`,
      );
      next = { ...chunkUndone(next, chunk), judged: next.judged };
    }
    return next;
  }

  /** @param late chunks that were published after they were made. @param newFrom ids of new chunks are greater. */
  #judged(
    start: HypertableProgress,
    chunks: readonly Chunk[],
    members: Membership['members'],
    late: ReadonlySet<number>,
    newFrom: number,
  ): HypertableProgress {
    let progress = start;
    let unread: UnreadChunks | null = null;
    for (const chunk of chunks) {
      const member = members.get(chunk.oid);
      // A chunk that was published at its birth has its whole life in the stream.
      const gap = late.has(chunk.oid) && member?.sinceBirth !== true;
      const done = !gap && isDone(progress, chunk);
      if (gap || (done && this.#unpublished.has(chunk.oid))) {
        progress = chunkUndone(progress, chunk);
        unread = null;
      } else if (!done && this.#isStreamed(progress, chunk, member, newFrom)) {
        unread ??= unreadChunks(progress, chunks);
        progress = chunkDone(progress, chunk, null, unread);
      }
    }
    return progress;
  }

  /** Whether a chunk that is not done has its whole life in the stream, and needs no read. */
  #isStreamed(
    progress: HypertableProgress,
    chunk: Chunk,
    member: Member | undefined,
    newFrom: number,
  ): boolean {
    // While older chunks are unread a new one may hold rows of theirs (a split), so it is read as well.
    // One that is compressed already, where rows are written directly, may hold more than its changes told of.
    const told = progress.judged === null || !isBornCompressed(chunk);
    return chunk.id > newFrom && member?.sinceBirth === true && told;
  }

  /** Whether a chunk that the stream has met is read; false: it has to be read before its changes count. */
  async isRead(oid: number, stream: SyncStream, ledger: Ledger): Promise<boolean> {
    const listed = this.#byOid.has(oid);
    if (!listed) {
      await this.refresh();
      const met = this.#byOid.get(oid);
      if (met !== undefined) this.#watch.met(met.schema, met.name);
      this.unjudged = true;
    }
    const chunk = this.#byOid.get(oid);
    const progress = ledger.rows(stream);
    // Detached: its rows were read with the hypertable, or left it before.
    if (chunk === undefined || progress?.kind !== 'hypertable') return true;
    if (isDone(progress, chunk)) return true;
    const suspect = stream.identity.length > 0 && mayHaveBeenEmitted(progress, chunk);
    if (!progress.complete) {
      if (suspect) ledger.setRows(stream, replayed(progress));
      return false;
    }
    const { members } = await membership(this.#client, [oid], this.#cdc.publications, null);
    const newFrom = this.#newest.get(stream.key) ?? Infinity;
    const done = this.#isStreamed(progress, chunk, members.get(oid), newFrom);
    if (done) {
      const unread = this.unread(stream, progress);
      ledger.setRows(stream, chunkDone(progress, chunk, null, unread));
    } else {
      const undone = chunkUndone(progress, chunk);
      ledger.setRows(stream, suspect ? replayed(undone) : undone);
    }
    if (!listed) {
      const what = done ? 'streamed since its birth' : 'to be read';
      this.#output.log('INFO', `${label(stream.name)}: new chunk ${chunk.name}, ${what}.`);
    }
    return done;
  }
}

/** Null where there is none, or that of another table of the same name. */
function progressOf(ledger: Ledger, stream: SyncStream): HypertableProgress | null {
  const rows = ledger.rows(stream);
  if (rows?.kind !== 'hypertable' || rows.hypertableId !== stream.hypertable?.id) return null;
  return rows;
}

function hypertableOf(stream: SyncStream): NonNullable<SyncStream['hypertable']> {
  if (stream.hypertable === null) throw new Error(`${label(stream.name)} is no hypertable`);
  return stream.hypertable;
}
