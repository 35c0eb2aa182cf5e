import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { columnType } from '../src/column-types.ts';
import {
  type Case,
  CITEXT,
  HSTORE,
  MOOD,
  PAIR,
  TEXT_OID,
  asIs,
  catalog,
  describeType,
  encode,
  integer,
  number,
  numericTypmod,
  quoted,
  string,
} from './column-cases.ts';

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
