/**
 * Cases of Airbyte's own Postgres source, where a list of them lies beside the checkout: its json schemas and values, read
 * and streamed. types-values.test.ts has the project's own.
 */
import { existsSync, readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import type { JsonObject } from '../src/airbyte/protocol.ts';
import { createDatabase } from './database.ts';
import { canonicalNumber, type ExactNumber, isExactNumber, parseDigits } from './exact-json.ts';
import { connectTo } from './scenario.ts';
import { deliverTwice, recordValues, type RecordValues } from './types-delivery.ts';

type OracleCase = {
  readonly id: ExactNumber;
  readonly full_source_type: string;
  readonly json_schema: JsonObject;
  readonly where: 'both' | 'snapshot' | 'wal';
  /** SQL. */
  readonly insert_values: readonly string[];
  readonly expected_values: readonly unknown[];
  readonly same_result_for?: readonly string[];
  /** Statements to run before. */
  readonly setup?: readonly string[];
  readonly session_timezone?: string;
  readonly note?: string;
};

/** What is expected of one type: a case, or a deviation of ours from it. */
type Expectation = {
  readonly name: string;
  readonly type: string;
  readonly schema: JsonObject;
  readonly inserts: readonly string[];
  readonly values: readonly unknown[];
};

const FILE = new URL('../../shared/oracle/datatype-cases.json', import.meta.url);
const cases: readonly OracleCase[] = existsSync(FILE)
  ? (parseDigits(readFileSync(FILE, 'utf8')) as OracleCase[])
  : [];

const STRINGS = { type: 'array', items: { type: 'string' } };

/**
 * Where we differ on purpose; docs/types.md has the reasons.
 * @returns the values of ours, and their schema where it differs too; null where we do not differ.
 */
function deviation(
  it: OracleCase,
): { readonly values: readonly unknown[]; readonly schema?: JsonObject } | null {
  const type = it.full_source_type.toLowerCase();
  const literals = it.insert_values.map((sql) => sql.replaceAll(/^'|'(::\w+)?$/g, ''));
  // Booleans cannot hold more than one bit.
  if (/^(bit varying.*|varbit.*|bit\((?!1\)).*)\[\]$/.test(type)) {
    const bits = it.insert_values.map((sql) =>
      Array.from(sql.matchAll(/B?'([01]+)'/g), ([, bit]) => bit),
    );
    return { values: bits, schema: STRINGS };
  }
  // Infinities are no dates: null with a note from the log too, as from the table.
  if (
    /^(date|timestamp|timestamptz)$/.test(type) &&
    literals.every((text) => /^-?infinity$/i.test(text))
  ) {
    return { values: literals.map(() => null) };
  }
  // Amounts of any size are numbers.
  if (
    type === 'money' &&
    it.where === 'wal' &&
    it.expected_values.every((value) => value === null)
  ) {
    return { values: literals.map((text) => ({ digits: text })) };
  }
  return null;
}

function expectations(it: OracleCase): Expectation[] {
  const ours = deviation(it);
  return [it.full_source_type, ...(it.same_result_for ?? [])].map((type) => ({
    name: `case ${it.id.digits}, ${type}${ours === null ? '' : ', ours'}`,
    type,
    schema: ours?.schema ?? it.json_schema,
    inserts: it.insert_values,
    values: ours?.values ?? it.expected_values,
  }));
}

/** Numbers by their value, in the digits of a double where the list was written by one. */
function comparable(value: unknown): unknown {
  if (isExactNumber(value)) return { number: canonicalNumber(String(Number(value.digits))) };
  return Array.isArray(value) ? value.map(comparable) : (value ?? null);
}

describe.skipIf(cases.length === 0)('cases of Airbyte (skipped where its list is missing)', () => {
  // Not every server knows the short name.
  test.for([
    ['UTC', 'UTC'],
    ['MST', '<MST>+7'],
  ] as const)('in a session with time zone %s', async ([name, zone]) => {
    const all = cases
      .filter(({ session_timezone = 'UTC' }) => session_timezone === name)
      .flatMap(expectations);
    expect(all.length).toBeGreaterThan(0);
    await using db = await createDatabase();
    for (const sql of new Set(cases.flatMap(({ setup = [] }) => setup))) await db.query(sql);
    const columns = all.map(({ type }, index) => `c${index} ${type}`);
    await db.query(`CREATE TABLE plain (id int PRIMARY KEY, ${columns.join(', ')})`);
    const connection = await connectTo(db);
    const rows = Math.max(...all.map(({ inserts }) => inserts.length));
    const [delivered] = await deliverTwice(connection, ['plain'], async (offset) => {
      for (let row = 0; row < rows; row += 1) {
        // Behind a column's last value comes that one again: some are not nullable.
        const values = all.map(({ inserts }) => inserts[Math.min(row, inserts.length - 1)]);
        await db.query(
          `SET LOCAL TimeZone = '${zone}'; INSERT INTO plain VALUES (${row + offset}, ${values.join(', ')})`,
        );
      }
    });
    const properties = connection.catalog.streams[0]?.stream.json_schema[
      'properties'
    ] as JsonObject;
    const found = { read: delivered?.read, changed: delivered?.changed };
    for (const [how, records] of Object.entries(found)) {
      const values = Array.from({ length: rows }, (_, row): RecordValues => {
        const record = records?.get(row);
        if (record === undefined) throw new Error(`row ${row} was not ${how}`);
        return recordValues(record);
      });
      all.forEach((expectation, index) => {
        const column = `c${index}`;
        const what = `${how}: ${expectation.name}`;
        expect.soft(properties[column], what).toEqual(expectation.schema);
        const actual = expectation.inserts.map((_, row) => values[row]?.data[column]);
        expect.soft(comparable(actual), what).toEqual(comparable(expectation.values));
        // What is null without being NULL says so.
        const nulled = expectation.inserts.map((_, row) => values[row]?.nulled.has(column));
        const expected = expectation.inserts.map(
          (sql, row) => expectation.values[row] === null && sql.toLowerCase() !== 'null',
        );
        expect.soft(nulled, what).toEqual(expected);
      });
    }
  });
});
