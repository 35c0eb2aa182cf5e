/** A transaction that writes before its table is published, and commits after: whoever published it, it is awaited. */
import { expect, test } from 'vitest';
import { createDatabase, type Database, until } from './database.ts';
import { Connection, connectTo, DAY_ZERO, sessions } from './scenario.ts';

async function fill(db: Database): Promise<void> {
  await db.query(`
    CREATE TABLE first (id int PRIMARY KEY);
    INSERT INTO first VALUES (1);
    CREATE TABLE metrics (time timestamptz NOT NULL, device int, value float8);
    SELECT create_hypertable('metrics', 'time', chunk_time_interval => interval '1 day');
    ALTER TABLE metrics REPLICA IDENTITY FULL;
    INSERT INTO metrics SELECT '${DAY_ZERO}'::timestamptz + i * interval '1 hour', i, 0 FROM generate_series(0, 71) i;
    CREATE TABLE orders (id int PRIMARY KEY, note text);
    INSERT INTO orders SELECT i, 'first' FROM generate_series(1, 100) i`);
}

/** The connector looks for those who write, again and again. */
async function untilItAwaits(db: Database): Promise<void> {
  let seen = 0;
  await until('the sync awaits writers', async () => {
    if ((await sessions(db)).some(({ query }) => query.includes('pg_locks'))) seen += 1;
    return seen > 3;
  });
}

test('way 3: a sync that is killed while it awaits writers leaves the waiting to the next one', async () => {
  await using db = await createDatabase();
  await fill(db);
  // The slot is there before: making it would wait for the writer anyway.
  const before = await connectTo(db, { streams: ['first'] });
  (await before.sync()).succeeded();
  const all = await connectTo(db, { streams: ['first', 'metrics', 'orders'] });
  const connection = new Connection(db, before.config, all.catalog);
  connection.destination.state = before.destination.state;

  const writer = await db.client();
  try {
    await writer.query(`BEGIN; UPDATE metrics SET value = 1 WHERE device < 30; DELETE FROM metrics WHERE device = 40;
                        UPDATE orders SET note = 'changed' WHERE id < 50`);
    let killed = false;
    const attempt = connection.attempt({
      onStart: (child) => {
        void untilItAwaits(db).then(() => (killed = child.kill('SIGKILL')));
      },
    });
    expect((await attempt).states()).toEqual([]);
    expect(killed).toBe(true);
    await until(
      'no session of the connector is left',
      async () => (await sessions(db)).length === 0,
    );
    const next = connection.sync();
    await untilItAwaits(db);
    await writer.query('COMMIT');
    (await next).succeeded();
  } finally {
    await writer.end();
  }
  (await connection.sync()).succeeded();
  await connection.expectEqual('metrics', 'orders');
});
