/** Hypertables whose chunks are not what they seem: tiered ones, which are foreign tables; rows that policies hide. */
import { expect, test } from 'vitest';
import { run } from './connector.ts';
import { createDatabase, type Database, hasCompression } from './database.ts';
import { createRoles } from './roles.ts';
import { connectTo, DAY_ZERO } from './scenario.ts';
import { expectChanges, expectFirstSync, expectStream, type TableName } from './shapes.ts';

const STREAM: TableName = ['public', 'metrics'];
const STANDARD = { replication_method: { method: 'Standard' } };
const DIMENSIONS = [{ column: 'time', type: 'timestamp with time zone', interval: '1 day' }];

function day(n: number): string {
  return `('${DAY_ZERO}'::timestamptz + interval '${n} days')`;
}

async function fillMetrics(db: Database): Promise<void> {
  await db.query(`
    CREATE TABLE metrics (time timestamptz NOT NULL, device int NOT NULL, note text, PRIMARY KEY (time, device));
    SELECT create_hypertable('metrics', 'time', chunk_time_interval => interval '1 day');
    INSERT INTO metrics SELECT ${day(0)} + d * interval '1 day', i, 'initial'
      FROM generate_series(0, 2) d, generate_series(1, 10) i`);
}

/** A chunk in what stands for object storage: a table of the same database behind a foreign one. */
async function attachTiered(db: Database): Promise<void> {
  const { hostname, port, username, password } = new URL(db.url);
  await db.query(`
    CREATE SCHEMA storage;
    CREATE TABLE storage.old (time timestamptz NOT NULL, device int NOT NULL, note text);
    INSERT INTO storage.old SELECT ${day(-9)} + i * interval '1 minute', i, 'tiered' FROM generate_series(1, 10) i;
    CREATE EXTENSION postgres_fdw;
    CREATE SERVER storage FOREIGN DATA WRAPPER postgres_fdw
      OPTIONS (host '${hostname}', port '${port === '' ? '5432' : port}', dbname '${db.name}');
    CREATE USER MAPPING FOR CURRENT_USER SERVER storage
      OPTIONS (user '${username}', password '${password}', password_required 'false');
    CREATE FOREIGN TABLE tiered (time timestamptz NOT NULL, device int NOT NULL, note text)
      SERVER storage OPTIONS (schema_name 'storage', table_name 'old');
    SELECT _timescaledb_functions.attach_osm_table_chunk('metrics', 'tiered')`);
}

const NOT_TIERED = 'only the full build takes a foreign table for a chunk';

test('a tiered chunk is read with its hypertable, and no stream of its own', async (context) => {
  await using db = await createDatabase();
  if (!(await hasCompression(db))) context.skip(NOT_TIERED);
  await fillMetrics(db);
  await attachTiered(db);
  const connection = await connectTo(db, {}, { schemas: ['public'] });
  expectStream(connection, { stream: STREAM, dimensions: DIMENSIONS }, 4);
  await expectFirstSync(connection, STREAM);
  await expectChanges(connection, {
    stream: STREAM,
    changes: `INSERT INTO metrics VALUES (${day(0)}, 100, 'new'), (${day(9)}, 1, 'new chunk');
              UPDATE metrics SET note = 'changed' WHERE device = 1 AND time >= ${day(0)} AND time < ${day(3)};
              DELETE FROM metrics WHERE device = 2 AND time >= ${day(0)}`,
    records: 2 + 3 + 3,
  });
});

test('a chunk that is tiered between two syncs is read then, and once', async (context) => {
  await using db = await createDatabase();
  if (!(await hasCompression(db))) context.skip(NOT_TIERED);
  await fillMetrics(db);
  const connection = await connectTo(db, {}, { schemas: ['public'] });
  await expectFirstSync(connection, STREAM);
  await attachTiered(db);
  const second = (await connection.sync()).succeeded();
  expect(second.records()).toHaveLength(10);
  await connection.expectEqual('metrics');
  expect((await connection.sync()).succeeded().records()).toEqual([]);
});

test('tiered chunks are read in full without CDC', async (context) => {
  await using db = await createDatabase();
  if (!(await hasCompression(db))) context.skip(NOT_TIERED);
  await fillMetrics(db);
  await attachTiered(db);
  const overrides = { ...STANDARD, schemas: ['public'] };
  await expectFirstSync(await connectTo(db, { syncMode: 'full_refresh' }, overrides), STREAM);
});

test('row level security: chunks are read directly, so every row comes, and discover warns', async () => {
  await using roles = await createRoles();
  await using db = await createDatabase();
  await fillMetrics(db);
  const reader = await roles.create('LOGIN REPLICATION');
  await db.query(`
    GRANT SELECT ON metrics TO ${reader};
    CREATE POLICY own ON metrics USING (device = 1);
    ALTER TABLE metrics ENABLE ROW LEVEL SECURITY;
    CREATE PUBLICATION ${db.publication} FOR TABLE metrics`);
  await db.query(`SELECT pg_create_logical_replication_slot('${db.slot}', 'pgoutput')`);
  const connection = await connectTo(db, {}, { username: reader });
  const discovered = await run('discover', { config: connection.config });
  expect(discovered.logs().join('\n')).toMatch(
    /WARN Row level security on the hypertable "public.metrics" has no effect/,
  );
  await expectFirstSync(connection, STREAM);
  await expectChanges(connection, {
    stream: STREAM,
    changes: `INSERT INTO metrics VALUES (${day(0)}, 100, 'new'), (${day(9)}, 2, 'new chunk');
              UPDATE metrics SET note = 'changed' WHERE device = 3; DELETE FROM metrics WHERE device = 4`,
    records: 2 + 3 + 3,
  });
});
