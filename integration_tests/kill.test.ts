/** Killed at any moment, and resumed: nothing is lost, nothing is invented. */
import { randomInt } from 'node:crypto';
import { beforeAll, afterAll, expect, test } from 'vitest';
import { compareWithTable, expectEqual } from './comparison.ts';
import type { RunOptions } from './connector.ts';
import { createDatabase, type Database } from './database.ts';
import type { Message } from './messages.ts';
import type { RunResult } from './run-result.ts';
import { type Connection, connectTo, lsnOf, nthState, recordWhere, stopWhen } from './scenario.ts';
import { createTables, DAYS, Random, refill, TABLES, Writers } from './writers.ts';

/** Chunks of both hypertables, the ordinary table, and one at the beginning. */
const STATES_AT_LEAST = 2 * DAYS + 2;
const RANDOM_KILLS = 50;
const KILLS_IN_A_ROW = 5;

let db: Database;
let connection: Connection;

beforeAll(async () => {
  db = await createDatabase();
  await createTables(db);
  await refill(db);
  connection = await connectTo(db, { streams: TABLES });
});

afterAll(async () => {
  await db[Symbol.asyncDispose]();
});

/** Runs a scenario from a seed that a failure names: KILL_SEED=... runs it again. */
async function seeded(scenario: (seed: number) => Promise<void>): Promise<void> {
  const seed = Number(process.env['KILL_SEED'] ?? randomInt(2 ** 30));
  try {
    await scenario(seed);
  } catch (error) {
    throw new Error(`KILL_SEED=${seed}: ${error instanceof Error ? error.message : ''}`, {
      cause: error,
    });
  }
}

/** Everything ever delivered of `events`: without a key there is nothing that could replace it. */
const delivered = new Set<string>();

async function begin(): Promise<void> {
  await connection.clear();
  delivered.clear();
  await refill(db);
}

function keep(messages: readonly Message[]): void {
  connection.destination.apply(messages);
  for (const message of messages) {
    if (message.type === 'RECORD' && message.record.stream === 'events') {
      delivered.add(String(message.record.data['payload']));
    }
  }
}

/** A run that is killed. @param cut what the pipe held behind the last STATE is lost with it. */
async function killedRun(options: RunOptions, cut: boolean): Promise<RunResult> {
  const result = await connection.attempt(options);
  if (result.signal === null) result.succeeded();
  const states = result.messages.flatMap(({ type }, index) => (type === 'STATE' ? [index] : []));
  const last = states[(options.killAfterStates ?? states.length) - 1] ?? -1;
  keep(cut ? result.messages.slice(0, last + 1) : result.messages);
  return result;
}

/** Resumes while the writers go on for a while, and compares as soon as a run has passed what they wrote. */
async function finishAndCompare(writers: Writers): Promise<void> {
  let end: Promise<string> | undefined;
  const isTime = nthState(3);
  const stop = (): Promise<string> =>
    writers.stop().then(() => db.value<string>('SELECT pg_current_wal_insert_lsn()::text'));
  const resumed = await connection.attempt({
    onMessage: (message) => {
      if (isTime(message)) end ??= stop();
    },
  });
  keep(resumed.succeeded().messages);
  const passed = await db.value<boolean>('SELECT $1::pg_lsn >= $2::pg_lsn', [
    lsnOf(connection.destination.state),
    await (end ?? stop()),
  ]);
  if (!passed) keep((await connection.attempt()).succeeded().messages);
  await connection.expectEqual('metrics', 'orders');
  const { destination } = connection;
  const found = await compareWithTable(db, destination, 'events', { duplicates: true });
  expect(found, found.samples.join('\n')).toMatchObject({ missing: 0, different: 0 });
  const history = await db.query<{ payload: string }>('SELECT payload FROM history');
  const existed = new Set(history.map(({ payload }) => payload));
  expect([...delivered].filter((payload) => !existed.has(payload))).toEqual([]);
}

test('R1, R3, R9: killed after every single STATE of a first sync, and resumed', async () => {
  await seeded(async (seed) => {
    let after = 0;
    for (let reached = true; reached;) {
      after += 1;
      await begin();
      const writers = Writers.start(db, seed + after);
      try {
        const result = await killedRun({ killAfterStates: after }, after % 2 === 0);
        reached = result.states().length >= after;
        await finishAndCompare(writers);
      } catch (error) {
        throw new Error(`killed after ${after} states`, { cause: error });
      } finally {
        await writers.stop();
      }
    }
    expect(after).toBeGreaterThan(STATES_AT_LEAST);
  });
}, 600_000);

test(`R1, R3, R9: killed at ${RANDOM_KILLS} random moments, and resumed`, async () => {
  await seeded(async (seed) => {
    const random = new Random(seed);
    await begin();
    const { seconds } = (await connection.attempt()).succeeded();
    for (let kills = 0; kills < RANDOM_KILLS;) {
      await begin();
      const writers = Writers.start(db, random.below(2 ** 30));
      try {
        for (let i = 0; i < KILLS_IN_A_ROW; i += 1) {
          const moment = 100 + random.next() * seconds * 1200;
          const { signal } = await killedRun(killAfter(moment), random.below(2) === 0);
          if (signal === 'SIGKILL') kills += 1;
        }
        await finishAndCompare(writers);
      } catch (error) {
        throw new Error(`after ${kills} kills`, { cause: error });
      } finally {
        await writers.stop();
      }
    }
  });
}, 600_000);

test('R9: rows that left without a state, and were deleted since, are deleted by the resumed sync', async () => {
  await begin();
  // Too large for one pipe: some of it is delivered, and no state tells of it.
  await db.query(
    `UPDATE metrics SET note = repeat('x', 30000); UPDATE orders SET note = repeat('x', 30000)`,
  );
  for (const table of ['metrics', 'orders']) {
    await connection.clear();
    const isTime = recordWhere((data) => (table === 'orders') === 'amount' in data);
    const killed = await connection.sync(
      stopWhen(isTime, (child) => {
        child.kill('SIGKILL');
        return Promise.resolve();
      }),
    );
    expect(killed.signal).toBe('SIGKILL');
    const late = killed.messages.slice(
      killed.messages.findLastIndex(({ type }) => type === 'STATE'),
    );
    expect(late.filter(({ type }) => type === 'RECORD').length).toBeGreaterThan(0);
    await db.query(`DELETE FROM ${table}`);
    (await connection.sync()).succeeded();
    await connection.expectEqual('metrics', 'orders');
  }
});

function killAfter(milliseconds: number): RunOptions {
  return {
    onStart: (child) => {
      const timer = setTimeout(() => child.kill('SIGKILL'), milliseconds);
      child.once('exit', () => {
        clearTimeout(timer);
      });
    },
  };
}

test('R3, R4: without kills each row of a hypertable without a key comes exactly once', async () => {
  await seeded(async (seed) => {
    await begin();
    const writers = Writers.start(db, seed);
    try {
      for (let syncs = 0; syncs < 6; syncs += 1) {
        keep((await connection.attempt()).succeeded().messages);
      }
    } finally {
      await writers.stop();
    }
    keep((await connection.attempt()).succeeded().messages);
    expect(writers.transactions).toBeGreaterThan(50);
    // Counts each row: one too many, or a delete of a row that is not there, is a difference.
    await expectEqual(db, connection.destination, 'events');
    await connection.expectEqual('metrics', 'orders');
  });
});
