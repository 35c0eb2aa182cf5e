/** Failures that pass by themselves, in the middle of a sync: it goes on from its last STATE. */
import { expect, test } from 'vitest';
import { Network } from './chaos-network.ts';
import { createDatabase, type Database, until } from './database.ts';
import {
  Connection,
  connectTo,
  DAY_ZERO,
  lsnOf,
  nthState,
  sessions,
  stopWhen,
} from './scenario.ts';
import { createRoles } from './roles.ts';
import { startOwnServer } from './server.ts';
import { Random } from './writers.ts';

async function fill(db: Database): Promise<void> {
  await db.query(`
    CREATE TABLE metrics (time timestamptz NOT NULL, device int NOT NULL, value float8, PRIMARY KEY (time, device));
    SELECT create_hypertable('metrics', 'time', chunk_time_interval => interval '1 day');
    INSERT INTO metrics
      SELECT '${DAY_ZERO}'::timestamptz + i * interval '1 minute', i % 4, i FROM generate_series(0, 30 * 1440 - 1) i;
    CREATE TABLE orders (id int PRIMARY KEY, note text);
    INSERT INTO orders SELECT i, repeat('x', 100) FROM generate_series(1, 20000) i`);
}

async function endSessions(db: Database): Promise<void> {
  await db.query(
    `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
      WHERE datname = current_database() AND application_name LIKE 'source-timescaledb: %'`,
  );
  await until('the sessions are gone', async () => (await sessions(db)).length === 0);
}

const one = { timescaledb_max_concurrent_chunks: 1 };

async function expectWentOn(connection: Connection, logs: readonly string[]): Promise<void> {
  expect(logs.join('\n')).toMatch(/(Going on|Trying again in .*) from the last STATE/);
  await connection.expectEqual('metrics', 'orders');
}

test('sessions that the server ends during a load', async () => {
  await using db = await createDatabase();
  await fill(db);
  const connection = await connectTo(db, {}, one);
  const stop = stopWhen(nthState(6), () => endSessions(db));
  const first = (await connection.sync(stop)).succeeded();
  await expectWentOn(connection, first.logs());
  expect((await connection.sync()).succeeded().records()).toEqual([]);
});

test('sessions that the server ends while changes are read', async () => {
  await using db = await createDatabase();
  await fill(db);
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  await db.query('UPDATE metrics SET value = value + 1');
  await db.query('UPDATE orders SET note = id::text; DELETE FROM orders WHERE id % 10 = 0');
  const begun = (message: { type: string }): boolean => message.type === 'RECORD';
  const second = await connection.sync(stopWhen(begun, () => endSessions(db)));
  await expectWentOn(connection, second.succeeded().logs());
});

test('what a sync has written itself is gone on with, but never confirmed', async () => {
  await using db = await createDatabase();
  await fill(db);
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  const handedIn = lsnOf(connection.destination.state);
  // A STATE comes behind so many records; the third transaction is still to be read then.
  for (let value = 1; value <= 3; value += 1) await db.query(`UPDATE metrics SET value = ${value}`);
  const second = await connection.sync(stopWhen(nthState(2), () => endSessions(db)));
  await expectWentOn(connection, second.succeeded().logs());
  // What the STATE has told of does not come again.
  const values = second.records('metrics').map(({ data }) => data['value']);
  const rows = await db.value<number>('SELECT count(*)::int FROM metrics');
  expect([1, 2].map((value) => values.filter((each) => each === value).length)).toEqual([
    rows,
    rows,
  ]);
  expect(lsnOf(connection.destination.state)).not.toBe(handedIn);
  expect(
    await db.value(
      'SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1',
      [db.slot],
    ),
  ).toBe(handedIn);
});

test('a network that breaks, without CDC: no stream that is complete is read again', async () => {
  await using db = await createDatabase();
  await fill(db);
  await using network = await Network.to(db.url);
  const connection = await connectTo(
    db,
    { syncMode: 'full_refresh', streams: ['orders', 'metrics'] },
    { ...one, replication_method: { method: 'Standard' }, host: '127.0.0.1', port: network.port },
  );
  const stop = stopWhen(nthState(8), async () => {
    network.cut(new Random(1));
  });
  const result = (await connection.sync(stop)).succeeded();
  await expectWentOn(connection, result.logs());
  expect(result.records('orders')).toHaveLength(20_000);
});

test('a server that has no room for another session for a while', async () => {
  await using roles = await createRoles();
  await using db = await createDatabase();
  await fill(db);
  const role = await roles.create('LOGIN CONNECTION LIMIT 0 IN ROLE pg_read_all_data');
  const standard = { replication_method: { method: 'Standard' } };
  const choice = { streams: ['orders'], syncMode: 'full_refresh' } as const;
  const connection = await connectTo(db, choice, standard);
  const config = { ...connection.config, username: role };
  const limited = new Connection(db, config, connection.catalog);
  let denied = (): void => undefined;
  const wasDenied = new Promise<void>((resolve) => (denied = resolve));
  const syncing = limited.attempt({
    onMessage: (message) => {
      if (message.type === 'LOG' && message.log.message.includes('no free connection')) denied();
    },
  });
  await wasDenied;
  await db.query(`ALTER ROLE ${role} CONNECTION LIMIT 10`);
  expect((await syncing).succeeded().records()).toHaveLength(20_000);
});

test('a server that restarts in the middle of a load', async (context) => {
  const server = await startOwnServer().catch((error: unknown) => {
    context.skip(`it needs a server of its own, and none can be started: ${String(error)}`);
    throw error;
  });
  try {
    await using db = await createDatabase(server.url);
    await fill(db);
    const connection = await connectTo(db, {}, one);
    if (server.restart === undefined) context.skip('this server cannot be restarted');
    const stop = stopWhen(nthState(6), async () => server.restart?.('immediate'));
    const result = (await connection.sync(stop)).succeeded();
    await expectWentOn(connection, result.logs());
  } finally {
    await server.stop();
  }
});
