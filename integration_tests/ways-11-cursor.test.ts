/** A row at the last cursor, at the end of all ranges. */
import { expect, test } from 'vitest';
import { createDatabase } from './database.ts';
import { connectTo } from './scenario.ts';

test('way 11: by a cursor, rows that come at the largest number, where the cursor is already, would be missing', async () => {
  await using db = await createDatabase();
  await db.query(`
    CREATE TABLE counters (n bigint NOT NULL, device int, PRIMARY KEY (n, device));
    SELECT create_hypertable('counters', 'n', chunk_time_interval => 1000);
    INSERT INTO counters VALUES (9223372036854775807, 1), (0, 3)`);
  const connection = await connectTo(
    db,
    { cursorField: 'n' },
    { replication_method: { method: 'Standard' } },
  );
  expect((await connection.sync()).succeeded().records()).toHaveLength(2);
  await db.query('INSERT INTO counters VALUES (9223372036854775807, 7)');
  expect((await connection.sync()).succeeded().records()).toHaveLength(2);
  await connection.expectEqual('counters');
});
