/** A rewrite between an interrupted load and the sync that goes on with it. */
import { expect, test } from 'vitest';
import { compareWithTable } from './comparison.ts';
import { createDatabase, type Database } from './database.ts';
import { connectTo } from './scenario.ts';
import { day, ONE_BY_ONE } from './ways.ts';

async function fillTyped(db: Database): Promise<void> {
  await db.query(`
    CREATE TABLE readings (time timestamptz NOT NULL, device int, value int, PRIMARY KEY (time, device));
    SELECT create_hypertable('readings', 'time', chunk_time_interval => interval '1 day');
    INSERT INTO readings SELECT ${day(0)} + i * interval '1 hour', i, i FROM generate_series(0, 71) i`);
}

test('also: rows that ALTER TYPE rewrites during the load are read as they are from then on', async () => {
  await using db = await createDatabase();
  await fillTyped(db);
  const connection = await connectTo(db, {}, ONE_BY_ONE);
  const killed = await connection.attempt({ killAfterStates: 2 });
  const last = killed.messages.findIndex((message) => message === killed.states()[1]);
  connection.destination.apply(killed.messages.slice(0, last + 1));
  await db.query(`UPDATE readings SET value = value + 1 WHERE device % 2 = 0`);
  await db.query('ALTER TABLE readings ALTER COLUMN value TYPE bigint USING value + 5000000000');
  (await connection.sync()).succeeded();
  const {
    samples: _,
    sampleKeys: __,
    ...found
  } = await compareWithTable(db, connection.destination, 'readings');
  // The chunk that was read before keeps its values.
  expect(found).toMatchObject({ missing: 0, extra: 0, different: 24, destinationRows: 72 });
});
