/** Windows of changes, with copies of the slot that only note what is asked of them. */
import { describe, expect, it } from 'vitest';
import { ChangeReader } from '../src/postgres/changes.ts';
import type { RowHandler } from '../src/postgres/exchange.ts';
import type { Lsn } from '../src/postgres/lsn.ts';
import type { SlotCopy, Window } from '../src/postgres/slot-copy.ts';

const WINDOW = 64n * 1024n * 1024n;
const lsn = (windows: number): Lsn => (BigInt(windows) * WINDOW) as Lsn;
const nothing: RowHandler = () => undefined;

/** @param at ends of windows, in windows: one that cannot be decoded, and one whose rows are taken slowly. */
function copy(
  name: string,
  notes: string[],
  at: { readonly fails?: number; readonly slow?: number } = {},
): SlotCopy {
  const begin = (from: Lsn, upto: Lsn): Window => {
    const window = `${Number(from) / Number(WINDOW)}-${Number(upto) / Number(WINDOW)}`;
    notes.push(`${name} decodes ${window}`);
    return {
      upto,
      read: () => {
        notes.push(`${name} gives ${window}`);
        if (upto === lsn(at.fails ?? -1)) return Promise.reject(new Error('cannot be decoded'));
        const wal = Number(upto - from);
        const milliseconds = upto === lsn(at.slow ?? -1) ? 21_000 : 100;
        return Promise.resolve({ wal, result: wal, milliseconds, again: 0, tempLimit: null });
      },
    };
  };
  const close = (): Promise<void> => {
    notes.push(`${name} closed`);
    return Promise.resolve();
  };
  return { begin, close } as unknown as SlotCopy;
}

async function read(reader: ChangeReader, from: Lsn, target: Lsn): Promise<void> {
  for (let at = from; at < target;) at = await reader.readWindow(at, target, nothing);
}

describe('windows', () => {
  it('one that is enough needs no second copy', async () => {
    const notes: string[] = [];
    const reader = new ChangeReader(copy('a', notes), () => {
      throw new Error('asked for a second copy');
    });
    await read(reader, lsn(0), lsn(1));
    await reader.close();
    expect(notes).toEqual(['a decodes 0-1', 'a gives 0-1', 'a closed']);
  });

  it('of two copies, one decodes while the rows of the other are taken', async () => {
    const notes: string[] = [];
    const reader = new ChangeReader(copy('a', notes), async () => copy('b', notes));
    await read(reader, lsn(0), lsn(3));
    expect(notes.splice(0)).toEqual([
      'a decodes 0-1',
      'b decodes 1-2',
      'a gives 0-1',
      'a decodes 2-3',
      'b gives 1-2',
      'a gives 2-3',
    ]);
    await read(reader, lsn(3), lsn(5));
    expect(notes.splice(0)).toEqual([
      'a decodes 3-4',
      'b decodes 4-5',
      'a gives 3-4',
      'b gives 4-5',
    ]);
    await reader.close();
    expect(notes.toSorted()).toEqual(['a closed', 'b closed']);
  });

  it('go one after the other where there can be one copy only, which is asked for once', async () => {
    const notes: string[] = [];
    const reader = new ChangeReader(copy('a', notes), async () => {
      notes.push('no slot is free');
      return null;
    });
    await read(reader, lsn(0), lsn(3));
    expect(notes).toEqual([
      'a decodes 0-1',
      'no slot is free',
      'a gives 0-1',
      'a decodes 1-2',
      'a gives 1-2',
      'a decodes 2-3',
      'a gives 2-3',
    ]);
  });

  it('whoever takes rows slowly has the second copy no longer', async () => {
    const notes: string[] = [];
    const second = async (): Promise<SlotCopy> => copy('b', notes, { slow: 2 });
    const reader = new ChangeReader(copy('a', notes), second);
    await read(reader, lsn(0), lsn(5));
    expect(notes).toEqual([
      'a decodes 0-1',
      'b decodes 1-2',
      'a gives 0-1',
      'a decodes 2-3',
      'b gives 1-2',
      'b closed',
      'a gives 2-3',
      'a decodes 3-4',
      'a gives 3-4',
      'a decodes 4-5',
      'a gives 4-5',
    ]);
  });

  it('a failure ahead is told when its turn has come', async () => {
    const notes: string[] = [];
    const reader = new ChangeReader(copy('a', notes), async () => copy('b', notes, { fails: 2 }));
    expect(await reader.readWindow(lsn(0), lsn(3), nothing)).toBe(lsn(1));
    await expect(reader.readWindow(lsn(1), lsn(3), nothing)).rejects.toThrow('cannot be decoded');
  });
});
