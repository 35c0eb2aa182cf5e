/**
 * Random values of every type, made by the server: what is read from a table and from a hypertable, what comes from the
 * write-ahead log, and what the server itself says that the values are must be the same.
 */
import { isDeepStrictEqual } from 'node:util';
import { createDatabase, type Database } from './database.ts';
import { canonicalNumber, isExactNumber, parseDigits } from './exact-json.ts';
import { connectTo } from './scenario.ts';
import {
  deliverTwice,
  deliveredRows,
  type DeliveredRows,
  LATER,
  recordValues,
  type RecordValues,
} from './types-delivery.ts';
import {
  createSamples,
  expectedJson,
  fillSamples,
  type SampleColumn,
  type Samples,
} from './types-samples.ts';

/** Values seen of a type: single ones and elements of arrays. */
export type TypeCount = {
  values: number;
  nulls: number;
  /** Those that have no JSON form. */
  unencodable: number;
};

export type TypesReport = {
  readonly types: ReadonlyMap<string, TypeCount>;
  readonly values: number;
  readonly rows: number;
  /** What differs, in words; the first ones of each column. */
  readonly faults: readonly string[];
};

/** Faults told of each column. */
const TOLD = 3;

export class TypesCheck {
  readonly #types = new Map<string, TypeCount>();
  readonly #faults = new Map<string, string[]>();
  #values = 0;
  #rows = 0;

  report(): TypesReport {
    const faults = [...this.#faults.values()].flat();
    return { types: this.#types, values: this.#values, rows: this.#rows, faults };
  }

  get values(): number {
    return this.#values;
  }

  /** One database with so many rows of every type. @param seed between 0 and 1. */
  async round(rows: number, seed: number): Promise<void> {
    await using db = await createDatabase();
    const samples = await createSamples(db);
    await fillSamples(samples, rows, seed);
    await createTables(db, samples);
    const connection = await connectTo(db, { streams: ['plain', 'hyper'] });
    const [plain, hyper] = await deliverTwice(connection, ['plain', 'hyper'], (offset) =>
      insertSamples(db, samples, offset),
    );
    if (plain === undefined || hyper === undefined) throw new Error('two streams were asked for');
    const expected = await expectedJson(samples);
    this.#same(plain.read, plain.read, 'plain, read', expected.size);
    this.#same(plain.read, plain.changed, 'plain, inserted', expected.size);
    this.#same(plain.read, hyper.read, 'hyper, read', expected.size);
    this.#same(plain.read, hyper.changed, 'hyper, inserted', expected.size);
    // What an update leaves as it is, and what is stored apart, is not in the log: the connector looks it up.
    await db.query(`UPDATE plain SET id = id + ${LATER} WHERE id > ${LATER}`);
    const updated = deliveredRows((await connection.sync()).succeeded(), 'plain', 2 * LATER);
    this.#same(plain.read, updated, 'plain, updated', expected.size);
    this.against(samples, expected, plain.read);
  }

  /** The rows of a table as the server says they are. */
  against(
    samples: Samples,
    expected: ReadonlyMap<number, readonly (string | null)[]>,
    rows: DeliveredRows,
  ): void {
    for (const [id, json] of expected) {
      const row = rows.get(id);
      if (row === undefined) {
        this.#fault('rows', `row ${id} did not come`);
        continue;
      }
      const values = recordValues(row);
      this.#rows += 1;
      samples.columns.forEach((column, index) => {
        this.#value(id, column, json[index] ?? null, values);
      });
    }
  }

  /** Every row, byte for byte. */
  #same(first: DeliveredRows, rows: DeliveredRows, what: string, count: number): void {
    if (rows.size !== count) this.#fault('rows', `${what}: ${rows.size} rows of ${count}`);
    for (const [id, { text }] of rows) {
      const wanted = first.get(id)?.text;
      if (wanted !== text) this.#fault(what, `${what}: ${difference(text, wanted)}`);
    }
  }

  #value(
    id: number,
    column: SampleColumn,
    json: string | null,
    { data, nulled }: RecordValues,
  ): void {
    const expected = json === null ? null : parseDigits(json);
    const unencodable = this.#count(column.type, expected) > 0;
    const actual = data[column.name];
    const right = unencodable
      ? actual === null && nulled.has(column.name)
      : !nulled.has(column.name) && isSame(expected, actual);
    if (right) return;
    const shown = JSON.stringify(actual);
    this.#fault(column.name, `${column.type} ${column.shape} of row ${id}: ${shown}, not ${json}`);
  }

  /** @returns how many values have no JSON form. */
  #count(type: string, expected: unknown): number {
    if (Array.isArray(expected)) {
      return expected.reduce((sum: number, item) => sum + this.#count(type, item), 0);
    }
    const count = this.#types.get(type) ?? { values: 0, nulls: 0, unencodable: 0 };
    this.#types.set(type, count);
    this.#values += 1;
    count.values += 1;
    if (expected === null) count.nulls += 1;
    const unencodable = has(expected, 'unencodable');
    if (unencodable) count.unencodable += 1;
    return unencodable ? 1 : 0;
  }

  #fault(place: string, text: string): void {
    const told = this.#faults.get(place) ?? [];
    if (told.length < TOLD) told.push(text.slice(0, 600));
    this.#faults.set(place, told);
  }
}

async function createTables(db: Database, { definitions }: Samples): Promise<void> {
  await db.query(`
    CREATE TABLE plain (id int PRIMARY KEY, ${definitions});
    CREATE TABLE hyper (id int PRIMARY KEY, ${definitions});
    SELECT create_hypertable('hyper', 'id', chunk_time_interval => 1000)`);
}

async function insertSamples(db: Database, samples: Samples, offset: number): Promise<void> {
  const columns = samples.columns.map(({ name }) => name).join(', ');
  for (const table of ['plain', 'hyper']) {
    await db.query(
      `INSERT INTO ${table} (id, ${columns}) SELECT id + ${offset}, ${columns} FROM samples ORDER BY id`,
    );
  }
}

/** The server's json of a value against the record's. */
function isSame(expected: unknown, actual: unknown): boolean {
  if (Array.isArray(expected)) {
    return (
      Array.isArray(actual) &&
      expected.length === actual.length &&
      expected.every((item, index) => isSame(item, actual[index]))
    );
  }
  if (isExactNumber(expected)) {
    return (
      isExactNumber(actual) && canonicalNumber(expected.digits) === canonicalNumber(actual.digits)
    );
  }
  if (has(expected, 'geometry'))
    return isSameGeometry(String(expected['geometry']), String(actual));
  if (has(expected, 'hstore')) {
    return typeof actual === 'string' && isDeepStrictEqual(JSON.parse(actual), expected['hstore']);
  }
  return expected === actual;
}

/** The same doubles, each in the form in which Java writes it. */
function isSameGeometry(expected: string, actual: string): boolean {
  const doubles = (text: string): string =>
    text.replace(/\d[\d.]*(?:[eE][+-]?\d+)?/g, (it) => `${Number(it)}`);
  const inForm = actual.replace(/\b\d{1,7}\.\d+\b(?!E)|\b[1-9]\.\d+E-?\d+/g, '');
  return doubles(expected) === doubles(actual) && !/\d/.test(inForm);
}

function has<K extends string>(value: unknown, key: K): value is Readonly<Record<K, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value) && key in value;
}

/** Where two texts begin to differ. */
function difference(text: string, wanted = ''): string {
  let at = 0;
  while (at < text.length && text[at] === wanted[at]) at += 1;
  const from = Math.max(0, text.lastIndexOf('"', at - 60));
  return `${text.slice(from, at + 60)}, not ${wanted.slice(from, at + 60)}`;
}
