/** Tables whose columns change between two syncs and in the middle of one: what is emitted is true, and the rest is told. */
import { expect, test } from 'vitest';
import { createDatabase, type Database } from './database.ts';
import { expectEqual } from './comparison.ts';
import { Connection, connectTo, DAY_ZERO, recordWhere, stopWhen } from './scenario.ts';

/** A table and a hypertable of the same columns: each alteration meets both. */
const NAMES = ['orders', 'metrics'] as const;

async function fill(db: Database): Promise<void> {
  await db.query(`
    CREATE TABLE orders (id int PRIMARY KEY, note text, amount int);
    INSERT INTO orders SELECT i, 'first', i FROM generate_series(1, 50) i;
    CREATE TABLE metrics (time timestamptz NOT NULL, id int NOT NULL, note text, amount int, PRIMARY KEY (time, id));
    SELECT create_hypertable('metrics', 'time', chunk_time_interval => interval '1 day');
    INSERT INTO metrics SELECT '${DAY_ZERO}'::timestamptz + i * interval '1 hour', i, 'first', i FROM generate_series(1, 50) i`);
}

function onBoth(sql: (table: string) => string): string {
  return NAMES.map(sql).join(';');
}

type Alteration = {
  readonly what: string;
  readonly alter: string;
  /** What the next sync says of each table, once. */
  readonly told: RegExp | null;
  /** What it says of changes that were written in the old form; null: nothing. */
  readonly written: RegExp | null;
  /** Whether the rows of before are still as the table shows them. */
  readonly equal: boolean;
};

const NOT_THOSE =
  /The columns of public\.(orders|metrics) that are synced, or their types, are not those/;

const ALTERATIONS: readonly Alteration[] = [
  {
    what: 'a column is added',
    alter: 'ADD extra int DEFAULT 1',
    told: null,
    written: null,
    equal: true,
  },
  {
    what: 'a column is dropped',
    alter: 'DROP amount',
    told: NOT_THOSE,
    written: null,
    equal: false,
  },
  {
    what: 'a column is renamed',
    alter: 'RENAME amount TO quantity',
    told: NOT_THOSE,
    written: null,
    equal: false,
  },
  {
    what: 'a type is widened, and the json type stays',
    alter: 'ALTER amount TYPE bigint',
    told: NOT_THOSE,
    written: /with another type of the column "amount"/,
    equal: true,
  },
  {
    what: 'a rewrite keeps the type',
    alter: 'ALTER note TYPE text USING upper(note)',
    told: /public\.(orders|metrics) was rewritten by ALTER TABLE since the last sync/,
    written: null,
    equal: false,
  },
  {
    what: 'a default, a statistics target and NOT NULL are set',
    alter: `ALTER note SET DEFAULT 'x', ALTER note SET STATISTICS 10, ALTER note SET NOT NULL`,
    told: null,
    written: null,
    equal: true,
  },
];

test.for(ALTERATIONS)('between two syncs: $what', async (it) => {
  await using db = await createDatabase();
  await fill(db);
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  await db.query(onBoth((table) => `UPDATE ${table} SET note = 'before' WHERE id = 1`));
  await db.query(onBoth((table) => `ALTER TABLE ${table} ${it.alter}`));
  await db.query(
    onBoth(
      (table) =>
        `UPDATE ${table} SET note = 'AFTER' WHERE id = 2; DELETE FROM ${table} WHERE id = 3`,
    ),
  );
  const result = (await connection.sync()).succeeded();
  expect(result.records()).toHaveLength(6);
  const logs = result.logs();
  expect(logs.filter((line) => it.told?.test(line))).toHaveLength(it.told === null ? 0 : 2);
  expect(logs.filter((line) => it.written?.test(line))).toHaveLength(it.written === null ? 0 : 2);
  if (it.told === null) expect(logs.join('\n')).not.toMatch(/keep what they had|was rewritten/);
  if (it.equal) await connection.expectEqual(...NAMES);
  // Once: the state knows it by now.
  const next = (await connection.sync()).succeeded().logs();
  expect(next.filter((line) => it.told?.test(line))).toEqual([]);
  if (it.equal) return;
  // As the messages say: with the schema and the streams refreshed all is well again.
  const refreshed = await connectTo(db);
  await refreshed.clear();
  (await refreshed.sync()).succeeded();
  await refreshed.expectEqual(...NAMES);
});

test('a maintenance that makes new files is no alteration', async () => {
  await using db = await createDatabase();
  await fill(db);
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  await db.query('VACUUM FULL orders');
  await db.query('CLUSTER metrics USING metrics_pkey');
  const logs = (await connection.sync()).succeeded().logs().join('\n');
  expect(logs).not.toMatch(/rewritten|not those of the last sync/);
});

test('a column that the catalog takes up later: the first sync with it says that older rows lack it', async () => {
  await using db = await createDatabase();
  await fill(db);
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  await db.query(onBoth((table) => `ALTER TABLE ${table} ADD extra int DEFAULT 5`));
  await db.query(onBoth((table) => `UPDATE ${table} SET note = 'between' WHERE id = 1`));
  const { config, catalog } = await connectTo(db);
  const wider = new Connection(db, config, catalog);
  wider.destination.state = connection.destination.state;
  await db.query(onBoth((table) => `UPDATE ${table} SET note = 'after' WHERE id = 2`));
  const result = (await wider.sync()).succeeded();
  expect(result.records().map(({ data }) => data['extra'])).toEqual([5, 5, 5, 5]);
  expect(result.logs().filter((line) => NOT_THOSE.test(line))).toHaveLength(2);
});

test('in the middle of a sync: changes from before a column was added lack it, which is told', async () => {
  await using db = await createDatabase();
  await fill(db);
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  await db.query(onBoth((table) => `UPDATE ${table} SET note = 'before' WHERE id = 1`));
  await db.query(onBoth((table) => `ALTER TABLE ${table} ADD extra int DEFAULT 5`));
  await db.query(onBoth((table) => `UPDATE ${table} SET note = 'after' WHERE id = 2`));
  const wider = await connectTo(db);
  wider.destination.state = connection.destination.state;
  const result = (await wider.sync()).succeeded();
  const told = result.logs().filter((line) => /written without the column "extra"/.test(line));
  expect(told).toHaveLength(2);
  const extras = result.records().map(({ data }) => [data['note'], data['extra']]);
  expect(extras).toEqual([
    ['before', undefined],
    ['before', undefined],
    ['after', 5],
    ['after', 5],
  ]);
});

test.for([
  { what: 'added', alter: (table: string) => `ALTER TABLE ${table} ADD extra int DEFAULT 1` },
  { what: 'widened', alter: (table: string) => `ALTER TABLE ${table} ALTER amount TYPE bigint` },
])('a column is $what while changes are read', async ({ alter }) => {
  await using db = await createDatabase();
  await fill(db);
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  await db.query(onBoth((table) => `UPDATE ${table} SET note = 'stream' WHERE id < 10`));
  const begun = recordWhere(({ note }) => note === 'stream');
  const act = stopWhen(begun, async () => {
    await db.query(onBoth((table) => `UPDATE ${table} SET note = 'before' WHERE id > 5`));
    await db.query(onBoth(alter));
    await db.query(
      onBoth(
        (table) =>
          `UPDATE ${table} SET note = 'after' WHERE id > 8; DELETE FROM ${table} WHERE id = 50`,
      ),
    );
  });
  (await connection.sync(act)).succeeded();
  (await connection.sync()).succeeded();
  await connection.expectEqual(...NAMES);
});

test('a table renamed in the middle of a sync is followed to its end; the next one misses it, and goes on under its old name', async () => {
  await using db = await createDatabase();
  await fill(db);
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  await db.query(onBoth((table) => `UPDATE ${table} SET note = 'first' WHERE id = 1`));
  const begun = recordWhere(({ id }) => id === 1);
  const stop = stopWhen(begun, async () => {
    await db.query(onBoth((table) => `ALTER TABLE ${table} RENAME TO ${table}_2`));
    await db.query(onBoth((table) => `UPDATE ${table}_2 SET note = 'renamed' WHERE id = 2`));
  });
  (await connection.sync(stop)).succeeded();
  const missing = await connection.attempt();
  expect(missing.exitCode).toBe(1);
  expect(missing.errors()[0]?.message).toMatch(
    /public\.(orders|metrics).* cannot be read: no such table/,
  );
  await db.query(onBoth((table) => `ALTER TABLE ${table}_2 RENAME TO ${table}`));
  (await connection.sync()).succeeded();
  for (const name of NAMES) await expectEqual(db, connection.destination, name);
});
