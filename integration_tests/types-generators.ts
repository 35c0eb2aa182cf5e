/** Types, and SQL that makes values of them: values worth trying, and random ones. The server makes and renders them all. */

/** What the json of a value without a JSON form is: a record has null there and says so. */
const UNENCODABLE = `'{"unencodable":true}'::json`;

export type Generator = {
  /** As a column is declared. */
  readonly type: string;
  /** SQL expressions, cast to the type; one of them is taken for every third value. */
  readonly edges: readonly string[];
  /** SQL expression of a random value, cast to the type. */
  readonly random: string;
  /**
   * SQL of the value's json, from the name of a non-null value. The server's `to_json` unless given: for most types the
   * text of their output function.
   */
  readonly json?: (value: string) => string;
  /** The same of an element of an array, where it differs. */
  readonly elementJson?: (value: string) => string;
  /** Number of the first PostgreSQL release that has the type. */
  readonly since?: number;
};

const ENDLESS = [`'infinity'`, `'-infinity'`] as const;
const asText = (value: string): string => `to_json(${value}::text)`;
const unless = (condition: string, json: string): string =>
  `CASE WHEN ${condition} THEN ${UNENCODABLE} ELSE ${json} END`;
const finite = (value: string): string =>
  unless(`${value}::text IN ('NaN', 'Infinity', '-Infinity')`, `to_json(${value})`);
const geometry = (value: string): string => `json_build_object('geometry', ${value}::text)`;
const base64 = (value: string): string =>
  `to_json(translate(encode(${value}, 'base64'), E'\\n', ''))`;

function integer(type: string, least: string, most: string): Generator {
  const span = `(${most}::numeric - (${least}))`;
  return {
    type,
    edges: ['0', least, most, '1'],
    random: `((${least}) + floor(random()::numeric * ${span}))::int8`,
    json: (value) => `to_json(${value}::int8)`,
  };
}

function geometric(type: string, edges: readonly string[], random: string): Generator {
  return { type, edges, random, json: geometry };
}

function range(type: string, bound: string, edges: readonly string[]): Generator {
  const [name = ''] = type.split(' ');
  return {
    type,
    edges: [`'empty'`, `'(,)'`, ...edges],
    random: `(SELECT ${name}(least(a, b), greatest(a, b), (ARRAY['[]','[)','(]','()'])[1 + r(4)])
                FROM (SELECT ${bound} AS a, ${bound} AS b) AS bounds)`,
  };
}

function multirange(type: string, ofRange: string, bound: string): Generator {
  return {
    type,
    edges: [`'{}'`, `'{(,)}'`],
    random: `${type}(${ofRange}(${bound}, NULL), ${ofRange}(NULL, ${bound}))`,
  };
}

const NUMBERS: readonly Generator[] = [
  integer('int2', '-32768', '32767'),
  integer('int4', '-2147483648', '2147483647'),
  integer('int8', '-9223372036854775808', '9223372036854775807'),
  integer('oid', '0', '4294967295'),
  {
    type: 'numeric',
    edges: [`'NaN'`, `'Infinity'`, `'-Infinity'`, '-0.00', '1e1000', '-1e-1000', '1.10'],
    random: `((r(1e18) - 5e17)::text || CASE WHEN r(2) = 0 THEN '.' || r(1e15) ELSE repeat('0', r(40)::int) END)`,
    json: finite,
  },
  {
    type: 'numeric(14,4)',
    edges: [`'NaN'`, '9999999999.9999'],
    random: '(random() - 0.5) * 1e8',
    json: finite,
  },
  {
    type: 'numeric(30,0)',
    edges: [`'NaN'`, '1e29', '-1'],
    random: '(random() - 0.5)::numeric * 1e29',
    json: finite,
  },
  {
    type: 'numeric(5,-3)',
    edges: ['99999000', '499'],
    random: '(random() - 0.5) * 1e7',
    json: finite,
    since: 15,
  },
  {
    type: 'float4',
    edges: [`'NaN'`, `'Infinity'`, `'-Infinity'`, `'-0'`, '1e-45', '3.4028235e38', '16777217'],
    random: '(random() - 0.5) * 10 ^ (random() * 70 - 35)',
    json: finite,
  },
  {
    type: 'float8',
    edges: [`'NaN'`, `'Infinity'`, `'-Infinity'`, `'-0'`, '5e-324', '1.7976931348623157e308'],
    random: 'random_double()',
    json: finite,
  },
  {
    type: 'money',
    edges: [`'-92233720368547758.08'`, `'92233720368547758.07'`, '0', `'-0.01'`],
    random: '((random() - 0.5) * 10 ^ r(14))::numeric',
    json: (value) => `to_json(${value}::numeric)`,
  },
  { type: 'bool', edges: ['true', 'false'], random: 'r(2) = 0' },
];

const TEXTS: readonly Generator[] = [
  {
    type: 'text',
    edges: [`''`, `'NULL'`, `'null'`, `' '`, `'{}'`, `repeat('é"\\', 500)`],
    random: 'random_text(30)',
  },
  { type: 'varchar(20)', edges: [`''`, `'NULL'`], random: 'random_text(20)' },
  { type: 'char(6)', edges: [`''`, `' a'`], random: 'random_text(6)' },
  { type: 'name', edges: [`''`, `'a name'`], random: 'random_text(9)' },
  {
    type: '"char"',
    edges: [`''`, `'A'`, String.raw`'\351'`, String.raw`'\377'`],
    random: 'chr((1 + r(127))::int)',
  },
  { type: 'citext', edges: [`''`, `'NULL'`], random: 'random_text(20)' },
  {
    type: 'bytea',
    edges: [`''`, String.raw`'\x00'`, `convert_to(repeat('x', 3000), 'UTF8')`],
    random: `substr(decode(md5(random()::text) || md5(random()::text), 'hex'), 1, r(33)::int)`,
    json: (value) => `to_json('\\x' || encode(${value}, 'hex'))`,
    elementJson: base64,
  },
  {
    type: 'bit(1)',
    edges: [`B'0'`],
    random: 'r(2)::int::bit(1)',
    elementJson: (value) => `to_json(${value} = B'1')`,
  },
  { type: 'bit(11)', edges: [`B'00000000001'`], random: 'r(2048)::int::bit(11)' },
  { type: 'varbit', edges: [`B''`, `B'1'`], random: 'random_bits(70)' },
  {
    type: 'uuid',
    edges: [`'00000000-0000-0000-0000-000000000000'`],
    random: 'md5(random()::text)',
  },
  {
    type: 'json',
    edges: [`'null'`, `'"\\u0000"'`, `E'{"a": 1,\\n "a":\\t[ ]}'`, `'1e400'`],
    random: 'json_build_object(random_text(5), random_text(9), random_word(), random_double())',
    json: asText,
  },
  {
    type: 'jsonb',
    edges: [`'null'`, `'"text"'`, `'[]'`, `'1e400'`],
    random: 'jsonb_build_object(random_text(5), random_text(9), random_word(), r(9))',
    json: asText,
  },
  {
    type: 'jsonpath',
    edges: [`'$'`, `'strict $.a[*] ? (@ > 1)'`],
    random: `('$.' || to_json(random_text(9)))`,
  },
  {
    type: 'xml',
    edges: [
      `''`,
      `'<?xml version="1.0"?><a/>'`,
      `'<?xml version="1.1" standalone="yes"?><a/>'`,
      `'<?xml version="1.0" encoding="UTF-8"?><a>é</a>'`,
    ],
    random: `xmlelement(name a, xmlattributes(random_word() AS b),
      regexp_replace(random_text(9), '[\\x01-\\x1f\\x7f\\uFFFF]', '', 'g'))`,
  },
  {
    type: 'hstore',
    edges: [
      `''`,
      `'a=>NULL, b=>"NULL", ""=>""'`,
      `hstore(ARRAY['a"b', 'c\\d', '=>'], ARRAY['"', NULL, E'\\n\\u0001'])`,
    ],
    random: `hstore(ARRAY[random_text(6), random_text(6), random_word(), random_text(9)])`,
    json: (value) => `json_build_object('hstore', hstore_to_json(${value}))`,
  },
  {
    type: 'tsvector',
    edges: [`''`, `'a:1A b:2,3'`],
    random: `to_tsvector('simple', random_text(30))`,
  },
  {
    type: 'tsquery',
    edges: [`'fat & (rat | !cat)'`, `'a:*B <-> b'`],
    random: `phraseto_tsquery('simple', random_text(30))`,
  },
];

const TIMES: readonly Generator[] = [
  {
    type: 'date',
    edges: [...ENDLESS, `'4713-01-01 BC'`, `'5874897-12-31'`, `'0001-01-01 BC'`],
    random: 'random_moment()',
    json: (value) => unless(`NOT isfinite(${value})`, `to_json(${value})`),
  },
  {
    type: 'time',
    edges: [`'24:00'`, `'00:00'`, `'23:59:59.999999'`, `'12:00:60'`],
    random: 'random_time()',
    json: (value) => `to_json(java_time(${value}))`,
  },
  {
    type: 'time(2)',
    edges: [`'24:00'`, `'23:59:59.99'`],
    random: 'random_time()',
    json: (value) => `to_json(java_time(${value}))`,
  },
  {
    type: 'timetz',
    edges: [
      `'24:00+15:59'`,
      `'00:00-15:59'`,
      `'12:00:00.5+00'`,
      `'12:00-00:30'`,
      `'12:00+05:30:15'`,
    ],
    random: `(random_time() || (ARRAY['+00', '-08', '+05:30', '+13:45', '-00:01', '+14'])[1 + r(6)])`,
    json: (value) =>
      unless(
        `extract(timezone FROM ${value})::int % 60 <> 0`,
        `to_json(java_time(${value}::time) || zone(extract(timezone FROM ${value})::int))`,
      ),
  },
  {
    type: 'timestamp',
    edges: [...ENDLESS, `'4714-11-24 00:00:00.000001 BC'`, `'294276-12-31 23:59:59.999999'`],
    random: 'random_moment()',
    json: (value) =>
      unless(
        `NOT isfinite(${value})`,
        `to_json(iso_moment(${value}, java_clock(to_char(${value}, 'HH24:MI:SS.US')), ''))`,
      ),
  },
  {
    type: 'timestamptz',
    edges: [...ENDLESS, `'0001-01-01 00:00:00.5+14 BC'`, `'294276-12-31 00:00Z'`],
    random: 'random_moment()',
    json: (value) =>
      unless(
        `NOT isfinite(${value})`,
        `to_json(iso_moment(${value} AT TIME ZONE 'UTC', to_char(${value} AT TIME ZONE 'UTC', 'HH24:MI:SS.US'), 'Z'))`,
      ),
  },
  {
    type: 'interval',
    edges: [`'0'`, `'178000000 years'`, `'-0.000001 s'`, `'-1 year +2 mons -3 days +04:05:06.789'`],
    random: `make_interval(months => (r(400) - 200)::int, days => (r(60) - 30)::int) + (random() - 0.5) * interval '9 days'`,
  },
];

const OTHERS: readonly Generator[] = [
  {
    type: 'inet',
    edges: [`'10.0.0.1'`, `'::/0'`, `'::ffff:1.2.3.4/96'`],
    random: `set_masklen(inet '0.0.0.0' + r(4294967295), r(33)::int)`,
  },
  {
    type: 'cidr',
    edges: [`'10.0.0.1/32'`, `'2001:db8::/32'`],
    random: `network(set_masklen(inet '0.0.0.0' + r(4294967295), r(33)::int))`,
  },
  { type: 'macaddr', edges: [`'ff:ff:ff:ff:ff:ff'`], random: 'left(md5(random()::text), 12)' },
  { type: 'macaddr8', edges: [`'08:00:2b:01:02:03'`], random: 'left(md5(random()::text), 16)' },
  geometric('point', [`'(NaN,-Infinity)'`, `'(-0,1e-300)'`], 'random_point()'),
  geometric('lseg', [`'[(0,0),(0,0)]'`], 'lseg(random_point(), random_point())'),
  geometric(
    'path',
    [`'[(0,0),(1,0),(1,1.5)]'`, `'((0,0))'`],
    'path(box(random_point(), random_point())::polygon)',
  ),
  geometric('box', [`'(1,1),(0,0)'`], 'box(random_point(), random_point())'),
  geometric('polygon', [`'((0,0))'`], 'polygon(box(random_point(), random_point()))'),
  geometric('line', [`'{0,1,0}'`], 'line(point(r(99), 0), random_point() + point(0, 1))'),
  geometric('circle', [`'<(0,0),0>'`], 'circle(random_point(), abs(random_double()))'),
  range('int4range', 'r(1000)::int', [`'[5,5]'`]),
  range('int8range', 'r(1e12)', []),
  range('numrange', 'random()::numeric', [`'[NaN,NaN]'`]),
  range('daterange', 'random_moment()::date', [`'[infinity,infinity]'`]),
  range('tsrange', 'random_moment()', [`'[-infinity,infinity]'`]),
  range('tstzrange', 'random_moment()::timestamptz', [`'[0044-03-15 BC,infinity)'`]),
  range('words', 'random_text(4)', []),
  multirange('int4multirange', 'int4range', 'r(99)::int'),
  multirange('int8multirange', 'int8range', 'r(1e12)'),
  multirange('nummultirange', 'numrange', 'random()::numeric'),
  multirange('datemultirange', 'daterange', 'random_moment()::date'),
  multirange('tsmultirange', 'tsrange', 'random_moment()'),
  multirange('tstzmultirange', 'tstzrange', 'random_moment()::timestamptz'),
  multirange('words_multirange', 'words', 'random_text(4)'),
  { type: 'pg_lsn', edges: [`'0/0'`, `'FFFFFFFF/FFFFFFFF'`], random: `(pg_lsn '0/0' + r(1e18))` },
  { type: 'xid', edges: [`'4294967295'`], random: 'r(4294967295)::text', json: asText },
  { type: 'xid8', edges: [`'18446744073709551615'`], random: 'r(1e18)::text', json: asText },
  { type: 'cid', edges: [`'0'`], random: 'r(4294967295)::text', json: asText },
  { type: 'tid', edges: [`'(0,0)'`], random: `format('(%s,%s)', r(4294967295), r(65536))` },
  { type: 'txid_snapshot', edges: [`'1:1:'`], random: `format('1:%s:', 2 + r(1e9))` },
  { type: 'pg_snapshot', edges: [`'1:5:2,3'`], random: `format('1:%s:', 2 + r(1e9))` },
  { type: 'int2vector', edges: [`''`], random: `format('%s %s', r(9), r(99))`, json: asText },
  { type: 'oidvector', edges: [`'0'`], random: `format('%s %s', r(9), r(1e9))`, json: asText },
  { type: 'aclitem', edges: [`'=r/postgres'`], random: `'postgres=arwd/postgres'` },
  { type: 'refcursor', edges: [`''`], random: 'random_text(9)' },
  { type: 'regclass', edges: ['0', `'pg_class'`], random: `(16384 + r(1e9))::oid` },
  { type: 'regtype', edges: [`'int4[]'`, `'"char"'`], random: '(16 + r(10))::oid' },
  { type: 'regproc', edges: [`'now'`], random: '(16384 + r(1e9))::oid' },
  { type: 'regprocedure', edges: [`'abs(int4)'`], random: '(16384 + r(1e9))::oid' },
  { type: 'regoper', edges: [`'||/'`], random: '(16384 + r(1e9))::oid' },
  { type: 'regoperator', edges: [`'+(int4,int4)'`], random: '(16384 + r(1e9))::oid' },
  { type: 'regrole', edges: [`'pg_monitor'`], random: '(16384 + r(1e9))::oid' },
  { type: 'regnamespace', edges: [`'pg_catalog'`], random: '(16384 + r(1e9))::oid' },
  { type: 'regconfig', edges: [`'simple'`], random: '(16384 + r(1e9))::oid' },
  { type: 'regdictionary', edges: [`'simple'`], random: '(16384 + r(1e9))::oid' },
  { type: 'regcollation', edges: [`'"C"'`], random: '(16384 + r(1e9))::oid' },
];

const DEFINED: readonly Generator[] = [
  {
    type: 'mood',
    edges: [`'so so'`, `'NULL'`],
    random: `(ARRAY['fine', '"', 'a,b', '櫻'])[1 + r(4)]`,
  },
  {
    type: 'pair',
    edges: [`ROW(NULL, NULL, NULL)`, `ROW(1, '', '{}')`],
    random: 'ROW(r(99), random_text(9), ARRAY[random_moment(), NULL])',
    json: asText,
  },
  { type: 'amount', edges: ['0', `'NaN'`], random: 'r(1e9)', json: finite },
  { type: 'small_amount', edges: ['-1'], random: 'r(1e6)', json: finite },
  {
    type: 'labels',
    edges: [`'{}'`, `'{NULL,"NULL"}'`],
    random: 'ARRAY[random_text(5), random_text(9)]',
  },
  { type: 'few_labels', edges: [`'{}'`, `'[0:1]={a,b}'`], random: 'ARRAY[random_text(9), NULL]' },
  {
    type: 'digest',
    edges: [String.raw`'\x'`],
    random: `decode(md5(random()::text), 'hex')`,
    json: (value) => `to_json('\\x' || encode(${value}, 'hex'))`,
  },
  { type: 'flag', edges: [`B'1'`], random: 'r(2)::int::bit(1)' },
  {
    type: 'couple',
    edges: ['ROW(NULL, NULL, NULL)'],
    random: 'ROW(r(99), random_text(9), NULL)',
    json: asText,
  },
  // As PostGIS has it: a base type of an extension, whose elements a colon divides.
  { type: 'shape', edges: [`'NULL'`, `''`], random: 'random_text(12)', json: asText },
  { type: 'trio', edges: [`'{1,2,3}'`], random: `format('{%s,1,%s}', r(9), random_double())` },
  { type: 'ltree', edges: [`''`], random: `random_word() || '.' || random_word()` },
  { type: 'cube', edges: [`'(0),(1)'`], random: 'cube(random_double(), random_double())' },
];

/** @param release of PostgreSQL. */
export function generators(release: number): readonly Generator[] {
  const all = [...NUMBERS, ...TEXTS, ...TIMES, ...OTHERS, ...DEFINED];
  return all.filter(({ since = 0 }) => release >= since);
}
