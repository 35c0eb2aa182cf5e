/** What the tests of columns share: a catalog of user types, and tables of text and JSON run through an encoder. */
import { describe, expect, it } from 'vitest';
import { LineBuffer } from '../src/airbyte/line-buffer.ts';
import { columnType, type ColumnType, type TypeCatalog } from '../src/column-types.ts';
import type { PgType } from '../src/postgres/types.ts';

/** The server's text, or raw bytes where the text is no valid UTF-8; and the JSON it becomes, null for "no JSON form". */
export type Case = readonly [text: string | Buffer, json: string | null];

export const TEXT_OID = 25;

function pgType(row: Partial<PgType> & Pick<PgType, 'oid' | 'name' | 'kind'>): [number, PgType] {
  const rest = {
    element: 0,
    base: 0,
    baseTypmod: -1,
    baseDimensions: 0,
    delimiter: ',',
    ordered: false,
  };
  return [row.oid, { ...rest, ...row }];
}

export const HSTORE = 90001;
export const CITEXT = 90002;
export const MOOD = 90003;
export const PAIR = 90004;
export const AMOUNT = 90005;
export const POSITIVE_AMOUNT = 90006;
export const LABELS = 90007;
export const LABELS_ARRAY = 90008;
export const AMOUNT_ARRAY = 90009;
const GEOMETRY = 90010;
export const GEOMETRY_ARRAY = 90011;
export const HSTORE_ARRAY = 90012;
export const FEELING = 90013;

export const catalog: TypeCatalog = new Map([
  pgType({ oid: HSTORE, name: 'hstore', kind: 'b' }),
  pgType({ oid: HSTORE_ARRAY, name: '_hstore', kind: 'b', element: HSTORE }),
  pgType({ oid: CITEXT, name: 'citext', kind: 'b', ordered: true }),
  pgType({ oid: MOOD, name: 'mood', kind: 'e' }),
  pgType({ oid: PAIR, name: 'hstore', kind: 'c' }),
  pgType({ oid: AMOUNT, name: 'amount', kind: 'd', base: 1700, baseTypmod: numericTypmod(10, 0) }),
  pgType({ oid: POSITIVE_AMOUNT, name: 'positive_amount', kind: 'd', base: AMOUNT }),
  pgType({ oid: AMOUNT_ARRAY, name: '_amount', kind: 'b', element: AMOUNT }),
  pgType({ oid: LABELS, name: 'labels', kind: 'd', base: 1009, baseDimensions: 1 }),
  pgType({ oid: LABELS_ARRAY, name: '_labels', kind: 'b', element: LABELS }),
  pgType({ oid: GEOMETRY, name: 'geometry', kind: 'b', delimiter: ':' }),
  pgType({ oid: GEOMETRY_ARRAY, name: '_geometry', kind: 'b', element: GEOMETRY }),
  pgType({ oid: FEELING, name: 'feeling', kind: 'd', base: MOOD }),
]);

export function numericTypmod(precision: number, scale: number): number {
  return ((precision << 16) | (scale & 0x7ff)) + 4;
}

/**
 * Runs the encoder with exactly the room that a caller promises, between bytes that would betray reading past the
 * value's end (digits, a fraction, closing quotes and braces).
 */
export function encode(type: ColumnType, text: string | Buffer): string | null {
  const value = Buffer.from(text as string);
  const before = Buffer.from('9.9"');
  const src = Buffer.concat([before, value, Buffer.from('.9999+05"}')]);
  const out = new LineBuffer(6 * value.length + 64 + 2);
  out.length = 2;
  const done = type.encode(out, src, before.length, before.length + value.length);
  return done ? out.bytes.toString('utf8', 2, out.length) : null;
}

export function describeType(
  name: string,
  [oid, typmod, dimensions]: readonly [oid: number, typmod: number, dimensions: number],
  jsonSchema: object,
  cases: readonly Case[],
): void {
  describe(name, () => {
    const type = columnType(oid, typmod, dimensions, catalog);
    it('has its schema', () => expect(type.jsonSchema).toEqual(jsonSchema));
    it.each(cases)('%s -> %s', (text, json) => {
      const encoded = encode(type, text);
      expect(encoded).toBe(json);
      if (encoded !== null) JSON.parse(encoded);
    });
  });
}

export const string = { type: 'string' };
export const number = { type: 'number' };
export const integer = { type: 'number', airbyte_type: 'integer' };
export const date = { type: 'string', format: 'date' };
export const time = { type: 'string', format: 'time', airbyte_type: 'time_without_timezone' };
export const timeTz = { type: 'string', format: 'time', airbyte_type: 'time_with_timezone' };
export const timestamp = {
  type: 'string',
  format: 'date-time',
  airbyte_type: 'timestamp_without_timezone',
};
export const timestampTz = {
  type: 'string',
  format: 'date-time',
  airbyte_type: 'timestamp_with_timezone',
};
export const arrayOf = (items: object): object => ({ type: 'array', items });

export function asIs(...texts: readonly string[]): Case[] {
  return texts.map((text) => [text, text]);
}
export function quoted(...texts: readonly string[]): Case[] {
  return texts.map((text) => [text, JSON.stringify(text)]);
}
