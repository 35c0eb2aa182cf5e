/** What each type looks like in a record, byte for byte: read from tables and hypertables, and from the write-ahead log. */
import { expect, test } from 'vitest';
import type { JsonObject } from '../src/airbyte/protocol.ts';
import { createDatabase } from './database.ts';
import { connectTo } from './scenario.ts';
import {
  deliveredRows,
  deliverTwice,
  type DeliveredRow,
  LATER,
  recordValues,
} from './types-delivery.ts';
import { DEFINITIONS } from './types-definitions.ts';

/** A value that has no JSON form: null, and the record says so. */
const NONE = Symbol('no JSON form');

type Case = readonly [sql: string, json: string | typeof NONE];

type TypeCases = {
  readonly type: string;
  readonly schema: JsonObject;
  readonly cases: readonly Case[];
};

const integer = { type: 'number', airbyte_type: 'integer' };
const number = { type: 'number' };
const string = { type: 'string' };
const boolean = { type: 'boolean' };
const date = { type: 'string', format: 'date' };
const time = { type: 'string', format: 'time', airbyte_type: 'time_without_timezone' };
const timetz = { type: 'string', format: 'time', airbyte_type: 'time_with_timezone' };
const timestamp = {
  type: 'string',
  format: 'date-time',
  airbyte_type: 'timestamp_without_timezone',
};
const timestamptz = {
  type: 'string',
  format: 'date-time',
  airbyte_type: 'timestamp_with_timezone',
};
const arrayOf = (items: JsonObject): JsonObject => ({ type: 'array', items });

const of = (type: string, schema: JsonObject, ...cases: readonly Case[]): TypeCases => ({
  type,
  schema,
  cases,
});

const NOT_FINITE: readonly Case[] = [
  [`'NaN'`, NONE],
  [`'Infinity'`, NONE],
  [`'-Infinity'`, NONE],
];

const NUMBERS: readonly TypeCases[] = [
  of('smallint', integer, ['-32768', '-32768'], ['32767', '32767']),
  of(
    'bigint',
    integer,
    ['9007199254740993', '9007199254740993'],
    ['-9223372036854775808', '-9223372036854775808'],
  ),
  of('oid', integer, ['4294967295', '4294967295']),
  of(
    'numeric',
    number,
    ['1.50', '1.50'],
    ['1e30', `1${'0'.repeat(30)}`],
    ['1e-20', '0.00000000000000000001'],
    ...NOT_FINITE,
  ),
  of('numeric(40,0)', integer, ['9'.repeat(40), '9'.repeat(40)], [`'NaN'`, NONE]),
  of('numeric(6,2)', number, ['7', '7.00']),
  of('real', number, ['3.4145', '3.4145'], ['1e-30', '1e-30'], ...NOT_FINITE),
  of(
    'double precision',
    number,
    ['0.1', '0.1'],
    [`'-0'`, '-0'],
    ['5e-324', '5e-324'],
    ['1e15', '1e+15'],
    ...NOT_FINITE,
  ),
  of('money', number, ['1234.5', '1234.50'], [`'-92233720368547758.08'`, '-92233720368547758.08']),
  of('boolean', boolean, ['true', 'true'], ['false', 'false']),
];

const TEXTS: readonly TypeCases[] = [
  of(
    'text',
    string,
    [`E'a"\\\\\\n\\u0001\\u0085\\u2028é🚀'`, String.raw`"a\"\\\n\u0001\u0085\u2028é🚀"`],
    [`''`, '""'],
  ),
  of('char(4)', string, [`'ab'`, '"ab  "']),
  of('"char"', string, [`'A'`, '"A"']),
  of('citext', string, [`'MiXed'`, '"MiXed"']),
  of('bytea', string, [String.raw`'\x00FF'`, String.raw`"\\x00ff"`]),
  of('bit(3)', string, [`B'101'`, '"101"']),
  of('bit varying', string, [`B''`, '""'], [`B'0110'`, '"0110"']),
  of('uuid', string, [
    `'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'`,
    '"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"',
  ]),
  of('json', string, [`'{"b": 1,  "a": 1.0}'`, String.raw`"{\"b\": 1,  \"a\": 1.0}"`]),
  of('jsonb', string, [`'{"b": 1,  "a": 1.0}'`, String.raw`"{\"a\": 1.0, \"b\": 1}"`]),
  of('jsonpath', string, [`'$.a[*]'`, String.raw`"$.\"a\"[*]"`]),
  of('xml', string, [`'<?xml version="1.0"?><a b="c"/>'`, String.raw`"<a b=\"c\"/>"`]),
  of(
    'hstore',
    string,
    [`'b=>NULL, a=>"x=>,\\"y"'`, JSON.stringify('{"a":"x=>,\\"y","b":null}')],
    [`''`, '"{}"'],
  ),
  of('tsvector', string, [`'b:2A a:1'`, `"'a':1 'b':2A"`]),
  of('tsquery', string, [`'a & !b'`, `"'a' & !'b'"`]),
  of('mood', string, [`'so so'`, '"so so"']),
  of('pair', string, [`ROW(1, 'a,b', NULL)`, String.raw`"(1,\"a,b\",)"`]),
  of('trio', string, [`'{1,2,3}'`, '"{1,2,3}"']),
  of('shape', string, [`'{a:b}'`, '"{a:b}"']),
];

const TIMES: readonly TypeCases[] = [
  of(
    'date',
    date,
    [`'0044-03-15 BC'`, '"0044-03-15 BC"'],
    [`'12026-01-01'`, '"12026-01-01"'],
    [`'infinity'`, NONE],
  ),
  of(
    'time',
    time,
    [`'04:05'`, '"04:05:00.000000"'],
    [`'04:05:06'`, '"04:05:06"'],
    [`'04:05:06.7'`, '"04:05:06.700"'],
    [`'04:05:06.0007'`, '"04:05:06.000700"'],
    [`'24:00'`, '"23:59:59.999999999"'],
    [`'12:59:60'`, '"13:00:00.000000"'],
  ),
  of(
    'timetz',
    timetz,
    [`'04:05:06+00'`, '"04:05:06Z"'],
    [`'04:05:06.789+05:30'`, '"04:05:06.789+05:30"'],
    [`'04:05-08'`, '"04:05:00.000000-08:00"'],
    [`'04:05:06+01:02:03'`, NONE],
  ),
  of(
    'timestamp',
    timestamp,
    [`'2026-02-03 04:05:06'`, '"2026-02-03T04:05:06"'],
    [`'2026-02-03 04:05:06.000001'`, '"2026-02-03T04:05:06.000001"'],
    [`'0044-03-15 12:00 BC'`, '"0044-03-15T12:00:00.000000 BC"'],
    [`'-infinity'`, NONE],
  ),
  of(
    'timestamptz',
    timestamptz,
    [`'2026-02-03 04:05:06+02'`, '"2026-02-03T02:05:06.000000Z"'],
    [`'0044-03-15 12:00Z BC'`, '"0044-03-15T12:00:00.000000Z BC"'],
    [`'infinity'`, NONE],
  ),
  of(
    'interval',
    string,
    [`'1 year -2 mons 3 days -04:05:06.7'`, '"10 mons 3 days -04:05:06.7"'],
    [`'0'`, '"00:00:00"'],
  ),
];

const OTHERS: readonly TypeCases[] = [
  of('inet', string, [`'192.168.0.1'`, '"192.168.0.1"'], [`'::1/64'`, '"::1/64"']),
  of('cidr', string, [`'10.0.0.0/8'`, '"10.0.0.0/8"'], [`'10.0.0.1'`, '"10.0.0.1/32"']),
  of('macaddr8', string, [`'08:00:2b:01:02:03:04:05'`, '"08:00:2b:01:02:03:04:05"']),
  of('point', string, [`'(3,-0.5)'`, '"(3.0,-0.5)"'], [`'(1e24,NaN)'`, '"(1.0E24,NaN)"']),
  of('box', string, [`'(3,7),(15,18)'`, '"(15.0,18.0),(3.0,7.0)"']),
  of('circle', string, [`'<(1e-4,12345678),10>'`, '"<(1.0E-4,1.2345678E7),10.0>"']),
  of('int4range', string, [`'[1,10]'`, '"[1,11)"'], [`'empty'`, '"empty"']),
  of('tsrange', string, [`'[2026-01-01,)'`, String.raw`"[\"2026-01-01 00:00:00\",)"`]),
  of('int4multirange', string, [`'{[1,2],[5,9)}'`, '"{[1,3),[5,9)}"']),
  of('words', string, [`'[a,"b,c"]'`, String.raw`"[a,\"b,c\"]"`]),
  of('pg_lsn', string, [`'16/B374D848'`, '"16/B374D848"']),
  of('xid8', string, [`'18446744073709551615'`, '"18446744073709551615"']),
  of('tid', string, [`'(1,2)'`, '"(1,2)"']),
  of('regclass', string, [`'pg_class'`, '"pg_class"']),
  of('int2vector', string, [`'1 2'`, '"1 2"']),
];

const ARRAYS: readonly TypeCases[] = [
  of(
    'bigint[]',
    arrayOf(integer),
    [`'{9223372036854775807,NULL}'`, '[9223372036854775807,null]'],
    [`'[-1:0]={1,2}'`, '[1,2]'],
    [`'{}'`, '[]'],
  ),
  of('int[][][]', arrayOf(arrayOf(arrayOf(integer))), [
    `'{{{1,2}},{{3,NULL}}}'`,
    '[[[1,2]],[[3,null]]]',
  ]),
  of('oid[]', arrayOf(number), [`'{4294967295}'`, '[4294967295]']),
  of(
    'numeric(20,0)[]',
    arrayOf(number),
    [`'{12345678901234567890}'`, '[12345678901234567890]'],
    [`'{1,NaN}'`, NONE],
  ),
  of('real[]', arrayOf(number), [`'{1.5,NULL}'`, '[1.5,null]'], [`'{1.5,Infinity}'`, NONE]),
  of('boolean[]', arrayOf(boolean), [`'{t,NULL,f}'`, '[true,null,false]']),
  of('money[]', arrayOf(number), [`'{"-1,001.5",2}'`, '[-1001.50,2.00]']),
  of('bit[]', arrayOf(boolean), [`'{1,0,NULL}'`, '[true,false,null]']),
  of('bit(2)[]', arrayOf(string), [`'{10,01}'`, '["10","01"]']),
  of('varbit[]', arrayOf(string), [`'{1,0101}'`, '["1","0101"]']),
  of('bytea[]', arrayOf(string), [String.raw`ARRAY['\x00ff10'::bytea, '\x41']`, '["AP8Q","QQ=="]']),
  of('text[]', arrayOf(string), [
    String.raw`ARRAY['a "b"', 'c\d', NULL, 'NULL', '', 'e,f', '{g}']`,
    String.raw`["a \"b\"","c\\d",null,"NULL","","e,f","{g}"]`,
  ]),
  of('json[]', arrayOf(string), [`ARRAY['{"a": "b"}'::json]`, String.raw`["{\"a\": \"b\"}"]`]),
  of('hstore[]', arrayOf(string), [`ARRAY['a=>1'::hstore]`, String.raw`["{\"a\":\"1\"}"]`]),
  of(
    'date[]',
    arrayOf(date),
    [`'{2026-02-03,0044-03-15 BC}'`, '["2026-02-03","0044-03-15 BC"]'],
    [`'{infinity}'`, NONE],
  ),
  of('timetz[]', arrayOf(timetz), [
    `'{04:05+02,24:00Z}'`,
    '["04:05:00.000000+02:00","23:59:59.999999999Z"]',
  ]),
  of('timestamptz[][]', arrayOf(arrayOf(timestamptz)), [
    `'{{2026-02-03 04:05+02},{NULL}}'`,
    '[["2026-02-03T02:05:00.000000Z"],[null]]',
  ]),
  of('box[]', arrayOf(string), [`'{(1,1),(0,0);NULL}'`, '["(1.0,1.0),(0.0,0.0)",null]']),
  of('shape[]', arrayOf(string), [`'{"a:b":c}'`, '["a:b","c"]']),
  of('pair[]', arrayOf(string), [
    `ARRAY[ROW(1, 'a"b', NULL)::pair]`,
    String.raw`["(1,\"a\"\"b\",)"]`,
  ]),
  of('amount', integer, ['12', '12'], [`'NaN'`, NONE]),
  of('small_amount[]', arrayOf(integer), [`'{1,2}'`, '[1,2]']),
  of('labels', arrayOf(string), [`'{a,"b c",NULL}'`, '["a","b c",null]']),
  of('few_labels[]', arrayOf(arrayOf(string)), [
    String.raw`ARRAY['{a,"b \"c\""}'::few_labels, NULL, '{}']`,
    String.raw`[["a","b \"c\""],null,[]]`,
  ]),
  of('grid', arrayOf(arrayOf(number)), [`'{{1,2},{3,NULL}}'`, '[[1,2],[3,null]]']),
  of('digest[]', arrayOf(string), [String.raw`ARRAY['\x41'::digest]`, String.raw`["\\x41"]`]),
  of('couple', string, [`ROW(1, 'a', NULL)`, '"(1,a,)"']),
];

const TYPES = [...NUMBERS, ...TEXTS, ...TIMES, ...OTHERS, ...ARRAYS];
const ROWS = 1 + Math.max(...TYPES.map(({ cases }) => cases.length));

/** Each column's nth value, NULL behind the last. */
function rowSql(row: number): string {
  return TYPES.map(({ type, cases }) => {
    const sql = cases[row]?.[0];
    return sql === undefined ? 'NULL' : `CAST(${sql} AS ${type})`;
  }).join(', ');
}

/** The columns' JSON as it stands in the line. */
function cells({ text }: DeliveredRow): string[] {
  // A quote inside a string has a backslash before it, so that no value looks like the next column's name.
  return text.split(/(?:^|,)"c\d+":/).slice(1);
}

test('each type, read and streamed', async () => {
  await using db = await createDatabase();
  const columns = TYPES.map(({ type }, index) => `c${index} ${type}`).join(', ');
  await db.query(`
    ${DEFINITIONS}
    CREATE TABLE plain (id int PRIMARY KEY, ${columns});
    CREATE TABLE hyper (id int PRIMARY KEY, ${columns});
    SELECT create_hypertable('hyper', 'id', chunk_time_interval => 1000)`);
  const connection = await connectTo(db);
  for (const { stream } of connection.catalog.streams) {
    const properties = stream.json_schema['properties'] as JsonObject;
    TYPES.forEach(({ type, schema }, index) => {
      expect.soft(properties[`c${index}`], type).toEqual(schema);
    });
  }
  const deliveries = await deliverTwice(connection, ['plain', 'hyper'], async (offset) => {
    for (const table of ['plain', 'hyper']) {
      for (let row = 0; row < ROWS; row += 1) {
        await db.query(`INSERT INTO ${table} VALUES (${row + offset}, ${rowSql(row)})`);
      }
    }
    // The same values once more, under new keys.
    if (offset > 0) await db.query(`UPDATE plain SET id = id + ${LATER} WHERE id >= ${LATER}`);
  });
  for (const { stream, read, changed } of deliveries) {
    const moved = stream === 'plain' ? LATER : 0;
    for (let row = 0; row < ROWS; row += 1) {
      for (const record of [read.get(row), changed.get(row), changed.get(row + moved)]) {
        if (record === undefined) throw new Error(`${stream}: row ${row} did not come`);
        const found = cells(record);
        const { nulled } = recordValues(record);
        TYPES.forEach(({ type, cases }, index) => {
          const [sql = 'NULL', json = 'null'] = cases[row] ?? [];
          expect
            .soft(found[index], `${stream}: ${type} ${sql}`)
            .toBe(json === NONE ? 'null' : json);
          expect.soft(nulled.has(`c${index}`), `${stream}: ${type} ${sql}`).toBe(json === NONE);
        });
      }
    }
  }
  // And as another reader of the server's own text sees them.
  for (const { stream } of deliveries) await connection.expectEqual(stream);
});

test('an array of another depth than its column declares is null, and says so', async () => {
  await using db = await createDatabase();
  await db.query(`
    CREATE TABLE grids (id int PRIMARY KEY, list int[], grid int[][]);
    INSERT INTO grids VALUES (1, '{1}', '{{1}}'), (2, '{{1}}', '{1}'), (3, '{}', '{}'), (4, '{{{1}}}', '{{{1}}}')`);
  const connection = await connectTo(db);
  const read = (await connection.sync()).succeeded();
  // A type's modifiers are made anew with it: the way out where CREATE TABLE ... AS or LIKE has lost the depth.
  await db.query(
    'ALTER TABLE grids ALTER list TYPE int[][][]; UPDATE grids SET id = 5 WHERE id = 4',
  );
  const again = await connectTo(db);
  again.destination.state = connection.destination.state;
  const changed = (await again.sync()).succeeded();
  const rows = [
    ...deliveredRows(read, 'grids', 0).values(),
    ...deliveredRows(changed, 'grids', 0).values(),
  ];
  expect(rows.map((row) => [row.text, [...recordValues(row).nulled].toSorted()])).toEqual([
    ['"list":[1],"grid":[[1]]', []],
    ['"list":null,"grid":null', ['grid', 'list']],
    ['"list":[],"grid":[]', []],
    ['"list":null,"grid":null', ['grid', 'list']],
    ['"list":[[[1]]],"grid":null', ['grid']],
  ]);
});
