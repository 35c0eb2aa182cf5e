/** Deletions that may be moves count only if their rows are gone, in their place in the order of changes. */
import { describe, expect, it } from 'vitest';
import { announce, type Change, CHUNK, gone, row, Window } from './cdc-window.ts';
import * as bytes from './pgoutput-bytes.ts';

const doubtful = { [CHUNK]: { doubtsDeletes: true } };

function deletion(id: number): Buffer {
  return bytes.deletion(CHUNK, 'K', [String(id), null]);
}

/** The rows of `present` are in the table whenever it is asked. */
function window(present: readonly number[]): Window {
  const made = new Window(doubtful);
  made.support = {
    rowsPresent: async (_, keys) =>
      new Set(keys.flatMap(([id], index) => (present.includes(Number(id)) ? [index] : []))),
  };
  return made;
}

async function changes(present: readonly number[], messages: readonly Buffer[]): Promise<Change[]> {
  const made = window(present);
  await made.transaction(7, announce(CHUNK), ...messages);
  return made.changes();
}

describe('a doubtful deletion', () => {
  it('is left out while its row is in the table', async () => {
    expect(await changes([1, 3], [1, 2, 3].map(deletion))).toEqual([gone(2)]);
  });

  it('comes before the change that follows it', async () => {
    const messages = [deletion(1), bytes.insert(CHUNK, ['1', 'again']), deletion(2)];
    expect(await changes([], messages)).toEqual([gone(1), row(1, 'again'), gone(2)]);
  });

  it('is asked for before the commit is told of', async () => {
    const made = window([]);
    let known: unknown[] | undefined;
    made.support = {
      ...made.support,
      committed: () => {
        known = made.changes();
        return undefined;
      },
    };
    await made.transaction(7, announce(CHUNK), deletion(1));
    expect(known).toEqual([gone(1)]);
  });

  it('is asked for with others at once, and never with more than a thousand', async () => {
    const made = window([]);
    const ids = Array.from({ length: 2500 }, (_, index) => index);
    await made.transaction(7, announce(CHUNK), ...ids.map(deletion));
    expect(made.questions.map((keys) => (keys as unknown[]).length)).toEqual([1000, 1000, 500]);
    expect(made.changes()).toEqual(ids.map((id) => gone(id)));
  });

  it('is asked for sooner when rows are large', async () => {
    const made = window([]);
    const large = (id: number): Buffer =>
      bytes.deletion(CHUNK, 'O', [String(id), 'x'.repeat(600_000)]);
    await made.transaction(7, announce(CHUNK), large(1), large(2), large(3));
    expect(made.questions).toEqual([[['1'], ['2']], [['3']]]);
  });

  it('inside markers is not even asked for', async () => {
    const made = window([]);
    const marker = (end: string): Buffer =>
      bytes.logicalMessage(`::timescaledb-compression-${end}`, true);
    await made.transaction(7, announce(CHUNK), marker('start'), deletion(1), marker('end'));
    expect(made.questions).toEqual([]);
  });
});
