/** By a cursor of every type that the server can sort: the bound goes into the state and back as exactly the same value. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { configuredCatalog, run } from './connector.ts';
import { createDatabase, type Database } from './database.ts';
import { Connection, connectTo } from './scenario.ts';
import type { RunResult } from './run-result.ts';

const STANDARD = { replication_method: { method: 'Standard' } };

let db: Database;

beforeAll(async () => {
  db = await createDatabase();
  await db.query(`
    CREATE SCHEMA "Cursors";
    CREATE EXTENSION citext;
    CREATE TYPE "Cursors"."Mood" AS ENUM ('sad', 'ok', 'Happy');
    CREATE DOMAIN "Cursors".amount AS numeric(20,3) CHECK (VALUE > 0);
    CREATE DOMAIN "Cursors".feeling AS "Cursors"."Mood" NOT NULL`);
});

afterAll(async () => {
  await db[Symbol.asyncDispose]();
});

/** Three values: the first sync has the first two, the second one brings the last. */
const TYPES: readonly (readonly [type: string, ...values: readonly [string, string, string]])[] = [
  ['smallint', '-7', '8', '9'],
  ['integer', '-7', '8', '9'],
  ['bigint', '-9', '9007199254740993', '9007199254740994'],
  ['numeric', '1', '12345678901234567890.123456789', '12345678901234567890.1234567891'],
  ['numeric(30,5)', '1', '90071992547409931.00001', '90071992547409931.00002'],
  ['real', '-1.5', '0.1', '0.10000001'],
  ['double precision', '-1e300', '0.30000000000000004', '0.3000000000000001'],
  ['money', '-1', '1234567.88', '1234567.89'],
  ['text', 'a', "b'\\ü", 'c'],
  ['text COLLATE "C"', 'B', 'a', 'ä'],
  ['varchar(20)', '', 'b b', 'c'],
  ['char(5)', 'a', 'b', 'b c'],
  ['name', 'a', 'b', 'c'],
  ['"char"', 'a', 'b', 'c'],
  ['citext', 'a', 'B', 'c'],
  [
    'uuid',
    '00000000-0000-0000-0000-000000000001',
    '7b1f0000-0000-0000-0000-000000000000',
    'ffffffff-0000-0000-0000-000000000000',
  ],
  ['boolean', 'f', 'f', 't'],
  ['bytea', '\\x00', '\\x00ff5c27', '\\x01'],
  ['date', '0044-03-15 BC', '2026-01-01', '2026-01-02'],
  ['time', '00:00', '23:59:59.999999', '24:00'],
  ['timetz', '00:00+00', '12:00:00.000001+05:30', '12:00+00'],
  ['timestamp', '0044-03-15 BC', '2026-01-01 00:00:00.000001', '2026-01-01 00:00:00.000002'],
  [
    'timestamptz',
    '0044-03-15 BC',
    '2026-01-01 00:00:00.000001+14',
    '2026-01-01 00:00:00.000002+14',
  ],
  ['interval', '-1 year', '1 mon 2 days 00:00:00.000001', '1 mon 2 days 00:00:00.000002'],
  ['inet', '10.0.0.2/24', '10.0.0.1', '::1'],
  ['cidr', '10.0.0.0/8', '10.0.1.0/24', '::/0'],
  ['macaddr', '08:00:2b:01:02:03', '08:00:2b:01:02:04', '08:00:2b:01:02:05'],
  ['macaddr8', '08:00:2b:01:02:03:04:05', '08:00:2b:01:02:03:04:06', 'ff:00:2b:01:02:03:04:05'],
  ['bit(4)', '0001', '0110', '1000'],
  ['varbit', '', '0110', '01101'],
  ['oid', '1', '3000000000', '3000000001'],
  ['pg_lsn', '0/1', 'A/FFFFFFFF', 'B/0'],
  ['xid8', '1', '18446744073709551614', '18446744073709551615'],
  ['"Cursors"."Mood"', 'sad', 'ok', 'Happy'],
  ['"Cursors".amount', '1', '9007199254740993.001', '9007199254740993.002'],
  ['"Cursors".feeling', 'sad', 'ok', 'Happy'],
];

const TABLES = TYPES.map((_, index) => `T ${index}`);

async function insert(place: 0 | 1 | 2, id: number): Promise<void> {
  for (const [index, [, ...values]] of TYPES.entries()) {
    await db.query(`INSERT INTO "Cursors"."T ${index}" VALUES ($1, $2)`, [id, values[place]]);
  }
}

function perTable(result: RunResult): Record<string, number[]> {
  return Object.fromEntries(
    TABLES.map((table) => [
      table,
      result
        .records(table)
        .map(({ data }) => Number(data['id']))
        .toSorted((a, b) => a - b),
    ]),
  );
}

/** What the server itself takes for at or above the greatest value that had been there. */
async function expected(known: number): Promise<Record<string, number[]>> {
  const found: Record<string, number[]> = {};
  for (const table of TABLES) {
    const rows = await db.query<{ id: number }>(
      `WITH ranked AS (
         SELECT id, dense_rank() OVER (ORDER BY "The Cursor") AS place FROM "Cursors"."${table}")
       SELECT id FROM ranked WHERE place >= (SELECT max(place) FROM ranked WHERE id <= $1) ORDER BY id`,
      [known],
    );
    found[table] = rows.map(({ id }) => id);
  }
  return found;
}

test('every type', async () => {
  for (const [index, [type]] of TYPES.entries()) {
    await db.query(
      `CREATE TABLE "Cursors"."T ${index}" (id int PRIMARY KEY, "The Cursor" ${type})`,
    );
  }
  await insert(0, 1);
  await insert(1, 2);
  const config = db.config({ ...STANDARD, schemas: ['Cursors'] });
  const catalog = (await run('discover', { config })).succeeded().catalog();
  // The cursor itself is not among the columns that are wanted.
  const choice = { streams: TABLES, cursorField: 'The Cursor', columns: ['id'] };
  const connection = new Connection(db, config, configuredCatalog(catalog, choice));
  for (const { stream } of connection.catalog.streams) {
    expect(stream.supported_sync_modes, stream.name).toContain('incremental');
  }
  const first = (await connection.sync()).succeeded();
  expect(perTable(first)).toEqual(Object.fromEntries(TABLES.map((table) => [table, [1, 2]])));
  await insert(0, 3);
  await insert(1, 4);
  await insert(2, 5);
  const due = await expected(2);
  for (const [index, table] of TABLES.entries()) {
    const all = TYPES[index]![0] === 'boolean' ? [1, 2, 3, 4, 5] : [2, 4, 5];
    expect(due[table], TYPES[index]![0]).toEqual(all);
  }
  expect(perTable((await connection.sync()).succeeded())).toEqual(due);
  expect(perTable((await connection.sync()).succeeded())).toEqual(await expected(5));
});

const ENDLESS: readonly (readonly [
  type: string,
  least: string,
  value: string,
  next: string,
  ...endless: string[],
])[] = [
  ['date', '-infinity', '2026-01-01', '2026-01-02', 'infinity'],
  ['timestamp', '-infinity', '2026-01-01', '2026-01-02', 'infinity'],
  ['timestamptz', '-infinity', '2026-01-01', '2026-01-02', 'infinity'],
  ['real', '-Infinity', '1', '2', 'Infinity', 'NaN'],
  ['double precision', '-Infinity', '1', '2', 'Infinity', 'NaN'],
  ['numeric', '-Infinity', '1', '2', 'Infinity', 'NaN'],
];

test('values that nothing comes after are no bound: their rows come with every pass, and later finite ones are seen', async () => {
  const version = await db.value<number>(`SELECT current_setting('server_version_num')::int`);
  const types = [...ENDLESS];
  if (version >= 170_000) types.push(['interval', '-infinity', '1 day', '2 days', 'infinity']);
  for (const [index, [type, least, value, , ...endless]] of types.entries()) {
    await db.query(`CREATE TABLE e${index} (id int PRIMARY KEY, c ${type})`);
    await db.query(`INSERT INTO e${index} VALUES (1, $1), (2, $2), (3, NULL)`, [least, value]);
    for (const [at, it] of endless.entries()) {
      await db.query(`INSERT INTO e${index} VALUES ($1, $2)`, [10 + at, it]);
    }
  }
  const names = types.map((_, index) => `e${index}`);
  const connection = await connectTo(db, { streams: names, cursorField: 'c' }, STANDARD);
  const first = (await connection.sync()).succeeded();
  for (const name of names) await connection.expectEqual(name);
  expect(first.records('e0')).toHaveLength(4);
  for (const [index, [, , , next, ...endless]] of types.entries()) {
    await db.query(`INSERT INTO e${index} VALUES (4, $1)`, [next]);
    for (const [at, it] of endless.entries()) {
      await db.query(`INSERT INTO e${index} VALUES ($1, $2)`, [20 + at, it]);
    }
  }
  const second = (await connection.sync()).succeeded();
  for (const [index, [type, , , , ...endless]] of types.entries()) {
    const found = second.records(`e${index}`).map(({ data }) => Number(data['id']));
    const again = endless.flatMap((_, at) => [10 + at, 20 + at]);
    expect(new Set(found), type).toEqual(new Set([2, 4, ...again]));
    await connection.expectEqual(`e${index}`);
  }
});

test('a cursor that is another one, of another type, gone, of several columns or without an order', async () => {
  await db.query(`CREATE TABLE notes (id int PRIMARY KEY, version text, tags text[], wide int);
                  INSERT INTO notes SELECT i, i::text, '{}', i FROM generate_series(1, 12) i`);
  const connection = await connectTo(
    db,
    { streams: ['notes'], cursorField: 'id', columns: ['wide'] },
    STANDARD,
  );
  const by = (...cursor_field: string[]): Connection => {
    const [entry] = connection.catalog.streams;
    const other = new Connection(db, connection.config, {
      streams: [{ ...entry!, cursor_field }],
    });
    other.destination.state = connection.destination.state;
    return other;
  };
  const refusal = async (...cursor: string[]): Promise<string> => {
    const result = await by(...cursor).attempt();
    expect(result.exitCode).toBe(1);
    expect(result.errors()[0]).toMatchObject({ failure_type: 'config_error' });
    return result.errors()[0]?.message ?? '';
  };
  (await connection.sync()).succeeded();
  expect((await by('version').attempt()).succeeded().records()).toHaveLength(12);
  expect(await refusal('id', 'version')).toMatch(
    /id, version of public\.notes is of several columns/,
  );
  expect(await refusal('tags')).toMatch(
    /tags of public\.notes is of a type whose values have no order/,
  );
  expect(await refusal('gone')).toMatch(/gone of public\.notes is not one of its columns/);
  // A wider integer has the same order: it goes on. As a text 12 comes before 9.
  await db.query('ALTER TABLE notes ALTER id TYPE bigint');
  expect((await connection.sync()).succeeded().records()).toHaveLength(1);
  await db.query('ALTER TABLE notes ALTER id TYPE text');
  await db.query(`INSERT INTO notes VALUES ('100', '', '{}', 1)`);
  const anew = (await connection.sync()).succeeded();
  expect(anew.records()).toHaveLength(13);
  expect(anew.logs().join('\n')).toMatch(/read from the beginning: its cursor is another one now/);
});
