/**
 * One table: PostgreSQL type -> json schema and encoder. discover and every way of reading take both from here,
 * so what a catalog promises and what a record holds cannot drift apart.
 *
 * Fragments and renderings follow Airbyte's Postgres source (https://docs.airbyte.com/integrations/sources/postgres)
 * without its faults, and are the same from a table and from the write-ahead log. docs/types.md has the table, and why
 * a value differs where it does.
 */
import type { JsonObject } from './airbyte/protocol.ts';
import { arrayEncoder, binaryArrayEncoder } from './column-arrays.ts';
import {
  encodeBinaryDate,
  encodeBinaryTimestamp,
  encodeBinaryTimestampTz,
} from './column-binary.ts';
import { encodeGeometry } from './column-geometry.ts';
import {
  encodeBase64,
  encodeBit,
  encodeBoolean,
  encodeBytea,
  encodeDigits,
  encodeHstore,
  encodeMoney,
  encodeNumber,
  encodePlain,
  encodeText,
  type Encode,
} from './column-text.ts';
import {
  encodeDate,
  encodeTime,
  encodeTimestamp,
  encodeTimestampTz,
  encodeTimeTz,
} from './column-times.ts';
import type { PgType } from './postgres/types.ts';

export type { Encode } from './column-text.ts';

/** pg_type rows of the non-built-in types in use, with the elements and bases they lead to; built-ins are known here. */
export type TypeCatalog = ReadonlyMap<number, PgType>;

export type ColumnType = {
  /** Fragment for the column in the stream's json schema; never a union with null. */
  readonly jsonSchema: JsonObject;
  readonly encode: Encode;
};

const INTEGER: ColumnType = {
  jsonSchema: { type: 'number', airbyte_type: 'integer' },
  encode: encodeDigits,
};
const NUMBER: ColumnType = { jsonSchema: { type: 'number' }, encode: encodeNumber };
/** numeric(p,0): an integer by its declaration, though it can still be NaN. */
const WHOLE_NUMERIC: ColumnType = { jsonSchema: INTEGER.jsonSchema, encode: encodeNumber };
const MONEY: ColumnType = { jsonSchema: NUMBER.jsonSchema, encode: encodeMoney };
const BOOLEAN: ColumnType = { jsonSchema: { type: 'boolean' }, encode: encodeBoolean };
const STRING: ColumnType = { jsonSchema: { type: 'string' }, encode: encodeText };
/** Strings that never need an escape. */
const PLAIN: ColumnType = { jsonSchema: STRING.jsonSchema, encode: encodePlain };
const BYTEA: ColumnType = { jsonSchema: STRING.jsonSchema, encode: encodeBytea };
/** Elements of bytea[]. */
const BASE64: ColumnType = { jsonSchema: STRING.jsonSchema, encode: encodeBase64 };
/** Elements of bit(1)[]. */
const BIT_FLAG: ColumnType = { jsonSchema: BOOLEAN.jsonSchema, encode: encodeBit };
const HSTORE: ColumnType = { jsonSchema: STRING.jsonSchema, encode: encodeHstore };
const GEOMETRY: ColumnType = { jsonSchema: STRING.jsonSchema, encode: encodeGeometry };
const DATE: ColumnType = { jsonSchema: { type: 'string', format: 'date' }, encode: encodeDate };
const TIME: ColumnType = {
  jsonSchema: { type: 'string', format: 'time', airbyte_type: 'time_without_timezone' },
  encode: encodeTime,
};
const TIME_TZ: ColumnType = {
  jsonSchema: { type: 'string', format: 'time', airbyte_type: 'time_with_timezone' },
  encode: encodeTimeTz,
};
const TIMESTAMP: ColumnType = {
  jsonSchema: { type: 'string', format: 'date-time', airbyte_type: 'timestamp_without_timezone' },
  encode: encodeTimestamp,
};
const TIMESTAMP_TZ: ColumnType = {
  jsonSchema: { type: 'string', format: 'date-time', airbyte_type: 'timestamp_with_timezone' },
  encode: encodeTimestampTz,
};

/** [typname, OID, OID of its array, rule]; OIDs are fixed in the server's pg_type.dat. */
type BuiltIn = readonly [name: string, oid: number, arrayOid: number, rule: ColumnType];

/** Built-in types whose values have an order that an incremental read can follow. */
const ORDERED: readonly BuiltIn[] = [
  ['int8', 20, 1016, INTEGER],
  ['int2', 21, 1005, INTEGER],
  ['int4', 23, 1007, INTEGER],
  ['oid', 26, 1028, INTEGER],
  ['float4', 700, 1021, NUMBER],
  ['float8', 701, 1022, NUMBER],
  ['numeric', 1700, 1231, NUMBER],
  ['name', 19, 1003, STRING],
  ['text', 25, 1009, STRING],
  ['bpchar', 1042, 1014, STRING],
  ['varchar', 1043, 1015, STRING],
  ['uuid', 2950, 2951, PLAIN],
  ['pg_lsn', 3220, 3221, PLAIN],
  ['date', 1082, 1182, DATE],
  ['time', 1083, 1183, TIME],
  ['timetz', 1266, 1270, TIME_TZ],
  ['timestamp', 1114, 1115, TIMESTAMP],
  ['timestamptz', 1184, 1185, TIMESTAMP_TZ],
  ['bool', 16, 1000, BOOLEAN],
  ['bytea', 17, 1001, BYTEA],
  ['char', 18, 1002, STRING],
  ['xid8', 5069, 271, PLAIN],
  ['cidr', 650, 651, PLAIN],
  ['inet', 869, 1041, PLAIN],
  ['macaddr', 829, 1040, PLAIN],
  ['macaddr8', 774, 775, PLAIN],
  ['money', 790, 791, MONEY],
  ['interval', 1186, 1187, PLAIN],
  ['bit', 1560, 1561, PLAIN],
  ['varbit', 1562, 1563, PLAIN],
];

const UNORDERED: readonly BuiltIn[] = [
  ['int2vector', 22, 1006, PLAIN],
  ['regproc', 24, 1008, STRING],
  ['tid', 27, 1010, PLAIN],
  ['xid', 28, 1011, PLAIN],
  ['cid', 29, 1012, PLAIN],
  ['oidvector', 30, 1013, PLAIN],
  ['json', 114, 199, STRING],
  ['xml', 142, 143, STRING],
  ['point', 600, 1017, GEOMETRY],
  ['lseg', 601, 1018, GEOMETRY],
  ['path', 602, 1019, GEOMETRY],
  ['box', 603, 1020, GEOMETRY],
  ['polygon', 604, 1027, GEOMETRY],
  ['line', 628, 629, GEOMETRY],
  ['circle', 718, 719, GEOMETRY],
  ['aclitem', 1033, 1034, STRING],
  ['refcursor', 1790, 2201, STRING],
  ['regprocedure', 2202, 2207, STRING],
  ['regoper', 2203, 2208, STRING],
  ['regoperator', 2204, 2209, STRING],
  ['regclass', 2205, 2210, STRING],
  ['regtype', 2206, 2211, STRING],
  ['txid_snapshot', 2970, 2949, PLAIN],
  ['tsvector', 3614, 3643, STRING],
  ['tsquery', 3615, 3645, STRING],
  ['regconfig', 3734, 3735, STRING],
  ['regdictionary', 3769, 3770, STRING],
  ['jsonb', 3802, 3807, STRING],
  ['int4range', 3904, 3905, STRING],
  ['numrange', 3906, 3907, STRING],
  ['tsrange', 3908, 3909, STRING],
  ['tstzrange', 3910, 3911, STRING],
  ['daterange', 3912, 3913, STRING],
  ['int8range', 3926, 3927, STRING],
  ['jsonpath', 4072, 4073, STRING],
  ['regnamespace', 4089, 4090, STRING],
  ['regrole', 4096, 4097, STRING],
  ['regcollation', 4191, 4192, STRING],
  ['int4multirange', 4451, 6150, STRING],
  ['nummultirange', 4532, 6151, STRING],
  ['tsmultirange', 4533, 6152, STRING],
  ['tstzmultirange', 4534, 6153, STRING],
  ['datemultirange', 4535, 6155, STRING],
  ['int8multirange', 4536, 6157, STRING],
  ['pg_snapshot', 5038, 5039, PLAIN],
];

const BYTEA_OID = 17;
const OID_OID = 26;
const BOX_OID = 603;
const BIT_OID = 1560;
const NUMERIC_OID = 1700;

const BUILT_INS = [...ORDERED, ...UNORDERED];
const SCALARS: ReadonlyMap<number, ColumnType> = new Map(
  BUILT_INS.map(([, oid, , rule]) => [oid, rule]),
);
/** Array OID -> element OID. */
const ELEMENTS: ReadonlyMap<number, number> = new Map(
  BUILT_INS.map(([, oid, arrayOid]) => [arrayOid, oid]),
);
const CURSORS: ReadonlySet<number> = new Set(ORDERED.map(([, oid]) => oid));
const NAMES: ReadonlyMap<number, string> = new Map(BUILT_INS.map(([name, oid]) => [oid, name]));

/** What is read in binary format: for these it wins (see column-binary.ts). Domains and the WAL stay with text. */
const BINARY: ReadonlyMap<number, Encode> = new Map([
  [1082, encodeBinaryDate],
  [1114, encodeBinaryTimestamp],
  [1184, encodeBinaryTimestampTz],
]);
/** Arrays of what is the same in both formats: text, varchar, char(n), name. */
const BINARY_ARRAYS: ReadonlySet<number> = new Set([1009, 1015, 1014, 1003]);

/**
 * The encoder of result columns in binary format, undefined for a type that is read as text.
 * @param dimensions as in `columnType`.
 */
export function binaryEncoder(typeOid: number, dimensions: number): Encode | undefined {
  if (!BINARY_ARRAYS.has(typeOid)) return BINARY.get(typeOid);
  return binaryArrayEncoder(encodeText, Math.max(1, dimensions));
}

/** OIDs that columnType knows without the catalog. */
export function isBuiltInType(oid: number): boolean {
  return SCALARS.has(oid) || ELEMENTS.has(oid);
}

/**
 * Schema and encoder of a column. Unknown types become strings with the server's text.
 * @param typmod atttypmod, -1 for none; for arrays it is the element's.
 * @param dimensions attndims as declared (0 for scalars). The server does not enforce it: an array value of another
 *   depth has no JSON form, since it would not fit the schema.
 */
export function columnType(
  typeOid: number,
  typmod: number,
  dimensions: number,
  catalog: TypeCatalog,
): ColumnType {
  if (typeOid === NUMERIC_OID) return isWhole(typmod) ? WHOLE_NUMERIC : NUMBER;
  const scalar = SCALARS.get(typeOid);
  if (scalar !== undefined) return scalar;

  const type = catalog.get(typeOid);
  const element = ELEMENTS.get(typeOid) ?? type?.element ?? 0;
  if (element !== 0) return arrayType(element, typmod, dimensions, catalog);
  if (type === undefined) return STRING;
  if (type.base !== 0) {
    return columnType(type.base, type.baseTypmod, type.baseDimensions, catalog);
  }
  // Extensions have no fixed OIDs; hstore is the only one whose text is not what a reader expects.
  return type.kind === 'b' && type.name === 'hstore' ? HSTORE : STRING;
}

function arrayType(
  elementOid: number,
  typmod: number,
  dimensions: number,
  catalog: TypeCatalog,
): ColumnType {
  const element = elementType(elementOid, typmod, catalog);
  const depth = Math.max(1, dimensions);
  let jsonSchema = element.jsonSchema;
  for (let wrapped = 0; wrapped < depth; wrapped++)
    jsonSchema = { type: 'array', items: jsonSchema };
  // typdelim belongs to the element; box is the only built-in type without a comma.
  const delimiter = catalog.get(elementOid)?.delimiter ?? (elementOid === BOX_OID ? ';' : ',');
  return {
    jsonSchema,
    encode: arrayEncoder(element.encode, depth, delimiter.charCodeAt(0)),
  };
}

/** Elements are as their type is alone, but for those that Airbyte's Postgres source has always treated otherwise. */
function elementType(oid: number, typmod: number, catalog: TypeCatalog): ColumnType {
  switch (oid) {
    case BYTEA_OID:
      return BASE64;
    case OID_OID:
    case NUMERIC_OID:
      return NUMBER;
    case BIT_OID:
      // Its booleans are right for bit(1) only; -1 is an array that may hold any length.
      return typmod === 1 ? BIT_FLAG : PLAIN;
    default:
      return columnType(oid, typmod, 0, catalog);
  }
}

/**
 * numeric(p,s) with s <= 0. The typmod packs p and s (numeric.c, make_numeric_typmod); -1 is plain numeric, which
 * holds any scale.
 */
function isWhole(typmod: number): boolean {
  if (typmod < 4) return false;
  const scale = (typmod - 4) & 0x7ff;
  return scale === 0 || scale >= 0x400;
}

/**
 * Whether values of the type can serve as an incremental cursor: scalars that the server can sort, enums, types of
 * extensions with an order of their own (citext), and domains of these. Not: ranges, arrays, rows, json, geometric types.
 */
export function isCursorType(typeOid: number, catalog: TypeCatalog): boolean {
  const base = baseType(typeOid, catalog);
  if (CURSORS.has(base)) return true;
  const type = catalog.get(base);
  return type !== undefined && (type.kind === 'e' || (type.kind === 'b' && type.ordered));
}

/** The type that a domain, at whatever depth, is made of; any other type is its own. */
export function baseType(typeOid: number, catalog: TypeCatalog): number {
  const type = catalog.get(typeOid);
  return type === undefined || type.base === 0 ? typeOid : baseType(type.base, catalog);
}

/** The type's `typname`, of a domain that of its base: what decides how its values are sorted. */
export function typeName(typeOid: number, catalog: TypeCatalog): string {
  const base = baseType(typeOid, catalog);
  return NAMES.get(base) ?? catalog.get(base)?.name ?? '';
}
