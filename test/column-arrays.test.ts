import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { columnType } from '../src/column-types.ts';
import {
  AMOUNT_ARRAY,
  GEOMETRY_ARRAY,
  HSTORE_ARRAY,
  LABELS_ARRAY,
  arrayOf,
  catalog,
  date,
  describeType,
  encode,
  integer,
  number,
  numericTypmod,
  string,
  time,
  timeTz,
  timestamp,
  timestampTz,
} from './column-cases.ts';

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
    ['{1.5,NULL,1e-07}', '[1.5,null,1e-07]'],
    ['{1.5,NaN}', null],
    ['{-Infinity,1.5}', null],
  ]);
  describeType('numeric[]', [1231, -1, 1], arrayOf(number), [
    ['{1.50,NULL}', '[1.50,null]'],
    ['{1.50,NaN}', null],
  ]);
  describeType('numeric(20,0)[]', [1231, numericTypmod(20, 0), 1], arrayOf(number), [
    ['{1,NULL}', '[1,null]'],
    ['{1,NaN}', null],
  ]);
  describeType('oid[]', [1028, -1, 1], arrayOf(number), [['{3000000000}', '[3000000000]']]);
  describeType('bool[]', [1000, -1, 1], arrayOf({ type: 'boolean' }), [
    ['{t,f,NULL}', '[true,false,null]'],
  ]);
  describeType('bit(2)[]', [1561, 2, 1], arrayOf(string), [['{01,10}', '["01","10"]']]);
  describeType('bit(1)[]', [1561, 1, 1], arrayOf({ type: 'boolean' }), [
    ['{1,0,NULL}', '[true,false,null]'],
  ]);
  describeType('bit[] of any length', [1561, -1, 1], arrayOf(string), [['{1,01}', '["1","01"]']]);
  describeType('varbit(1)[]', [1563, 1, 1], arrayOf(string), [['{1,""}', '["1",""]']]);
  describeType('bytea[]', [1001, -1, 1], arrayOf(string), [
    ['{"\\\\xa66900","\\\\xa669","\\\\xa6","\\\\x",NULL}', '["pmkA","pmk=","pg==","",null]'],
    ['{not-hex}', null],
  ]);
  describeType('money[]', [791, -1, 1], arrayOf(number), [
    ['{$999.99,"-$1,001.01"}', '[999.99,-1001.01]'],
  ]);
  describeType('date[]', [1182, -1, 1], arrayOf(date), [
    ['{1999-01-08,"1991-02-10 BC",NULL}', '["1999-01-08","1991-02-10 BC",null]'],
    ['{1999-01-08,infinity}', null],
  ]);
  describeType('time[]', [1183, -1, 1], arrayOf(time), [
    [`{${'01:02:03,'.repeat(50)}24:00:00}`, `[${'"01:02:03",'.repeat(50)}"23:59:59.999999999"]`],
  ]);
  describeType('timetz[]', [1270, -1, 1], arrayOf(timeTz), [
    ['{01:02:03+00,01:02:03-07}', '["01:02:03Z","01:02:03-07:00"]'],
  ]);
  describeType('timestamp[]', [1115, -1, 1], arrayOf(timestamp), [
    [
      '{NULL,"2004-10-19 10:23:00","3004-10-19 10:23:54.123456 BC"}',
      '[null,"2004-10-19T10:23:00.000000","3004-10-19T10:23:54.123456 BC"]',
    ],
  ]);
  describeType('timestamptz[]', [1185, -1, 1], arrayOf(timestampTz), [
    ['{"2004-10-19 10:23:00+00",NULL}', '["2004-10-19T10:23:00.000000Z",null]'],
    ['{"2004-10-19 10:23:00+00",infinity}', null],
  ]);
  describeType('jsonb[]', [3807, -1, 1], arrayOf(string), [
    ['{"{\\"foo\\": \\"b\\\\\\\\ar\\"}",NULL}', JSON.stringify(['{"foo": "b\\\\ar"}', null])],
  ]);
  describeType('box[]', [1020, -1, 1], arrayOf(string), [
    ['{(2,2),(0,0);NULL;(3,3),(1,1)}', '["(2.0,2.0),(0.0,0.0)",null,"(3.0,3.0),(1.0,1.0)"]'],
  ]);
  describeType('point[]', [1017, -1, 1], arrayOf(string), [
    ['{"(1,2)",NULL}', '["(1.0,2.0)",null]'],
  ]);
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
    [`{"\\"k\\"=>\\"${'\u0001'.repeat(400)}\\""}`, null],
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
