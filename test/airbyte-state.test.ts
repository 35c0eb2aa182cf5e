import { describe, expect, it } from 'vitest';
import { isAirbyteStream, parseAirbytePosition, parseAirbyteStream } from '../src/airbyte-state.ts';

const NOTHING = { cursor: null, xmin: null, page: null, filenode: 0, done: false };
const V3 = {
  version: 3,
  stream_name: '',
  stream_namespace: '',
  ctid: null,
  cursors: {},
  xmin: null,
};

describe("an entry of Airbyte's Postgres source", () => {
  it.each([
    [{ ...V3, state_type: 'cursor_based' }, true],
    [{ version: 2, state_type: 'ctid', ctid: '(0,1)' }, true],
    [{ stream_name: 'a', cursor_field: ['id'], cursor: '7' }, true],
    [{ version: 1, mode: 'cursor', cursor_field: 'id' }, false],
    [{ version: 1, state_type: 'other' }, false],
    [{ anything: 1 }, false],
  ])('is told from others: %j', (blob, is) => {
    expect(isAirbyteStream(blob)).toBe(is);
  });

  it.each([
    [
      { ...V3, state_type: 'cursor_based', cursors: { id: 7 } },
      { cursor: { field: 'id', value: 7 } },
    ],
    [
      { state_type: 'cursor_based', cursor_field: ['at'], cursor: '2026-01-01T00:00:00Z' },
      { cursor: { field: 'at', value: '2026-01-01T00:00:00Z' } },
    ],
    [{ state_type: 'cursor_based', cursor_field: ['at'], cursor: null }, {}],
    [{ cursor_field: [], stream_name: 'a' }, {}],
    [{ ...V3, state_type: 'xmin_based', xmin: 700 }, { xmin: 700n }],
    [
      { state_type: 'xmin', xmin_raw_value: 4294967999, xmin_xid_value: 703 },
      { xmin: 4294967999n },
    ],
    [
      { ...V3, state_type: 'ctid_based', ctid: '(12,1)', relation_filenode: 9, xmin: 7 },
      { page: 12, filenode: 9, xmin: 7n },
    ],
    [
      {
        state_type: 'ctid',
        ctid: '(12,1)',
        relation_filenode: 9,
        incremental_state: { state_type: 'cursor_based', cursor_field: ['id'], cursor: '7' },
      },
      { page: 12, filenode: 9, cursor: { field: 'id', value: '7' } },
    ],
    [{ ...V3, state_type: 'ctid_based' }, { done: true }],
    [{ ...V3, state_type: 'ctid_based', ctid: '(0,1)' }, { page: 0 }],
    [{ state_type: 'ctid', ctid: null }, {}],
  ])('is read: %j', (blob, said) => {
    expect(parseAirbyteStream(blob)).toEqual({ ...NOTHING, ...said });
  });

  it.each([
    [{ state_type: 'cursor_based', cursor_field: ['a', 'b'], cursor: '1' }],
    [{ state_type: 'cursor_based', cursors: { a: 1, b: 2 } }],
    [{ state_type: 'cursor_based', cursors: { a: { b: 2 } } }],
    [{ state_type: 'xmin_based', xmin: 1.5 }],
    [{ state_type: 'xmin_based', xmin: '0x1' }],
    [{ state_type: 'ctid_based', ctid: '(1)' }],
    [{ state_type: 'ctid_based', ctid: 7 }],
  ])('is refused: %j', (blob) => {
    expect(() => parseAirbyteStream(blob)).toThrow(/The state cannot be used/);
  });
});

describe("a position of Airbyte's Postgres source", () => {
  const shared = (...offsets: readonly unknown[]) => ({
    state: Object.fromEntries(offsets.map((offset, at) => [`["db",{"server":"${at}"}]`, offset])),
  });

  it.each<[unknown, bigint | null]>([
    [shared('{"lsn":100,"lsn_proc":90,"lsn_commit":80}'), 80n],
    [shared('{"lsn":70,"lsn_proc":90,"lsn_commit":80}'), 70n],
    [shared('{"lsn":100,"lsn_proc":null}'), 100n],
    [shared({ lsn: 100 }), 100n],
    [shared('{"lsn":9007199254740993}'), null],
    [shared('{"lsn":"100"}'), null],
    [shared('{"ts_usec":1}'), null],
    [shared('not json'), null],
    [shared('{"lsn":1}', '{"lsn":2}'), null],
    [{ state: {} }, null],
  ])('%j is the least of what it names, or none', (value, lsn) => {
    expect(parseAirbytePosition(value)).toEqual({ lsn });
  });

  it.each([[null], [{}], [{ version: 1, lsn: '0/1' }], [{ version: 1, state: { a: '{}' } }]])(
    '%j is none of it',
    (value) => {
      expect(parseAirbytePosition(value)).toBeNull();
    },
  );
});
