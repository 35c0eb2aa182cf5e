/** What becomes of single changes, of transactions, and of what must not happen. */
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { ChangeApplier, isoMicros } from '../src/cdc.ts';
import type { Lsn } from '../src/postgres/lsn.ts';
import {
  announce,
  type Change,
  CHUNK,
  gone,
  MICROS,
  NOW,
  row,
  TABLE,
  UNSELECTED,
  Window,
} from './cdc-window.ts';
import * as bytes from './pgoutput-bytes.ts';
import { UNCHANGED } from './pgoutput-bytes.ts';
import { INT4, TEXT } from './source-model.ts';

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['Date'], now: NOW });
});
afterEach(() => {
  vi.useRealTimers();
});

/** A promise that the test settles. */
function deferred<T>(): { readonly promise: Promise<T>; resolve: (value: T) => void } {
  const parts: { resolve: (value: T) => void } = { resolve: () => undefined };
  const promise = new Promise<T>((resolve) => {
    parts.resolve = resolve;
  });
  return { promise, resolve: (value) => parts.resolve(value) };
}

describe('a change becomes a record', () => {
  it.each<[string, Buffer, readonly Change[]]>([
    ['insert', bytes.insert(TABLE, ['1', 'a']), [row(1, 'a')]],
    ['insert of NULL', bytes.insert(TABLE, ['1', null]), [row(1, null)]],
    ['update', bytes.update(TABLE, ['1', 'b']), [row(1, 'b')]],
    ['update with the old row', bytes.update(TABLE, ['1', 'b'], ['O', ['1', 'a']]), [row(1, 'b')]],
    ['delete by key', bytes.deletion(TABLE, 'K', ['1', null]), [gone(1)]],
    ['delete with the row', bytes.deletion(TABLE, 'O', ['1', 'a']), [gone(1, 'a')]],
    ['key change', bytes.update(TABLE, ['2', 'a'], ['K', ['1', null]]), [gone(1), row(2, 'a')]],
    [
      'key change with the old row',
      bytes.update(TABLE, ['2', 'b'], ['O', ['1', 'a']]),
      [gone(1, 'a'), row(2, 'b')],
    ],
    ['type', bytes.type(7, 'public', 'mood'), []],
    ['origin', bytes.origin('x'), []],
    ['a message of somebody', bytes.logicalMessage('x'), []],
  ])('%s', async (_, message, changes) => {
    const window = new Window();
    await window.transaction(7, announce(TABLE), message);
    expect(window.changes()).toEqual(changes);
    expect(window.output.recordsSinceState).toBe(changes.length);
  });

  it('with the position and the time of its commit, and a growing token', async () => {
    const window = new Window();
    await window.feed(bytes.begin(2n ** 53n + 1n, MICROS, 7), announce(TABLE));
    await window.feed(bytes.update(TABLE, ['2', 'a'], ['K', ['1', null]]));
    await window.feed(bytes.commit(16n, 48n));
    window.output.flush();
    expect(window.text).toContain('"_ab_cdc_lsn":9007199254740993,');
    const [deletion, insertion] = window.records().map(({ data }) => data);
    const at = '2023-11-14T22:13:20.123456Z';
    expect(deletion).toMatchObject({ _ab_cdc_updated_at: at, _ab_cdc_deleted_at: at });
    expect(insertion).toMatchObject({ _ab_cdc_updated_at: at, _ab_cdc_deleted_at: null });
    const tokens = [deletion, insertion].map((data) => Number(data?.['_ab_cdc_cursor']));
    expect(tokens).toEqual([NOW * 1000 + 1, NOW * 1000 + 2]);
  });

  it('in the order of the changes, over relations and transactions', async () => {
    const window = new Window();
    await window.transaction(7, announce(TABLE), announce(CHUNK), bytes.insert(CHUNK, ['1', 'a']));
    await window.transaction(8, bytes.insert(TABLE, ['2', 'b']), bytes.insert(CHUNK, ['3', 'c']));
    expect(window.changes()).toEqual([row(1, 'a'), row(2, 'b'), row(3, 'c')]);
  });
});

describe('a table without a key', () => {
  const keyless = { [TABLE]: { identity: [] } };
  it.each<[string, Buffer, readonly Change[]]>([
    [
      'update: the old row goes, the new one comes',
      bytes.update(TABLE, ['1', 'b'], ['O', ['1', 'a']]),
      [gone(1, 'a'), row(1, 'b')],
    ],
    [
      'update that changes nothing: no row more than before',
      bytes.update(TABLE, ['1', 'a'], ['O', ['1', 'a']]),
      [gone(1, 'a'), row(1, 'a')],
    ],
    ['update of NULL', bytes.update(TABLE, ['1', 'b'], ['O', ['1', null]]), [gone(1), row(1, 'b')]],
    [
      'update that leaves a long value alone',
      bytes.update(TABLE, ['2', UNCHANGED], ['O', ['1', 'long']]),
      [gone(1, 'long'), row(2, 'long')],
    ],
    ['delete', bytes.deletion(TABLE, 'O', ['1', 'a']), [gone(1, 'a')]],
  ])('%s', async (_, message, changes) => {
    const window = new Window(keyless);
    await window.transaction(7, announce(TABLE, 'f'), message);
    expect(window.changes()).toEqual(changes);
  });
});

describe('a long value that an update did not touch', () => {
  const update = bytes.update(TABLE, ['1', UNCHANGED]);

  it('is fetched by its key', async () => {
    const window = new Window();
    window.support = { fetchCells: async () => new Map([[1, Buffer.from('long')]]) };
    await window.transaction(7, announce(TABLE), update);
    expect(window.changes()).toEqual([row(1, 'long')]);
    expect(window.fetches).toEqual([[TABLE, ['1'], [1]]]);
  });

  it('is null with a note where the row is gone', async () => {
    const window = new Window();
    await window.transaction(7, announce(TABLE), update);
    expect(window.changes()).toEqual([{ ...row(1, null), changes: ['note'] }]);
  });

  it('is fetched by the new key after a key change', async () => {
    const window = new Window();
    const message = bytes.update(TABLE, ['2', UNCHANGED], ['K', ['1', null]]);
    await window.transaction(7, announce(TABLE), message);
    expect(window.changes()).toEqual([gone(1), { ...row(2, null), changes: ['note'] }]);
    expect(window.fetches).toEqual([[TABLE, ['2'], [1]]]);
  });

  it.each([
    ['long', 'long'],
    [null, null],
  ])('is that of the old row, where it is there: %s', async (old, note) => {
    const window = new Window();
    await window.transaction(
      7,
      announce(TABLE, 'f'),
      bytes.update(TABLE, ['1', UNCHANGED], ['O', ['1', old]]),
    );
    expect(window.changes()).toEqual([row(1, note)]);
    expect(window.fetches).toEqual([]);
  });

  it('and is part of the key is that of the old key', async () => {
    // The server sends the old key also where it did not change, if it lies outside of the row.
    const window = new Window({ [TABLE]: { identity: [1] } });
    const announced = bytes.relation({
      oid: TABLE,
      schema: 'public',
      name: 'notes',
      columns: [
        { name: 'id', typeOid: INT4 },
        { name: 'note', typeOid: TEXT, key: true },
      ],
    });
    const message = bytes.update(TABLE, ['2', UNCHANGED], ['K', [null, 'long key']]);
    await window.transaction(7, announced, message);
    expect(window.changes().at(-1)).toEqual(row(2, 'long key'));
  });

  it('keeps the order: what follows waits for it', async () => {
    const window = new Window();
    const waiting = deferred<ReadonlyMap<number, Buffer>>();
    window.support = { fetchCells: () => waiting.promise };
    await window.feed(bytes.begin(16n, MICROS, 7), announce(TABLE));
    const pending = window.applier.apply(update, 0, update.length);
    expect(pending).toBeInstanceOf(Promise);
    expect(window.changes()).toEqual([]);
    waiting.resolve(new Map([[1, Buffer.from('long')]]));
    await pending;
    expect(window.changes()).toEqual([row(1, 'long')]);
  });
});

describe('a truncate', () => {
  it('is told for each relation that is a stream', async () => {
    const window = new Window();
    const relations = [announce(TABLE), announce(CHUNK), announce(UNSELECTED)];
    await window.transaction(7, ...relations, bytes.truncate([TABLE, UNSELECTED, 9, CHUNK], 1));
    expect(window.truncated).toEqual([TABLE, CHUNK]);
    expect(window.changes()).toEqual([]);
  });
});

describe('a commit', () => {
  it('is told with its end and its transaction, also where nothing was emitted', async () => {
    const window = new Window();
    await window.transaction(7);
    await window.feed(bytes.begin(64n, MICROS, 4_000_000_000), bytes.commit(64n, 2n ** 40n));
    expect(window.committed).toEqual(['0/30 7', '100/0 4000000000']);
  });

  it('comes after its records, and the next transaction waits for what it does', async () => {
    const window = new Window();
    const waiting = deferred<void>();
    const seen: number[] = [];
    window.support = {
      committed: () => {
        seen.push(window.output.recordsSinceState);
        return waiting.promise;
      },
    };
    await window.feed(
      bytes.begin(16n, MICROS, 7),
      announce(TABLE),
      bytes.insert(TABLE, ['1', 'a']),
    );
    const message = bytes.commit(16n, 48n);
    expect(window.applier.apply(message, 0, message.length)).toBe(waiting.promise);
    expect(seen).toEqual([1]);
  });

  it('without anything to do does not hold up the stream', () => {
    const window = new Window();
    const [begin, commit] = [bytes.begin(16n, MICROS, 7), bytes.commit(16n, 48n)];
    expect(window.applier.apply(begin, 0, begin.length)).toBeUndefined();
    expect(window.applier.apply(commit, 0, commit.length)).toBeUndefined();
  });

  it('moves the end of the window, if it lies behind the target', async () => {
    const window = new Window();
    expect(window.applier.end(5n as Lsn)).toBe(5n);
    await window.transaction(7);
    expect(window.applier.end(5n as Lsn)).toBe(48n);
    expect(window.applier.end(49n as Lsn)).toBe(49n);
  });
});

describe('what must not happen is an error', () => {
  const insert = bytes.insert(TABLE, ['1', 'a']);

  it('a change outside of a transaction', async () => {
    const window = new Window();
    await window.transaction(7, announce(TABLE));
    await expect(window.feed(insert)).rejects.toThrow('outside a transaction');
  });

  it('a change of a relation that was not announced in this window', async () => {
    const window = new Window();
    await window.transaction(7, announce(TABLE));
    window.applier.begin();
    await expect(window.transaction(8, insert)).rejects.toThrow(`relation ${TABLE} unannounced`);
  });

  it('a relation that cannot be placed', async () => {
    const window = new Window();
    const applier = new ChangeApplier(window.output, {
      sinkFor: async () => {
        throw new Error('unknown relation');
      },
      fetchCells: async () => new Map(),
      rowsPresent: async () => new Set(),
      committed: () => undefined,
      truncated: () => undefined,
    });
    const message = announce(TABLE);
    await expect(applier.apply(message, 0, message.length)).rejects.toThrow('unknown relation');
  });
});

describe('a time in microseconds', () => {
  it.each([
    [0n, '1970-01-01T00:00:00.000000Z'],
    [1n, '1970-01-01T00:00:00.000001Z'],
    [MICROS, '2023-11-14T22:13:20.123456Z'],
    [253_402_300_799_999_999n, '9999-12-31T23:59:59.999999Z'],
    [-1n, '1969-12-31T23:59:59.999999Z'],
  ])('%s is %s', (micros, text) => {
    expect(isoMicros(micros)).toBe(text);
  });
});
