/** More ways to lose or invent rows: columns, identities, rewrites, dropped chunks, and what policies and views hide. */
import { expect, test } from 'vitest';
import { compareWithTable, expectEqual } from './comparison.ts';
import { run } from './connector.ts';
import { createDatabase, type Database, hasCompression } from './database.ts';
import { createRoles } from './roles.ts';
import { connectTo } from './scenario.ts';
import { CHUNK_ROWS, changes, chunkNames, day, fillReadings, ONE_BY_ONE } from './ways.ts';

/** Of every stream of changes. */
const CDC_COLUMNS = ['lsn', 'updated_at', 'deleted_at', 'cursor'].map((name) => `_ab_cdc_${name}`);

test('also: mapped by column number, values of chunks made before and after a dropped column would change places', async () => {
  await using db = await createDatabase();
  const insert = (n: number): string =>
    `INSERT INTO readings (time, device, note, place)
       SELECT ${day(n)} + i * interval '1 hour', i, 'note ' || i, 'place ' || i FROM generate_series(1, 5) i`;
  await db.query(`
    CREATE TABLE readings (a text, time timestamptz NOT NULL, b text, device int, c text, note text, place text);
    ALTER TABLE readings DROP COLUMN a;
    SELECT create_hypertable('readings', 'time', chunk_time_interval => interval '1 day');
    ALTER TABLE readings REPLICA IDENTITY FULL`);
  await db.query(insert(0));
  await db.query('ALTER TABLE readings DROP COLUMN b');
  await db.query(insert(1));
  const columns = ['time', 'device', 'note', 'place', ...CDC_COLUMNS];
  const connection = await connectTo(db, { columns });
  expect((await connection.sync()).succeeded().records()).toHaveLength(10);
  await connection.expectEqual('readings');
  await db.query('ALTER TABLE readings DROP COLUMN c');
  await db.query(insert(2));
  for (const n of [0, 1, 2]) {
    await db.query(`${changes(n, 'changed')} UPDATE readings SET place = note WHERE device = 5`);
  }
  (await connection.sync()).succeeded();
  await connection.expectEqual('readings');
  const numbers = await db.query(
    `SELECT DISTINCT array_agg(attnum ORDER BY attname) FROM pg_attribute
      WHERE attname IN ('time', 'device', 'note', 'place')
        AND attrelid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'readings'::regclass) GROUP BY attrelid`,
  );
  expect(numbers).toHaveLength(3);
});

test('also: generated columns, which the WAL lacks, would become null with the first change', async () => {
  await using db = await createDatabase();
  const virtual = await db.value<boolean>(
    "SELECT current_setting('server_version_num')::int >= 180000",
  );
  await db.query(`
    CREATE TABLE readings (time timestamptz NOT NULL, device int, doubled int GENERATED ALWAYS AS (device * 2) STORED,
                           ${virtual ? 'tripled int GENERATED ALWAYS AS (device * 3) VIRTUAL,' : ''}
                           note text, PRIMARY KEY (time, device));
    SELECT create_hypertable('readings', 'time', chunk_time_interval => interval '1 day');
    INSERT INTO readings (time, device, note) SELECT ${day(0)}, i, 'old' FROM generate_series(1, 5) i`);
  const connection = await connectTo(db);
  const first = (await connection.sync()).succeeded();
  await db.query(`UPDATE readings SET note = 'changed' WHERE device < 3;
                  INSERT INTO readings (time, device, note) VALUES (${day(0)}, 9, 'new')`);
  const second = (await connection.sync()).succeeded();
  expect([first.records().length, second.records().length]).toEqual([5, 3]);
  const columns = ({ data }: { readonly data: Readonly<Record<string, unknown>> }): string[] =>
    Object.keys(data)
      .filter((name) => !name.startsWith('_ab_'))
      .toSorted();
  for (const record of [...first.records(), ...second.records()]) {
    expect(columns(record)).toEqual(['device', 'note', 'time']);
  }
  // The catalog names them, for full refreshes; the other columns are as in the table.
  const others = await connectTo(db, { columns: ['time', 'device', 'note', ...CDC_COLUMNS] });
  others.destination.apply([...first.messages, ...second.messages]);
  await others.expectEqual('readings');
});

test('also: once the index of its replica identity is dropped, changes of a hypertable would be lost: the sync says so', async () => {
  await using db = await createDatabase();
  await db.query(`
    CREATE TABLE readings (time timestamptz NOT NULL, device int NOT NULL, note text);
    SELECT create_hypertable('readings', 'time', chunk_time_interval => interval '1 day');
    CREATE UNIQUE INDEX identity ON readings (time, device);
    ALTER TABLE readings REPLICA IDENTITY USING INDEX identity;
    INSERT INTO readings SELECT ${day(0)} + i * interval '1 hour', i, 'old' FROM generate_series(1, 30) i`);
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  await db.query(`UPDATE readings SET note = 'before' WHERE device = 2`);
  await db.query('DROP INDEX identity');
  // A new chunk has no identity either.
  await db.query(`INSERT INTO readings VALUES (${day(5)}, 1, 'new'), (${day(5)}, 2, 'new')`);
  await expect(db.query(`UPDATE readings SET note = 'x' WHERE device = 3`)).rejects.toThrow(
    /replica identity/,
  );
  const failed = await connection.sync();
  expect(failed.exitCode).toBe(1);
  expect(failed.errors()[0]?.message).toMatch(/public\.readings .* no replica identity/);
  expect(failed.records()).toEqual([]);
  await db.query('ALTER TABLE readings REPLICA IDENTITY FULL');
  await db.query(`UPDATE readings SET note = 'after' WHERE device = 2;
                  DELETE FROM readings WHERE device = 1`);
  (await connection.sync()).succeeded();
  await connection.expectEqual('readings');
});

test('also: dropped chunks, taken for deletes, would take rows away that nobody deleted', async () => {
  await using db = await createDatabase();
  await fillReadings(db, 4);
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  await db.query(changes(1, 'changed'));
  await db.query(`SELECT drop_chunks('readings', older_than => ${day(2)})`);
  await db.query(changes(2, 'changed'));
  const second = (await connection.sync()).succeeded();
  // Those of a chunk that is gone by now are still changes.
  expect(second.records()).toHaveLength(8);
  const deleted = second.records().filter(({ data }) => data['_ab_cdc_deleted_at'] !== null);
  expect(deleted).toHaveLength(4);
  const found = await expectEqual(db, connection.destination, 'readings', {
    retained: ([time = '']) => time < '2026-01-03',
  });
  expect(found.retained).toBe(3000 + CHUNK_ROWS);
});

async function fillTyped(db: Database): Promise<void> {
  await db.query(`
    CREATE TABLE readings (time timestamptz NOT NULL, device int, value int, PRIMARY KEY (time, device));
    SELECT create_hypertable('readings', 'time', chunk_time_interval => interval '1 day');
    INSERT INTO readings SELECT ${day(0)} + i * interval '1 hour', i, i FROM generate_series(0, 71) i`);
}

test('also: a rewrite by ALTER TYPE or a volatile default has no events: no row is invented, and later changes are right', async () => {
  await using db = await createDatabase();
  await fillTyped(db);
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  await db.query(`UPDATE readings SET value = 1000 WHERE device = 5`);
  await db.query('ALTER TABLE readings ALTER COLUMN value TYPE bigint USING value + 5000000000');
  await db.query('ALTER TABLE readings ADD COLUMN noise float8 DEFAULT random()');
  await db.query(`UPDATE readings SET value = 6000000000 WHERE device = 6;
                  INSERT INTO readings VALUES (${day(0)}, 99, 7000000000, 0.5);
                  DELETE FROM readings WHERE device = 7`);
  const second = (await connection.sync()).succeeded();
  const rows = second.records().map(({ data }) => [data['device'], data['value']]);
  expect(rows.slice(0, 3)).toEqual([
    [5, 1000],
    [6, 6000000000],
    [99, 7000000000],
  ]);
  expect(rows[3]?.[0]).toBe(7);
  expect(rows).toHaveLength(4);
});

test('also: rows that ALTER TYPE rewrites during the load are read as they are from then on', async () => {
  await using db = await createDatabase();
  await fillTyped(db);
  // Without a key nothing is replayed after an interruption.
  await db.query(`ALTER TABLE readings DROP CONSTRAINT readings_pkey;
                  ALTER TABLE readings REPLICA IDENTITY FULL`);
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
  // Of the chunk that was read before, the values are those of before.
  expect(found).toMatchObject({ missing: 24, extra: 24, destinationRows: 72 });
});

test('also: row level security hides rows of a hypertable, but not of its chunks: all rows are synced, and discover says so', async () => {
  await using roles = await createRoles();
  await using db = await createDatabase();
  await fillReadings(db, 2);
  const reader = await roles.create('LOGIN REPLICATION');
  await db.query(`
    GRANT SELECT ON readings TO ${reader};
    ALTER TABLE readings ENABLE ROW LEVEL SECURITY;
    CREATE POLICY few ON readings USING (device < 3);
    CREATE PUBLICATION ${db.publication} FOR TABLE readings`);
  await db.query(`SELECT pg_create_logical_replication_slot('${db.slot}', 'pgoutput')`);
  const discovered = await run('discover', { config: db.config({ username: reader }) });
  expect(discovered.logs().join('\n')).toMatch(
    /WARN Row level security on the hypertable "public\.readings" has no effect here/,
  );
  const connection = await connectTo(db, {}, { username: reader });
  (await connection.sync()).succeeded();
  await connection.expectEqual('readings');
  await db.query(changes(1, 'changed'));
  expect((await connection.sync()).succeeded().records()).toHaveLength(4);
  await connection.expectEqual('readings');
});

async function createDaily(db: Database): Promise<void> {
  await fillReadings(db, 3);
  await db.query(`
    CREATE MATERIALIZED VIEW daily WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
      SELECT time_bucket('1 day', time) AS day, count(*) AS readings FROM readings GROUP BY 1 WITH NO DATA`);
  await db.query(`CALL refresh_continuous_aggregate('daily', NULL, ${day(2)})`);
}

test('also: a continuous aggregate that is read in full holds the buckets that are not materialized yet', async (context) => {
  await using db = await createDatabase();
  if (!(await hasCompression(db))) context.skip('only the full build has continuous aggregates');
  await createDaily(db);
  const connection = await connectTo(
    db,
    { streams: ['daily'], syncMode: 'full_refresh' },
    { replication_method: { method: 'Standard' } },
  );
  expect((await connection.sync()).succeeded().records('daily')).toHaveLength(3);
  await connection.expectEqual('daily');
});

test('also: what a refresh deletes and inserts, published or not, would be rows of the hypertable below', async (context) => {
  await using db = await createDatabase();
  if (!(await hasCompression(db))) context.skip('only the full build has continuous aggregates');
  await createDaily(db);
  const connection = await connectTo(db, { streams: ['readings'] });
  (await connection.sync()).succeeded();
  const materialized = await db.value<string>(
    `SELECT format('%I.%I', materialization_hypertable_schema, materialization_hypertable_name)
       FROM timescaledb_information.continuous_aggregates`,
  );
  await db.query(`ALTER TABLE ${materialized} REPLICA IDENTITY FULL`);
  await db.query(`ALTER PUBLICATION ${db.publication} ADD TABLE ${materialized}`);
  await db.query(changes(1, 'changed'));
  await db.query(`CALL refresh_continuous_aggregate('daily', NULL, NULL)`);
  const [chunk = ''] = await chunkNames(db, materialized.replace(/^.*\./, ''));
  // Of this one nothing but the name is left when its WAL is read.
  await db.query(`DROP TABLE ${chunk}`);
  expect((await connection.sync()).succeeded().records()).toHaveLength(4);
  await connection.expectEqual('readings');
});
