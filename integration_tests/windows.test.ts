/** Windows of changes and copies of the slot that take turns: what comes is what one window of all of it brings. */
import type { Client } from 'pg';
import { describe, expect, it } from 'vitest';
import { ChangeReader } from '../src/postgres/changes.ts';
import { formatLsn, type Lsn, parseLsn } from '../src/postgres/lsn.ts';
import { SlotCopy } from '../src/postgres/slot-copy.ts';
import { presentTarget } from '../src/postgres/slot.ts';
import { createDatabase, type Database } from './database.ts';
import { atEachState, connectTo, sessions } from './scenario.ts';
import { Random } from './writers.ts';

/** Announced anew in each window. */
const ANNOUNCEMENTS = new Set(['R', 'Y']);
const SECONDS = 1.5;

/** Transactions of few changes and of many, some rolled back as a whole or in part, some of them open for a while. */
async function write(client: Client, seed: number, until: number): Promise<void> {
  const random = new Random(seed);
  for (let n = 0; Date.now() < until; n += 1) {
    const rows = random.pick([1, 1, 2, 50, 500]);
    await client.query('BEGIN');
    await client.query(
      `INSERT INTO items SELECT $1, $2, i, repeat('x', 40) FROM generate_series(1, $3::int) i`,
      [seed, n, rows],
    );
    if (random.below(3) === 0) {
      await client.query('SAVEPOINT part');
      await client.query(`UPDATE items SET note = 'part' WHERE writer = $1 AND n = $2`, [seed, n]);
      if (random.below(2) === 0) await client.query('ROLLBACK TO part');
    }
    if (random.below(5) === 0) {
      const transactional = random.below(2) === 0;
      await client.query(`SELECT pg_logical_emit_message($1, 'test', 'x')`, [transactional]);
    }
    if (random.below(20) === 0) await client.query('SELECT pg_sleep(0.2)');
    await client.query(random.below(7) === 0 ? 'ROLLBACK' : 'COMMIT');
  }
}

type Range = { readonly from: Lsn; readonly target: Lsn };

async function filled(db: Database): Promise<Range> {
  await db.query(`
    CREATE TABLE items (writer int, n int, i int, note text, PRIMARY KEY (writer, n, i));
    CREATE PUBLICATION ${db.publication} FOR TABLE items`);
  const from = await db.value<string>(
    `SELECT lsn::text FROM pg_create_logical_replication_slot($1, 'pgoutput')`,
    [db.slot],
  );
  const clients = await Promise.all([1, 2, 3, 4].map(() => db.client()));
  const until = Date.now() + SECONDS * 1000;
  await Promise.all(clients.map((client, index) => write(client, index + 1, until)));
  const [main] = clients;
  if (main === undefined) throw new Error('no session');
  const { lsn: target } = await presentTarget(main);
  await Promise.all(clients.map((client) => client.end()));
  return { from: parseLsn(from), target };
}

async function read(
  db: Database,
  { from, target }: Range,
  copies: number,
  size: () => number,
): Promise<{ readonly messages: readonly string[]; readonly windows: number }> {
  const open = async (): Promise<SlotCopy> =>
    SlotCopy.open(await db.client(), db.slot, [db.publication]);
  const second = async (): Promise<SlotCopy | null> => (copies > 1 ? open() : null);
  const reader = new ChangeReader(await open(), second, { first: size(), next: size });
  const messages: string[] = [];
  let windows = 0;
  for (let at = from; at < target; windows += 1) {
    const reached = await reader.readWindow(at, target, (src, start, end) => {
      const tag = String.fromCharCode(src[start] ?? 0);
      if (!ANNOUNCEMENTS.has(tag)) messages.push(src.toString('latin1', start, end));
      return undefined;
    });
    expect(reached, formatLsn(at)).toBeGreaterThan(at);
    at = reached;
  }
  await reader.close();
  return { messages, windows };
}

describe('windows of any size', () => {
  it('bring each transaction once and in order, by one copy and by two in turn', async () => {
    await using db = await createDatabase();
    const range = await filled(db);
    const whole = await read(db, range, 1, () => 2 ** 40);
    expect(whole.windows).toBe(1);
    expect(whole.messages.length).toBeGreaterThan(1000);
    const random = new Random(4);
    const total = Number(range.target - range.from);
    // From less than a record to many transactions: windows end within commit records too.
    const size = (): number =>
      random.below(4) === 0
        ? 2 ** (5 + random.below(9))
        : Math.ceil(total / (30 + random.below(70)));
    for (const copies of [1, 2, 2, 2]) {
      const { messages, windows } = await read(db, range, copies, size);
      expect(windows).toBeGreaterThan(30);
      expect(messages.length).toBe(whole.messages.length);
      expect(messages.every((message, index) => message === whole.messages[index])).toBe(true);
    }
  });
});

describe('a sync of more than one window', () => {
  it('decodes ahead in a session of its own, where the limit of connections leaves room', async () => {
    await using db = await createDatabase();
    await db.query('CREATE TABLE items (id int PRIMARY KEY, note text)');
    for (const [limit, ahead] of [
      [5, false],
      [null, true],
    ] as const) {
      const connection = await connectTo(
        db,
        {},
        limit === null ? {} : { max_db_connections: limit },
      );
      (await connection.sync()).succeeded();
      for (let part = 0; part < 3; part += 1) {
        await db.query(
          `INSERT INTO items SELECT (SELECT count(*) FROM items) + i, repeat('x', 900) FROM generate_series(1, 30000) i`,
        );
      }
      const purposes = new Set<string>();
      const result = await connection.sync(
        atEachState(async () => {
          for (const { purpose } of await sessions(db)) purposes.add(purpose);
        }),
      );
      expect(result.succeeded().records()).toHaveLength(90_000);
      await connection.expectEqual('items');
      expect([purposes.has('changes'), purposes.has('changes ahead')]).toEqual([true, ahead]);
    }
  });
});
