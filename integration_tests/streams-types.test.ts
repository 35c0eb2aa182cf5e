/** One rendering for each type: a row that is read and the same row from the WAL are equal byte for byte. */
import { expect, test } from 'vitest';
import { createDatabase, type Database } from './database.ts';
import { connectTo, DAY_ZERO } from './scenario.ts';
import type { RunResult } from './run-result.ts';

/** Type, and values of it as SQL; each column also holds NULL. */
const COLUMNS: Readonly<Record<string, readonly string[]>> = {
  smallint: ['-32768', '0', '32767'],
  int: ['-2147483648', '2147483647'],
  bigint: ['-9223372036854775808', '9007199254740993', '9223372036854775807'],
  numeric: ['0.1', '12345678901234567890.123456789', `'NaN'`, `'Infinity'`, '1e100', '-0.00'],
  'numeric(8, 3)': ['1.5', '-12345.678'],
  real: ['1.1', '3.4e38', `'-Infinity'`, `'NaN'`],
  'double precision': ['0.1', '1e-300', '-0.0', '1.7976931348623157e308', `'NaN'`, `'Infinity'`],
  boolean: ['true', 'false'],
  text: [`''`, `'plain'`, String.raw`E'"quoted" \\ \n\t\r \u0001 \u0085 \u2028 \u2029 \U0001F600'`],
  'varchar(20)': [`'ünïcödé'`],
  'char(5)': [`'ab'`],
  name: [`'a name'`],
  bytea: [`''`, String.raw`'\x00ff10'`],
  json: [`'{"b": 1,  "a": [null, "x"]}'`, `'"text"'`, `'null'`],
  jsonb: [`'{"b": 1,  "a": [null, "x"]}'`, `'12345678901234567890.10'`],
  uuid: [`'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'`],
  date: [`'2026-02-03'`, `'0044-03-15 BC'`, `'infinity'`, `'12026-01-01'`],
  time: [`'00:00'`, `'23:59:59.999999'`, `'24:00'`, `'04:05:06.7'`],
  timetz: [`'04:05:06.789+05:30'`, `'00:00-11'`],
  timestamp: [`'2026-02-03 04:05:06.7'`, `'0044-03-15 12:00 BC'`, `'infinity'`],
  timestamptz: [`'2026-02-03 04:05:06.7+02'`, `'0044-03-15 12:00Z BC'`, `'-infinity'`],
  interval: [`'1 year -2 mons 3 days -04:05:06.7'`, `'0'`],
  'int[]': [`'{1,NULL,3}'`, `'{}'`, `'[0:1]={1,2}'`],
  'int[][]': [`'{{1,2},{3,NULL}}'`],
  'bigint[]': [`'{9223372036854775807}'`],
  'numeric[]': [`'{1.10,NaN,NULL}'`],
  'double precision[]': [`'{0.1,NaN,-Infinity}'`],
  'boolean[]': [`'{t,f,NULL}'`],
  'text[]': [String.raw`ARRAY['a "b"', 'c\d', NULL, 'NULL', '', 'e,f', '{g}']`],
  'timestamptz[]': [`'{2026-02-03 04:05:06+02,NULL}'`],
  'date[]': [`'{2026-02-03}'`],
  'uuid[]': [`'{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}'`],
  'jsonb[]': [`ARRAY['{"a": "b,c"}'::jsonb, 'null']`],
  'bytea[]': [String.raw`ARRAY['\x00ff'::bytea, NULL]`],
  mood: [`'fine'`, `'so so'`],
  'mood[]': [`'{fine,"so so"}'`],
  small: ['7'],
  inet: [`'192.168.0.1/24'`, `'::1'`],
  cidr: [`'10.0.0.0/8'`],
  macaddr: [`'08:00:2b:01:02:03'`],
  int4range: [`'[1,10)'`, `'empty'`, `'(,5]'`],
  tstzrange: [`'[2026-01-01 00:00Z,)'`],
  point: [`'(1.5,-2)'`],
  money: [`'12.34'`],
  bit: [`'1'`],
  'bit varying(8)': [`'1010'`],
  xml: [`'<a b="c">d</a>'`],
  tsvector: [`'a:1 b:2'`],
};

const NAMES = Object.keys(COLUMNS).map((_, index) => `c${index}`);
const ROWS = 1 + Math.max(...Object.values(COLUMNS).map((values) => values.length));

async function createTables(db: Database): Promise<void> {
  const columns = Object.keys(COLUMNS).map((type, index) => `${NAMES[index]} ${type}`);
  await db.query(`
    CREATE TYPE mood AS ENUM ('fine', 'so so');
    CREATE DOMAIN small AS int CHECK (VALUE < 10);
    CREATE TABLE plain (id int PRIMARY KEY, ${columns.join(', ')});
    CREATE TABLE hyper (time timestamptz NOT NULL, id int NOT NULL, ${columns.join(', ')}, PRIMARY KEY (time, id));
    SELECT create_hypertable('hyper', 'time')`);
}

/** Each column's nth value, NULL behind the last. */
async function insertRows(db: Database, firstId: number): Promise<void> {
  for (let row = 0; row < ROWS; row += 1) {
    const values = Object.entries(COLUMNS).map(([type, list]) => {
      const value = list[row];
      return value === undefined ? 'NULL' : `CAST(${value} AS ${type})`;
    });
    await db.query(`INSERT INTO plain VALUES (${firstId + row}, ${values.join(', ')})`);
    await db.query(
      `INSERT INTO hyper VALUES ('${DAY_ZERO}', ${firstId + row}, ${values.join(', ')})`,
    );
  }
}

/** The values as they stand in the lines, without the id and what belongs to the change. */
function texts(result: RunResult, stream: string): string[] {
  return result.lines
    .filter((line) => line.startsWith('{"type":"RECORD"') && line.includes(`"stream":"${stream}"`))
    .map((line) => {
      const text = /"id":\d+,(.*?),"_ab_cdc_lsn"/.exec(line)?.[1];
      if (text === undefined) throw new Error(`no values in ${line}`);
      return text;
    });
}

test('each type looks the same in rows that are read and in changes', async () => {
  await using db = await createDatabase();
  await createTables(db);
  await insertRows(db, 0);
  const connection = await connectTo(db);
  const read = (await connection.sync()).succeeded();
  await insertRows(db, 100);
  await db.query('UPDATE plain SET id = id + 100 WHERE id >= 100');
  const changed = (await connection.sync()).succeeded();
  for (const stream of ['plain', 'hyper']) {
    const expected = texts(read, stream);
    expect(expected).toHaveLength(ROWS);
    const inserts = changed.records(stream).flatMap(({ data }, index) => {
      const isInsert = (data['_ab_cdc_deleted_at'] ?? null) === null;
      return isInsert ? [texts(changed, stream)[index]] : [];
    });
    // The hypertable's rows once; the table's once more with their new keys.
    expect(inserts.slice(0, ROWS)).toEqual(expected);
    expect(inserts.slice(ROWS)).toEqual(stream === 'plain' ? expected : []);
    // And both as the server itself shows them.
    await connection.expectEqual(stream);
  }
});
