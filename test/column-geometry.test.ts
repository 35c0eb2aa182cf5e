import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { columnType } from '../src/column-types.ts';
import { catalog, describeType, encode, string } from './column-cases.ts';

const POINT_OID = 600;

describe('geometric types', () => {
  describeType('point', [POINT_OID, -1, 0], string, [
    ['(3,7)', '"(3.0,7.0)"'],
    ['(-0,0.5)', '"(-0.0,0.5)"'],
    ['(1e+24,Infinity)', '"(1.0E24,Infinity)"'],
    ['(NaN,-Infinity)', '"(NaN,-Infinity)"'],
    ['(9999999,10000000)', '"(9999999.0,1.0E7)"'],
    ['(123456789.5,100)', '"(1.234567895E8,100.0)"'],
    ['(0.001,0.00099)', '"(0.001,9.9E-4)"'],
    ['(1.5e-07,-1.7976931348623157e+308)', '"(1.5E-7,-1.7976931348623157E308)"'],
  ]);
  describeType('lseg', [601, -1, 0], string, [['[(0,0),(1,1.5)]', '"[(0.0,0.0),(1.0,1.5)]"']]);
  describeType('path', [602, -1, 0], string, [['((0,0),(1,0))', '"((0.0,0.0),(1.0,0.0))"']]);
  describeType('box', [603, -1, 0], string, [['(15,18),(3,7)', '"(15.0,18.0),(3.0,7.0)"']]);
  describeType('polygon', [604, -1, 0], string, [['((0,-1))', '"((0.0,-1.0))"']]);
  describeType('line', [628, -1, 0], string, [['{4,5,-6.25}', '"{4.0,5.0,-6.25}"']]);
  describeType('circle', [718, -1, 0], string, [['<(5,7),10>', '"<(5.0,7.0),10.0>"']]);

  it('writes any double so that it reads back, in the form of Java', () => {
    const point = columnType(POINT_OID, -1, 0, catalog);
    fc.assert(
      fc.property(fc.double({ noNaN: true, noDefaultInfinity: true }), (value) => {
        const text = Object.is(value, -0) ? '-0' : String(value);
        const written = JSON.parse(encode(point, `(${text},1)`) ?? '').slice(1, -5);
        expect(Number(written)).toBe(value);
        const size = Math.abs(value);
        const plain = size === 0 || (size >= 1e-3 && size < 1e7);
        expect(written).toMatch(plain ? /^-?\d+\.\d+$/ : /^-?[1-9]\.\d+E-?\d+$/);
        expect(written).not.toMatch(/\.\d+0(E|$)/);
      }),
      { numRuns: 5000 },
    );
  });
});
