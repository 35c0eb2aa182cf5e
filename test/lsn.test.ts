import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  advanceLsn,
  formatLsn,
  type Lsn,
  lsnFromBytes,
  maxLsn,
  minLsn,
  parseLsn,
} from '../src/postgres/lsn.ts';

const anyLsn = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }).map((value) => value as Lsn);

describe('a position as text', () => {
  it.each([
    ['0/0', 0n],
    ['0/1', 1n],
    ['1/0', 2n ** 32n],
    ['16/B374D848', 0x16b374d848n],
    ['FFFFFFFF/FFFFFFFF', 2n ** 64n - 1n],
  ])('%s is read and printed as PostgreSQL does', (text, value) => {
    expect(parseLsn(text)).toBe(value);
    expect(formatLsn(value as Lsn)).toBe(text);
  });

  it('may come in lower case and padded', () => {
    expect(parseLsn('00000016/0b374d84')).toBe(0x160b374d84n);
  });

  it.each([
    '',
    '16',
    '16/',
    '/16',
    '16/1G',
    '123456789/0',
    '0/123456789',
    ' 0/0',
    '0/0\n',
    '0/0/0',
  ])('%j is refused', (text) => {
    expect(() => parseLsn(text)).toThrow(`not a WAL position: ${text}`);
  });

  it('comes back from its own text, whatever it is', () => {
    fc.assert(
      fc.property(anyLsn, (lsn) => {
        expect(parseLsn(formatLsn(lsn))).toBe(lsn);
      }),
    );
  });
});

describe('a position as bytes', () => {
  it('is unsigned, 64 bits, anywhere in the buffer', () => {
    const bytes = Buffer.from('aaffffffff00000001', 'hex');
    expect(formatLsn(lsnFromBytes(bytes, 1))).toBe('FFFFFFFF/1');
  });
});

describe('positions', () => {
  it('advance over the boundary of the halves', () => {
    expect(formatLsn(advanceLsn(parseLsn('0/FFFFFFFF'), 1))).toBe('1/0');
  });

  it('have a later and an earlier one', () => {
    fc.assert(
      fc.property(anyLsn, anyLsn, (a, b) => {
        const [low, high] = a < b ? [a, b] : [b, a];
        expect([minLsn(a, b), maxLsn(a, b)]).toEqual([low, high]);
      }),
    );
  });
});
