/** The table itself as the oracle: what a destination holds, against what the server holds, row by row. */
import pg from 'pg';
import QueryStream from 'pg-query-stream';
import {
  fromServer,
  type FromServer,
  SEPARATOR,
  type TypeRow,
  type TypeRows,
} from './canonical-values.ts';
import type { Database } from './database.ts';
import type { Destination, DestinationStream } from './destination.ts';

export type Comparison = {
  /** In the table, not in the destination. */
  readonly missing: number;
  /** In the destination, not in the table. */
  readonly extra: number;
  /** The same key, other values; always 0 without a key. */
  readonly different: number;
  /** Only in the destination, as expected of rows that retention took away. */
  readonly retained: number;
  readonly tableRows: number;
  readonly destinationRows: number;
  /** A few of the rows concerned. */
  readonly samples: readonly string[];
  /** Of each sample the values of its key (without a key: of all columns), to look it up by. */
  readonly sampleKeys: readonly (readonly string[])[];
};

export type CompareOptions = {
  /**
   * For streams without a key after a crash: a row may have come, or gone, more than once, and what came last holds.
   * The table must not hold equal rows then.
   */
  readonly duplicates?: boolean;
  /** Rows, by the values of their key (without a key: of all columns), that stay when retention has dropped their chunk. */
  readonly retained?: (key: readonly string[]) => boolean;
};

const SAMPLES = 5;

/** Compares a stream with its table. Nothing may write to the table meanwhile. */
export async function compareWithTable(
  db: Database,
  destination: Destination,
  name: string,
  options: CompareOptions = {},
): Promise<Comparison> {
  const stream = destination.stream(name);
  const exactly = stream.primaryKey === null && options.duplicates !== true;
  const compare = exactly ? compareBag : compareRows;
  return compare(stream, tableRows(db, stream, destination), options);
}

/** @throws Error with samples when the stream and its table differ in any row. */
export async function expectEqual(
  db: Database,
  destination: Destination,
  name: string,
  options: CompareOptions = {},
): Promise<Comparison> {
  const found = await compareWithTable(db, destination, name, options);
  if (isEqual(found)) return found;
  const { samples, sampleKeys: _, ...counts } = found;
  throw new Error([`${name} differs: ${JSON.stringify(counts)}`, ...samples].join('\n'));
}

export function isEqual(found: Comparison): boolean {
  return found.missing + found.extra + found.different === 0;
}

type TableRow = { readonly key: string; readonly row: string };

/** Rows as they came, whatever their number: at least the table is not held in memory. */
async function* tableRows(
  db: Database,
  stream: DestinationStream,
  destination: Destination,
): AsyncGenerator<TableRow> {
  const convert = await converters(db, stream);
  const keyAt = (stream.primaryKey ?? []).map((column) => stream.columns.indexOf(column));
  const table = `${pg.escapeIdentifier(stream.namespace)}.${pg.escapeIdentifier(stream.name)}`;
  const columns = stream.columns.map((column) => pg.escapeIdentifier(column)).join(', ');
  const client = await db.client();
  try {
    const query = new QueryStream(`SELECT ${columns} FROM ${table}`, [], {
      batchSize: 1000,
      rowMode: 'array',
      types: { getTypeParser: () => (text: string) => text },
    });
    for await (const row of client.query(query) as AsyncIterable<readonly (string | null)[]>) {
      const values = row.map((text, index) => (text === null ? 'null' : convert[index]!(text)));
      const text = destination.rowText(values);
      const key = keyAt.map((index) => values[index]).join(SEPARATOR);
      yield { key: stream.primaryKey === null ? text : key, row: text };
    }
  } finally {
    await client.end();
  }
}

async function converters(db: Database, stream: DestinationStream): Promise<FromServer[]> {
  const types: TypeRows = new Map(
    (
      await db.query<TypeRow>(
        `SELECT oid::int8::int, typname AS name, typbasetype::int8::int AS base, typtypmod AS "baseTypmod", typdelim AS delimiter,
                CASE WHEN typinput = 'array_in'::regproc THEN typelem::int8::int ELSE 0 END AS element
           FROM pg_type`,
      )
    ).map((type) => [type.oid, type]),
  );
  const columns = await db.query<{ name: string; type: number; typmod: number }>(
    `SELECT attname AS name, atttypid::int8::int AS type, atttypmod AS typmod
       FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
      WHERE relname = $1 AND relnamespace = $2::text::regnamespace
        AND attnum > 0 AND NOT attisdropped`,
    [stream.name, pg.escapeIdentifier(stream.namespace)],
  );
  const byName = new Map(columns.map((column) => [column.name, column]));
  return stream.columns.map((column) => {
    const found = byName.get(column);
    if (found === undefined) throw new Error(`${stream.name} has no column ${column} any more`);
    return fromServer(found.type, types, found.typmod);
  });
}

/** Collects what differs. */
class Differences {
  missing = 0;
  extra = 0;
  different = 0;
  retained = 0;
  tableRows = 0;
  readonly samples: string[] = [];
  readonly sampleKeys: string[][] = [];

  sample(kind: string, key: string, ...rows: readonly string[]): void {
    if (this.samples.length >= SAMPLES) return;
    this.sampleKeys.push(keyValues(key));
    const shown = rows.map((row) => row.replaceAll(SEPARATOR, ' | ').slice(0, 1000));
    this.samples.push(`${kind}: ${shown.join('\n  table holds: ')}`);
  }

  result(destinationRows: number): Comparison {
    const { missing, extra, different, retained, samples, sampleKeys } = this;
    const counts = { missing, extra, different, retained, tableRows: this.tableRows };
    return { ...counts, destinationRows, samples, sampleKeys };
  }
}

async function compareRows(
  stream: DestinationStream,
  table: AsyncIterable<TableRow>,
  options: CompareOptions,
): Promise<Comparison> {
  const found = new Differences();
  const keys = new Set<string>();
  for await (const { key, row } of table) {
    found.tableRows += 1;
    keys.add(key);
    const held = stream.rows.get(key);
    if (held === undefined) {
      found.missing += 1;
      found.sample('missing', key, `${key} ${row}`);
    } else if (held !== row) {
      found.different += 1;
      found.sample('different', key, `${key} ${held}`, row);
    }
  }
  let rows = 0;
  for (const [key, row] of stream.rows) {
    if (row === undefined) continue;
    rows += 1;
    if (keys.has(key)) continue;
    if (options.retained?.(keyValues(key)) === true) found.retained += 1;
    else {
      found.extra += 1;
      found.sample('extra', key, `${key} ${row}`);
    }
  }
  return found.result(rows);
}

/** Canonical texts carry a quote in front. */
function keyValues(key: string): string[] {
  return key.split(SEPARATOR).map((value) => value.replace(/^"/, ''));
}

async function compareBag(
  stream: DestinationStream,
  table: AsyncIterable<TableRow>,
  options: CompareOptions,
): Promise<Comparison> {
  const found = new Differences();
  const bag = new Map<string, number>();
  for await (const { row } of table) {
    found.tableRows += 1;
    bag.set(row, (bag.get(row) ?? 0) + 1);
  }
  for (const [row, count] of bag) {
    const lacking = count - (stream.bag.get(row) ?? 0);
    if (lacking <= 0) continue;
    found.missing += lacking;
    found.sample(`missing ${lacking} times`, row, row);
  }
  let rows = 0;
  for (const [row, count] of stream.bag) {
    rows += count;
    const surplus = count - (bag.get(row) ?? 0);
    if (surplus <= 0) continue;
    if (options.retained?.(keyValues(row)) === true) {
      found.retained += surplus;
      continue;
    }
    found.extra += surplus;
    found.sample(`extra ${surplus} times`, row, row);
  }
  for (const row of stream.unmatchedDeletes) {
    found.extra += 1;
    found.sample('delete of a row that is not there', row, row);
  }
  return found.result(rows);
}
