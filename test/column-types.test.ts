import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { LineBuffer } from '../src/airbyte/line-buffer.ts';
import {
  columnType,
  isBuiltInType,
  isCursorType,
  type ColumnType,
  type PgType,
  type TypeCatalog,
} from '../src/column-types.ts';

/** The server's text, or raw bytes where the text is no valid UTF-8; and the JSON it becomes, null for "no JSON form". */
type Case = readonly [text: string | Buffer, json: string | null];

const TEXT_OID = 25;

function pgType(row: Partial<PgType> & Pick<PgType, 'oid' | 'name' | 'kind'>): [number, PgType] {
  const rest = { element: 0, base: 0, baseTypmod: -1, baseDimensions: 0, delimiter: ',' };
  return [row.oid, { ...rest, ...row }];
}

const HSTORE = 90001;
const CITEXT = 90002;
const MOOD = 90003;
const PAIR = 90004;
const AMOUNT = 90005;
const POSITIVE_AMOUNT = 90006;
const LABELS = 90007;
const LABELS_ARRAY = 90008;
const AMOUNT_ARRAY = 90009;
const GEOMETRY = 90010;
const GEOMETRY_ARRAY = 90011;
const HSTORE_ARRAY = 90012;
const FEELING = 90013;

const catalog: TypeCatalog = new Map([
  pgType({ oid: HSTORE, name: 'hstore', kind: 'b' }),
  pgType({ oid: HSTORE_ARRAY, name: '_hstore', kind: 'b', element: HSTORE }),
  pgType({ oid: CITEXT, name: 'citext', kind: 'b' }),
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

function numericTypmod(precision: number, scale: number): number {
  return ((precision << 16) | (scale & 0x7ff)) + 4;
}

/**
 * Runs the encoder with exactly the room that a caller promises, between bytes that would betray reading past the
 * value's end (digits, a fraction, closing quotes and braces).
 */
function encode(type: ColumnType, text: string | Buffer): string | null {
  const value = Buffer.from(text as string);
  const before = Buffer.from('9.9"');
  const src = Buffer.concat([before, value, Buffer.from('.9999+05"}')]);
  const out = new LineBuffer(6 * value.length + 64 + 2);
  out.length = 2;
  const done = type.encode(out, src, before.length, before.length + value.length);
  return done ? out.bytes.toString('utf8', 2, out.length) : null;
}

function describeType(
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

const string = { type: 'string' };
const number = { type: 'number' };
const integer = { type: 'number', airbyte_type: 'integer' };
const date = { type: 'string', format: 'date' };
const time = { type: 'string', format: 'time', airbyte_type: 'time_without_timezone' };
const timeTz = { type: 'string', format: 'time', airbyte_type: 'time_with_timezone' };
const timestamp = {
  type: 'string',
  format: 'date-time',
  airbyte_type: 'timestamp_without_timezone',
};
const timestampTz = {
  type: 'string',
  format: 'date-time',
  airbyte_type: 'timestamp_with_timezone',
};
const arrayOf = (items: object): object => ({ type: 'array', items });

function asIs(...texts: readonly string[]): Case[] {
  return texts.map((text) => [text, text]);
}
function quoted(...texts: readonly string[]): Case[] {
  return texts.map((text) => [text, JSON.stringify(text)]);
}

describe('numbers', () => {
  describeType('int2', [21, -1, 0], integer, asIs('-32768', '32767', '0'));
  describeType('int4', [23, -1, 0], integer, asIs('-2147483648', '7', '-1'));
  describeType('int8', [20, -1, 0], integer, asIs('-9223372036854775808', '9223372036854775807'));
  describeType('oid', [26, -1, 0], integer, asIs('4294967295', '3000000000'));
  const awkward: Case[] = [
    ['NaN', null],
    ['Infinity', null],
    ['-Infinity', null],
  ];
  describeType('numeric', [1700, -1, 0], number, [
    ...asIs('0', '-0.000000001', '123456789012345678901234567890.123456789012345678901234567890'),
    ...asIs('9'.repeat(1000), `0.${'0'.repeat(500)}1`),
    ...awkward,
  ]);
  describeType('numeric(28,2)', [1700, numericTypmod(28, 2), 0], number, asIs('14525.22', '-1.00'));
  describeType('numeric(38,0)', [1700, numericTypmod(38, 0), 0], integer, [
    ...asIs('99999999999999999999999999999999999999'),
    ['NaN', null],
  ]);
  describeType('numeric(5,-3)', [1700, numericTypmod(5, -3), 0], integer, asIs('-12345000'));
  describeType('numeric(1000,1000)', [1700, numericTypmod(1000, 1000), 0], number, asIs('0.5'));
  const floats = asIs('0', '-0', '1e+24', '1e-07', '58.2', '-3.402e+38', '0.1');
  describeType('float4', [700, -1, 0], number, [...floats, ...awkward]);
  describeType('float8', [701, -1, 0], number, [
    ...floats,
    ...asIs('1.7976931348623157e+308', '5e-324'),
    ...awkward,
  ]);
  describeType('money', [790, -1, 0], number, [
    ['$1,234.56', '1234.56'],
    ['$0.05', '0.05'],
    ['-$1.00', '-1.00'],
    ['($1,000.00)', '-1000.00'],
    ['$999.99', '999.99'],
    ['-$92,233,720,368,547,758.08', '-92233720368547758.08'],
    ['¥1,234', '1234'],
    ['-£1,234,567.80', '-1234567.80'],
    ['1.234,56 €', null],
    ['1,50 €', null],
    ['12,34 kr', null],
    ['$1.234', null],
    ['$', null],
  ]);
  describeType('bool', [16, -1, 0], { type: 'boolean' }, [
    ['t', 'true'],
    ['f', 'false'],
  ]);
});

describe('strings', () => {
  describeType('text', [TEXT_OID, -1, 0], string, [
    ...quoted('', ' ', 'a', 'abc', 'abcd', 'abcde', 'x'.repeat(1000), 'say "hi"', 'back\\slash'),
    ...quoted('\n\r\t\b\f', '\u0001\u001f\u007f', '"', '\\', 'four"', '1234"5678', 'Ünïcödé'),
    ...quoted(
      'Миші йдуть на південь',
      '櫻花分店',
      '🚀',
      'é'.repeat(300),
      'a\u0080\u00a0\ufeff\uffff',
    ),
    ...quoted(`${'x'.repeat(100)}"${'é'.repeat(100)}\\${'🚀'.repeat(50)}`),
    ['next\u0085line', '"next\\u0085line"'],
    ['line\u2028sep', '"line\\u2028sep"'],
    ['para\u2029sep', '"para\\u2029sep"'],
    ['\u2027\u202a\u0084\u0086', '"\u2027\u202a\u0084\u0086"'],
    [Buffer.from([0x63, 0x61, 0x66, 0xe9]), '"caf\ufffd"'],
    [Buffer.from([0xff, 0x41, 0xc3, 0x28, 0x80]), '"\ufffdA\ufffd(\ufffd"'],
    [Buffer.from([0xc0, 0xaf]), '"\ufffd\ufffd"'],
    [Buffer.from([0xed, 0xa0, 0x80]), '"\ufffd\ufffd\ufffd"'],
    [Buffer.from([0xe2, 0x80]), '"\ufffd"'],
    [Buffer.from([0xf0, 0x9f, 0x9a]), '"\ufffd"'],
    [Buffer.from([0xf4, 0x90, 0x80, 0x80]), '"\ufffd\ufffd\ufffd\ufffd"'],
  ]);
  describeType('varchar(10)', [1043, 14, 0], string, quoted('{asb123}'));
  describeType('bpchar(10)', [1042, 14, 0], string, quoted('a         '));
  describeType('"char"', [18, -1, 0], string, quoted('A', '\\351', ''));
  describeType('name', [19, -1, 0], string, quoted('object'));
  describeType('json', [114, -1, 0], string, [
    ['{"a": "\\u0000",\n "b":15}', '"{\\"a\\": \\"\\\\u0000\\",\\n \\"b\\":15}"'],
  ]);
  describeType('jsonb', [3802, -1, 0], string, quoted('{"a": 10, "b": [null, "é"]}'));
  describeType('xml', [142, -1, 0], string, quoted('<r a="1">&amp;</r>'));
  describeType('uuid', [2950, -1, 0], string, quoted('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'));
  describeType('inet', [869, -1, 0], string, quoted('198.24.10.0/24', '::1'));
  describeType('cidr', [650, -1, 0], string, quoted('2001:4f8:3:ba::/64'));
  describeType('macaddr', [829, -1, 0], string, quoted('08:00:2b:01:02:03'));
  describeType('macaddr8', [774, -1, 0], string, quoted('08:00:2b:01:02:03:04:05'));
  describeType('pg_lsn', [3220, -1, 0], string, quoted('7/A25801C8'));
  describeType('bit(3)', [1560, 3, 0], string, quoted('101'));
  describeType('varbit', [1562, -1, 0], string, quoted('', '0'.repeat(200)));
  describeType(
    'interval',
    [1186, -1, 0],
    string,
    quoted('1 year 2 mons 3 days 04:05:06.5', '-00:00:01'),
  );
  describeType('point', [600, -1, 0], string, quoted('(3,7)', '(1e+24,Infinity)'));
  describeType('box', [603, -1, 0], string, quoted('(15,18),(3,7)'));
  describeType('line', [628, -1, 0], string, quoted('{4,5,6}'));
  describeType('circle', [718, -1, 0], string, quoted('<(5,7),10>'));
  describeType('tsvector', [3614, -1, 0], string, quoted("'a':1 'b\\\\c':2A"));
  describeType('tsquery', [3615, -1, 0], string, quoted("'fat' & ( 'rat' | 'cat' )"));
  describeType(
    'tsrange',
    [3908, -1, 0],
    string,
    quoted('["2010-01-01 14:30:00","2010-01-01 15:30:00")', 'empty'),
  );
  describeType('int4multirange', [4451, -1, 0], string, quoted('{[1,3),[5,9)}'));
  describeType('int2vector', [22, -1, 0], string, quoted('1 2 3'));
  describeType('oidvector', [30, -1, 0], string, quoted('23 25'));
  describeType('an enum', [MOOD, -1, 0], string, quoted('happy "ish"'));
  describeType('a composite that is called hstore', [PAIR, -1, 0], string, quoted('(1,"a ""b""")'));
  describeType('citext', [CITEXT, -1, 0], string, quoted('MiXed'));
  describeType('a type that nobody knows', [99999, -1, 0], string, quoted('any "text"'));
  describeType('bytea', [17, -1, 0], string, [
    ['\\x', '"\\\\x"'],
    ['\\x00ff5c', '"\\\\x00ff5c"'],
    [`\\x${'ab'.repeat(300)}`, `"\\\\x${'ab'.repeat(300)}"`],
    ['abc\\\\\\000', '"abc\\\\\\\\\\\\000"'],
  ]);
  describeType('hstore', [HSTORE, -1, 0], string, [
    ['', '"{}"'],
    ['"a"=>"1", "b"=>NULL', JSON.stringify('{"a":"1","b":null}')],
    [
      '"addr"=>"123 Main St, \\"Suite\\" 5", "x => \\\\"=>"NULL"',
      JSON.stringify('{"addr":"123 Main St, \\"Suite\\" 5","x => \\\\":"NULL"}'),
    ],
    ['"é\n"=>""', JSON.stringify(JSON.stringify({ 'é\n': '' }))],
    [`"\u2028"=>"${'\u0001'.repeat(50)}"`, `"{\\"\\u2028\\":\\"${'\\\\u0001'.repeat(50)}\\"}"`],
    [`"k"=>"${'\u0001'.repeat(200)}"`, null],
  ]);

  it('escapes and repairs any bytes as TextDecoder and JSON.stringify do', () => {
    const text = columnType(TEXT_OID, -1, 0, catalog);
    const decoder = new TextDecoder('utf-8', { ignoreBOM: true });
    // Mostly from bytes that matter: leads and continuations of every length, quotes, controls.
    const byte = fc.oneof(
      fc.constantFrom(0xc2, 0x85, 0xe2, 0x80, 0xa8, 0xa9, 0xed, 0xa0, 0xf0, 0x9f, 0xf4, 0x90, 0x22),
      fc.integer({ min: 0, max: 255 }),
    );
    fc.assert(
      fc.property(fc.array(byte, { maxLength: 40 }), (bytes) => {
        const encoded = encode(text, Buffer.from(bytes)) ?? '';
        expect(encoded).not.toMatch(/[\n\r\u0085\u2028\u2029]/u);
        expect(JSON.parse(encoded)).toBe(decoder.decode(Uint8Array.from(bytes)));
      }),
      { numRuns: 5000 },
    );
  });

  it('writes what JSON.stringify writes for any string', () => {
    const text = columnType(TEXT_OID, -1, 0, catalog);
    const lineEnd = /[\u0085\u2028\u2029]/gu;
    const escape = (found: string): string =>
      `\\u${found.charCodeAt(0).toString(16).padStart(4, '0')}`;
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 300 }), (value) => {
        expect(encode(text, value)).toBe(JSON.stringify(value).replace(lineEnd, escape));
      }),
    );
  });
});

describe('dates and times', () => {
  describeType('date', [1082, -1, 0], date, [
    ...quoted('1999-01-08', '1991-02-10 BC', '10000-01-01', '5874897-12-31'),
    ['infinity', null],
    ['-infinity', null],
  ]);
  describeType('time', [1083, -1, 0], time, [
    ['13:00:01', '"13:00:01.000000"'],
    ['13:00:01.01', '"13:00:01.010000"'],
    ['13:00:02.000001', '"13:00:02.000001"'],
    ['00:00:00', '"00:00:00.000000"'],
    ['20:00:00', '"20:00:00.000000"'],
    ['24:00:00', '"23:59:59.999999"'],
  ]);
  describeType('timetz', [1266, -1, 0], timeTz, [
    ['13:00:01.5+00', '"13:00:01.500000Z"'],
    ['13:00:01+08', '"13:00:01.000000+08:00"'],
    ['13:00:03.123456-08', '"13:00:03.123456-08:00"'],
    ['13:00:03+05:30', '"13:00:03.000000+05:30"'],
    ['13:00:03-00:30', '"13:00:03.000000-00:30"'],
    ['24:00:00+08', '"23:59:59.999999+08:00"'],
    ['24:00:00+00', '"23:59:59.999999Z"'],
    ['13:00:03+05:30:15', null],
  ]);
  describeType('timestamp', [1114, -1, 0], timestamp, [
    ['2004-10-19 10:23:00', '"2004-10-19T10:23:00.000000"'],
    ['2004-10-19 10:23:54.123456', '"2004-10-19T10:23:54.123456"'],
    ['2004-10-19 10:23:54.1', '"2004-10-19T10:23:54.100000"'],
    ['3004-10-19 10:23:54.123456 BC', '"3004-10-19T10:23:54.123456 BC"'],
    ['0001-01-01 00:00:00 BC', '"0001-01-01T00:00:00.000000 BC"'],
    ['294276-12-31 23:59:59.999999', '"294276-12-31T23:59:59.999999"'],
    ['infinity', null],
    ['-infinity', null],
  ]);
  describeType('timestamptz', [1184, -1, 0], timestampTz, [
    ['2004-10-19 18:23:00+00', '"2004-10-19T18:23:00.000000Z"'],
    ['2004-10-19 18:23:54.12+00', '"2004-10-19T18:23:54.120000Z"'],
    ['3004-10-19 18:23:54.123456+00 BC', '"3004-10-19T18:23:54.123456Z BC"'],
    ['0001-12-31 23:59:59+00 BC', '"0001-12-31T23:59:59.000000Z BC"'],
    ['10000-01-01 00:00:00+00', '"10000-01-01T00:00:00.000000Z"'],
    ['2004-10-19 23:53:00+05:30', '"2004-10-19T23:53:00.000000+05:30"'],
    ['2004-10-19 18:23:00-08 BC', '"2004-10-19T18:23:00.000000-08:00 BC"'],
    ['infinity', null],
    ['-infinity', null],
  ]);
});

describe('domains', () => {
  describeType('over numeric(10,0)', [AMOUNT, -1, 0], integer, asIs('1234567890'));
  describeType('over a domain', [POSITIVE_AMOUNT, -1, 0], integer, asIs('12'));
  describeType('over text[]', [LABELS, -1, 0], arrayOf(string), [['{a,"b c"}', '["a","b c"]']]);
  describeType('over an enum', [FEELING, -1, 0], string, quoted('sad'));
});

describe('arrays', () => {
  describeType('int8[]', [1016, -1, 1], arrayOf(integer), [
    ['{-9223372036854775808,9223372036854775801}', '[-9223372036854775808,9223372036854775801]'],
    ['{1234,NULL}', '[1234,null]'],
    ['{}', '[]'],
    ['[0:2]={1,2,3}', '[1,2,3]'],
    ['[-2:-1]={1,2}', '[1,2]'],
    ['{{1,2},{3,4}}', null],
  ]);
  describeType('int4[][]', [1007, -1, 2], arrayOf(arrayOf(integer)), [
    ['{{1,2},{3,NULL}}', '[[1,2],[3,null]]'],
    ['[1:1][-1:0]={{1,2}}', '[[1,2]]'],
    ['{}', '[]'],
    ['{1,2}', null],
    ['{{{1}}}', null],
  ]);
  describeType('int4[], depth not declared', [1007, -1, 0], arrayOf(integer), [['{1}', '[1]']]);
  describeType('text[]', [1009, -1, 1], arrayOf(string), [
    [
      '{a,"b,c","{d}","e\\\\f","g\\"h",NULL,"NULL","null",""}',
      '["a","b,c","{d}","e\\\\f","g\\"h",null,"NULL","null",""]',
    ],
    ['{" lead","tab\t","line\nfeed",é,"櫻 花"}', '[" lead","tab\\t","line\\nfeed","é","櫻 花"]'],
    [`{"${'\\\\'.repeat(2000)}",x}`, JSON.stringify(['\\'.repeat(2000), 'x'])],
    [Buffer.from([0x7b, 0xe9, 0x7d]), '["\ufffd"]'],
    [`{${'"\u0001",'.repeat(99)}""}`, JSON.stringify([...Array<string>(99).fill('\u0001'), ''])],
    ['{"not closed', null],
  ]);
  describeType('float8[]', [1022, -1, 1], arrayOf(number), [
    ['{1.5,NaN,-Infinity,1e-07}', '[1.5,null,null,1e-07]'],
  ]);
  describeType('numeric[]', [1231, -1, 1], arrayOf(number), [['{1.50,NaN}', '[1.50,null]']]);
  describeType('numeric(20,0)[]', [1231, numericTypmod(20, 0), 1], arrayOf(integer), [
    ['{1,NaN}', '[1,null]'],
  ]);
  describeType('oid[]', [1028, -1, 1], arrayOf(integer), [['{3000000000}', '[3000000000]']]);
  describeType('bool[]', [1000, -1, 1], arrayOf({ type: 'boolean' }), [
    ['{t,f,NULL}', '[true,false,null]'],
  ]);
  describeType('bit(2)[]', [1561, 2, 1], arrayOf(string), [['{01,10}', '["01","10"]']]);
  describeType('bytea[]', [1001, -1, 1], arrayOf(string), [
    ['{"\\\\xa669","\\\\x"}', '["\\\\xa669","\\\\x"]'],
  ]);
  describeType('money[]', [791, -1, 1], arrayOf(number), [
    ['{$999.99,"-$1,001.01"}', '[999.99,-1001.01]'],
  ]);
  describeType('date[]', [1182, -1, 1], arrayOf(date), [
    ['{1999-01-08,"1991-02-10 BC",infinity}', '["1999-01-08","1991-02-10 BC",null]'],
  ]);
  describeType('time[]', [1183, -1, 1], arrayOf(time), [
    [
      `{${'01:02:03,'.repeat(50)}24:00:00}`,
      `[${'"01:02:03.000000",'.repeat(50)}"23:59:59.999999"]`,
    ],
  ]);
  describeType('timetz[]', [1270, -1, 1], arrayOf(timeTz), [
    ['{01:02:03+00,01:02:03-07}', '["01:02:03.000000Z","01:02:03.000000-07:00"]'],
  ]);
  describeType('timestamp[]', [1115, -1, 1], arrayOf(timestamp), [
    [
      '{NULL,"2004-10-19 10:23:00","3004-10-19 10:23:54.123456 BC"}',
      '[null,"2004-10-19T10:23:00.000000","3004-10-19T10:23:54.123456 BC"]',
    ],
  ]);
  describeType('timestamptz[]', [1185, -1, 1], arrayOf(timestampTz), [
    ['{"2004-10-19 10:23:00+00",infinity}', '["2004-10-19T10:23:00.000000Z",null]'],
  ]);
  describeType('jsonb[]', [3807, -1, 1], arrayOf(string), [
    ['{"{\\"foo\\": \\"b\\\\\\\\ar\\"}",NULL}', JSON.stringify(['{"foo": "b\\\\ar"}', null])],
  ]);
  describeType('box[]', [1020, -1, 1], arrayOf(string), [
    ['{(2,2),(0,0);NULL;(3,3),(1,1)}', '["(2,2),(0,0)",null,"(3,3),(1,1)"]'],
  ]);
  describeType('point[]', [1017, -1, 1], arrayOf(string), [['{"(1,2)",NULL}', '["(1,2)",null]']]);
  describeType('int2vector[]', [1006, -1, 1], arrayOf(string), [['{"1 2"}', '["1 2"]']]);
  describeType('geometry[]', [GEOMETRY_ARRAY, -1, 1], arrayOf(string), [
    ['{0101:0102}', '["0101","0102"]'],
  ]);
  describeType('hstore[]', [HSTORE_ARRAY, -1, 1], arrayOf(string), [
    ['{"\\"a\\"=>\\"1\\"",NULL,""}', JSON.stringify(['{"a":"1"}', null, '{}'])],
    [
      `{"\\"k\\"=>\\"${'\u0001'.repeat(40)}\\""}`,
      JSON.stringify([JSON.stringify({ k: '\u0001'.repeat(40) })]),
    ],
    [`{"\\"k\\"=>\\"${'\u0001'.repeat(400)}\\""}`, '[null]'],
  ]);
  describeType('of a domain', [AMOUNT_ARRAY, -1, 1], arrayOf(integer), [['{1,2}', '[1,2]']]);
  describeType('of a domain over text[]', [LABELS_ARRAY, -1, 1], arrayOf(arrayOf(string)), [
    ['{"{a,\\"b \\\\\\"c\\\\\\"\\"}",NULL,"{}"}', '[["a","b \\"c\\""],null,[]]'],
  ]);

  it('reads back any nested text array', () => {
    const cell = fc.option(
      fc.string({ unit: fc.constantFrom(...Array.from('ab ,{}[]"\\=NULnul;\n\u00e9\u2028')) }),
    );
    const rows = fc.integer({ min: 1, max: 4 }).chain((width) =>
      fc.array(fc.array(cell, { minLength: width, maxLength: width }), {
        minLength: 1,
        maxLength: 4,
      }),
    );
    const type = columnType(1009, -1, 2, catalog);
    fc.assert(
      fc.property(rows, (value) => {
        expect(JSON.parse(encode(type, arrayLiteral(value)) ?? '')).toEqual(value);
      }),
      { numRuns: 1000 },
    );
  });
});

/** As array_out quotes: empty, NULL in any case, and anything with braces, delimiter, quotes, backslashes or blanks. */
function arrayLiteral(rows: readonly (readonly (string | null)[])[]): string {
  const cell = (text: string | null): string => {
    if (text === null) return 'NULL';
    const bare = text !== '' && !/^null$/i.test(text) && !/[{},"\\ \n]/.test(text);
    return bare ? text : `"${text.replace(/["\\]/g, '\\$&')}"`;
  };
  return `{${rows.map((row) => `{${row.map(cell).join(',')}}`).join(',')}}`;
}

describe('isBuiltInType', () => {
  it.each([16, 20, 25, 603, 1020, 1184, 1231, 3802, 4451, 6150, 271])('knows %d', (oid) => {
    expect(isBuiltInType(oid)).toBe(true);
  });
  it.each([0, 2249, HSTORE, MOOD])('does not know %d', (oid) => {
    expect(isBuiltInType(oid)).toBe(false);
  });
});

describe('isCursorType', () => {
  const cursors = [
    20, 21, 23, 26, 700, 701, 1700, 25, 1042, 1043, 19, 1082, 1083, 1114, 1184, 2950,
  ];
  it.each([...cursors, CITEXT, AMOUNT, POSITIVE_AMOUNT])('%d yes', (oid) => {
    expect(isCursorType(oid, catalog)).toBe(true);
  });
  it.each([16, 17, 114, 3802, 600, 790, 1009, 1016, HSTORE, MOOD, PAIR, LABELS, FEELING, 99999])(
    '%d no',
    (oid) => {
      expect(isCursorType(oid, catalog)).toBe(false);
    },
  );
});
