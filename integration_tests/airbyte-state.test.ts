/**
 * States as Airbyte's own Postgres source has left them, of both its generations: taken over where that is exact, else the
 * stream is read from the beginning or refused. The table tells what has to come.
 */
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { JsonObject } from '../src/airbyte/protocol.ts';
import { configuredCatalog, run } from './connector.ts';
import { createDatabase, type Database, until } from './database.ts';
import { type Connection, connectTo } from './scenario.ts';
import type { RunResult } from './run-result.ts';

const STANDARD = { replication_method: { method: 'Standard' } };
const XMIN = { replication_method: { method: 'Xmin' } };

let db: Database;

beforeAll(async () => {
  db = await createDatabase();
  await db.query(`
    CREATE TABLE orders (id bigint PRIMARY KEY, changed timestamptz, price numeric, note text);
    INSERT INTO orders
      SELECT i, '2026-01-01Z'::timestamptz + i * interval '1 hour', i + 0.25, repeat('x', 900)
        FROM generate_series(1, 600) i`);
});

afterAll(async () => {
  await db[Symbol.asyncDispose]();
});

function streamState(name: string, stream_state: unknown): object {
  return {
    type: 'STREAM',
    stream: { stream_descriptor: { name, namespace: 'public' }, stream_state },
  };
}

async function readFrom(
  stream_state: unknown,
  overrides: JsonObject,
  cursorField?: string,
): Promise<RunResult> {
  const choice = { streams: ['orders'], ...(cursorField === undefined ? {} : { cursorField }) };
  const connection = await connectTo(db, choice, overrides);
  return connection.attempt({ state: [streamState('orders', stream_state)] });
}

function ids(result: RunResult): number[] {
  return result
    .succeeded()
    .records()
    .map(({ data }) => Number(data['id']))
    .toSorted((a, b) => a - b);
}

const from = (first: number): number[] =>
  Array.from({ length: 601 - first }, (_, index) => first + index);

const V2 = {
  version: 2,
  state_type: 'cursor_based',
  stream_name: 'orders',
  stream_namespace: 'public',
};
const V3 = {
  version: 3,
  stream_name: '',
  stream_namespace: '',
  ctid: null,
  relation_filenode: null,
  xmin: null,
};

test.each([
  ['id', { ...V3, state_type: 'cursor_based', cursors: { id: 590 } }],
  [
    'changed',
    { ...V3, state_type: 'cursor_based', cursors: { changed: '2026-01-25T14:00:00.000000Z' } },
  ],
  ['id', { ...V2, cursor_field: ['id'], cursor: '590', cursor_record_count: 1 }],
  [
    'changed',
    {
      ...V2,
      cursor_field: ['changed'],
      cursor: '2026-01-25T14:00:00.000000Z',
      cursor_record_count: 1,
    },
  ],
  [
    'id',
    { stream_name: 'orders', stream_namespace: 'public', cursor_field: ['id'], cursor: '590' },
  ],
  ['price', { ...V3, state_type: 'cursor_based', cursors: { price: 590.25 } }],
])('by a cursor over %s: goes on from it, with its own rows once more', async (cursor, state) => {
  const result = await readFrom(state, STANDARD, cursor);
  expect(ids(result)).toEqual(from(590));
  expect(result.logs().filter((line) => line.startsWith('WARN'))).toEqual([]);
});

test('a cursor that JSON has rounded up loses no row', async () => {
  await db.query(`CREATE TABLE large (id bigint PRIMARY KEY);
                  INSERT INTO large SELECT 9007199254740992 + i FROM generate_series(0, 9) i`);
  const connection = await connectTo(db, { streams: ['large'], cursorField: 'id' }, STANDARD);
  // The text 9007199254740995 becomes 9007199254740996 on its way through JSON.
  const state = JSON.stringify([
    streamState('large', { ...V3, state_type: 'cursor_based', cursors: { id: 0 } }),
  ]).replace('"id":0', '"id":9007199254740995');
  const result = (await connection.attempt({ state })).succeeded();
  const found = result.lines.flatMap((line) => /"data":\{"id":(\d+)\}/.exec(line)?.[1] ?? []);
  expect(found).toContain('9007199254740995');
  expect(found).toContain('9007199254741001');
  expect(found).not.toContain('9007199254740993');
});

test.each([
  ['of another column', { ...V3, state_type: 'cursor_based', cursors: { id: 590 } }, 'changed'],
  [
    'of a load that was not at its end',
    { ...V3, state_type: 'ctid_based', ctid: '(20,1)', relation_filenode: 1, cursors: { id: 600 } },
    'id',
  ],
  ['of xmin', { ...V3, state_type: 'xmin_based', xmin: 100 }, 'id'],
])('a cursor state %s: read from the beginning, with a warning', async (_, state, cursor) => {
  const result = await readFrom(state, STANDARD, cursor);
  expect(ids(result)).toEqual(from(1));
  expect(result.logs().join('\n')).toMatch(/WARN public\.orders is read from the beginning/);
});

test('a cursor whose values that source writes otherwise, or of several columns, is refused', async () => {
  await db.query(
    `CREATE TABLE blobs (id int PRIMARY KEY, key bytea); INSERT INTO blobs VALUES (1, 'a')`,
  );
  const connection = await connectTo(db, { streams: ['blobs'], cursorField: 'key' }, STANDARD);
  const refusals: readonly (readonly [object, RegExp])[] = [
    [
      { ...V3, state_type: 'cursor_based', cursors: { key: 'YQ==' } },
      /public\.blobs comes from Airbyte.*Clear the stream/,
    ],
    [{ ...V2, cursor_field: ['id', 'key'], cursor: '1' }, /cursor of several columns/],
  ];
  for (const [state, sentence] of refusals) {
    const result = await connection.attempt({ state: [streamState('blobs', state)] });
    expect(result.exitCode).toBe(1);
    expect(result.errors()[0]).toMatchObject({ failure_type: 'config_error' });
    expect(result.errors()[0]?.message).toMatch(sentence);
    expect(result.records()).toEqual([]);
  }
});

/** Some rows that are written after a horizon which is taken before. */
async function written(
  table: string,
): Promise<{ readonly horizon: number; readonly expected: number[] }> {
  const horizon = Number(
    await db.value<string>('SELECT pg_snapshot_xmin(pg_current_snapshot())::text'),
  );
  await db.query(`UPDATE ${table} SET note = 'changed' WHERE id IN (3, 599)`);
  const rows = await db.query<{ id: string }>(
    `SELECT id FROM ${table} WHERE xmin::text::bigint >= $1 ORDER BY id`,
    [horizon],
  );
  return { horizon, expected: rows.map(({ id }) => Number(id)) };
}

test('by xmin: goes on from the transaction, in both spellings', async () => {
  const { horizon, expected } = await written('orders');
  expect(expected).toEqual(expect.arrayContaining([3, 599]));
  for (const state of [
    { ...V3, state_type: 'xmin_based', xmin: horizon },
    {
      version: 2,
      state_type: 'xmin',
      num_wraparound: 0,
      xmin_xid_value: horizon,
      xmin_raw_value: horizon,
    },
  ]) {
    expect(ids(await readFrom(state, XMIN))).toEqual(expected);
  }
  const ahead = await readFrom({ ...V3, state_type: 'xmin_based', xmin: 9e15 }, XMIN);
  expect(ids(ahead)).toEqual(from(1));
});

test('by xmin: a load that was not at its end goes on at its page; a rewritten table begins anew', async () => {
  const filenode = Number(await db.value(`SELECT pg_relation_filenode('orders')`));
  const { horizon } = await written('orders');
  const rest = await db.query<{ id: string }>(
    `SELECT id FROM orders WHERE ctid >= '(20,0)'::tid ORDER BY id`,
  );
  const progress = { ctid: '(20,1)', relation_filenode: filenode };
  for (const state of [
    { ...V3, ...progress, state_type: 'ctid_based', xmin: horizon },
    {
      version: 2,
      ...progress,
      state_type: 'ctid',
      incremental_state: {
        state_type: 'xmin',
        version: 2,
        num_wraparound: 0,
        xmin_xid_value: horizon,
        xmin_raw_value: horizon,
      },
    },
  ]) {
    const result = await readFrom(state, XMIN);
    expect(ids(result)).toEqual(rest.map(({ id }) => Number(id)));
    const [last] = result.lastState() as readonly { stream: { stream_state: JsonObject } }[];
    expect(last?.stream.stream_state).toMatchObject({ horizon: String(horizon), next: null });
  }
  const rewritten = {
    ...V3,
    ...progress,
    relation_filenode: 1,
    state_type: 'ctid_based',
    xmin: horizon,
  };
  expect(ids(await readFrom(rewritten, XMIN))).toEqual(from(1));
});

test('a full refresh, and an update method that does not fit', async () => {
  const config = db.config(STANDARD);
  const discovered = (await run('discover', { config })).succeeded().catalog();
  const catalog = configuredCatalog(discovered, { streams: ['orders'], syncMode: 'full_refresh' });
  const done = { ...V3, state_type: 'ctid_based', cursors: {} };
  const again = await run('read', { config, catalog, state: [streamState('orders', done)] });
  expect(ids(again)).toEqual(from(1));
  const cursor = { ...V3, state_type: 'cursor_based', cursors: { id: 590 } };
  const changes = await run('read', {
    config: db.config(),
    catalog,
    state: [streamState('orders', cursor)],
  });
  expect(changes.errors()[0]?.message).toMatch(/another update method.*Clear the connection/);
  expect(changes.records()).toEqual([]);
});

const SNAPSHOT_DONE = { ...V3, state_type: 'ctid_based', cursors: {} };

function globalState(position: object, streams: Readonly<Record<string, object>>): unknown[] {
  return [
    {
      type: 'GLOBAL',
      global: {
        shared_state: {
          state: { '["shop",{"server":"shop"}]': JSON.stringify(position) },
        },
        stream_states: Object.entries(streams).map(([name, stream_state]) => ({
          stream_descriptor: { name, namespace: 'public' },
          stream_state,
        })),
      },
    },
  ];
}

/** A slot and a publication of that source, with a position, and changes since. */
async function changesOf(it: Database): Promise<{ readonly lsn: number }> {
  await it.query(`
    CREATE TABLE kept (id int PRIMARY KEY, note text); INSERT INTO kept VALUES (1, 'a'), (2, 'b');
    CREATE TABLE begun (id int PRIMARY KEY, note text); INSERT INTO begun VALUES (1, 'a'), (2, 'b');
    CREATE TABLE old (id int PRIMARY KEY, note text); INSERT INTO old VALUES (1, 'a'), (2, 'b');
    CREATE TABLE metrics (time timestamptz PRIMARY KEY, note text);
    SELECT create_hypertable('metrics', 'time');
    INSERT INTO metrics VALUES ('2026-01-01Z', 'a');
    CREATE PUBLICATION ${it.publication} FOR TABLE kept, begun, old`);
  const made = await it.value<string>(`SELECT xmin::text FROM pg_publication WHERE pubname = $1`, [
    it.publication,
  ]);
  await it.query(`SELECT pg_create_logical_replication_slot('${it.slot}', 'pgoutput')`);
  // Its oldest picture of the system catalog follows the oldest transaction, and at first the other slots, of the server.
  await until(
    'the publication is older than that picture',
    async () => {
      await it.query(
        `CHECKPOINT; SELECT pg_replication_slot_advance('${it.slot}', pg_current_wal_lsn())`,
      );
      return it.value<boolean>(
        'SELECT catalog_xmin::text::bigint > $1 FROM pg_replication_slots WHERE slot_name = $2',
        [made, it.slot],
      );
    },
    90,
  );
  const lsn = Number(
    await it.value<string>(`SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::text`),
  );
  await it.query(`
    UPDATE kept SET note = 'changed' WHERE id = 2; DELETE FROM kept WHERE id = 1;
    INSERT INTO kept VALUES (3, 'c'); UPDATE begun SET note = 'changed' WHERE id = 2;
    UPDATE old SET note = 'changed' WHERE id = 2`);
  return { lsn };
}

function offset(lsn: number): object {
  return { transaction_id: null, lsn, lsn_proc: lsn, lsn_commit: lsn, txId: 1, ts_usec: 1 };
}

test('by changes: goes on from the position; what is not said to be read is read', async () => {
  await using it = await createDatabase();
  const { lsn } = await changesOf(it);
  const connection: Connection = await connectTo(it, {
    streams: ['kept', 'begun', 'old', 'metrics'],
  });
  connection.destination.state = globalState(offset(lsn), {
    kept: SNAPSHOT_DONE,
    begun: { ...SNAPSHOT_DONE, ctid: '(0,1)', relation_filenode: 1 },
    old: { stream_name: 'old', stream_namespace: 'public', cursor_field: [] },
    metrics: SNAPSHOT_DONE,
  });
  const result = (await connection.sync()).succeeded();
  const kept = result
    .records('kept')
    .map(({ data }) => [data['id'], data['note'], data['_ab_cdc_deleted_at'] !== null]);
  expect(kept).toEqual([
    [2, 'changed', false],
    [1, null, true],
    [3, 'c', false],
  ]);
  await connection.expectEqual('begun', 'old', 'metrics');
  const warnings = result.logs().join('\n');
  for (const name of ['begun', 'old', 'metrics']) {
    expect(warnings).toMatch(new RegExp(`public\\.${name} is read from the beginning`));
  }
  expect(warnings).not.toMatch(/public\.kept is read/);
  await it.query(`UPDATE kept SET note = 'again' WHERE id = 2`);
  expect((await connection.sync()).succeeded().records('kept')).toHaveLength(1);
});

test('by changes: a slot beyond the position, a table published later, a publication made later', async () => {
  await using it = await createDatabase();
  const { lsn } = await changesOf(it);
  const connection: Connection = await connectTo(it, { streams: ['kept'] });
  const state = globalState(offset(lsn), { kept: SNAPSHOT_DONE });
  const none = await connection.attempt({
    state: globalState({ ts_usec: 1 }, { kept: SNAPSHOT_DONE }),
  });
  expect(none.errors()[0]?.message).toMatch(/no position in the write-ahead log.*Clear/);

  await it.query(`ALTER PUBLICATION ${it.publication} DROP TABLE kept;
                  UPDATE kept SET note = 'unseen' WHERE id = 3;
                  ALTER PUBLICATION ${it.publication} ADD TABLE kept`);
  connection.destination.state = state;
  const late = (await connection.sync()).succeeded();
  expect(late.logs().join('\n')).toMatch(
    /kept was not in the publication any more: it is read again/,
  );
  await connection.expectEqual('kept');

  await it.query(`SELECT pg_drop_replication_slot('${it.slot}');
                  SELECT pg_create_logical_replication_slot('${it.slot}', 'pgoutput')`);
  const beyond = await connection.attempt({ state });
  expect(beyond.errors()[0]?.message).toMatch(/has moved to \S+, beyond the state at/);
  expect(beyond.records()).toEqual([]);

  const now = Number(await it.value<string>(`SELECT (pg_current_wal_insert_lsn() - '0/0')::text`));
  await it.query(`DROP PUBLICATION ${it.publication};
                  CREATE PUBLICATION ${it.publication} FOR TABLE kept`);
  const made = await connection.attempt({
    state: globalState(offset(now), { kept: SNAPSHOT_DONE }),
  });
  expect(made.errors()[0]?.message).toMatch(/publication \S+ was made again/);
  expect(made.records()).toEqual([]);
});
