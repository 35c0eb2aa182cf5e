/** Hypertables, chunks and columns under every name that PostgreSQL allows, and under another one than before. */
import { escapeIdentifier as ident } from 'pg';
import { expect, test } from 'vitest';
import { createDatabase, type Database } from './database.ts';
import { connectTo, DAY_ZERO } from './scenario.ts';
import {
  chunkName,
  expectChanges,
  expectFirstSync,
  expectStream,
  follow,
  type TableName,
} from './shapes.ts';

const METRICS: TableName = ['public', 'metrics'];
const DIMENSIONS = [{ column: 'time', type: 'timestamp with time zone', interval: '1 day' }];

function day(n: number): string {
  return `('${DAY_ZERO}'::timestamptz + interval '${n} days')`;
}

/** Ten rows a day for three days, with a key. @param options of create_hypertable. */
function metrics(table: string, options = ''): string {
  return `
    CREATE TABLE ${table} (time timestamptz NOT NULL, device int NOT NULL, note text, PRIMARY KEY (time, device));
    SELECT create_hypertable('${table}', 'time', chunk_time_interval => interval '1 day'${options});
    INSERT INTO ${table} SELECT ${day(0)} + d * interval '1 day', i, 'initial' FROM generate_series(0, 2) d, generate_series(1, 10) i;`;
}

/** Of rows that are read already: an insert, an update and a deletion in each of three chunks; and a new chunk's row. */
function changes(table: string, n: number): string {
  return `
    INSERT INTO ${table} VALUES (${day(0)}, ${100 + n}, 'new'), (${day(10 + n)}, 1, 'new chunk');
    UPDATE ${table} SET note = 'changed' WHERE device = ${2 * n} AND time < ${day(3)};
    DELETE FROM ${table} WHERE device = ${2 * n + 1} AND time < ${day(3)};`;
}
const CHANGES = 2 + 3 + 3;

const NAMES = [
  { what: 'mixed case', schema: 'Sales', table: 'MetricsByDay', time: 'Time', key: 'DeviceId' },
  { what: 'spaces', schema: 'our sales', table: ' by  day ', time: 'the time', key: ' id' },
  { what: 'dots', schema: 'a.b', table: 'c.d.e', time: 'x.time', key: '.id.' },
  { what: 'quotes', schema: `it's "s"`, table: `"m" 'n' \\ %I`, time: `"`, key: `'` },
  { what: 'reserved words', schema: 'user', table: 'select', time: 'table', key: 'order' },
  { what: 'signs', schema: 'é$1', table: '{"a": [1]}', time: 'ü 🙂', key: '%_' },
  {
    what: '63 bytes',
    schema: 's'.repeat(63),
    table: 't'.repeat(63),
    time: 'c'.repeat(63),
    key: 'é'.repeat(31),
  },
];

test.for(NAMES)('names with $what', async (it) => {
  await using db = await createDatabase();
  const table = `${ident(it.schema)}.${ident(it.table)}`;
  const [time, key] = [ident(it.time), ident(it.key)];
  const literal = (text: string): string => `$name$${text}$name$`;
  await follow(db, {
    table: `
      CREATE SCHEMA ${ident(it.schema)};
      CREATE TABLE ${table} (${time} timestamptz NOT NULL, ${key} int NOT NULL, note text, PRIMARY KEY (${time}, ${key}));
      SELECT create_hypertable(${literal(table)}, ${literal(it.time)}::name, chunk_time_interval => interval '1 day');
      INSERT INTO ${table} SELECT ${day(0)} + d * interval '1 day', i, 'initial' FROM generate_series(0, 2) d, generate_series(1, 10) i`,
    stream: [it.schema, it.table],
    dimensions: [{ column: it.time, type: 'timestamp with time zone', interval: '1 day' }],
    changes: `
      INSERT INTO ${table} VALUES (${day(0)}, 100, 'new'), (${day(9)}, 1, 'new chunk');
      UPDATE ${table} SET note = 'changed' WHERE ${key} = 1 AND ${time} < ${day(3)};
      DELETE FROM ${table} WHERE ${key} = 2`,
    records: CHANGES,
  });
});

test.for([
  { what: 'a LIKE pattern beside a name that it matches', tables: ['a_b', 'axb'] },
  { what: 'the same in two schemas', tables: ['one.metrics', 'two.metrics'] },
  { what: 'one the beginning of the other', tables: ['metrics', 'metrics_1'] },
])('two hypertables, $what: each gets its own', async ({ tables }) => {
  await using db = await createDatabase();
  await db.query('CREATE SCHEMA one; CREATE SCHEMA two');
  for (const table of tables) await db.query(metrics(table));
  const connection = await connectTo(db);
  const names = tables.map((table) => (table.includes('.') ? table : `public.${table}`));
  const found = connection.catalog.streams.map(
    ({ stream }) => `${stream.namespace}.${stream.name}`,
  );
  expect(found).toEqual(names);
  expect((await connection.sync()).succeeded().records()).toHaveLength(60);
  await connection.expectEqual(...names);
  const [first = '', second = ''] = tables;
  await db.query(`${changes(first, 1)} ${changes(second, 2)} ${changes(second, 3)}`);
  const changed = (await connection.sync()).succeeded();
  expect(names.map((name) => changed.records(name).length)).toEqual([CHANGES, 2 * CHANGES]);
  await connection.expectEqual(...names);
});

/** Chunks of both lie in one schema, with prefixes of which one begins like the other, or matches it as a pattern. */
test.for([
  { prefixes: ['m_1', 'mx1'] },
  { prefixes: ['m', 'm_1'] },
  { prefixes: ['My "pre" fix', 'my "pre" fix'] },
])('chunk schema and prefixes of one’s own: $prefixes', async ({ prefixes }) => {
  await using db = await createDatabase();
  const tables = ['apples', 'pears'];
  await db.query('CREATE SCHEMA "My.chunks"');
  for (const [index, table] of tables.entries()) {
    const options = `, associated_schema_name => 'My.chunks', associated_table_prefix => '${prefixes[index]}'`;
    await db.query(metrics(table, options));
  }
  const connection = await connectTo(db);
  expect(connection.catalog.streams.map(({ stream }) => stream.name)).toEqual(tables);
  expect((await connection.sync()).succeeded().records()).toHaveLength(60);
  await connection.expectEqual(...tables);
  // Of chunks that are dropped before their changes are read nothing but the name is left.
  await db.query(`
    ${changes('apples', 1)} ${changes('pears', 2)}
    SELECT drop_chunks('apples', older_than => ${day(1)}); SELECT drop_chunks('pears', older_than => ${day(1)})`);
  const changed = (await connection.sync()).succeeded();
  expect(tables.map((name) => changed.records(name).length)).toEqual([CHANGES, CHANGES]);
  const late = changed.records().map(({ data }) => Number(data['device']));
  expect(late.filter((device) => device >= 100)).toEqual([101, 102]);
});

test('chunks that are renamed and moved, before the first sync and between two', async () => {
  await using db = await createDatabase();
  await db.query(`${metrics('metrics')} CREATE SCHEMA elsewhere`);
  await moveChunk(db, 0, 'public', 'looks like a table');
  await moveChunk(db, 1, 'elsewhere', 'metrics');
  const connection = await connectTo(db);
  expectStream(connection, { stream: METRICS, dimensions: DIMENSIONS }, 3);
  await expectFirstSync(connection, METRICS);
  // What was written under the old name is read under the new one.
  await db.query(changes('metrics', 1));
  await moveChunk(db, 0, 'elsewhere', '_hyper_99_99_chunk');
  await moveChunk(db, 2, 'public', 'also like a table');
  await moveChunk(db, 3, 'public', 'new and moved');
  expectStream(await connectTo(db), { stream: METRICS, dimensions: DIMENSIONS }, 4);
  const second = (await connection.sync()).succeeded();
  expect(second.records()).toHaveLength(CHANGES);
  await connection.expectEqual('metrics');
  await expectChanges(connection, {
    stream: METRICS,
    changes: changes('metrics', 2),
    records: CHANGES,
  });
});

async function moveChunk(db: Database, n: number, schema: string, name: string): Promise<void> {
  const old = await chunkName(db, METRICS, n);
  await db.query(`ALTER TABLE ${old} RENAME TO "moving chunk"`);
  const moving = await chunkName(db, METRICS, n);
  await db.query(`ALTER TABLE ${moving} SET SCHEMA ${ident(schema)}`);
  const moved = await chunkName(db, METRICS, n);
  await db.query(`ALTER TABLE ${moved} RENAME TO ${ident(name)}`);
}

test.for([
  { what: 'renamed', alter: 'ALTER TABLE metrics RENAME TO readings', now: 'public.readings' },
  { what: 'moved', alter: 'ALTER TABLE metrics SET SCHEMA other', now: 'other.metrics' },
])('a hypertable that is $what is missed by name, and read anew once it is chosen', async (it) => {
  await using db = await createDatabase();
  await db.query(
    `${metrics('metrics')} CREATE SCHEMA other; CREATE TABLE orders (id int PRIMARY KEY)`,
  );
  const before = await connectTo(db);
  (await before.sync()).succeeded();
  await db.query(`${changes('metrics', 1)} INSERT INTO orders VALUES (1); ${it.alter}`);
  const missed = await before.sync();
  expect(missed.exitCode).toBe(1);
  expect(missed.errors()).toMatchObject([
    { failure_type: 'config_error', message: expect.stringContaining('public.metrics') },
  ]);
  const after = await connectTo(db, { streams: [it.now, 'orders'] });
  after.destination.state = before.destination.state;
  await db.query(changes(it.now, 2));
  (await after.sync()).succeeded();
  await after.expectEqual(it.now);
  await db.query(changes(it.now, 3));
  const third = (await after.sync()).succeeded();
  expect(third.records(it.now)).toHaveLength(CHANGES);
  await after.expectEqual(it.now);
});
