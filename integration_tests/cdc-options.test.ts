/** The settings of the method CDC, each seen at work. */
import { expect, test } from 'vitest';
import type { JsonObject } from '../src/airbyte/protocol.ts';
import { movableClock } from './clock.ts';
import { run } from './connector.ts';
import { createDatabase, type Database, until } from './database.ts';
import { expectRefused } from './refusals.ts';
import {
  type Connection,
  connectTo,
  DAY_ZERO,
  lsnOf,
  nthState,
  recordWhere,
  sessions,
  stopWhen,
} from './scenario.ts';

function method(db: Database, settings: JsonObject): JsonObject {
  const { slot, publication } = db;
  return {
    replication_method: {
      method: 'CDC',
      replication_slot: slot,
      publication,
      ...settings,
    },
  };
}

/** 20 chunks of 300 rows, and a table. */
async function fill(db: Database): Promise<void> {
  await db.query(`
    CREATE TABLE metrics (time timestamptz NOT NULL, device int NOT NULL, value float8, PRIMARY KEY (time, device));
    SELECT create_hypertable('metrics', 'time', chunk_time_interval => interval '1 day');
    INSERT INTO metrics SELECT '${DAY_ZERO}'::timestamptz + d * interval '1 day' + i * interval '1 minute', i, 0
      FROM generate_series(0, 19) d, generate_series(1, 300) i;
    CREATE TABLE orders (id int PRIMARY KEY, note text);
    INSERT INTO orders SELECT i, 'first' FROM generate_series(1, 100) i`);
}

async function confirmed(db: Database): Promise<string> {
  return db.value<string>(
    'SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1',
    [db.slot],
  );
}

/** Of the STATE messages so far, the position of the last one. */
class LastState {
  lsn = '0/0';
  readonly see = (message: { readonly type: string }): boolean => {
    if (message.type === 'STATE') this.lsn = lsnOf([message]);
    return false;
  };
}

async function isAtMost(db: Database, lsn: string, limit: string): Promise<boolean> {
  return db.value<boolean>('SELECT $1::pg_lsn <= $2::pg_lsn', [lsn, limit]);
}

const WHILE_READING = { lsn_commit_behaviour: 'While reading Data' };

test('"While reading Data": the slot follows the states within the sync, and never goes beyond the last one', async () => {
  await using db = await createDatabase();
  await fill(db);
  const connection = await connectTo(db, {}, method(db, WHILE_READING));
  const first = (await connection.sync()).succeeded();
  expect(first.logs().join('\n')).toMatch(/"While reading Data": .* fails to store is lost/);
  expect(await confirmed(db)).toBe(lsnOf(connection.destination.state));
  await db.query('UPDATE metrics SET value = 1');
  const last = new LastState();
  const stop = stopWhen(
    (message) => last.see(message) || message.type === 'RECORD',
    // Its changes are being read: whatever was confirmed, a state has told of it.
    async () => expect(await isAtMost(db, await confirmed(db), last.lsn)).toBe(true),
  );
  (await connection.sync(stop)).succeeded();
  expect(await confirmed(db)).toBe(lsnOf(connection.destination.state));
  await connection.expectEqual('metrics', 'orders');

  // A destination that stored nothing of it: what is lost is told, not passed over.
  await db.query(`UPDATE orders SET note = 'lost' WHERE id = 1`);
  (await connection.attempt()).succeeded();
  const refused = await connection.attempt();
  expectRefused(refused, 'config_error', /beyond the state at .* "While reading Data"/);
  const resync = method(db, {
    ...WHILE_READING,
    invalid_cdc_cursor_position_behavior: 'Re-sync data',
  });
  const { catalog, destination } = connection;
  const input = { config: db.config(resync), catalog, state: destination.state };
  const anew = (await run('read', input)).succeeded();
  destination.apply(anew.messages);
  await connection.expectEqual('metrics', 'orders');
});

test('"While reading Data": a sync that is killed is gone on with from the last state that it delivered', async () => {
  await using db = await createDatabase();
  await fill(db);
  const pace = { timescaledb_max_concurrent_chunks: 1 };
  const connection = await connectTo(db, {}, { ...pace, ...method(db, WHILE_READING) });
  for (const killAfterStates of [5, 12]) await connection.sync({ killAfterStates });
  await db.query(
    'UPDATE metrics SET value = 1 WHERE device < 100; DELETE FROM orders WHERE id < 50',
  );
  await connection.sync({ killAfterStates: 2 });
  (await connection.sync()).succeeded();
  expect(await confirmed(db)).toBe(lsnOf(connection.destination.state));
  await connection.expectEqual('metrics', 'orders');
});

test('"After loading Data": within a sync the slot stays at the state that came in', async () => {
  await using db = await createDatabase();
  await fill(db);
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  await db.query('UPDATE metrics SET value = 1');
  const handedIn = lsnOf(connection.destination.state);
  (await connection.sync()).succeeded();
  expect(await confirmed(db)).toBe(handedIn);
  expect(lsnOf(connection.destination.state)).not.toBe(handedIn);
});

test('the heartbeat statement runs in each sync; it may fail, or leave a transaction open', async () => {
  await using db = await createDatabase();
  await fill(db);
  await db.query('CREATE TABLE beats (id serial PRIMARY KEY, at timestamptz)');
  const streams = ['metrics', 'orders'];
  const beat = (sql: string): JsonObject => method(db, { heartbeat_action_query: sql });
  const insert = 'INSERT INTO beats (at) VALUES (now())';
  const connection = await connectTo(db, { streams }, beat(insert));
  const first = (await connection.sync()).succeeded();
  expect(first.logs().join('\n')).not.toContain('heartbeat');
  expect(await db.value('SELECT count(*)::int FROM beats')).toBe(1);

  const open = await connectTo(db, { streams }, beat(`BEGIN; ${insert}`));
  open.destination = connection.destination;
  (await open.sync()).succeeded();
  expect(await db.value('SELECT count(*)::int FROM beats')).toBe(2);

  await db.query(`UPDATE orders SET note = 'changed' WHERE id = 2`);
  const failing = await connectTo(db, { streams }, beat('INSERT INTO nowhere VALUES (1)'));
  failing.destination = connection.destination;
  const third = (await failing.sync()).succeeded();
  const told = third.logs().filter((line) => line.includes('heartbeat failed'));
  expect(told).toEqual([expect.stringMatching(/"nowhere" does not exist/)]);
  expect(third.records()).toHaveLength(1);
  await failing.expectEqual(...streams);
});

test('initial_load_timeout_hours: the load stops, its changes are read, and the next sync goes on', async () => {
  await using db = await createDatabase();
  await fill(db);
  const one = { timescaledb_max_concurrent_chunks: 1, timescaledb_chunk_order: 'newest first' };
  const connection = await connectTo(
    db,
    {},
    { ...one, ...method(db, { initial_load_timeout_hours: 4 }) },
  );
  const clock = movableClock(4 * 3600 + 1);
  const stop = stopWhen(nthState(4), async (child) => {
    // A chunk that is read by now, one that is not yet, and the other table.
    await db.query('UPDATE metrics SET value = 1');
    await db.query(`UPDATE orders SET note = 'changed'`);
    clock.putForward(child);
  });
  const first = (await connection.sync({ ...stop, env: clock.env })).succeeded();
  expect(first.logs().join('\n')).toMatch(/initial load goes on in the next sync: public\.metrics/);
  const read = first.records('metrics').length;
  expect(read).toBeGreaterThan(0);
  expect(read).toBeLessThan(20 * 300);
  // What the state of the first one holds is confirmed as the second one begins.
  const handedIn = lsnOf(connection.destination.state);
  const second = (await connection.sync()).succeeded();
  expect(await confirmed(db)).toBe(handedIn);
  expect(second.records('metrics').length).toBeGreaterThan(0);
  await connection.expectEqual('metrics', 'orders');
  expect((await connection.sync()).succeeded().records()).toEqual([]);
});

test('two syncs on one slot: the second one waits, and then names the first one', async () => {
  await using db = await createDatabase();
  await fill(db);
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  await db.query('UPDATE metrics SET value = 2');
  const clock = movableClock(61);
  const begun = recordWhere(({ value }) => value === 2);
  const stop = stopWhen(begun, async () => {
    const second = connection.attempt({
      env: clock.env,
      onStart: (child) => {
        void untilClaiming(db).then(() => {
          clock.putForward(child);
        });
      },
    });
    const refused = await second;
    const message = expectRefused(refused, 'transient_error', /Another sync is reading from/);
    const [holder] = (await sessions(db)).filter(({ purpose }) => purpose === 'system catalog');
    expect(message).toContain(
      `server process ${holder?.pid} (application_name "source-timescaledb: system catalog", from `,
    );
    expect(message).toMatch(/since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC\)/);
  });
  (await connection.sync(stop)).succeeded();
  await connection.expectEqual('metrics', 'orders');
});

/** The second sync has asked for the slot. */
async function untilClaiming(db: Database): Promise<void> {
  await until('the second sync waits for the slot', async () =>
    (await sessions(db)).some(
      ({ purpose, query }) => purpose === 'system catalog' && query.includes('try_advisory_lock'),
    ),
  );
}

const MISFITS: readonly {
  readonly what: string;
  readonly sentence: RegExp;
  readonly spoil: (connection: Connection) => Promise<readonly unknown[]>;
}[] = [
  {
    what: 'the slot was dropped',
    sentence: /does not exist any more/,
    spoil: async ({ db, destination }) => {
      await db.query('SELECT pg_drop_replication_slot($1)', [db.slot]);
      return destination.state;
    },
  },
  {
    what: 'the server is another one',
    sentence: /comes from another database server/,
    spoil: ({ destination }) => withShared(destination.state, { system_identifier: '1' }),
  },
  {
    what: 'the server was restored from a backup that is older than the state',
    sentence: /it has lost WAL, or was restored/,
    spoil: ({ destination }) => withShared(destination.state, { lsn: 'FFFFFF/0' }),
  },
  {
    what: 'the server was restored into a history of its own',
    sentence: /is on timeline \d+, the state on 99/,
    spoil: ({ destination }) => withShared(destination.state, { timeline: 99 }),
  },
];

/** As the state would be, had the server been that one. */
function withShared(state: readonly unknown[], change: JsonObject): Promise<readonly unknown[]> {
  const text = JSON.stringify(state, (key, value: unknown) =>
    key === 'shared_state' ? { ...(value as JsonObject), ...change } : value,
  );
  return Promise.resolve(JSON.parse(text) as readonly unknown[]);
}

test.for(MISFITS)('$what: refused, or read anew as configured', async ({ sentence, spoil }) => {
  await using db = await createDatabase();
  await fill(db);
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  await db.query(`DELETE FROM orders WHERE id = 1; UPDATE orders SET note = 'new' WHERE id = 2`);
  const state = await spoil(connection);
  const { config, catalog, destination } = connection;
  const refused = await run('read', { config, catalog, state });
  expectRefused(refused, 'config_error', sentence);
  expect(refused.records()).toEqual([]);
  const resync = db.config(method(db, { invalid_cdc_cursor_position_behavior: 'Re-sync data' }));
  const anew = (await run('read', { config: resync, catalog, state })).succeeded();
  expect(anew.logs().join('\n')).toMatch(sentence);
  expect(anew.records('orders')).toHaveLength(99);
  expect(anew.records('metrics')).toHaveLength(6000);
  // It goes on from there.
  destination.commit(anew.states());
  await db.query(`UPDATE orders SET note = 'newer' WHERE id = 3`);
  expect((await connection.attempt()).succeeded().records()).toHaveLength(1);
});
