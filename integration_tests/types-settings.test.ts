/** Values do not depend on what a database or a role has set, nor on its encoding, nor on their size. */
import { createHash } from 'node:crypto';
import pg from 'pg';
import { expect, test } from 'vitest';
import { createDatabase, Database } from './database.ts';
import { type Connection, connectTo } from './scenario.ts';
import { deliverTwice, type DeliveredRow, recordValues } from './types-delivery.ts';

const VALUES = `
  '0044-03-15 BC', '2026-02-03 04:05:06.7', '2026-02-03 04:05:06.7+02', '04:05:06+05:30', '1 year -2 mons 3 days -04:05:06.7',
   0.1, 1.1, '\\x00ff', '<a/>text', '{2026-02-03 04:05:06+02}', 'pg_class', '{"a": 1}', 1234.5`;

test('formats that the database sets for its sessions change nothing', async () => {
  const text = async (settings: readonly string[]): Promise<readonly (string | undefined)[]> => {
    await using db = await createDatabase();
    for (const setting of settings) await db.query(`ALTER DATABASE ${db.name} SET ${setting}`);
    await db.query(`CREATE TABLE plain (id int PRIMARY KEY, date date, timestamp timestamp, timestamptz timestamptz,
      timetz timetz, interval interval, double float8, real real, bytes bytea, xml xml, times timestamptz[], class regclass,
      json jsonb, money money)`);
    const connection = await connectTo(db);
    const [rows] = await deliverTwice(connection, ['plain'], async (offset) => {
      await db.query(`INSERT INTO plain VALUES (1 + ${offset}, ${VALUES})`);
    });
    return [rows?.read.get(1)?.text, rows?.changed.get(1)?.text];
  };
  const [read, changed] = await text([]);
  expect(read).toBeDefined();
  expect(changed).toBe(read);
  const settings = [
    `DateStyle = 'SQL, DMY'`,
    `IntervalStyle = 'iso_8601'`,
    `TimeZone = 'Asia/Kathmandu'`,
    `extra_float_digits = -10`,
    `bytea_output = 'escape'`,
    `xmloption = 'document'`,
    `xmlbinary = 'hex'`,
    `client_encoding = 'LATIN1'`,
  ];
  expect(await text(settings)).toEqual([read, read]);
});

/** @param encoding of the server; with a locale that fits them all. */
async function createEncoded(encoding: string): Promise<Database> {
  const serverUrl = process.env['TIMESCALEDB_URL'] ?? '';
  const name = `t${encoding.toLowerCase()}${Date.now()}`;
  const server = new pg.Client({ connectionString: serverUrl });
  await server.connect();
  await server.query(
    `CREATE DATABASE ${name} ENCODING '${encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0`,
  );
  await server.end();
  const db = new Database(serverUrl, name);
  await db.query('CREATE EXTENSION timescaledb');
  return db;
}

async function onlyRow(
  connection: Connection,
  insert: (offset: number) => Promise<void>,
): Promise<readonly DeliveredRow[]> {
  const [rows] = await deliverTwice(connection, ['plain'], insert);
  const [read, changed] = [rows?.read.get(1), rows?.changed.get(1)];
  if (read === undefined || changed === undefined) throw new Error('the row did not come twice');
  expect(changed.text).toBe(read.text);
  return [read, changed];
}

test.for([
  // What no client can read in UTF-8 is replaced, so that the line can be read.
  { encoding: 'LATIN1', text: `convert_from('\\xe9ff22'::bytea, 'LATIN1')`, read: 'éÿ"' },
  {
    encoding: 'SQL_ASCII',
    text: `convert_from('\\x61ff62c3a9'::bytea, 'SQL_ASCII')`,
    read: 'a\ufffdbé',
  },
])('a database in $encoding', async ({ encoding, text, read }) => {
  await using db = await createEncoded(encoding);
  await db.query(`
    CREATE TYPE label AS ENUM ('plain', 'b"');
    CREATE TABLE plain (id int PRIMARY KEY, note text, notes text[], label label)`);
  const connection = await connectTo(db);
  const rows = await onlyRow(connection, async (offset) => {
    await db.query(`INSERT INTO plain VALUES (1 + ${offset}, ${text}, ARRAY[${text}, NULL], 'b"')`);
  });
  for (const row of rows) {
    expect(recordValues(row).data).toMatchObject({ note: read, notes: [read, null], label: 'b"' });
  }
});

test('values of some megabytes', async () => {
  await using db = await createDatabase();
  await db.query(`
    CREATE EXTENSION hstore;
    CREATE TABLE plain (id int PRIMARY KEY, text text, bytes bytea, numbers bigint[], texts text[], json jsonb, path path,
                        dictionary hstore, controls hstore)`);
  const connection = await connectTo(db);
  const rows = await onlyRow(connection, async (offset) => {
    await db.query(`
      INSERT INTO plain SELECT 1 + ${offset}, repeat(E'é"\\\\\\n\\u0001\\u2028x', 100000), decode(repeat('00ff41', 500000), 'hex'),
        ARRAY(SELECT i * 1000003::bigint FROM generate_series(1, 100000) i), ARRAY[repeat('a"b\\', 200000), NULL, 'last'],
        jsonb_build_object('list', ARRAY(SELECT md5(i::text) FROM generate_series(1, 20000) i)),
        (SELECT string_agg(format('(%s,1)', i), ',') FROM generate_series(1, 20000) i)::path,
        hstore('key', repeat(E'é"\\n', 50000)), hstore('key', repeat(E'\\u0001', 1000))`);
  });
  const [expected] = await db.query<Record<string, string>>(`
    SELECT md5(text) AS text, md5('\\x' || encode(bytes, 'hex')) AS bytes, md5(array_to_json(numbers)::text) AS numbers,
           md5(texts[1]) AS texts, md5(json::text) AS json, npoints(path)::text AS path, md5(dictionary -> 'key') AS dictionary
      FROM plain WHERE id = 1`);
  const md5 = (text: string): string => createHash('md5').update(text).digest('hex');
  for (const row of rows) {
    const data = JSON.parse(row.line).record.data;
    expect({
      text: md5(data.text),
      bytes: md5(data.bytes),
      numbers: md5(JSON.stringify(data.numbers)),
      texts: md5(data.texts[0]),
      json: md5(data.json),
      path: String(data.path.match(/\.0,1\.0\)/g).length),
      dictionary: md5(JSON.parse(data.dictionary).key),
    }).toEqual(expected);
    expect(data.texts.slice(1)).toEqual([null, 'last']);
    // Escaped twice they take more room than a value may: hundreds of control characters in one hstore.
    expect(data.controls).toBeNull();
    expect([...recordValues(row).nulled]).toEqual(['controls']);
  }
});
