/** What the applier leaves out: what a read has brought or will bring, and what was only moved. */
import { describe, expect, it } from 'vitest';
import { parseVisibility } from '../src/postgres/visibility.ts';
import { announce, CHUNK, TABLE, UNSELECTED, Window } from './cdc-window.ts';
import * as bytes from './pgoutput-bytes.ts';
import { UNCHANGED } from './pgoutput-bytes.ts';

describe('what a read has brought already', () => {
  it.each<[xid: number, emitted: boolean]>([
    [9, false],
    [10, true],
    [12, false],
    [19, false],
    [20, true],
    [25, true],
  ])('transaction %d is emitted: %s', async (xid, emitted) => {
    const window = new Window({ [TABLE]: { overlap: parseVisibility('10:20:10,14') } });
    await window.transaction(
      xid,
      announce(TABLE),
      bytes.insert(TABLE, ['1', 'a']),
      bytes.update(TABLE, ['2', 'a'], ['K', ['1', null]]),
      bytes.deletion(TABLE, 'K', ['2', null]),
    );
    expect(window.changes()).toHaveLength(emitted ? 4 : 0);
    expect(window.committed).toHaveLength(1);
  });

  it('is judged for each relation and each transaction', async () => {
    const window = new Window({
      [TABLE]: { overlap: parseVisibility('10:10:') },
      [CHUNK]: { overlap: parseVisibility('8:8:') },
    });
    const both = [bytes.insert(TABLE, ['1', 'table']), bytes.insert(CHUNK, ['1', 'chunk'])];
    await window.transaction(7, announce(TABLE), announce(CHUNK), ...both);
    await window.transaction(9, ...both);
    await window.transaction(10, ...both);
    await window.transaction(7, ...both);
    expect(window.changes().map(({ note }) => note)).toEqual(['chunk', 'table', 'chunk']);
  });

  it('is emitted all the same once the stream replays, also from the middle of a window', async () => {
    let replays = false;
    const overlap = parseVisibility('20:20:');
    const window = new Window({
      [TABLE]: { overlap, replays: () => replays },
      [CHUNK]: { overlap: 'unread', replays: () => replays },
    });
    const both = [bytes.insert(TABLE, ['1', 'table']), bytes.insert(CHUNK, ['1', 'chunk'])];
    await window.transaction(7, announce(TABLE), announce(CHUNK), ...both);
    expect(window.changes()).toEqual([]);
    replays = true;
    await window.transaction(8, ...both);
    expect(window.changes().map(({ note }) => note)).toEqual(['table', 'chunk']);
  });

  it('or will bring is not emitted at all', async () => {
    const window = new Window({ [CHUNK]: { overlap: 'unread' } });
    await window.transaction(
      7,
      announce(CHUNK),
      bytes.insert(CHUNK, ['1', 'a']),
      bytes.update(CHUNK, ['1', UNCHANGED]),
      bytes.deletion(CHUNK, 'K', ['1', null]),
    );
    expect(window.changes()).toEqual([]);
    expect(window.fetches).toEqual([]);
  });

  it('is not asked for what no stream wants', async () => {
    const window = new Window();
    await window.transaction(7, announce(UNSELECTED), bytes.insert(UNSELECTED, ['1', 'a']));
    expect(window.changes()).toEqual([]);
  });
});

const COMPRESSION = [
  bytes.logicalMessage('::timescaledb-compression-start'),
  bytes.logicalMessage('::timescaledb-compression-end'),
] as const;
const DECOMPRESSION = [
  bytes.logicalMessage('::timescaledb-decompression-start'),
  bytes.logicalMessage('::timescaledb-decompression-end'),
] as const;

describe('inside markers', () => {
  const [start, end] = COMPRESSION;
  const [inner, innerEnd] = DECOMPRESSION;
  const relations = [announce(TABLE), announce(CHUNK)];
  const changesOf = (oid: number) => [
    bytes.insert(oid, ['1', 'insert']),
    bytes.update(oid, ['2', 'update']),
    bytes.deletion(oid, 'O', ['3', 'delete']),
  ];
  const notes = (window: Window) => window.changes().map(({ note }) => note);

  it('inserts and deletes of chunks are moves, updates are changes', async () => {
    const window = new Window();
    await window.transaction(7, ...relations, start, ...changesOf(CHUNK), end);
    expect(notes(window)).toEqual(['update']);
  });

  it('everything on a table counts', async () => {
    const window = new Window();
    await window.transaction(7, ...relations, start, ...changesOf(TABLE), end);
    expect(notes(window)).toEqual(['insert', 'update', 'delete']);
  });

  it('moves last to the end of the outer pair, and no longer', async () => {
    const window = new Window();
    const insert = (note: string) => bytes.insert(CHUNK, ['1', note]);
    const nested = [start, inner, insert('moved'), innerEnd, insert('moved, too'), end];
    await window.transaction(7, ...relations, ...nested, insert('new'));
    expect(notes(window)).toEqual(['new']);
  });

  it('an end that is missing does not reach the next transaction', async () => {
    const window = new Window();
    await window.transaction(7, ...relations, start, ...changesOf(CHUNK));
    await window.transaction(8, ...changesOf(CHUNK));
    expect(notes(window)).toEqual(['update', 'insert', 'update', 'delete']);
  });

  it('an end without a start does not make the next pair transparent', async () => {
    const window = new Window();
    await window.transaction(7, ...relations, end, start, ...changesOf(CHUNK), end);
    expect(notes(window)).toEqual(['update']);
  });

  it('a message outside of the transaction is no marker', async () => {
    const window = new Window();
    const outside = bytes.logicalMessage('::timescaledb-compression-start', false);
    await window.transaction(7, ...relations, outside, ...changesOf(CHUNK));
    expect(notes(window)).toEqual(['insert', 'update', 'delete']);
  });
});
