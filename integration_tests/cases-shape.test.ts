/** Losses that others have had with the shape of tables and of transactions (cases E27 to E32). */
import { expect, test } from 'vitest';
import { compareWithTable } from './comparison.ts';
import { createDatabase, type Database } from './database.ts';
import type { RunResult } from './run-result.ts';
import { type Connection, connectTo, DAY_ZERO, lsnOf, nthState, stopWhen } from './scenario.ts';

/** Records as short texts, deletes marked. */
function shown(result: RunResult, stream: string, ...columns: readonly string[]): string[] {
  return result.records(stream).map(({ data }) => {
    const sign = (data['_ab_cdc_deleted_at'] ?? null) === null ? '+' : '-';
    return `${sign} ${columns.map((column) => String(data[column])).join(' ')}`;
  });
}

async function createMetrics(db: Database, days = 3): Promise<void> {
  await db.query(`
    CREATE TABLE metrics (time timestamptz NOT NULL, device int NOT NULL, note text,
                          PRIMARY KEY (time, device));
    SELECT create_hypertable('metrics', 'time', chunk_time_interval => interval '1 day');
    INSERT INTO metrics
      SELECT '${DAY_ZERO}'::timestamptz + day * interval '1 day', i, 'initial'
        FROM generate_series(0, ${days - 1}) day, generate_series(1, 10) i`);
}

test('case E27: with a unique index as identity a change of key would leave the old row behind', async () => {
  await using db = await createDatabase();
  await db.query(`
    CREATE TABLE messages (time timestamptz NOT NULL, id int NOT NULL, note text);
    SELECT create_hypertable('messages', 'time', chunk_time_interval => interval '1 day');
    CREATE UNIQUE INDEX messages_id ON messages (id, time);
    ALTER TABLE messages REPLICA IDENTITY USING INDEX messages_id;
    CREATE TABLE plain (a int PRIMARY KEY, id int NOT NULL UNIQUE, note text);
    ALTER TABLE plain REPLICA IDENTITY USING INDEX plain_id_key;
    INSERT INTO messages SELECT '${DAY_ZERO}', i, 'initial' FROM generate_series(1, 5) i;
    INSERT INTO plain SELECT i, 10 + i, 'initial' FROM generate_series(1, 5) i`);
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  for (const table of ['messages', 'plain']) {
    const base = table === 'plain' ? 10 : 0;
    await db.query(`
      UPDATE ${table} SET note = 'changed' WHERE id = ${base + 1};
      UPDATE ${table} SET id = ${base + 22} WHERE id = ${base + 2};
      DELETE FROM ${table} WHERE id = ${base + 3}`);
  }
  const second = (await connection.sync()).succeeded();
  expect(shown(second, 'messages', 'id')).toEqual(['+ 1', '- 2', '+ 22', '- 3']);
  expect(second.records('plain').filter(({ data }) => data['id'] === 32)).toHaveLength(1);
  await connection.expectEqual('messages', 'plain');
});

test('case E27: with no identity, or without a key, inserts come, and nobody’s updates are refused', async () => {
  await using db = await createDatabase();
  await createMetrics(db);
  await db.query(`
    CREATE TABLE bare (id int PRIMARY KEY, note text);
    ALTER TABLE bare REPLICA IDENTITY NOTHING;
    ALTER TABLE metrics REPLICA IDENTITY NOTHING;
    INSERT INTO bare VALUES (1, 'initial')`);
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  await db.query(`
    UPDATE bare SET note = 'changed'; DELETE FROM bare; INSERT INTO bare VALUES (2, 'new');
    UPDATE metrics SET note = 'changed'; DELETE FROM metrics WHERE device = 1;
    INSERT INTO metrics VALUES ('${DAY_ZERO}', 11, 'new'), ('2026-02-01Z', 12, 'in a new chunk')`);
  const second = (await connection.sync()).succeeded();
  expect(shown(second, 'bare', 'id')).toEqual(['+ 2']);
  expect(shown(second, 'metrics', 'device').toSorted()).toEqual(['+ 11', '+ 12']);
});

test('case E28: columns added, dropped and retyped between changes would shift values, or take old types for new ones', async () => {
  await using db = await createDatabase();
  await createMetrics(db);
  await db.query(`CREATE TABLE orders (id int PRIMARY KEY, gone text, amount int, note text);
                  INSERT INTO orders SELECT i, 'gone', i, 'initial' FROM generate_series(1, 5) i;
                  ALTER TABLE metrics ADD gone text, ADD amount int`);
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  const change = async (tag: string): Promise<void> => {
    await db.query(`UPDATE orders SET note = '${tag}' WHERE id = 1;
                    UPDATE metrics SET note = '${tag}', amount = 7 WHERE device = 1`);
  };
  await change('before');
  await db.query('ALTER TABLE orders ADD added int; ALTER TABLE metrics ADD added int');
  await change('with a column more');
  await db.query('ALTER TABLE orders DROP gone; ALTER TABLE metrics DROP gone');
  await change('with one less');
  await db.query(`ALTER TABLE orders ALTER amount TYPE bigint;
                  ALTER TABLE metrics ALTER amount TYPE bigint`);
  await db.query(`UPDATE orders SET amount = 5000000001 WHERE id = 2;
                  INSERT INTO orders VALUES (6, 5000000000, 'wide', 1);
                  INSERT INTO metrics (time, device, amount, note)
                    VALUES ('${DAY_ZERO}', 11, 5000000000, 'wide'), ('2026-02-01Z', 12, 5000000000, 'new chunk')`);
  const second = (await connection.sync()).succeeded();
  expect(shown(second, 'orders', 'id', 'amount', 'note')).toEqual([
    '+ 1 1 before',
    '+ 1 1 with a column more',
    '+ 1 1 with one less',
    '+ 2 5000000001 initial',
    '+ 6 5000000000 wide',
  ]);
  // The chunks and the hypertable itself number and order their columns differently by now.
  const metrics = shown(second, 'metrics', 'device', 'amount', 'note').toSorted();
  for (const tag of ['before', 'with a column more', 'with one less']) {
    expect(metrics.filter((text) => text === `+ 1 7 ${tag}`)).toHaveLength(3);
  }
  expect(metrics.slice(9)).toEqual(['+ 11 5000000000 wide', '+ 12 5000000000 new chunk']);
});

test('case E28: a table dropped and made again under its name would be taken for the one that was read', async () => {
  await using db = await createDatabase();
  await db.query(`CREATE TABLE orders (id int PRIMARY KEY, note text);
                  INSERT INTO orders SELECT i, 'first' FROM generate_series(1, 5) i`);
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  await db.query(`UPDATE orders SET note = 'late'`);
  await db.query('DROP TABLE orders');
  await db.query(`CREATE TABLE orders (note text, id int PRIMARY KEY);
                  INSERT INTO orders SELECT 'second', i FROM generate_series(1, 8) i`);
  (await connection.sync()).succeeded();
  await connection.expectEqual('orders');
  await db.query(
    `UPDATE orders SET note = 'changed' WHERE id = 8; DELETE FROM orders WHERE id = 1`,
  );
  expect((await connection.sync()).succeeded().records()).toHaveLength(2);
  await connection.expectEqual('orders');
});

test('case E29: names that are patterns, quoted, dotted or cut would be taken for others', async () => {
  await using db = await createDatabase();
  const long = `${'é'.repeat(30)}abc`; // 63 bytes
  const names = [
    'a_b',
    'axb',
    'a%b',
    'Mixed "Quoted".Dotted',
    "it's",
    String.raw`back\slash`,
    long,
  ];
  const quoted = (name: string): string => `"${name.replaceAll('"', '""')}"`;
  for (const schema of ['s_x', 'sax', 'S.x']) {
    await db.query(`CREATE SCHEMA "${schema}"`);
    for (const name of names) {
      const table = `"${schema}".${quoted(name)}`;
      await db.query(`
        CREATE TABLE ${table} ("Time" timestamptz NOT NULL, ${quoted(name)} text, PRIMARY KEY ("Time"));
        INSERT INTO ${table} VALUES ('${DAY_ZERO}', '${schema}'), ('2026-01-05Z', 'deleted')`);
      if (name.length % 2 === 0) continue;
      const literal = table.replaceAll("'", "''");
      await db.query(
        `SELECT create_hypertable(E'${literal.replaceAll('\\', '\\\\')}', 'Time', migrate_data => true)`,
      );
    }
  }
  const replication = {
    method: 'CDC',
    replication_slot: db.slot,
    publication: `Pub, "quoted" ${db.publication}`,
  };
  const connection = await connectTo(
    db,
    {},
    {
      schemas: ['s_x', 'S.x'],
      replication_method: replication,
    },
  );
  const streams = connection.catalog.streams.map(({ stream }) => stream);
  expect(streams).toHaveLength(2 * names.length);
  expect(streams.filter(({ namespace }) => namespace === 'sax')).toEqual([]);
  expect((await connection.sync()).succeeded().records()).toHaveLength(4 * names.length);
  for (const { namespace, name } of streams) {
    const table = `"${namespace}".${quoted(name)}`;
    await db.query(`INSERT INTO ${table} VALUES ('2026-01-09Z', 'new');
                    DELETE FROM ${table} WHERE "Time" = '2026-01-05Z'`);
  }
  (await connection.sync()).succeeded();
  await connection.expectEqual(...streams.map(({ namespace, name }) => `${namespace}.${name}`));
});

/** A row in each of so many chunks, without a key. */
async function manyChunks(db: Database, chunks: number): Promise<Connection> {
  await db.query(`
    CREATE TABLE wide (t bigint NOT NULL, n int);
    SELECT create_hypertable('wide', 't', chunk_time_interval => 10);
    ALTER TABLE wide REPLICA IDENTITY FULL;
    INSERT INTO wide SELECT i * 10, 0 FROM generate_series(0, ${chunks - 1}) i`);
  return connectTo(db);
}

/** For each of so many chunks three subtransactions, one of them rolled back, all in one transaction. */
function subtransactions(chunks: number): string {
  return `DO $$ BEGIN
    FOR i IN 0..${chunks - 1} LOOP
      BEGIN INSERT INTO wide VALUES (i * 10 + 1, 1); EXCEPTION WHEN OTHERS THEN RAISE; END;
      BEGIN
        INSERT INTO wide VALUES (i * 10 + 2, 2);
        UPDATE wide SET n = 99 WHERE t = i * 10;
        RAISE EXCEPTION 'rolled back';
      EXCEPTION WHEN OTHERS THEN NULL; END;
      BEGIN UPDATE wide SET n = 3 WHERE t = i * 10; EXCEPTION WHEN OTHERS THEN RAISE; END;
    END LOOP; END $$`;
}

test('case E30: a transaction over 500 chunks with thousands of subtransactions would be torn, or come with what it rolled back', async () => {
  await using db = await createDatabase();
  const chunks = 500;
  const connection = await manyChunks(db, chunks);
  (await connection.sync()).succeeded();
  await db.query(subtransactions(chunks));
  const second = (await connection.sync()).succeeded();
  // An insert, and an update that takes back the old row, of each chunk.
  expect(second.records('wide')).toHaveLength(3 * chunks);
  const kinds = second.messages.map(({ type }) => type);
  const first = kinds.indexOf('RECORD');
  expect(kinds.slice(first, first + 3 * chunks)).not.toContain('STATE');
  await connection.expectEqual('wide');
  // And one that makes the chunks that it fills.
  await db.query(`DO $$ BEGIN
    FOR i IN ${chunks}..${chunks + 19} LOOP
      BEGIN INSERT INTO wide VALUES (i * 10, 4); EXCEPTION WHEN OTHERS THEN RAISE; END;
    END LOOP; END $$`);
  expect((await connection.sync()).succeeded().records('wide')).toHaveLength(20);
  await connection.expectEqual('wide');
}, 300_000);

test('case E31: a load would never end because rows keep arriving', async () => {
  await using db = await createDatabase();
  const connection = await manyChunks(db, 60);
  const ended = new AbortController();
  let written = 0;
  const writing = (async () => {
    const client = await db.client();
    try {
      // Until the sync ends by itself: into chunks that are read, that are not, and, for a while, that are new.
      for (; !ended.signal.aborted; written += 1) {
        const isNew = written % 20 === 0 && written < 400;
        const chunk = isNew ? 60 + written / 20 : written % 60;
        await client.query(`INSERT INTO wide VALUES (${chunk * 10 + 5}, ${written})`);
      }
    } finally {
      await client.end();
    }
  })();
  const first = await connection.sync().finally(() => {
    ended.abort();
  });
  await writing;
  first.succeeded();
  expect(written).toBeGreaterThan(100);
  (await connection.sync()).succeeded();
  await connection.expectEqual('wide');
});

test('case E32: TRUNCATE of a chunk, a hypertable or a table would stop the stream for good, or all that follows it', async () => {
  await using db = await createDatabase();
  await createMetrics(db);
  await db.query(`CREATE TABLE orders (id int PRIMARY KEY, note text);
                  INSERT INTO orders SELECT i, 'initial' FROM generate_series(1, 5) i`);
  const connection = await connectTo(db);
  (await connection.sync()).succeeded();
  const chunk = await db.value<string>(`SELECT min(c::text) FROM show_chunks('metrics') c`);
  const truncate = async (table: string, insert: string): Promise<void> => {
    const before = lsnOf(connection.destination.state);
    await db.query(`BEGIN; TRUNCATE ${table}; ${insert}; COMMIT`);
    await db.query(insert.replace('0 ', '1 '));
    const result = (await connection.sync()).succeeded();
    expect(result.records().filter(({ data }) => data['note'] === 'new')).toHaveLength(2);
    expect(result.logs().join('\n')).toMatch(/was truncated/);
    expect(lsnOf(connection.destination.state)).not.toBe(before);
  };
  const metric = (device: number): string =>
    `INSERT INTO metrics SELECT '${DAY_ZERO}', 0 + ${device}, 'new'`;
  await truncate(chunk, metric(20));
  await truncate('orders', `INSERT INTO orders SELECT 0 + 20, 'new'`);
  await truncate('metrics', metric(30));
  // No deletes are emitted: the rows of before stay, and those of behind are all there.
  for (const table of ['metrics', 'orders']) {
    const { missing, different } = await compareWithTable(db, connection.destination, table);
    expect([missing, different]).toEqual([0, 0]);
  }
});

test('case E32: TRUNCATE during a load would bring rows that are gone, or end it', async () => {
  await using db = await createDatabase();
  await createMetrics(db, 4);
  await db.query(`UPDATE metrics SET note = repeat('x', 50000)`);
  const connection = await connectTo(db, {}, { timescaledb_max_concurrent_chunks: 1 });
  const last = await db.value<string>(
    `SELECT c::text FROM show_chunks('metrics') c ORDER BY c DESC LIMIT 1`,
  );
  const result = await connection.sync(
    stopWhen(nthState(1), async () => {
      await db.query(`TRUNCATE ${last}`);
      await db.query(
        `INSERT INTO metrics VALUES ('${DAY_ZERO}'::timestamptz + interval '3 days', 20, 'new')`,
      );
    }),
  );
  expect(result.succeeded().records('metrics')).toHaveLength(31);
  await connection.expectEqual('metrics');
});
