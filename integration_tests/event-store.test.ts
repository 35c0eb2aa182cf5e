/**
 * An event store under a cursor and under changes. Global positions come from a sequence and commit out of order: a
 * cursor that has passed a position does not come back to it.
 */
import { expect, test } from 'vitest';
import { expectEqual } from './comparison.ts';
import { createDatabase, type Database, hasCompression, until } from './database.ts';
import {
  addColumnstore,
  Appenders,
  createEventStore,
  HeldMessage,
  type Identity,
  partialChunks,
  writeMessage,
} from './event-store.ts';
import { type Connection, connectTo, DAY_ZERO } from './scenario.ts';

const ROUNDS = 2;

/** A connection, and all messages that it ever delivered. */
class Reader {
  readonly connection: Connection;
  /** By stream: the positions in the order of delivery. */
  readonly positions = new Map<string, number[]>();
  readonly globalPositions: number[] = [];

  constructor(connection: Connection) {
    this.connection = connection;
  }

  async sync(): Promise<void> {
    for (const { data } of (await this.connection.sync()).succeeded().records('messages')) {
      const stream = String(data['stream_name']);
      const positions = this.positions.get(stream) ?? [];
      positions.push(Number(data['position']));
      this.positions.set(stream, positions);
      this.globalPositions.push(Number(data['global_position']));
    }
  }

  /** Each stream from its first position on, none lacking and none twice. */
  expectGapless(): void {
    expect(this.positions.size).toBeGreaterThan(0);
    for (const [stream, positions] of this.positions) {
      const sorted = positions.toSorted((a, b) => a - b);
      expect(sorted, stream).toEqual(Array.from(sorted, (_, index) => index));
    }
  }

  /** What the table holds and was never delivered. */
  async lacks(db: Database): Promise<number[]> {
    const delivered = new Set(this.globalPositions);
    return (await globalPositions(db)).filter((position) => !delivered.has(position));
  }
}

async function globalPositions(db: Database): Promise<number[]> {
  const rows = await db.query<{ position: string }>(
    'SELECT global_position AS position FROM messages ORDER BY 1',
  );
  return rows.map(({ position }) => Number(position));
}

async function readers(
  db: Database,
): Promise<{ readonly changes: Reader; readonly cursor: Reader }> {
  const streams = ['messages'];
  const standard = { replication_method: { method: 'Standard' } };
  return {
    changes: new Reader(await connectTo(db, { streams })),
    cursor: new Reader(await connectTo(db, { streams, cursorField: 'global_position' }, standard)),
  };
}

test('a message that commits behind a later one: the cursor never sees it, the changes bring it', async () => {
  await using db = await createDatabase();
  await createEventStore(db, 'index');
  const { changes, cursor } = await readers(db);
  await changes.sync();
  await cursor.sync();

  await using held = await HeldMessage.write(db, 'account-1');
  const later = await writeMessage(db, 'order-1');
  expect(later).toBeGreaterThan(held.globalPosition);
  await changes.sync();
  await cursor.sync();
  expect(cursor.globalPositions).toContain(later);
  expect(changes.globalPositions).toContain(later);

  await held.commit();
  await changes.sync();
  await cursor.sync();
  expect(await cursor.lacks(db)).toEqual([held.globalPosition]);
  expect(changes.globalPositions.toSorted((a, b) => a - b)).toEqual(await globalPositions(db));

  // Nor does it come with what is written afterwards.
  await writeMessage(db, 'account-1');
  await changes.sync();
  await cursor.sync();
  expect(await cursor.lacks(db)).toEqual([held.globalPosition]);
  expect(cursor.expectGapless.bind(cursor)).toThrow('account-1');
  changes.expectGapless();
  await changes.connection.expectEqual('messages');
});

const IDENTITIES: readonly Identity[] = ['index', 'none'];

for (const identity of IDENTITIES) {
  test(`syncs while messages are written: each comes once, streams have no gaps (identity: ${identity})`, async () => {
    await using db = await createDatabase();
    await createEventStore(db, identity);
    const compress = (await hasCompression(db)) ? await addColumnstore(db) : undefined;
    await compress?.();
    const { changes, cursor } = await readers(db);
    const appenders = Appenders.start(db, 7);
    const held: number[] = [];
    try {
      for (let round = 0; round < ROUNDS; round += 1) {
        const chunks = await countChunks(db);
        await until('a new week has begun', async () => (await countChunks(db)) > chunks, 90);
        // The message that was held before is in a compressed chunk: the job takes it in.
        if (compress !== undefined) expect(await partialChunks(db)).toBe(round);
        await appenders.withoutHolding(() => Promise.all([changes.sync(), compress?.()]));
        if (compress !== undefined) expect(await partialChunks(db)).toBe(0);
        changes.expectGapless();

        // A message for one of the first weeks, compressed where the build can; it is open over both syncs.
        const time = `'${DAY_ZERO}'::timestamptz + interval '${round * 7 + 3} days'`;
        const week = await db.value<Date>(`SELECT ${time}`);
        await using message = await HeldMessage.write(db, 'ledger-1', week.toISOString());
        await appenders.overtaken(message.globalPosition);
        await changes.sync();
        changes.expectGapless();
        await cursor.sync();
        await message.commit();
        held.push(message.globalPosition);
      }
    } finally {
      await appenders.stop();
    }
    expect(appenders.late).toBeGreaterThan(0);
    await compress?.();
    await changes.sync();
    await cursor.sync();
    expect(changes.globalPositions.toSorted((a, b) => a - b)).toEqual(await globalPositions(db));
    changes.expectGapless();
    await changes.connection.expectEqual('messages');
    expect(await cursor.lacks(db)).toEqual(expect.arrayContaining(held));

    await retain(db, changes);
  }, 300_000);
}

/** Retention takes the oldest two weeks from the table; the destination keeps them, and what is written goes on. */
async function retain(db: Database, changes: Reader): Promise<void> {
  const before = (await globalPositions(db)).length;
  const cut = await db.value<Date>(`SELECT '${DAY_ZERO}'::timestamptz + interval '14 days'`);
  await db.query(`SELECT drop_chunks('messages', older_than => $1::timestamptz)`, [cut]);
  await writeMessage(db, 'order-2');
  await changes.sync();
  changes.expectGapless();
  const dropped = before + 1 - (await globalPositions(db)).length;
  expect(dropped).toBeGreaterThan(0);
  // ISO texts are in the order of time; the key of the stream, or else every column, holds one.
  const isOld = (values: readonly string[]): boolean =>
    values.some((value) => /^\d{4}-\d\d-\d\dT/.test(value) && value < cut.toISOString());
  const { destination } = changes.connection;
  const found = await expectEqual(db, destination, 'messages', { retained: isOld });
  expect(found.retained).toBe(dropped);
}

function countChunks(db: Database): Promise<number> {
  return db.value<number>(`SELECT count(*)::int FROM show_chunks('messages')`);
}
