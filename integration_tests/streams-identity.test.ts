/** Ordinary and partitioned tables by what identifies their rows in the WAL: insert, update, change of the key, delete. */
import { expect, test } from 'vitest';
import { createDatabase, type Database } from './database.ts';
import { connectTo } from './scenario.ts';

const KINDS = [
  { kind: 'a table', tail: '', parts: () => '' },
  {
    kind: 'a partitioned table',
    tail: ' PARTITION BY RANGE (a)',
    parts: (t: string) =>
      `CREATE TABLE ${t}_low PARTITION OF ${t} FOR VALUES FROM (0) TO (50);
       CREATE TABLE ${t}_high PARTITION OF ${t} DEFAULT;`,
  },
];

/** For each of the table and its partitions, since an identity is a matter of each. */
type Identity = (table: string) => string;

const SEEN: readonly {
  readonly what: string;
  readonly key: readonly string[];
  readonly make: string;
  readonly identity: Identity;
  /** One change each: insert, update, changed key, delete. */
  readonly records: readonly [number, number, number, number];
}[] = [
  {
    what: 'DEFAULT, with a primary key',
    key: ['a', 'b'],
    make: ', PRIMARY KEY (a, b)',
    identity: () => '',
    records: [1, 1, 2, 1],
  },
  {
    what: 'INDEX',
    key: ['b', 'a'],
    make: ', UNIQUE (b, a)',
    identity: (t) => `ALTER TABLE ${t} REPLICA IDENTITY USING INDEX ${t}_b_a_key`,
    records: [1, 1, 2, 1],
  },
  {
    what: 'INDEX, beside a primary key',
    key: ['b', 'a'],
    make: ', PRIMARY KEY (a, b), UNIQUE (b, a)',
    identity: (t) => `ALTER TABLE ${t} REPLICA IDENTITY USING INDEX ${t}_b_a_key`,
    records: [1, 1, 2, 1],
  },
  {
    what: 'FULL, without a key',
    key: [],
    make: '',
    identity: (t) => `ALTER TABLE ${t} REPLICA IDENTITY FULL`,
    records: [1, 2, 2, 1],
  },
  {
    what: 'FULL, with a primary key',
    key: ['a', 'b'],
    make: ', PRIMARY KEY (a, b)',
    identity: (t) => `ALTER TABLE ${t} REPLICA IDENTITY FULL`,
    records: [1, 1, 2, 1],
  },
];

const UNSEEN: readonly Pick<(typeof SEEN)[number], 'what' | 'make' | 'identity'>[] = [
  { what: 'DEFAULT, without a key', make: '', identity: () => '' },
  {
    what: 'NOTHING, with a primary key',
    make: ', PRIMARY KEY (a, b)',
    identity: (t) => `ALTER TABLE ${t} REPLICA IDENTITY NOTHING`,
  },
];

/** One table for each case and kind, by name. */
function tablesOf<T>(cases: readonly T[]): Map<string, T & (typeof KINDS)[number]> {
  const all = cases.flatMap((it) => KINDS.map((kind) => ({ ...it, ...kind })));
  return new Map(all.map((it, index) => [`t${index}`, it]));
}

async function make(
  db: Database,
  name: string,
  it: (typeof UNSEEN)[number] & (typeof KINDS)[number],
): Promise<void> {
  const tables = it.tail === '' ? [name] : [name, `${name}_low`, `${name}_high`];
  await db.query(`
    CREATE TABLE ${name} (a int NOT NULL, note text, b int NOT NULL, c text${it.make})${it.tail};
    ${it.parts(name)}
    ${tables.map((table) => it.identity(table)).join(';')};
    INSERT INTO ${name} SELECT i, 'first', i % 7, repeat('long', 1000 * (i % 3)) FROM generate_series(1, 99) i`);
}

test('DEFAULT with a key, INDEX and FULL: every change is seen, and the key is the stream’s', async () => {
  await using db = await createDatabase();
  const tables = tablesOf(SEEN);
  for (const [name, it] of tables) await make(db, name, it);
  const connection = await connectTo(db);
  for (const [name, { key }] of tables) {
    const found = connection.catalog.streams.find(({ stream }) => stream.name === name);
    expect(found?.stream.source_defined_primary_key).toEqual(key.map((column) => [column]));
  }
  (await connection.sync()).succeeded();
  await connection.expectEqual(...tables.keys());
  for (const name of tables.keys()) {
    const changes = [
      `INSERT INTO ${name} VALUES (1000, 'new', 1, NULL)`,
      // A long value that the update leaves alone.
      `UPDATE ${name} SET note = 'changed' WHERE a = 2`,
      `UPDATE ${name} SET b = 100, note = 'other key' WHERE a = 3`,
      `DELETE FROM ${name} WHERE a = 5`,
    ];
    await db.query(changes.join(';'));
  }
  const result = (await connection.sync()).succeeded();
  for (const [name, { records, kind, what }] of tables) {
    const due = records.reduce((sum, count) => sum + count, 0);
    expect(result.records(name), `${kind}, ${what}`).toHaveLength(due);
  }
  await connection.expectEqual(...tables.keys());
  // Of a partitioned table also from one partition to another.
  for (const name of tables.keys()) {
    await db.query(`UPDATE ${name} SET a = a + 50 WHERE a IN (20, 21)`);
  }
  const moved = (await connection.sync()).succeeded();
  for (const name of tables.keys()) expect(moved.records(name)).toHaveLength(4);
  await connection.expectEqual(...tables.keys());
});

test('DEFAULT without a key, and NOTHING: inserts alone; no statement of the owner fails, and nothing false is sent', async () => {
  await using db = await createDatabase();
  const tables = tablesOf(UNSEEN);
  for (const [name, it] of tables) await make(db, name, it);
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  for (const name of tables.keys()) {
    await db.query(`INSERT INTO ${name} VALUES (1000, 'new', 1, NULL), (7, 'new', 1000, 'x')`);
  }
  const inserted = (await connection.sync()).succeeded();
  for (const name of tables.keys()) expect(inserted.records(name)).toHaveLength(2);
  await connection.expectEqual(...tables.keys());
  for (const name of tables.keys()) {
    await db.query(`
      UPDATE ${name} SET note = 'changed' WHERE a = 2; UPDATE ${name} SET b = 100 WHERE a = 3;
      DELETE FROM ${name} WHERE a = 5`);
  }
  expect((await connection.sync()).succeeded().records()).toEqual([]);
});
