/** R7, R8 and R9: nothing unknown is passed over, the slot waits for the state, and states stand at commits. */
import { expect, test } from 'vitest';
import { createDatabase, type Database } from './database.ts';
import { Destination } from './destination.ts';
import { type Connection, connectTo, DAY_ZERO, lsnOf } from './scenario.ts';

async function fillMetrics(db: Database): Promise<void> {
  await db.query(`
    CREATE TABLE metrics (time timestamptz NOT NULL, device int NOT NULL, value float8,
                          PRIMARY KEY (time, device));
    SELECT create_hypertable('metrics', 'time', chunk_time_interval => interval '1 day');
    INSERT INTO metrics
      SELECT '${DAY_ZERO}'::timestamptz + day * interval '1 day' + i * interval '1 minute', i, i
        FROM generate_series(0, 2) day, generate_series(1, 10) i`);
}

test('R7: changes of a table that was dropped since stop the sync with its name', async () => {
  await using db = await createDatabase();
  await fillMetrics(db);
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  const before = lsnOf(connection.destination.state);
  await db.query(`CREATE TABLE extra (id int PRIMARY KEY);
                  ALTER PUBLICATION ${db.publication} ADD TABLE extra`);
  await db.query('INSERT INTO extra VALUES (1)');
  await db.query('DROP TABLE extra');
  const failed = await connection.sync();
  expect(failed.exitCode).toBe(1);
  expect(
    failed
      .errors()
      .map(({ message }) => message)
      .join('\n'),
  ).toContain('public.extra');
  // Nothing is skipped, nothing is forgotten: the state is where it was, and a second attempt says the same.
  expect(lsnOf(connection.destination.state)).toBe(before);
  const again = await connection.sync();
  expect(again.exitCode).toBe(1);
  expect(again.errors()[0]?.message).toBe(failed.errors()[0]?.message);
});

test('case F34: also: R7: rows of a chunk that was made, filled and dropped between two syncs arrive', async () => {
  await using db = await createDatabase();
  await fillMetrics(db);
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  await db.query(`INSERT INTO metrics VALUES ('2026-03-01Z', 0, 0)`);
  const chunk = await db.value<string>(
    `SELECT quote_ident(chunk_schema) || '.' || quote_ident(chunk_name) FROM timescaledb_information.chunks
      WHERE hypertable_name = 'metrics' ORDER BY range_start DESC LIMIT 1`,
  );
  // As an event trigger of the database's owner does it.
  await db.query(`ALTER PUBLICATION ${db.publication} ADD TABLE ONLY ${chunk}`);
  await db.query(`INSERT INTO metrics SELECT '2026-03-01Z', i, i FROM generate_series(1, 10) i`);
  await db.query(`SELECT drop_chunks('metrics', newer_than => '2026-02-01Z'::timestamptz)`);
  const second = (await connection.sync()).succeeded();
  expect(second.records('metrics').map(({ data }) => data['device'])).toEqual([
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10,
  ]);
});

test('R7: tables and hypertables of the publication that nobody selected are ignored', async () => {
  await using db = await createDatabase();
  await fillMetrics(db);
  await db.query(`
    CREATE TABLE other (id int PRIMARY KEY);
    CREATE TABLE other_metrics (time timestamptz PRIMARY KEY);
    SELECT create_hypertable('other_metrics', 'time');
    INSERT INTO other_metrics VALUES ('2026-01-01Z')`);
  const connection = await connectTo(db, { streams: ['metrics'] });
  (await connection.sync()).succeeded();
  await db.query(`
    ALTER PUBLICATION ${db.publication} ADD TABLE other, other_metrics;
    INSERT INTO other VALUES (1);
    INSERT INTO metrics VALUES ('2026-01-01Z', 50, 0);
    INSERT INTO other_metrics VALUES ('2026-01-02Z')`);
  const second = (await connection.sync()).succeeded();
  expect(second.records().map(({ data }) => data['device'])).toEqual([50]);
});

function confirmed(db: Database): Promise<string> {
  return db.value<string>(
    'SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1',
    [db.slot],
  );
}

test('case B9: R8: a sync confirms the state that it was handed, and nothing more', async () => {
  await using db = await createDatabase();
  await fillMetrics(db);
  const connection = await connectTo(db);
  const atStates = async (): Promise<string[]> => {
    const positions = new Set<string>();
    const result = await connection.sync({
      onMessage: async (message) => {
        if (message.type === 'STATE') positions.add(await confirmed(db));
      },
    });
    result.succeeded();
    positions.add(await confirmed(db));
    return [...positions];
  };
  expect(await atStates()).toHaveLength(1);
  for (let i = 0; i < 3; i += 1) {
    await db.query(`INSERT INTO metrics VALUES ('2026-01-01Z', 100 + ${i}, 0)`);
    const handedIn = lsnOf(connection.destination.state);
    expect(await atStates()).toEqual([handedIn]);
    expect(lsnOf(connection.destination.state)).not.toBe(handedIn);
  }
});

test('case C19: R8: on an idle database the position moves on, the sync ends at once, and its copy of the slot with it', async () => {
  await using db = await createDatabase();
  await fillMetrics(db);
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  // WAL of others, of which nothing is published.
  await db.query('CREATE TABLE unpublished AS SELECT generate_series(1, 10000) AS id');
  const position = await db.value<string>('SELECT pg_current_wal_insert_lsn()::text');
  const idle = (await connection.sync()).succeeded();
  expect(idle.seconds).toBeLessThan(5);
  expect(idle.records()).toEqual([]);
  expect(await isReached(db, connection, position)).toBe(true);
  expect(await db.slots()).toEqual([{ name: db.slot, temporary: false, active: false }]);
});

test('R8: WAL that nobody has committed, and that therefore is not on disk, keeps no sync waiting', async () => {
  await using db = await createDatabase();
  await fillMetrics(db);
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  await db.query(`CREATE TABLE versions WITH (autovacuum_enabled = off) AS
                    SELECT i, repeat('x', 200) AS note FROM generate_series(1, 3000) i`);
  await db.query(`DELETE FROM versions WHERE i % 3 = 0`);
  const reader = await db.client();
  try {
    // It removes dead rows from their pages, as every reader does, and ends without a commit.
    await reader.query('BEGIN READ ONLY; SELECT count(*) FROM versions; ROLLBACK');
    expect((await connection.sync()).succeeded().seconds).toBeLessThan(5);
  } finally {
    await reader.end();
  }
});

function isReached(db: Database, connection: Connection, position: string): Promise<boolean> {
  return db.value<boolean>('SELECT $1::pg_lsn >= $2::pg_lsn', [
    lsnOf(connection.destination.state),
    position,
  ]);
}

/** A table of rows that carry the number of the transaction that wrote them. */
async function syncedItems(db: Database): Promise<Connection> {
  await db.query('CREATE TABLE items (id int PRIMARY KEY, transaction int)');
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  return connection;
}

test('R9: no state stands inside a transaction, however large', async () => {
  await using db = await createDatabase();
  const connection = await syncedItems(db);
  const rows = 120_000;
  await db.query(`INSERT INTO items SELECT i, 1 FROM generate_series(1, ${rows}) i`);
  const result = (await connection.sync()).succeeded();
  const kinds = result.messages.flatMap(({ type }) =>
    type === 'RECORD' || type === 'STATE' ? [type] : [],
  );
  expect(kinds.filter((kind) => kind === 'RECORD')).toHaveLength(rows);
  const first = kinds.indexOf('RECORD');
  expect(kinds.slice(first, first + rows).includes('STATE')).toBe(false);
  await connection.expectEqual('items');
});

test('case B10: R9: among many transactions states stand at commits, and each is a place to go on from', async () => {
  await using db = await createDatabase();
  const connection = await syncedItems(db);
  const [transactions, rows] = [110, 1000];
  for (let n = 0; n < transactions; n += 1) {
    await db.query(
      `INSERT INTO items SELECT ${n} * ${rows} + i, ${n} FROM generate_series(1, ${rows}) i`,
    );
  }
  const { destination } = connection;
  const start = destination.state;
  const { messages } = (await connection.sync()).succeeded();
  const stateAt = messages.flatMap(({ type }, index) => (type === 'STATE' ? [index] : []));
  expect(stateAt.length).toBeGreaterThanOrEqual(4); // at the beginning, behind 50,000 and 100,000, at the end
  await connection.expectEqual('items');
  let seen = 0;
  for (const [index, message] of messages.entries()) {
    if (message.type === 'RECORD') seen += 1;
    // Each transaction has as many records, so a state at a commit stands behind a multiple.
    if (stateAt.includes(index)) expect(seen % rows).toBe(0);
  }
  // In their order: going on from one confirms it to the server.
  for (const at of stateAt) {
    connection.destination = new Destination(connection.catalog);
    connection.destination.state = start;
    connection.destination.apply(messages.slice(0, at + 1));
    (await connection.sync()).succeeded();
    await connection.expectEqual('items');
  }
});
