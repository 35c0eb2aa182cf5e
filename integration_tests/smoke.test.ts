import { expect, test } from 'vitest';
import { expectEqual } from './comparison.ts';
import { configuredCatalog, run } from './connector.ts';
import { createDatabase, type Database } from './database.ts';
import { Destination } from './destination.ts';

/** Four chunks of 100 rows each. */
async function fillConditions(db: Database): Promise<void> {
  await db.query(`
    CREATE TABLE conditions (
      time timestamptz NOT NULL, device int NOT NULL, temperature float8, note text,
      PRIMARY KEY (time, device));
    SELECT create_hypertable('conditions', 'time', chunk_time_interval => interval '1 day');
    INSERT INTO conditions
      SELECT '2026-01-01Z'::timestamptz + day * interval '1 day' + hour * interval '1 hour', device,
             20 + device + hour / 10.0, CASE WHEN hour % 3 = 0 THEN 'note ' || hour END
        FROM generate_series(0, 3) day, generate_series(0, 19) hour, generate_series(1, 5) device`);
}

test('spec prints the configuration schema', async () => {
  const { messages } = (await run('spec')).succeeded();
  expect(messages.map((message) => message.type)).toEqual(['SPEC']);
});

test('check succeeds on a database that is ready', async () => {
  await using db = await createDatabase();
  await fillConditions(db);
  const result = await run('check', { config: db.config() });
  expect(result.connectionStatus()).toMatchObject({ status: 'SUCCEEDED' });
  expect(result.exitCode).toBe(0);
});

test('discover shows a hypertable as one stream, and none of its chunks', async () => {
  await using db = await createDatabase();
  await fillConditions(db);
  const catalog = (await run('discover', { config: db.config() })).succeeded().catalog();
  expect(catalog.streams.map((stream) => `${stream.namespace}.${stream.name}`)).toEqual([
    'public.conditions',
  ]);
  expect(catalog.streams[0]).toMatchObject({
    source_defined_primary_key: [['time'], ['device']],
    is_resumable: true,
  });
});

test('two syncs: all rows once, then what has changed', async () => {
  await using db = await createDatabase();
  await fillConditions(db);
  const config = db.config();
  const discovered = (await run('discover', { config })).succeeded().catalog();
  const catalog = configuredCatalog(discovered);
  const destination = new Destination(catalog);

  const first = (await run('read', { config, catalog })).succeeded();
  expect(first.records('conditions')).toHaveLength(400);
  expect(first.states().length).toBeGreaterThanOrEqual(4); // one for each chunk
  destination.apply(first.messages);
  await expectEqual(db, destination, 'conditions');

  await db.query(`
    INSERT INTO conditions VALUES ('2026-01-02 23:00Z', 9, 1, 'into an old chunk');
    INSERT INTO conditions VALUES ('2026-01-09 00:00Z', 9, 2, 'into a new chunk');
    UPDATE conditions SET temperature = -1 WHERE device = 3 AND time < '2026-01-01 05:00Z';
    DELETE FROM conditions WHERE device = 4 AND time >= '2026-01-03Z' AND time < '2026-01-04Z';
    UPDATE conditions SET device = 7 WHERE device = 5 AND time = '2026-01-01Z'`);
  const second = (await run('read', { config, catalog, state: destination.state })).succeeded();
  // 2 inserts, 5 updates, 20 deletes, and a change of key, which is a delete and an insert.
  expect(second.records('conditions')).toHaveLength(29);
  destination.apply(second.messages);
  await expectEqual(db, destination, 'conditions');

  const third = (await run('read', { config, catalog, state: destination.state })).succeeded();
  expect(third.records()).toHaveLength(0);
  expect(await db.slots()).toMatchObject([{ name: db.slot, temporary: false }]);
});
