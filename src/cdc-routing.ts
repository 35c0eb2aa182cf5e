/**
 * From a relation of the WAL to the stream that its rows belong to: asks the system catalog what `chunk-router` needs,
 * and prepares what the applier writes with.
 */
import type { Client } from 'pg';
import type { ChangeSink } from './cdc.ts';
import type { ChunkBook } from './chunk-book.ts';
import { columnType, isBuiltInType } from './column-types.ts';
import { ConnectorError } from './errors.ts';
import type { Ledger } from './ledger.ts';
import { label, type SyncStream } from './plan.ts';
import type { RelationColumn, RelationMessage } from './postgres/pgoutput.ts';
import { loadTypes, type PgType } from './postgres/types.ts';
import { parseVisibility } from './postgres/visibility.ts';
import { type RecordClock, type RecordColumn, RecordEncoder } from './record.ts';
import { chunkName } from './timescaledb/chunks.ts';
import {
  type ChunkNaming,
  qualifiedName,
  type RelationFacts,
  type Route,
  route,
  type RouterKnowledge,
} from './timescaledb/chunk-router.ts';

/** Bit of a chunk's status. */
const COMPRESSED = 1;

export class ChangeRouting {
  readonly #client: Client;
  readonly #ledger: Ledger;
  readonly #book: ChunkBook;
  readonly #clock: RecordClock;
  readonly #known: RouterKnowledge;
  readonly #streams: ReadonlyMap<number, SyncStream>;
  /** Of this database; grows with types that the WAL announces. */
  readonly #types: Map<number, PgType>;
  readonly #routes = new Map<number, Route>();
  /** Columns of which the WAL holds something else, that were told of. */
  readonly #told = new Set<string>();
  readonly #tell: (sentence: string) => void;
  /** The stream met a chunk that has to be read before its changes count. */
  foundUnread = false;

  constructor(
    client: Client,
    ledger: Ledger,
    book: ChunkBook,
    clock: RecordClock,
    streams: readonly SyncStream[],
    hypertables: readonly ChunkNaming[],
    publishesEverything: boolean,
    types: ReadonlyMap<number, PgType>,
    tell: (sentence: string) => void,
  ) {
    this.#tell = tell;
    this.#client = client;
    this.#ledger = ledger;
    this.#book = book;
    this.#clock = clock;
    this.#types = new Map(types);
    this.#streams = new Map(streams.map((stream) => [stream.relation.oid, stream]));
    this.#known = {
      streams: new Set(this.#streams.keys()),
      streamNames: new Map(
        streams.map(({ relation }) => [
          qualifiedName(relation.schema, relation.name),
          relation.oid,
        ]),
      ),
      hypertables,
      publishesEverything,
    };
  }

  /**
   * Where the rows of a relation go; null: to no stream of this sync.
   * @throws ConnectorError (system) for a relation that cannot be placed: its rows must not be passed over in silence.
   */
  async sinkFor(relation: RelationMessage): Promise<ChangeSink | null> {
    const known = this.#routes.get(relation.oid);
    const found = known ?? route(await this.#facts(relation), this.#known);
    this.#routes.set(relation.oid, found);
    if (found.kind === 'unknown') throw unknownRelation(relation);
    if (found.kind === 'ignored') return null;
    const stream = this.#streams.get(found.root);
    if (stream === undefined) throw unknownRelation(relation);
    const chunk = stream.hypertable !== null && relation.oid !== stream.relation.oid;
    return {
      stream,
      relation,
      chunk,
      encoder: await this.#encoder(stream, relation),
      identity: stream.identity.map((name) =>
        relation.columns.findIndex((column) => column.name === name),
      ),
      overlap: await this.#overlap(stream, relation.oid, found.droppedChunk),
      replays: () => this.#ledger.rows(stream)?.replay === true,
      doubtsDeletes: stream.identity.length > 0 && this.#doubtsDeletes(stream, relation.oid),
    };
  }

  #doubtsDeletes(stream: SyncStream, oid: number): boolean {
    switch (stream.doubtfulDeletes) {
      case 'none':
        return false;
      case 'all':
        return true;
      case 'of compressed chunks':
        return ((this.#book.get(oid)?.status ?? 0) & COMPRESSED) !== 0;
      default:
        return stream.doubtfulDeletes satisfies never;
    }
  }

  async #facts(relation: RelationMessage): Promise<RelationFacts> {
    const { oid, schema, name } = relation;
    const listed = this.#book.get(oid);
    if (listed !== undefined) {
      const root = [...this.#streams.values()].find(
        (stream) => stream.hypertable?.id === listed.hypertableId,
      );
      if (root !== undefined) {
        return { oid, schema, name, exists: true, ancestors: [root.relation.oid] };
      }
    }
    const { rows } = await this.#client.query<{ exists: boolean; ancestors: string[] }>(
      `WITH RECURSIVE up AS (
         SELECT $1::oid AS oid
         UNION SELECT i.inhparent FROM up JOIN pg_catalog.pg_inherits i ON i.inhrelid = up.oid)
       SELECT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = $1::oid) AS exists,
              ARRAY (SELECT up.oid::text FROM up) AS ancestors`,
      [oid],
    );
    const ancestors = (rows[0]?.ancestors ?? []).map(Number);
    return { oid, schema, name, exists: rows[0]?.exists === true, ancestors };
  }

  /** By column name: chunks and the hypertable may number and order their columns differently. */
  async #encoder(stream: SyncStream, relation: RelationMessage): Promise<RecordEncoder> {
    const unknown = relation.columns
      .map(({ typeOid }) => typeOid)
      .filter((oid) => !isBuiltInType(oid) && !this.#types.has(oid));
    if (unknown.length > 0) {
      for (const [oid, type] of await loadTypes(this.#client, unknown)) this.#types.set(oid, type);
    }
    this.#tellOfColumns(stream, relation);
    const columns = relation.columns.map((column) => this.#column(stream, column));
    const chunk = stream.namesChunk ? chunkName(relation) : null;
    return new RecordEncoder(stream.name, columns, stream.cdcColumns, this.#clock, chunk);
  }

  /** The WAL holds rows as the table was when they were written: once for each column. */
  #tellOfColumns(stream: SyncStream, relation: RelationMessage): void {
    const written = new Map(relation.columns.map((column) => [column.name, column]));
    for (const { name, typeOid } of stream.columns) {
      const then = written.get(name);
      const key = JSON.stringify([stream.key, name, then?.typeOid ?? null]);
      if (then?.typeOid === typeOid || this.#told.has(key)) continue;
      this.#told.add(key);
      const what = then === undefined ? 'without the column' : 'with another type of the column';
      this.#tell(
        `Some changes of ${label(stream.name)} were written ${what} "${name}", since the table or the publication was altered. If rows look wrong, refresh the stream.`,
      );
    }
  }

  #column(stream: SyncStream, { name, typeOid, typmod }: RelationColumn): RecordColumn | null {
    const column = stream.columns.find((candidate) => candidate.name === name);
    if (column === undefined) return null;
    return { name, encode: columnType(typeOid, typmod, column.dimensions, this.#types).encode };
  }

  async #overlap(
    stream: SyncStream,
    oid: number,
    droppedChunk: boolean,
  ): Promise<ChangeSink['overlap']> {
    const progress = this.#ledger.rows(stream);
    if (progress === undefined) return 'unread';
    if (progress.replay) return 'read';
    if (progress.kind === 'table') {
      if (progress.seen !== null) return parseVisibility(progress.seen.visibility);
      return progress.complete ? 'read' : 'unread';
    }
    const seen = progress.seen.get(oid);
    if (seen !== undefined) return parseVisibility(seen.visibility);
    if (oid === stream.relation.oid) return 'read';
    const read = droppedChunk || (await this.#book.isRead(oid, stream, this.#ledger));
    if (droppedChunk || this.#book.get(oid) === undefined) this.#replay(stream);
    if (read) return 'read';
    this.foundUnread = true;
    return 'unread';
  }

  /**
   * A chunk has vanished: dropped, or merged into another. What the WAL still has of it is emitted, as nobody can read it
   * any more; and since its rows may live on in a chunk that is read, nothing of theirs may be skipped from here on.
   */
  #replay(stream: SyncStream): void {
    const progress = this.#ledger.rows(stream);
    if (progress === undefined || stream.identity.length === 0) return;
    this.#ledger.setRows(stream, { ...progress, replay: true });
  }
}

function unknownRelation(relation: RelationMessage): ConnectorError {
  const name = label({ namespace: relation.schema, name: relation.name });
  return new ConnectorError(
    `The WAL holds changes of ${name}, which is not in the database any more and cannot be placed.`,
    {
      kind: 'system_error',
      fix: 'Clear the connection and sync again, so that what is there now is read.',
    },
  );
}
