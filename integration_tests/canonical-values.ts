/**
 * One text per value, from what the server prints and from what a RECORD holds, so that both can be compared.
 * Written from the documentation of types alone, on purpose without the connector's own encoders: it is their oracle.
 */
import { canonicalNumber, isExactNumber, type ExactValue } from './exact-json.ts';

/** A row of pg_type, as much of it as decides how a value looks. */
export type TypeRow = {
  readonly oid: number;
  readonly name: string;
  /** OID of the element of true arrays, else 0: `int2vector` prints like no array. */
  readonly element: number;
  /** OID of the base of domains, else 0. */
  readonly base: number;
  /** Type modifier of the base of domains. */
  readonly baseTypmod: number;
  readonly delimiter: string;
};

export type TypeRows = ReadonlyMap<number, TypeRow>;

/** Turns the server's text of a value into its canonical text. */
export type FromServer = (text: string) => string;

const NULL = 'null';

/** Between the values of a row; a text that holds it is quoted. */
export const SEPARATOR = '\u0001';

/** A value of a RECORD; `undefined` is a column that the record lacks. */
export function canonicalValue(value: ExactValue | undefined): string {
  if (value === undefined) return 'absent';
  if (value === null) return NULL;
  switch (typeof value) {
    case 'string':
      return canonicalText(value);
    case 'number':
      return canonicalNumber(String(value));
    case 'boolean':
      return String(value);
    default:
      if (isExactNumber(value)) return canonicalNumber(value.digits);
      return `[${value.map((item) => canonicalValue(item)).join(',')}]`;
  }
}

function canonicalText(text: string): string {
  return text.includes(SEPARATOR) ? JSON.stringify(text) : `"${text}`;
}

const NUMBERS = new Set(['int2', 'int4', 'int8', 'oid', 'float4', 'float8', 'numeric']);

const GEOMETRIC = new Set(['point', 'lseg', 'path', 'box', 'polygon', 'line', 'circle']);

/** How values of a type look in a RECORD, made from what the server prints under ISO dates and UTC. */
export function fromServer(typeOid: number, types: TypeRows, typmod = -1): FromServer {
  const type = types.get(typeOid);
  if (type === undefined) throw new Error(`type ${typeOid} is not in pg_type`);
  if (type.base !== 0) return fromServer(type.base, types, type.baseTypmod);
  if (type.element !== 0) return arrayFromServer(type.element, types, typmod);
  if (NUMBERS.has(type.name)) return numberFromServer;
  if (GEOMETRIC.has(type.name)) return (text) => canonicalText(javaNumbers(text));
  switch (type.name) {
    case 'bool':
      return (text) => (text === 't' ? 'true' : 'false');
    case 'money':
      return (text) =>
        canonicalNumber(`${/^-|^\(/.test(text) ? '-' : ''}${text.replaceAll(/[^0-9.]/g, '')}`);
    case 'date':
      return (text) => (isInfinite(text) ? NULL : canonicalText(text));
    case 'time':
    case 'timetz':
      return (text) => nullable(clock(text));
    case 'timestamp':
    case 'timestamptz':
      return (text) => (isInfinite(text) ? NULL : canonicalText(moment(text)));
    case 'hstore':
      return (text) => canonicalText(hstoreObject(text));
    default:
      return canonicalText;
  }
}

function numberFromServer(text: string): string {
  return /\d/.test(text) ? canonicalNumber(text) : NULL; // NaN and the infinities have no JSON form
}

/** Canonical text of a text, NULL of nothing. */
function nullable(text: string): string {
  return text === NULL ? NULL : canonicalText(text);
}

function isInfinite(text: string): boolean {
  return text === 'infinity' || text === '-infinity';
}

/** `2004-10-19 10:23:54.5+00 BC` -> `2004-10-19T10:23:54.500000Z BC`. */
function moment(text: string): string {
  const match = /^(\S+) (\S+)( BC)?$/.exec(text);
  if (match === null) throw new Error(`not a timestamp: ${text}`);
  const [, date = '', time = '', era = ''] = match;
  return `${date}T${clock(time, time.includes('+'))}${era}`;
}

/** `04:05:06.7+00` -> `04:05:06.700000Z`; 24:00:00 is the last moment of the day. */
function clock(text: string, always = false): string {
  const match = /^(\d\d:\d\d:(\d\d))(?:\.(\d+))?([+-][\d:]+)?$/.exec(text);
  if (match === null) throw new Error(`not a time: ${text}`);
  const [, time = '', seconds = '', fraction = '', offset = ''] = match;
  if (offset.length > 6) return NULL;
  const zone = offset === '+00' ? 'Z' : offset.length === 3 ? `${offset}:00` : offset;
  if (time === '24:00:00') return `23:59:59.999999999${zone}`;
  const full = always || fraction.length > 3 || (fraction === '' && seconds === '00');
  if (full) return `${time}.${fraction.padEnd(6, '0')}${zone}`;
  return `${time}${fraction === '' ? '' : `.${fraction.padEnd(3, '0')}`}${zone}`;
}

/** `"a"=>"1", "b"=>NULL` as the text of a JSON object. */
function hstoreObject(text: string): string {
  const json = (quoted: string): string =>
    quoted === 'NULL' ? 'null' : JSON.stringify(quoted.slice(1, -1).replace(/\\(.)/gs, '$1'));
  const part = String.raw`"(?:[^"\\]|\\.)*"`;
  const pair = new RegExp(`(${part})=>(${part}|NULL)(?:, )?`, 'gs');
  const pairs = Array.from(
    text.matchAll(pair),
    ([, key = '', value = '']) => `${json(key)}:${json(value)}`,
  );
  return `{${pairs.join(',')}}`;
}

/** Every number as Java writes a double. */
function javaNumbers(text: string): string {
  return text.replace(/\d[\d.]*(?:e[+-]\d+)?/g, (found) => {
    const value = Number(found);
    if (value === 0) return '0.0';
    if (value >= 1e-3 && value < 1e7) return Number.isInteger(value) ? `${value}.0` : `${value}`;
    const [digits = '', exponent = ''] = value.toExponential().split('e');
    return `${digits}${digits.includes('.') ? '' : '.0'}E${Number(exponent)}`;
  });
}

function arrayFromServer(elementOid: number, types: TypeRows, typmod: number): FromServer {
  const element = elementFromServer(elementOid, types, typmod);
  const delimiter = types.get(elementOid)?.delimiter ?? ',';
  return (text) => {
    let encodable = true;
    const array = arrayText(text, delimiter, (cell) => {
      const value = element(cell);
      if (value === NULL) encodable = false;
      return value;
    });
    return encodable ? array : NULL;
  };
}

function elementFromServer(elementOid: number, types: TypeRows, typmod: number): FromServer {
  const name = types.get(elementOid)?.name;
  if (name === 'bytea') {
    return (text) => canonicalText(Buffer.from(text.slice(2), 'hex').toString('base64'));
  }
  if (name === 'bit' && typmod === 1) return (text) => String(text === '1');
  return fromServer(elementOid, types, typmod);
}

/** `{1,NULL,"a b"}`, perhaps nested, perhaps behind `[0:1]=`. */
function arrayText(text: string, delimiter: string, element: FromServer): string {
  const body = text.startsWith('[') ? text.slice(text.indexOf('=') + 1) : text;
  let out = '';
  let at = 0;
  while (at < body.length) {
    const char = body.charAt(at);
    if (char === '{') out += '[';
    else if (char === '}') out += ']';
    else if (char === delimiter) out += ',';
    else {
      const cell = char === '"' ? quotedCell(body, at) : bareCell(body, at, delimiter);
      out += cell.isNull ? NULL : element(cell.text);
      at = cell.end;
      continue;
    }
    at += 1;
  }
  return out;
}

type Cell = { readonly text: string; readonly end: number; readonly isNull: boolean };

function quotedCell(body: string, start: number): Cell {
  let text = '';
  let at = start + 1;
  while (body.charAt(at) !== '"') {
    if (body.charAt(at) === '\\') at += 1;
    text += body.charAt(at);
    at += 1;
  }
  return { text, end: at + 1, isNull: false };
}

function bareCell(body: string, start: number, delimiter: string): Cell {
  let end = start;
  while (end < body.length && body.charAt(end) !== delimiter && body.charAt(end) !== '}') end += 1;
  const text = body.slice(start, end);
  return { text, end, isNull: text === 'NULL' };
}
