/**
 * A destination in memory. It keeps all that was delivered, also what came after the last STATE before a crash:
 * the connector delivers at least once, and the next run may repeat it.
 */
import { hash } from 'node:crypto';
import type { JsonObject } from '../src/airbyte/protocol.ts';
import { canonicalValue, SEPARATOR } from './canonical-values.ts';
import {
  type ConfiguredCatalog,
  type Message,
  type RecordMessage,
  type StateMessage,
  streamName,
} from './messages.ts';
import { storedState } from './run-result.ts';

/** A row as compared: its canonical values in the order of the columns, or a hash of them. */
export type RowText = string;

export type DestinationStream = {
  readonly namespace: string;
  readonly name: string;
  /** All but `_ab_cdc_*`. */
  readonly columns: readonly string[];
  /** Null for a stream without one. */
  readonly primaryKey: readonly string[] | null;
  /** The upsert view, by canonical key (without a key: by the row itself); undefined rows are deleted ones. */
  readonly rows: Map<string, RowText | undefined>;
  /** The append view of a stream without a key: how often each row is there. */
  readonly bag: Map<RowText, number>;
  records: number;
  deletes: number;
  /** Deletes of rows that are not there: a repeated delete, or an invented one. */
  readonly unmatchedDeletes: RowText[];
};

export class Destination {
  /** What the platform stores, and hands to the next run. */
  state: readonly unknown[] = [];
  readonly #streams: ReadonlyMap<string, DestinationStream>;
  readonly #compact: boolean;
  #cursor = -Infinity;

  /**
   * @param catalog as configured for the reads.
   * @param options `compact` keeps hashes of rows instead of the rows: for millions of them.
   */
  constructor(catalog: ConfiguredCatalog, options: { readonly compact?: boolean } = {}) {
    this.#compact = options.compact === true;
    this.#streams = new Map(
      catalog.streams.map(({ stream }) => [streamName(stream), emptyStream(stream)]),
    );
  }

  /**
   * Takes in the messages of a run, as far as they were delivered: records are kept, states are stored.
   * @throws Error when a change comes with an order token that is not above all before it.
   */
  apply(messages: Iterable<Message>): void {
    for (const message of messages) this.applyMessage(message);
  }

  /** The same for one message, for runs too large to keep. */
  applyMessage(message: Message): void {
    if (message.type === 'RECORD') this.#record(message.record);
    else if (message.type === 'STATE') this.commit([message]);
  }

  commit(states: readonly StateMessage[]): void {
    this.state = storedState(this.state, states);
  }

  /** @param name `name` or `schema.name`. */
  stream(name: string): DestinationStream {
    for (const stream of this.#streams.values()) {
      if (stream.name === name || streamName(stream) === name) return stream;
    }
    throw new Error(`the destination has no stream ${name}`);
  }

  /** How the destination keeps a row with these canonical values. */
  rowText(values: readonly string[]): RowText {
    const text = values.join(SEPARATOR);
    return this.#compact ? hash('sha1', text, 'base64') : text;
  }

  #record(record: RecordMessage['record']): void {
    const name = streamName({ ...record, name: record.stream });
    const stream = this.#streams.get(name);
    if (stream === undefined) throw new Error(`a record of ${name}, which is not configured`);
    this.#order(name, record.data['_ab_cdc_cursor']);
    const { data } = record;
    const values = stream.columns.map((column) => canonicalValue(data[column]));
    const deleted = (data['_ab_cdc_deleted_at'] ?? null) !== null;
    stream.records += 1;
    if (deleted) stream.deletes += 1;
    const row = this.rowText(values);
    if (stream.primaryKey === null) append(stream, row, deleted);
    const key = stream.primaryKey?.map((column) => canonicalValue(data[column])).join(SEPARATOR);
    stream.rows.set(key ?? row, deleted ? undefined : row);
  }

  /** Later is greater, over all streams and runs: so "the last one wins" and "the greatest one wins" are the same. */
  #order(name: string, cursor: unknown): void {
    if (cursor === undefined) return; // selected away, or no stream of changes
    if (typeof cursor !== 'number' || cursor <= this.#cursor) {
      const found = JSON.stringify(cursor);
      throw new Error(`${name}: _ab_cdc_cursor ${found} came after ${this.#cursor}`);
    }
    this.#cursor = cursor;
  }
}

function append(stream: DestinationStream, row: RowText, deleted: boolean): void {
  const count = stream.bag.get(row) ?? 0;
  if (!deleted) stream.bag.set(row, count + 1);
  else if (count === 0) stream.unmatchedDeletes.push(row);
  else if (count === 1) stream.bag.delete(row);
  else stream.bag.set(row, count - 1);
}

function emptyStream(stream: ConfiguredCatalog['streams'][number]['stream']): DestinationStream {
  const columns = Object.keys(stream.json_schema['properties'] as JsonObject);
  const key = stream.source_defined_primary_key.map((path) => path[0] ?? '');
  return {
    namespace: stream.namespace,
    name: stream.name,
    columns: columns.filter((column) => !column.startsWith('_ab_')),
    primaryKey: key.length === 0 ? null : key,
    rows: new Map(),
    bag: new Map(),
    records: 0,
    deletes: 0,
    unmatchedDeletes: [],
  };
}
