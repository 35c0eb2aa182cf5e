/** Ways 1 to 7 to lose or invent rows: what a publication holds. Ways 1, 2 and more of 3 and 7 are where new chunks and rules are tested. */
import { expect, test } from 'vitest';
import type { Client } from 'pg';
import { createDatabase, type Database, hasCompression, until } from './database.ts';
import type { RunResult } from './run-result.ts';
import { type Connection, connectTo, sessions } from './scenario.ts';
import { CHUNK_ROWS, changes, chunkNames, day, fillReadings, hasSetting } from './ways.ts';

const VERIFY = { publication_management: 'verify only' };
const AUTO_PUBLICATION = 'timescaledb.enable_chunk_auto_publication';

/** A publication and a slot as a DBA makes them, and the first sync with them. */
async function firstSync(db: Database, publication: string): Promise<Connection> {
  await db.query(`CREATE PUBLICATION ${db.publication} ${publication}`);
  await db.query(`SELECT pg_create_logical_replication_slot('${db.slot}', 'pgoutput')`);
  const connection = await connectTo(db, { streams: ['readings'] }, VERIFY);
  (await connection.sync()).succeeded();
  return connection;
}

function insert(n: number, device: number): string {
  return `INSERT INTO readings VALUES (${day(n)}, ${device}, 'new')`;
}

function devices(result: RunResult): unknown[] {
  return result.records('readings').map(({ data }) => data['device']);
}

function chunksRead(result: RunResult): number {
  return result.logs().filter((line) => /chunk \S+ read, /.test(line)).length;
}

test('way 3: the first half of a transaction that was open while the chunk’s owner published it would be lost', async () => {
  await using db = await createDatabase();
  await fillReadings(db, 2);
  const connection = await firstSync(db, 'FOR TABLE readings');
  await db.query(insert(5, -1));
  const chunk = (await chunkNames(db)).at(-1) ?? '';
  const writer = await db.client();
  try {
    await writer.query(`BEGIN; ${insert(5, -2)}`);
    await db.query(`ALTER PUBLICATION ${db.publication} ADD TABLE ONLY ${chunk}`);
    await writer.query(insert(5, -3));
    let ended = false;
    const running = connection.sync().finally(() => {
      ended = true;
    });
    // A read that did not wait would be over some time, without these rows.
    await until('the sync waits for the writer', async () => ended || (await asksForWriters(db)));
    await writer.query('COMMIT');
    (await running).succeeded();
  } finally {
    await writer.end();
  }
  await connection.expectEqual('readings');
});

async function asksForWriters(db: Database): Promise<boolean> {
  return (await sessions(db)).some(({ query }) => /FROM pg_catalog\.pg_locks/.test(query));
}

test('way 4: chunks of writers who stay connected while auto-publication is set for the database would be lost', async (context) => {
  await using db = await createDatabase();
  if (!(await hasSetting(db, AUTO_PUBLICATION))) {
    context.skip('TimescaleDB publishes new chunks by itself from 2.25 on');
  }
  await fillReadings(db, 2);
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  const connected = await db.client();
  let later: Client | undefined;
  try {
    await connected.query(insert(0, -1));
    await db.query(`ALTER DATABASE ${db.name} SET ${AUTO_PUBLICATION} = on`);
    later = await db.client();
    await connected.query(`${insert(3, -2)}; ${insert(3, -3)}`);
    await later.query(`${insert(4, -4)}; ${insert(4, -5)}`);
  } finally {
    await connected.end();
    await later?.end();
  }
  const second = (await connection.sync()).succeeded();
  expect(devices(second).toSorted((a, b) => Number(b) - Number(a))).toEqual([-1, -2, -3, -4, -5]);
  // That of the writer who knew nothing of the setting; the other one's is in the stream.
  expect(chunksRead(second)).toBe(1);
  await connection.expectEqual('readings');
});

/** Two generations of chunks, with other column numbers than the hypertable and each other. */
async function fillWithDroppedColumns(db: Database): Promise<void> {
  await db.query(`
    CREATE TABLE readings (a int, time timestamptz NOT NULL, b int, device int NOT NULL, note text,
                           PRIMARY KEY (time, device));
    ALTER TABLE readings DROP COLUMN a;
    SELECT create_hypertable('readings', 'time', chunk_time_interval => interval '1 day');
    INSERT INTO readings VALUES (${day(0)}, 0, 1, 'old'), (${day(0)}, 0, 9, 'old');
    ALTER TABLE readings DROP COLUMN b`);
}

test('way 5: a row filter copied to new chunks after a column was dropped would filter by another column: our publication has none', async (context) => {
  await using db = await createDatabase();
  if (!(await hasSetting(db, AUTO_PUBLICATION))) {
    context.skip('TimescaleDB publishes new chunks by itself from 2.25 on');
  }
  await fillWithDroppedColumns(db);
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  await db.query(
    `BEGIN; SET LOCAL ${AUTO_PUBLICATION} = on; ${insert(1, 1)}; ${insert(1, 9)}; COMMIT`,
  );
  await db.query(`UPDATE readings SET note = 'changed' WHERE device = 1;
                  DELETE FROM readings WHERE device = 9 AND time = ${day(0)}`);
  const second = (await connection.sync()).succeeded();
  expect(chunksRead(second)).toBe(0);
  expect(second.records('readings')).toHaveLength(5);
  await connection.expectEqual('readings');
  const filters = await db.query(
    'SELECT FROM pg_publication_rel WHERE prqual IS NOT NULL OR prattrs IS NOT NULL',
  );
  expect(filters).toEqual([]);
});

test('way 5: a row filter on a hypertable, which new chunks copy so that no slot can decode them, is refused', async (context) => {
  await using db = await createDatabase();
  if (!(await hasSchemaPublications(db))) context.skip('needs PostgreSQL 15');
  await fillWithDroppedColumns(db);
  await db.query(`CREATE PUBLICATION ${db.publication} FOR TABLE readings WHERE (device > 5)`);
  const connection = await connectTo(db);
  const failed = await connection.attempt();
  expect(failed.exitCode).toBe(1);
  expect(failed.errors()[0]?.message).toMatch(/row filter/);
  expect(failed.records()).toEqual([]);
});

/** Chunks outside of the schema that is published. */
async function fillElsewhere(db: Database): Promise<void> {
  await db.query('CREATE SCHEMA elsewhere');
  await db.query(`
    CREATE TABLE readings (time timestamptz NOT NULL, device int NOT NULL, note text, PRIMARY KEY (time, device));
    SELECT create_hypertable('readings', 'time', chunk_time_interval => interval '1 day',
                             associated_schema_name => 'elsewhere', associated_table_prefix => 'part');
    INSERT INTO readings SELECT ${day(0)} + day * interval '1 day' + i * interval '30 minutes', i, 'old'
      FROM generate_series(0, 2) day, generate_series(1, ${CHUNK_ROWS}) i`);
}

/** Before PostgreSQL 15 a publication names its tables. */
async function hasSchemaPublications(db: Database): Promise<boolean> {
  return db.value<boolean>("SELECT current_setting('server_version_num')::int >= 150000");
}

test('way 6: chunks outside of the published schema would be lost: they are added to the publication', async (context) => {
  await using db = await createDatabase();
  if (!(await hasSchemaPublications(db))) context.skip('needs PostgreSQL 15');
  await fillElsewhere(db);
  await db.query(`CREATE PUBLICATION ${db.publication} FOR TABLES IN SCHEMA _timescaledb_internal`);
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  await db.query(`${changes(1, 'changed')} ${insert(7, 7)}`);
  expect((await connection.sync()).succeeded().records()).toHaveLength(4);
  await db.query(changes(7, 'changed'));
  expect((await connection.sync()).succeeded().records()).toHaveLength(1);
  await connection.expectEqual('readings');
});

test('way 6: chunks outside of the published schema that nobody adds are read again in each sync', async (context) => {
  await using db = await createDatabase();
  if (!(await hasSchemaPublications(db))) context.skip('needs PostgreSQL 15');
  await fillElsewhere(db);
  const connection = await firstSync(db, 'FOR TABLES IN SCHEMA _timescaledb_internal');
  await db.query(
    `${insert(1, 100)}; ${insert(7, 7)}; UPDATE readings SET note = 'changed' WHERE device = 3`,
  );
  const second = (await connection.sync()).succeeded();
  expect(chunksRead(second)).toBe(4);
  await connection.expectEqual('readings');
});

test('way 7: the owner’s statements would fail: caggs are refreshed and hypertables made while we sync', async (context) => {
  await using db = await createDatabase();
  if (!(await hasCompression(db))) {
    context.skip('the Apache-only build has no continuous aggregates');
  }
  await fillReadings(db, 3);
  await db.query(`
    CREATE MATERIALIZED VIEW daily WITH (timescaledb.continuous) AS
      SELECT time_bucket('1 day', time) AS day, count(*) AS readings FROM readings GROUP BY 1 WITH NO DATA`);
  const refresh = `CALL refresh_continuous_aggregate('daily', NULL, NULL)`;
  await db.query(refresh);
  const connection = await connectTo(db, { streams: ['readings'] });
  (await connection.sync()).succeeded();
  await db.query(changes(1, 'changed'));
  await db.query(refresh);
  await db.query(`CREATE TABLE later (time timestamptz NOT NULL, id int)`);
  await db.query(`SELECT create_hypertable('later', 'time')`);
  await db.query(
    `INSERT INTO later VALUES (${day(0)}, 1); UPDATE later SET id = 2; DELETE FROM later`,
  );
  expect((await connection.sync()).succeeded().records()).toHaveLength(4);
  await db.query(refresh);
  expect((await connection.sync()).succeeded().records()).toEqual([]);
  await connection.expectEqual('readings');
});
