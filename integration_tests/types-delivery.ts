/** The same rows as two kinds of records: read from the table, and from the write-ahead log. */
import { parseDigits } from './exact-json.ts';
import type { RunResult } from './run-result.ts';
import type { Connection } from './scenario.ts';

/** Rows that are inserted after the first sync have the ids of the first ones and so much more. */
export const LATER = 1_000_000;

/** A record of a table whose first column is `id`. */
export type DeliveredRow = {
  readonly line: string;
  /** From behind the id to the columns of the change. */
  readonly text: string;
};

/** By id. */
export type DeliveredRows = ReadonlyMap<number, DeliveredRow>;

export type Deliveries = {
  readonly stream: string;
  readonly read: DeliveredRows;
  readonly changed: DeliveredRows;
};

/**
 * A first sync, then the same rows again, then a second sync.
 * @param insert puts all rows into every table, with ids greater by the offset.
 */
export async function deliverTwice(
  connection: Connection,
  streams: readonly string[],
  insert: (offset: number) => Promise<void>,
): Promise<readonly Deliveries[]> {
  await insert(0);
  const read = (await connection.sync()).succeeded();
  await insert(LATER);
  const changed = (await connection.sync()).succeeded();
  return streams.map((stream) => ({
    stream,
    read: deliveredRows(read, stream, 0),
    changed: deliveredRows(changed, stream, LATER),
  }));
}

/** The rows that a run sent, without deletions. @param offset taken off the ids. */
export function deliveredRows(result: RunResult, stream: string, offset: number): DeliveredRows {
  const rows = new Map<number, DeliveredRow>();
  const head = `"stream":${JSON.stringify(stream)},`;
  for (const line of result.lines) {
    if (!line.startsWith('{"type":"RECORD"') || !line.includes(head)) continue;
    if (line.includes('"_ab_cdc_deleted_at":"')) continue;
    const match = /"data":\{"id":(\d+),(.*),"_ab_cdc_lsn"/.exec(line);
    if (match === null) throw new Error(`no values in ${line.slice(0, 300)}`);
    const [, id = '', text = ''] = match;
    rows.set(Number(id) - offset, { line, text });
  }
  return rows;
}

export type RecordValues = {
  readonly data: Readonly<Record<string, unknown>>;
  /** Columns that `meta.changes` says were nulled. */
  readonly nulled: ReadonlySet<string>;
};

/** The values of a record; its numbers are `ExactNumber`. */
export function recordValues(row: DeliveredRow): RecordValues {
  const { record } = parseDigits(row.line) as {
    readonly record: {
      readonly data: Readonly<Record<string, unknown>>;
      readonly meta?: { readonly changes: readonly { readonly field: string }[] };
    };
  };
  return { data: record.data, nulled: new Set(record.meta?.changes.map(({ field }) => field)) };
}
