/** Publications that somebody else has made: what they leave out, and in whichever form they hold the tables. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { checked, lineAbout } from './check-answer.ts';
import { createDatabase, type Database } from './database.ts';
import { expectRefused } from './refusals.ts';
import { type Connection, connectTo, DAY_ZERO } from './scenario.ts';
import { createRoles } from './roles.ts';

let db: Database;

beforeAll(async () => {
  db = await createDatabase();
});

afterAll(() => db[Symbol.asyncDispose]());

/** Each test has a schema, a slot and a publication of its own in the database. */
async function connect(schema: string, publication: string): Promise<Connection> {
  const method = {
    method: 'CDC',
    replication_slot: `${db.slot}_${schema}`,
    publication: `${schema}_pub`,
  };
  await db.query(`CREATE PUBLICATION ${schema}_pub ${publication}`);
  // Slices of 1 MB.
  const pace = { checkpoint_target_interval_seconds: 1 };
  return connectTo(db, {}, { schemas: [schema], replication_method: method, ...pace });
}

/** The rows of a stream as the destination holds them, without what CDC adds. */
function held(connection: Connection, name: string): unknown[] {
  const stream = connection.destination.stream(name);
  return [...stream.rows.values()].filter((row) => row !== undefined).toSorted();
}

test('a column list: the columns that it leaves out are neither read nor streamed, which is told with the SQL', async () => {
  await db.query(`
    CREATE SCHEMA lists;
    CREATE TABLE lists.people (id int PRIMARY KEY, name text, secret text, note text);
    INSERT INTO lists.people SELECT i, 'name', 'geheim', 'note' FROM generate_series(1, 5) i`);
  const connection = await connect('lists', 'FOR TABLE lists.people (id, name)');
  const warning = /shows lists\.people without note, secret \(a column list\)/;
  const answer = await checked(db, connection.config);
  expect(answer.failures).toEqual([]);
  const line = lineAbout(answer.warnings, warning);
  const first = (await connection.sync()).succeeded();
  expect(first.logs().join('\n')).toMatch(warning);
  await db.query(`UPDATE lists.people SET name = 'changed', secret = 'geheimer' WHERE id = 1;
                  DELETE FROM lists.people WHERE id = 2; INSERT INTO lists.people VALUES (6, 'six', 'x', 'y')`);
  const second = (await connection.sync()).succeeded();
  const columns = [...first.records(), ...second.records()].map(({ data }) =>
    Object.keys(data).filter((name) => !name.startsWith('_ab_')),
  );
  expect(columns).toHaveLength(8);
  expect(new Set(columns.map((names) => names.join()))).toEqual(new Set(['id,name']));
  expect(held(connection, 'people')).toHaveLength(5);

  // The SQL of the message publishes everything; what was synced before is read again.
  await db.query(sqlOf(line));
  const third = (await connection.sync()).succeeded();
  expect(third.logs().join('\n')).toMatch(/lists\.people was not in the publication any more/);
  await connection.expectEqual('people');
});

function sqlOf(line: string): string {
  return line.slice(line.indexOf('ALTER PUBLICATION'));
}

test('a row filter: reads keep to it as the changes do, and rows that pass it no more are deleted', async () => {
  await db.query(`
    CREATE SCHEMA filters;
    CREATE TABLE filters.orders (id int PRIMARY KEY, note text);
    CREATE TABLE filters.slices (id int PRIMARY KEY, note text);
    INSERT INTO filters.orders SELECT i, 'first' FROM generate_series(1, 20) i;
    INSERT INTO filters.slices SELECT i, repeat('x', 500) FROM generate_series(1, 5000) i`);
  const connection = await connect(
    'filters',
    'FOR TABLE filters.orders WHERE (id > 10), filters.slices WHERE (id % 2 = 0)',
  );
  const check = await checked(db, connection.config);
  expect(check.failures).toEqual([]);
  lineAbout(check.warnings, /shows filters\.orders only the rows that pass a row filter/);
  (await connection.sync()).succeeded();
  expect(held(connection, 'orders')).toHaveLength(10);
  expect(held(connection, 'slices')).toHaveLength(2500);
  await db.query(`
    UPDATE filters.orders SET note = 'changed' WHERE id IN (3, 13);
    UPDATE filters.orders SET id = 100 WHERE id = 4; -- passes now
    UPDATE filters.orders SET id = 0 WHERE id = 14; -- passes no more
    DELETE FROM filters.orders WHERE id IN (5, 15); INSERT INTO filters.orders VALUES (1000, 'new'), (-1, 'new')`);
  (await connection.sync()).succeeded();
  expect(await matching(connection, 'filters.orders', 'id > 10')).toBe(true);

  // A wider filter, set by its owner: rows that pass it since then are read.
  await db.query('ALTER PUBLICATION filters_pub SET TABLE filters.orders, filters.slices');
  (await connection.sync()).succeeded();
  await connection.expectEqual('orders', 'slices');
});

/** Whether the destination holds the rows that satisfy the condition, and no others. */
async function matching(connection: Connection, table: string, where: string): Promise<boolean> {
  const rows = await db.query<{ id: number; note: string }>(
    `SELECT id, note FROM ${table} WHERE ${where}`,
  );
  const { rows: stored } = connection.destination.stream(table.split('.')[1] ?? '');
  const wanted = new Set(rows.map(({ id }) => String(id)));
  const found = [...stored].filter(([, row]) => row !== undefined).map(([key]) => key);
  expect(new Set(found)).toEqual(wanted);
  for (const { id, note } of rows) expect(stored.get(String(id))).toContain(note);
  return true;
}

test('a hypertable with a row filter is refused: its chunks come without', async () => {
  await db.query(`
    CREATE SCHEMA chunked;
    CREATE TABLE chunked.metrics (time timestamptz NOT NULL, id int NOT NULL, PRIMARY KEY (time, id));
    SELECT create_hypertable('chunked.metrics', 'time');
    INSERT INTO chunked.metrics VALUES ('${DAY_ZERO}', 1)`);
  const connection = await connect('chunked', 'FOR TABLE chunked.metrics WHERE (id > 0)');
  const sentence = /chunked\.metrics cannot be followed: a hypertable with a row filter/;
  lineAbout((await checked(db, connection.config)).warnings, sentence);
  const message = expectRefused(await connection.attempt(), 'config_error', sentence);
  await db.query(sqlOf(message));
  (await connection.sync()).succeeded();
  await connection.expectEqual('metrics');
});

test('a publication that lacks kinds of changes is refused; set for a while between two syncs, it is told', async () => {
  await db.query(
    'CREATE SCHEMA kinds; CREATE TABLE kinds.t (id int PRIMARY KEY); INSERT INTO kinds.t VALUES (1)',
  );
  const connection = await connect('kinds', "FOR TABLE kinds.t WITH (publish = 'insert')");
  const message = expectRefused(
    await connection.attempt(),
    'config_error',
    /does not publish updates and deletes: they would be lost/,
  );
  await db.query(sqlOf(message).replace(/ and, if .*$/, ''));
  (await connection.sync()).succeeded();
  await db.query(`ALTER PUBLICATION kinds_pub SET (publish = 'insert');
                  UPDATE kinds.t SET id = 2;
                  ALTER PUBLICATION kinds_pub SET (publish = 'insert, update, delete, truncate')`);
  const told = (await connection.sync()).succeeded();
  expect(told.logs().join('\n')).toMatch(/publication kinds_pub was altered since the last sync/);
  expect((await connection.sync()).succeeded().logs().join('\n')).not.toContain('was altered');
});

/** Two levels of partitions, and rows that move between them. */
function partitioned(schema: string): string {
  return `
    CREATE SCHEMA ${schema};
    CREATE TABLE ${schema}.parts (id int, region text, note text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
    CREATE TABLE ${schema}.north PARTITION OF ${schema}.parts FOR VALUES IN ('north');
    CREATE TABLE ${schema}.others PARTITION OF ${schema}.parts DEFAULT PARTITION BY RANGE (id);
    CREATE TABLE ${schema}.low PARTITION OF ${schema}.others FOR VALUES FROM (0) TO (100);
    CREATE TABLE ${schema}.high PARTITION OF ${schema}.others DEFAULT;
    INSERT INTO ${schema}.parts SELECT i, CASE WHEN i % 2 = 0 THEN 'north' ELSE 'south' END, 'first'
      FROM generate_series(1, 200) i`;
}

function partitionChanges(schema: string, n: number): string {
  return `
    INSERT INTO ${schema}.parts VALUES (${1000 + n}, 'north', 'new'), (${2000 + n}, 'west', 'new');
    UPDATE ${schema}.parts SET note = 'changed ${n}' WHERE id % 10 = ${n};
    UPDATE ${schema}.parts SET region = 'south' WHERE id % 20 = ${n} AND region = 'north';
    UPDATE ${schema}.parts SET id = id + 5000 WHERE id = ${30 + n};
    DELETE FROM ${schema}.parts WHERE id = ${50 + n}`;
}

test('partitioned tables: under their own name or by their partitions, also where that changes between two syncs', async () => {
  await db.query(partitioned('roots'));
  const connection = await connect(
    'roots',
    'FOR TABLE roots.parts WITH (publish_via_partition_root = true)',
  );
  expect((await checked(db, connection.config)).failures).toEqual([]);
  (await connection.sync()).succeeded();
  await db.query(partitionChanges('roots', 1));
  (await connection.sync()).succeeded();
  await connection.expectEqual('parts');
  await db.query(partitionChanges('roots', 2));
  await db.query('ALTER PUBLICATION roots_pub SET (publish_via_partition_root = false)');
  await db.query(partitionChanges('roots', 3));
  (await connection.sync()).succeeded();
  await connection.expectEqual('parts');
});

test('partitioned tables: a filter of the table holds for all partitions, one of a partition is refused', async () => {
  await db.query(partitioned('kept'));
  const connection = await connect(
    'kept',
    'FOR TABLE kept.parts WHERE (id <= 100) WITH (publish_via_partition_root = true)',
  );
  const first = (await connection.sync()).succeeded();
  expect(first.records()).toHaveLength(100);
  await db.query(
    'UPDATE kept.parts SET id = id + 200 WHERE id BETWEEN 51 AND 100 AND id % 2 = 0 AND id > 90',
  );
  const second = (await connection.sync()).succeeded();
  expect(second.records().filter(({ data }) => data['_ab_cdc_deleted_at'] !== null)).toHaveLength(
    5,
  );

  await db.query(`ALTER PUBLICATION kept_pub SET TABLE kept.north WHERE (id <= 100), kept.low, kept.high;
                  ALTER PUBLICATION kept_pub SET (publish_via_partition_root = false)`);
  expectRefused(
    await connection.attempt(),
    'config_error',
    /partitions have row filters of their own/,
  );
});

test('a publication of schemas: its tables are followed, and those taken out and put back are read again', async (context) => {
  const version = await db.value<number>(`SELECT current_setting('server_version_num')::int`);
  if (version < 150_000) context.skip('PostgreSQL 14 publishes no schemas');
  await db.query(`
    CREATE SCHEMA whole;
    CREATE TABLE whole.orders (id int PRIMARY KEY, note text);
    INSERT INTO whole.orders VALUES (1, 'first'), (2, 'first');
    CREATE TABLE whole.metrics (time timestamptz NOT NULL, id int NOT NULL, note text, PRIMARY KEY (time, id));
    SELECT create_hypertable('whole.metrics', 'time', chunk_time_interval => interval '1 day');
    INSERT INTO whole.metrics SELECT '${DAY_ZERO}'::timestamptz + i * interval '6 hours', i, 'first'
      FROM generate_series(1, 20) i`);
  const connection = await connect('whole', 'FOR TABLES IN SCHEMA whole');
  (await connection.sync()).succeeded();
  await connection.expectEqual('orders', 'metrics');
  await db.query(`
    UPDATE whole.orders SET note = 'changed' WHERE id = 1; UPDATE whole.metrics SET note = 'changed' WHERE id = 3;
    INSERT INTO whole.metrics VALUES ('${DAY_ZERO}'::timestamptz + interval '30 days', 1, 'new chunk')`);
  (await connection.sync()).succeeded();
  await connection.expectEqual('orders', 'metrics');
  await db.query('ALTER PUBLICATION whole_pub DROP TABLES IN SCHEMA whole');
  await db.query(`UPDATE whole.orders SET note = 'unseen' WHERE id = 2`);
  await db.query('ALTER PUBLICATION whole_pub ADD TABLES IN SCHEMA whole');
  const back = (await connection.sync()).succeeded();
  expect(back.logs().join('\n')).toMatch(/whole\.orders was not in the publication any more/);
  await connection.expectEqual('orders', 'metrics');
});

test('a publication of all tables, made by a superuser for a role that may only read', async () => {
  await using roles = await createRoles();
  await using own = await createDatabase();
  await own.query(`
    CREATE TABLE orders (id int PRIMARY KEY, note text);
    INSERT INTO orders VALUES (1, 'first'), (2, 'first');
    CREATE TABLE events (id int, note text);
    ALTER TABLE events REPLICA IDENTITY FULL;
    INSERT INTO events VALUES (1, 'first');
    CREATE PUBLICATION ${own.publication} FOR ALL TABLES`);
  await own.query(`SELECT pg_create_logical_replication_slot('${own.slot}', 'pgoutput')`);
  const role = await roles.create('LOGIN REPLICATION');
  await own.query(`GRANT SELECT ON ALL TABLES IN SCHEMA public TO ${role}`);
  const connection = await connectTo(own, {}, { username: role });
  (await connection.sync()).succeeded();
  await own.query(`
    UPDATE orders SET note = 'changed' WHERE id = 1; DELETE FROM orders WHERE id = 2;
    UPDATE events SET note = 'changed'; CREATE TABLE later (id int PRIMARY KEY); INSERT INTO later VALUES (1)`);
  expect((await connection.sync()).succeeded().records()).toHaveLength(4);
  await connection.expectEqual('orders', 'events');
});
