/** What is made again under the same name is not the same; and a load that new chunks keep coming to ends all the same. */
import { expect, test } from 'vitest';
import { createDatabase, type Database } from './database.ts';
import { connectTo, DAY_ZERO } from './scenario.ts';

async function createMetrics(db: Database, days = 3): Promise<void> {
  await db.query(`
    CREATE TABLE metrics (time timestamptz NOT NULL, device int NOT NULL, note text,
                          PRIMARY KEY (time, device));
    SELECT create_hypertable('metrics', 'time', chunk_time_interval => interval '1 day');
    INSERT INTO metrics
      SELECT '${DAY_ZERO}'::timestamptz + day * interval '1 day', i, 'initial'
        FROM generate_series(0, ${days - 1}) day, generate_series(1, 10) i`);
}

test('case E28: a hypertable dropped and made again under its name would be taken for the one that was read', async () => {
  await using db = await createDatabase();
  await createMetrics(db);
  await db.query(`CREATE TABLE orders (id int PRIMARY KEY, note text);
                  INSERT INTO orders SELECT i, 'first' FROM generate_series(1, 5) i`);
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  await db.query(`UPDATE orders SET note = 'late'; UPDATE metrics SET note = 'late'`);
  await db.query('DROP TABLE orders; DROP TABLE metrics');
  await createMetrics(db, 5);
  await db.query(`CREATE TABLE orders (note text, id int PRIMARY KEY);
                  INSERT INTO orders SELECT 'second', i FROM generate_series(1, 8) i`);
  (await connection.sync()).succeeded();
  await connection.expectEqual('orders', 'metrics');
  await db.query(`UPDATE orders SET note = 'changed' WHERE id = 8;
                  DELETE FROM metrics WHERE device = 1`);
  expect((await connection.sync()).succeeded().records()).toHaveLength(1 + 5);
  await connection.expectEqual('orders', 'metrics');
});

test('case E28: a table that became a hypertable would get back what its rows were before', async () => {
  await using db = await createDatabase();
  await db.query(`CREATE TABLE metrics (time timestamptz NOT NULL PRIMARY KEY, note text);
                  INSERT INTO metrics VALUES ('${DAY_ZERO}', 'initial')`);
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  await db.query(`UPDATE metrics SET note = 'as a table'`);
  await db.query(`ALTER PUBLICATION ${db.publication} DROP TABLE metrics`);
  await db.query(`SELECT create_hypertable('metrics', 'time', migrate_data => true)`);
  await db.query(`ALTER PUBLICATION ${db.publication} ADD TABLE ONLY metrics`);
  await db.query(`UPDATE metrics SET note = 'as a hypertable'`);
  (await connection.sync()).succeeded();
  await connection.expectEqual('metrics');
});

test('case E31: a load would never end because a new chunk is there at each look', async () => {
  await using db = await createDatabase();
  await db.query(`
    CREATE TABLE wide (t bigint NOT NULL, n int);
    SELECT create_hypertable('wide', 't', chunk_time_interval => 10);
    ALTER TABLE wide REPLICA IDENTITY FULL;
    INSERT INTO wide SELECT i * 10, 0 FROM generate_series(0, 9) i`);
  const connection = await connectTo(db);
  let written = 10;
  const first = await connection.sync({
    timeoutSeconds: 60,
    onMessage: async ({ type }) => {
      if (type !== 'STATE') return;
      await db.query(`INSERT INTO wide VALUES (${written * 10}, 1)`);
      written += 1;
    },
  });
  first.succeeded();
  for (let syncs = 0; syncs < 2; syncs += 1) (await connection.sync()).succeeded();
  await connection.expectEqual('wide');
});

test('case C21: a publication dropped and made again between two syncs would hide what was written meanwhile', async () => {
  await using db = await createDatabase();
  await createMetrics(db);
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  await db.query(`DROP PUBLICATION ${db.publication}`);
  await db.query(`UPDATE metrics SET note = 'meanwhile' WHERE device = 1`);
  await db.query(`CREATE PUBLICATION ${db.publication} FOR TABLE metrics`);
  const result = await connection.sync();
  expect(result.exitCode).toBe(1);
  expect(result.errors()[0]).toMatchObject({ failure_type: 'config_error' });
  expect(result.errors()[0]?.message).toContain('was made again');
  expect(result.records()).toEqual([]);
});

test('case C21: a table and a chunk taken out of the publication and put back by somebody else would lack what was written meanwhile', async () => {
  await using db = await createDatabase();
  await createMetrics(db);
  await db.query(`CREATE TABLE orders (id int PRIMARY KEY, note text);
                  INSERT INTO orders SELECT i, 'first' FROM generate_series(1, 50) i`);
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  expect((await connection.sync()).succeeded().records()).toEqual([]);
  const chunk = await db.value<string>(
    `SELECT c::text FROM show_chunks('metrics') c ORDER BY c LIMIT 1`,
  );
  const members = `orders, ${chunk}`;
  await db.query(`ALTER PUBLICATION ${db.publication} DROP TABLE ${members}`);
  await db.query(
    `UPDATE orders SET note = 'meanwhile' WHERE id < 10; UPDATE metrics SET note = 'meanwhile'`,
  );
  await db.query(`ALTER PUBLICATION ${db.publication} ADD TABLE ${members}`);
  (await connection.sync()).succeeded();
  await connection.expectEqual('orders', 'metrics');
  expect((await connection.sync()).succeeded().records()).toEqual([]);
});
