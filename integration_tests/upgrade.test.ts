/** An upgrade of the extension while a slot is open. Needs a server that has both versions of the full build. */
import { expect, test, type TestContext } from 'vitest';
import pg from 'pg';
import { createDatabase, type Database } from './database.ts';
import { connectTo, DAY_ZERO } from './scenario.ts';

const FROM = '2.28.3';
const TO = '2.29.2';

/** The first statement of a session, as the extension demands. */
async function alone(db: Database, sql: string): Promise<void> {
  const client = new pg.Client({ connectionString: db.url });
  await client.connect();
  try {
    await client.query(sql);
  } finally {
    await client.end();
  }
}

async function atOldVersion(db: Database, context: TestContext): Promise<void> {
  const versions = await db.query<{ version: string }>(
    `SELECT version FROM pg_available_extension_versions WHERE name = 'timescaledb'`,
  );
  const known = new Set(versions.map(({ version }) => version));
  if (!known.has(FROM) || !known.has(TO)) context.skip(`the server lacks ${FROM} or ${TO}`);
  await alone(db, 'DROP EXTENSION timescaledb');
  await alone(db, `CREATE EXTENSION timescaledb VERSION '${FROM}'`);
  await alone(
    db,
    `CREATE TABLE metrics (time timestamptz NOT NULL, device int NOT NULL, value float8, PRIMARY KEY (time, device));
     SELECT create_hypertable('metrics', 'time', chunk_time_interval => interval '1 day');
     ALTER TABLE metrics SET (timescaledb.compress, timescaledb.compress_segmentby = 'device');
     INSERT INTO metrics SELECT '${DAY_ZERO}'::timestamptz + i * interval '1 hour', 1, i FROM generate_series(0, 71) i`,
  );
}

function insert(device: number): string {
  return `INSERT INTO metrics SELECT '${DAY_ZERO}'::timestamptz + i * interval '1 hour', ${device}, i FROM generate_series(0, 9) i`;
}

test('way 20, case F39: an upgrade to 2.29 with a compressed chunk stops the sync loudly, and a cleared one is right', async (context) => {
  await using db = await createDatabase();
  await atOldVersion(db, context);
  await alone(db, `SELECT compress_chunk(c) FROM show_chunks('metrics') c LIMIT 1`);
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  await alone(db, insert(2));
  await alone(db, `ALTER EXTENSION timescaledb UPDATE TO '${TO}'`);
  await alone(db, insert(3));

  // However often it is tried: nothing is passed over.
  for (let attempt = 1; attempt <= 2; attempt += 1) {
    const stopped = await connection.sync();
    expect(stopped.exitCode).toBe(1);
    expect(stopped.errors()[0]).toMatchObject({ failure_type: 'config_error' });
    expect(stopped.errors()[0]?.message).toContain('upgrade of the TimescaleDB extension');
  }
  await connection.clear();
  (await connection.sync()).succeeded();
  await connection.expectEqual('metrics');
});

test('way 20, case F39: an upgrade without compressed chunks is nothing to the sync', async (context) => {
  await using db = await createDatabase();
  await atOldVersion(db, context);
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  await alone(db, insert(2));
  await alone(db, `ALTER EXTENSION timescaledb UPDATE TO '${TO}'`);
  await alone(db, insert(3));
  expect((await connection.sync()).succeeded().records()).toHaveLength(20);
  await connection.expectEqual('metrics');
});
