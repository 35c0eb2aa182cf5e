/** R1: transactions that write to a table while it is published are awaited, whoever published it. */
import { expect, test } from 'vitest';
import { createDatabase, until } from './database.ts';
import { connectTo } from './scenario.ts';

test('R1: also where the transaction that publishes a table began before the one that writes to it', async () => {
  await using db = await createDatabase();
  await db.query(
    'CREATE TABLE orders (id int PRIMARY KEY); CREATE TABLE notes (id int PRIMARY KEY)',
  );
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  await db.query(`ALTER PUBLICATION ${db.publication} DROP TABLE notes`);
  const publisher = await db.client();
  const writer = await db.client();
  try {
    // The lower transaction id: by ids alone nothing that runs is older than the membership.
    await publisher.query('BEGIN; SELECT pg_current_xact_id()');
    await writer.query('BEGIN; INSERT INTO notes VALUES (1)');
    await publisher.query(`ALTER PUBLICATION ${db.publication} ADD TABLE notes; COMMIT`);
    const running = connection.sync();
    await until('the writer is awaited', async () => {
      const waiting = await db.query(
        `SELECT FROM pg_stat_activity WHERE datname = current_database() AND query ~ 'pg_locks'
            AND application_name LIKE 'source-timescaledb: %' AND state = 'idle'`,
      );
      return waiting.length > 0;
    });
    await writer.query('INSERT INTO notes VALUES (2); COMMIT');
    const second = (await running).succeeded();
    expect(second.records('notes').map(({ data }) => data['id'])).toEqual([1, 2]);
    await connection.expectEqual('orders', 'notes');
  } finally {
    await Promise.all([publisher.end(), writer.end()]);
  }
});
