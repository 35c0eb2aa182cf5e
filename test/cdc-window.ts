/** A window of changes, fed to the applier as the bytes that a server would send, and read back as records. */
import { Output } from '../src/airbyte/output.ts';
import { ChangeApplier, type ChangeSink, type ChangeSupport } from '../src/cdc.ts';
import { columnType } from '../src/column-types.ts';
import { formatLsn } from '../src/postgres/lsn.ts';
import type { RelationMessage } from '../src/postgres/pgoutput.ts';
import { CDC_COLUMNS, RecordClock, RecordEncoder } from '../src/record.ts';
import * as bytes from './pgoutput-bytes.ts';
import { INT4, NOTES, planned, TEXT } from './source-model.ts';

export const NOW = 1_700_000_000_000;
export const TABLE = 2000;
export const CHUNK = 3_000_000_000;
export const UNSELECTED = 2002;

const stream = planned(NOTES);

export function announce(oid: number, identity = 'd'): Buffer {
  return bytes.relation({
    oid,
    schema: 'public',
    name: `relation ${oid}`,
    identity,
    columns: [
      { name: 'id', typeOid: INT4, key: true },
      { name: 'note', typeOid: TEXT },
    ],
  });
}

export type Change = {
  readonly id: number | null;
  readonly note: string | null;
  readonly deleted: boolean;
  readonly changes?: readonly string[];
};

/** One window of changes into records; `sinks` says per relation what is not as usual. */
export class Window {
  text = '';
  readonly committed: string[] = [];
  readonly truncated: number[] = [];
  readonly fetches: unknown[] = [];
  /** Keys of deleted rows, as they were asked for. */
  readonly questions: unknown[] = [];
  support: Partial<ChangeSupport> = {};
  readonly output = new Output((part) => {
    this.text += Buffer.from(part).toString();
  }, false);
  readonly #clock = new RecordClock(0);
  readonly #sinks: Readonly<Record<number, Partial<ChangeSink> | null>>;
  readonly applier: ChangeApplier;

  constructor(sinks: Readonly<Record<number, Partial<ChangeSink> | null>> = {}) {
    this.#sinks = sinks;
    this.applier = new ChangeApplier(this.output, {
      sinkFor: async (relation) => this.#sinkFor(relation),
      fetchCells: async (sink, key, positions) => {
        this.fetches.push([sink.relation.oid, key.map((value) => value?.toString()), positions]);
        return this.support.fetchCells?.(sink, key, positions) ?? new Map();
      },
      rowsPresent: async (sink, keys) => {
        this.questions.push(keys.map((key) => key.map((value) => value?.toString())));
        return this.support.rowsPresent?.(sink, keys) ?? new Set();
      },
      committed: (end, xid) => {
        this.committed.push(`${formatLsn(end)} ${xid}`);
        return this.support.committed?.(end, xid);
      },
      truncated: (sink) => {
        this.truncated.push(sink.relation.oid);
      },
    });
    this.applier.begin();
  }

  #sinkFor(relation: RelationMessage): ChangeSink | null {
    const changes = this.#sinks[relation.oid];
    if (changes === null || relation.oid === UNSELECTED) return null;
    const columns = relation.columns.map(({ name, typeOid }) => ({
      name,
      encode: columnType(typeOid, -1, 0, new Map()).encode,
    }));
    return {
      stream,
      relation,
      encoder: new RecordEncoder(stream.name, columns, CDC_COLUMNS, this.#clock),
      chunk: relation.oid === CHUNK,
      identity: [0],
      overlap: 'read',
      replays: () => false,
      doubtsDeletes: false,
      ...changes,
    };
  }

  /** Hands over messages one after the other, as the reader does: each from the middle of a buffer. */
  async feed(...messages: readonly Buffer[]): Promise<void> {
    for (const message of messages) {
      const src = Buffer.concat([Buffer.from('??'), message, Buffer.from('??')]);
      await this.applier.apply(src, 2, 2 + message.length);
    }
  }

  /** A whole transaction. */
  async transaction(xid: number, ...messages: readonly Buffer[]): Promise<void> {
    await this.feed(bytes.begin(16n, MICROS, xid), ...messages, bytes.commit(16n, 48n));
  }

  records(): { data: Record<string, unknown>; meta?: { changes: { field: string }[] } }[] {
    this.output.flush();
    const lines = this.text.split('\n').slice(0, -1);
    return lines.map((line) => JSON.parse(line).record);
  }

  changes(): Change[] {
    return this.records().map(({ data, meta }) => ({
      id: data['id'] as number | null,
      note: data['note'] as string | null,
      deleted: data['_ab_cdc_deleted_at'] !== null,
      ...(meta === undefined ? {} : { changes: meta.changes.map(({ field }) => field) }),
    }));
  }
}

export const MICROS = 1_700_000_000_123_456n;
export const row = (id: number, note: string | null): Change => ({ id, note, deleted: false });
export const gone = (id: number, note: string | null = null): Change => ({
  id,
  note,
  deleted: true,
});
