/** Streams of changes: what becomes of each kind of table and of each kind of change. */
import { expect, test } from 'vitest';
import { createDatabase } from './database.ts';
import { connectTo, DAY_ZERO, nthState, stopWhen } from './scenario.ts';
import type { RunResult } from './run-result.ts';

/** Rows as short texts, deletes marked. */
function shown(result: RunResult, stream: string, ...columns: readonly string[]): string[] {
  return result.records(stream).map(({ data }) => {
    const sign = (data['_ab_cdc_deleted_at'] ?? null) === null ? '+' : '-';
    return `${sign} ${columns.map((column) => String(data[column])).join(' ')}`;
  });
}

test('partitioned tables are one stream; rows that change partition, and new partitions', async () => {
  await using db = await createDatabase();
  await db.query(`
    CREATE TABLE parts (region text, id int, note text, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
    CREATE TABLE parts_north PARTITION OF parts FOR VALUES IN ('north');
    CREATE TABLE parts_south PARTITION OF parts FOR VALUES IN ('south') PARTITION BY RANGE (id);
    CREATE TABLE parts_south_low PARTITION OF parts_south FOR VALUES FROM (0) TO (100);
    INSERT INTO parts SELECT r, i, 'initial' FROM unnest('{north,south}'::text[]) r, generate_series(1, 20) i`);
  const connection = await connectTo(db);
  expect(connection.catalog.streams.map(({ stream }) => stream.name)).toEqual(['parts']);
  expect((await connection.sync()).succeeded().records('parts')).toHaveLength(40);
  await connection.expectEqual('parts');
  await db.query(`
    UPDATE parts SET region = 'south', id = 50 WHERE region = 'north' AND id = 1;
    CREATE TABLE parts_west PARTITION OF parts FOR VALUES IN ('west');
    INSERT INTO parts VALUES ('west', 1, 'new partition')`);
  const second = (await connection.sync()).succeeded();
  expect(shown(second, 'parts', 'region', 'id')).toEqual(['- north 1', '+ south 50', '+ west 1']);
  await connection.expectEqual('parts');
});

test('case E27: each change of a keyed row: insert, update, change of key, delete', async () => {
  await using db = await createDatabase();
  await db.query(`
    CREATE TABLE metrics (time timestamptz NOT NULL, device int NOT NULL, note text, PRIMARY KEY (time, device));
    SELECT create_hypertable('metrics', 'time', chunk_time_interval => interval '1 day');
    CREATE TABLE orders (id int PRIMARY KEY, note text);
    INSERT INTO metrics SELECT '${DAY_ZERO}', i, 'initial' FROM generate_series(1, 5) i;
    INSERT INTO orders SELECT i, 'initial' FROM generate_series(1, 5) i`);
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  await db.query(`
    INSERT INTO metrics VALUES ('${DAY_ZERO}', 6, 'new'); UPDATE metrics SET note = 'changed' WHERE device = 1;
    UPDATE metrics SET device = 12 WHERE device = 2; DELETE FROM metrics WHERE device = 3;
    UPDATE orders SET id = 14 WHERE id = 4; DELETE FROM orders WHERE id = 5; INSERT INTO orders VALUES (5, 'again')`);
  const second = (await connection.sync()).succeeded();
  expect(shown(second, 'metrics', 'device', 'note')).toEqual([
    '+ 6 new',
    '+ 1 changed',
    '- 2 null',
    '+ 12 initial',
    '- 3 null',
  ]);
  expect(shown(second, 'orders', 'id', 'note')).toEqual([
    '- 4 null',
    '+ 14 initial',
    '- 5 null',
    '+ 5 again',
  ]);
  await connection.expectEqual('metrics', 'orders');
});

test('only the selected columns are in the records, of the read as of the changes', async () => {
  await using db = await createDatabase();
  await db.query(`
    CREATE TABLE orders (id int PRIMARY KEY, secret text, note text);
    INSERT INTO orders VALUES (1, 'secret', 'one')`);
  const columns = ['id', 'note', '_ab_cdc_deleted_at'];
  const connection = await connectTo(db, { columns });
  const first = (await connection.sync()).succeeded();
  await db.query(`INSERT INTO orders VALUES (2, 'secret', 'two'); UPDATE orders SET secret = 'other' WHERE id = 1;
                  DELETE FROM orders WHERE id = 2`);
  const second = (await connection.sync()).succeeded();
  const records = [...first.records(), ...second.records()];
  expect(records).toHaveLength(4);
  for (const { data } of records) expect(Object.keys(data).toSorted()).toEqual(columns.toSorted());
  await connection.expectEqual('orders');
});

test('a large value that an update leaves alone is in its record', async () => {
  await using db = await createDatabase();
  await db.query(`
    CREATE TABLE keyed (id int PRIMARY KEY, note text, large text);
    CREATE TABLE whole (id int, note text, large text);
    ALTER TABLE keyed ALTER large SET STORAGE EXTERNAL;
    ALTER TABLE whole ALTER large SET STORAGE EXTERNAL;
    ALTER TABLE whole REPLICA IDENTITY FULL;
    INSERT INTO keyed SELECT i, 'initial', repeat('k' || i, 5000) FROM generate_series(1, 4) i;
    INSERT INTO whole SELECT i, 'initial', repeat('w' || i, 5000) FROM generate_series(1, 2) i`);
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  await db.query(`
    UPDATE keyed SET note = 'changed' WHERE id <= 2;
    UPDATE keyed SET id = 13 WHERE id = 3;
    UPDATE whole SET note = 'changed' WHERE id = 1`);
  await db.query(`UPDATE keyed SET note = 'gone' WHERE id = 4; DELETE FROM keyed WHERE id = 4`);
  const second = (await connection.sync()).succeeded();
  const large = second.records('keyed').filter(({ data }) => data['note'] === 'changed');
  expect(large.map(({ data }) => data['large'])).toEqual(['k1'.repeat(5000), 'k2'.repeat(5000)]);
  // Of the row that is gone the value cannot be had any more: the record says so, and its delete follows.
  const gone = second.records('keyed').find(({ data }) => data['note'] === 'gone');
  expect(gone?.data['large']).toBeNull();
  expect(gone?.meta?.changes.map(({ field }) => field)).toEqual(['large']);
  await connection.expectEqual('keyed', 'whole');
});

test('case E27: a table without a key and with a full identity: an update takes back the old row', async () => {
  await using db = await createDatabase();
  await db.query(`
    CREATE TABLE readings (time timestamptz NOT NULL, device int, note text);
    SELECT create_hypertable('readings', 'time', chunk_time_interval => interval '1 day');
    ALTER TABLE readings REPLICA IDENTITY FULL;
    INSERT INTO readings SELECT '${DAY_ZERO}', 1, 'the same' FROM generate_series(1, 3)`);
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  await db.query(`
    UPDATE readings SET note = 'changed' WHERE ctid = (SELECT min(ctid) FROM readings);
    DELETE FROM readings WHERE ctid = (SELECT max(ctid) FROM readings WHERE note = 'the same')`);
  const second = (await connection.sync()).succeeded();
  expect(shown(second, 'readings', 'note')).toEqual(['- the same', '+ changed', '- the same']);
  await connection.expectEqual('readings');
});

test('case F33: way 1: rows of chunks that come into being during a sync, and between two', async () => {
  await using db = await createDatabase();
  await db.query(`
    CREATE TABLE readings (time timestamptz NOT NULL, device int, note text);
    SELECT create_hypertable('readings', 'time', chunk_time_interval => interval '1 day');
    ALTER TABLE readings REPLICA IDENTITY FULL;
    INSERT INTO readings
      SELECT '${DAY_ZERO}'::timestamptz + day * interval '1 day', i, repeat('x', 200)
        FROM generate_series(0, 3) day, generate_series(1, 500) i`);
  const connection = await connectTo(db);
  const insert = (day: number): string =>
    `INSERT INTO readings SELECT '${DAY_ZERO}'::timestamptz + interval '${day} days', i, 'new' FROM generate_series(1, 10) i;`;
  const change = `UPDATE readings SET note = 'changed' WHERE device = 1; DELETE FROM readings WHERE device = 2`;
  const first = await connection.sync(
    stopWhen(nthState(2), async () => {
      await db.query(insert(4));
      await db.query(`${insert(-1)} ${change}`);
    }),
  );
  first.succeeded();
  await db.query(insert(9));
  await db.query(change);
  (await connection.sync()).succeeded();
  await db.query(`BEGIN; ${insert(9)} ${insert(10)} ${change}; COMMIT`);
  await db.query(`BEGIN; ${insert(11)} ROLLBACK`);
  (await connection.sync()).succeeded();
  await connection.expectEqual('readings');
});
