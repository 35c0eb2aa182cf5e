import { describe, expect, it } from 'vitest';
import { isBuiltInType, isCursorType, typeName } from '../src/column-types.ts';
import {
  AMOUNT,
  CITEXT,
  FEELING,
  HSTORE,
  LABELS,
  MOOD,
  PAIR,
  POSITIVE_AMOUNT,
  arrayOf,
  asIs,
  catalog,
  describeType,
  integer,
  quoted,
  string,
} from './column-cases.ts';

describe('domains', () => {
  describeType('over numeric(10,0)', [AMOUNT, -1, 0], integer, asIs('1234567890'));
  describeType('over a domain', [POSITIVE_AMOUNT, -1, 0], integer, asIs('12'));
  describeType('over text[]', [LABELS, -1, 0], arrayOf(string), [['{a,"b c"}', '["a","b c"]']]);
  describeType('over an enum', [FEELING, -1, 0], string, quoted('sad'));
});

describe('isBuiltInType', () => {
  it.each([16, 20, 25, 603, 1020, 1184, 1231, 3802, 4451, 6150, 271])('knows %d', (oid) => {
    expect(isBuiltInType(oid)).toBe(true);
  });
  it.each([0, 2249, HSTORE, MOOD])('does not know %d', (oid) => {
    expect(isBuiltInType(oid)).toBe(false);
  });
});

describe('the name of a type that decides on the order', () => {
  it.each([
    ['its own', 20, 'int8'],
    ['of a domain its base', AMOUNT, 'numeric'],
    ['of a domain over a domain the base of both', POSITIVE_AMOUNT, 'numeric'],
    ['of an enum behind a domain the enum', FEELING, 'mood'],
    ['of an extension', CITEXT, 'citext'],
    ['of an unknown one none', 99999, ''],
  ])('%s', (_, oid, name) => {
    expect(typeName(oid, catalog)).toBe(name);
  });
});

describe('isCursorType', () => {
  const cursors = [
    20, 21, 23, 26, 700, 701, 1700, 25, 1042, 1043, 19, 1082, 1083, 1114, 1184, 2950, 16, 17, 790,
    869, 1186, 1560,
  ];
  it.each([...cursors, CITEXT, MOOD, FEELING, AMOUNT, POSITIVE_AMOUNT])('%d yes', (oid) => {
    expect(isCursorType(oid, catalog)).toBe(true);
  });
  it.each([114, 3802, 600, 1009, 1016, HSTORE, PAIR, LABELS, 99999])('%d no', (oid) => {
    expect(isCursorType(oid, catalog)).toBe(false);
  });
});
