/** Continuous aggregates as streams: their materialized rows, then what each refresh changes, one record per group. */
import { expect, test } from 'vitest';
import { run } from './connector.ts';
import { createDatabase, type Database, hasCompression } from './database.ts';
import { connectTo, type Connection, DAY_ZERO } from './scenario.ts';

const FULL_ONLY = 'only the full build has continuous aggregates';
const DAY = `'${DAY_ZERO}'::timestamptz`;

async function fill(db: Database): Promise<void> {
  await db.query(`
    CREATE TABLE metrics (time timestamptz NOT NULL, device int, value float8);
    SELECT create_hypertable('metrics', 'time', chunk_time_interval => interval '1 day');
    INSERT INTO metrics
      SELECT ${DAY} + i * interval '10 minutes', nullif(i % 4, 0), i FROM generate_series(0, 6 * 24 * 3 - 1) i`);
  await db.query(`
    CREATE MATERIALIZED VIEW hourly WITH (timescaledb.continuous) AS
      SELECT time_bucket('1 hour', time) AS bucket, device, sum(value) AS total, count(*) AS rows
        FROM metrics GROUP BY 1, device WITH NO DATA`);
  await refresh(db);
}

async function refresh(db: Database, from = 'NULL', to = 'NULL'): Promise<void> {
  await db.query(`CALL refresh_continuous_aggregate('hourly', ${from}, ${to})`);
}

/** `_timescaledb_internal._materialized_hypertable_N`. */
function materialization(db: Database, view = 'hourly'): Promise<string> {
  return db.value<string>(
    `SELECT format('%I.%I', h.schema_name, h.table_name)
       FROM _timescaledb_catalog.continuous_agg ca
       JOIN _timescaledb_catalog.hypertable h ON h.id = ca.mat_hypertable_id
      WHERE ca.user_view_name = $1`,
    [view],
  );
}

async function followed(db: Database): Promise<Connection> {
  await fill(db);
  await db.query(`ALTER TABLE ${await materialization(db)} REPLICA IDENTITY FULL`);
  return connectTo(db, { streams: ['hourly'] });
}

test('without a replica identity it is read in full, and nothing of it is published', async (context) => {
  await using db = await createDatabase();
  if (!(await hasCompression(db))) context.skip(FULL_ONLY);
  await fill(db);
  const discovered = (await run('discover', { config: db.config() })).succeeded();
  const stream = discovered.catalog().streams.find(({ name }) => name === 'hourly');
  expect(stream?.supported_sync_modes).toEqual(['full_refresh']);
  expect(discovered.logs().join()).toContain(
    `${(await materialization(db)).split('.').join('"."')}" REPLICA IDENTITY FULL`,
  );

  const connection = await connectTo(db, { streams: ['hourly', 'metrics'] });
  (await connection.sync()).succeeded();
  await connection.expectEqual('hourly', 'metrics');
  await refresh(db);
  const published = await db.value<number>(
    `SELECT count(*)::int FROM pg_publication_tables t JOIN pg_inherits i ON i.inhrelid = format('%I.%I', schemaname, tablename)::regclass
      WHERE i.inhparent = '${await materialization(db)}'::regclass`,
  );
  expect(published).toBe(0);
});

test('its groups are its key; nulls are groups too', async (context) => {
  await using db = await createDatabase();
  if (!(await hasCompression(db))) context.skip(FULL_ONLY);
  const connection = await followed(db);
  expect(connection.catalog.streams[0]).toMatchObject({
    sync_mode: 'incremental',
    primary_key: [['bucket'], ['device']],
  });
  (await connection.sync()).succeeded();
  await connection.expectEqual('hourly');
});

test('a refresh is one record per group that it wrote, and a deletion only of groups that are gone', async (context) => {
  await using db = await createDatabase();
  if (!(await hasCompression(db))) context.skip(FULL_ONLY);
  const connection = await followed(db);
  (await connection.sync()).succeeded();

  await db.query(`UPDATE metrics SET value = -1 WHERE time = ${DAY} + interval '10 minutes'`);
  await db.query(`DELETE FROM metrics WHERE device IS NULL AND time < ${DAY} + interval '1 hour'`);
  await refresh(db);
  const changed = (await connection.sync()).succeeded().records();
  // The first bucket was refreshed as a whole: three groups are written, the one without a device is gone.
  expect(changed.map(({ data }) => data['_ab_cdc_deleted_at'] !== null)).toEqual([
    true,
    false,
    false,
    false,
  ]);
  expect(changed[0]?.data['device']).toBeNull();
  await connection.expectEqual('hourly');
});

test('a forced refresh without a change deletes nothing', async (context) => {
  await using db = await createDatabase();
  if (!(await hasCompression(db))) context.skip(FULL_ONLY);
  const connection = await followed(db);
  (await connection.sync()).succeeded();
  const forced = await db.value<boolean>(
    `SELECT 'force' = ANY (proargnames) FROM pg_proc WHERE proname = 'refresh_continuous_aggregate'`,
  );
  if (!forced) context.skip('this version cannot force a refresh');
  const procedure = `CALL refresh_continuous_aggregate('hourly', NULL, NULL, force => true)`;
  await db.query(procedure);
  const again = (await connection.sync()).succeeded().records();
  expect(again).toHaveLength(await db.value<number>('SELECT count(*)::int FROM hourly'));
  expect(again.filter(({ data }) => data['_ab_cdc_deleted_at'] !== null)).toEqual([]);
  await connection.expectEqual('hourly');
});

test('new buckets make new chunks, which are found as those of any hypertable', async (context) => {
  await using db = await createDatabase();
  if (!(await hasCompression(db))) context.skip(FULL_ONLY);
  const connection = await followed(db);
  (await connection.sync()).succeeded();
  const table = await materialization(db);
  const count = `SELECT count(*)::int FROM show_chunks('${table}')`;
  const before = await db.value<number>(count);
  await db.query(
    `INSERT INTO metrics SELECT ${DAY} + i * interval '1 day', 1, 1 FROM generate_series(100, 160, 20) i`,
  );
  await refresh(db);
  expect(await db.value<number>(count)).toBeGreaterThan(before);
  (await connection.sync()).succeeded();
  await connection.expectEqual('hourly');
  await db.query(`INSERT INTO metrics SELECT ${DAY} + interval '100 days', 2, 5`);
  await refresh(db);
  expect((await connection.sync()).succeeded().records()).toHaveLength(2);
  await connection.expectEqual('hourly');
});

test('what is not materialized yet comes with the refresh that materializes it', async (context) => {
  await using db = await createDatabase();
  if (!(await hasCompression(db))) context.skip(FULL_ONLY);
  const connection = await followed(db);
  await db.query('ALTER MATERIALIZED VIEW hourly SET (timescaledb.materialized_only = false)');
  const before = await db.value<number>('SELECT count(*)::int FROM hourly');
  await db.query(`INSERT INTO metrics SELECT ${DAY} + interval '10 days', 1, 1`);
  expect(await db.value<number>('SELECT count(*)::int FROM hourly')).toBe(before + 1);
  expect((await connection.sync()).succeeded().records()).toHaveLength(before);
  await refresh(db);
  expect((await connection.sync()).succeeded().records()).toHaveLength(1);
  await connection.expectEqual('hourly');

  const full = await connectTo(db, { streams: ['hourly'], syncMode: 'full_refresh' });
  await db.query(`INSERT INTO metrics SELECT ${DAY} + interval '11 days', 1, 1`);
  expect((await full.sync()).succeeded().records()).toHaveLength(before + 2);
});

test('a compressed one is read whole and followed', async (context) => {
  await using db = await createDatabase();
  if (!(await hasCompression(db))) context.skip(FULL_ONLY);
  const connection = await followed(db);
  await db.query('ALTER MATERIALIZED VIEW hourly SET (timescaledb.compress)');
  const table = await materialization(db);
  const compress = `SELECT compress_chunk(c) FROM show_chunks('${table}') c`;
  await db.query(compress);
  (await connection.sync()).succeeded();
  await connection.expectEqual('hourly');
  await db.query(`UPDATE metrics SET value = value + 1 WHERE time < ${DAY} + interval '3 hours'`);
  await refresh(db);
  await db.query(compress);
  (await connection.sync()).succeeded();
  await connection.expectEqual('hourly');
});

test('its columns may be renamed, and a group that it does not show leaves it without a key', async (context) => {
  await using db = await createDatabase();
  if (!(await hasCompression(db))) context.skip(FULL_ONLY);
  await fill(db);
  await db.query(`
    ALTER MATERIALIZED VIEW hourly RENAME COLUMN device TO "the device";
    ALTER TABLE ${await materialization(db)} REPLICA IDENTITY FULL`);
  await db.query(`
    CREATE MATERIALIZED VIEW hidden WITH (timescaledb.continuous) AS
      SELECT time_bucket('1 hour', time) AS bucket, sum(value) AS total FROM metrics GROUP BY 1, device`);
  await db.query(`ALTER TABLE ${await materialization(db, 'hidden')} REPLICA IDENTITY FULL`);
  const connection = await connectTo(db, { streams: ['hourly', 'hidden'] });
  const [hourly, hidden] = connection.catalog.streams;
  expect(hourly?.primary_key).toEqual([['bucket'], ['the device']]);
  expect(hidden).toMatchObject({ sync_mode: 'full_refresh', primary_key: [] });
  (await connection.sync()).succeeded();
  await connection.expectEqual('hourly', 'hidden');
});
