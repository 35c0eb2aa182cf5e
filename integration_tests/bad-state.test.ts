/**
 * States, slots and publications that do not fit: refused with one sentence and a way out, and the state that the platform
 * has stored goes on working.
 */
import { describe, expect, test } from 'vitest';
import type { JsonObject } from '../src/airbyte/protocol.ts';
import { expectEqual } from './comparison.ts';
import { configuredCatalog, run } from './connector.ts';
import { createDatabase, type Database } from './database.ts';
import { Connection, connection, edited, expectRefused } from './refusals.ts';

describe('states that do not fit', () => {
  test('of another server', async () => {
    await using it = await connection();
    await it.first();
    await it.change('a');
    const state = edited(
      it.destination.state,
      /"system_identifier":"\d+"/,
      '"system_identifier":"1"',
    );
    expectRefused(await it.read({}, { state }), 'config_error', /another database server.*clear/);
    await it.expectGoesOn(2);
  });

  test('of another slot', async () => {
    await using it = await connection();
    await it.first();
    await it.change('a');
    const replication = { method: 'CDC', replication_slot: 'other_slot', publication: 'other' };
    const refused = await it.read({ replication_method: replication });
    expectRefused(
      refused,
      'config_error',
      /belongs to the replication slot slot_\w+, not to other/,
    );
    await it.expectGoesOn(2);
  });

  test('of another update method, unless they are blank', async () => {
    await using it = await connection();
    await it.first();
    await it.change('a');
    const standard = { replication_method: { method: 'Standard' } };
    const byCursor = configuredCatalog(
      (await run('discover', { config: it.db.config(standard) })).succeeded().catalog(),
      { streams: ['devices'], cursorField: 'id' },
    );
    const sync = (await it.read(standard, { catalog: byCursor, state: [] })).succeeded();
    const state = sync.lastState();
    const stream = await it.read({}, { state });
    expectRefused(stream, 'config_error', /another update method.*Clear the connection/);
    const global = await it.read(standard, { catalog: byCursor });
    expectRefused(global, 'config_error', /another update method/);
    await it.expectGoesOn(2);

    const blank = [
      {
        type: 'STREAM',
        stream: { stream_descriptor: { name: 'devices', namespace: 'public' }, stream_state: {} },
      },
      {
        type: 'STREAM',
        stream: { stream_descriptor: { name: 'metrics', namespace: 'public' }, stream_state: null },
      },
    ];
    const anew = (await it.read({}, { state: blank })).succeeded();
    expect(anew.records()).toHaveLength(4);
  });

  test('of another form', async () => {
    await using it = await connection();
    await it.first();
    await it.change('a');
    const stream_descriptor = { name: 'devices', namespace: 'public' };
    const newer = { type: 'STREAM', stream: { stream_descriptor, stream_state: { version: 99 } } };
    const cases: readonly (readonly [unknown, RegExp])[] = [
      [[{ type: 'LEGACY', data: { cdc: true } }], /form that this connector does not know/],
      [{ cdc: true }, /form that this connector does not know/],
      [[newer], /another source or version/],
    ];
    for (const [state, sentence] of cases) {
      const refused = await it.read({}, { state: JSON.stringify(state) });
      expectRefused(refused, 'config_error', sentence);
    }
    await it.expectGoesOn(2);
  });
});

describe('slots', () => {
  const resync = (db: Database): JsonObject => ({
    replication_method: {
      method: 'CDC',
      replication_slot: db.slot,
      publication: db.publication,
      invalid_cdc_cursor_position_behavior: 'Re-sync data',
    },
  });

  test('case C16: a slot that was dropped: refused, or everything is read again as configured', async () => {
    await using it = await connection();
    await it.first();
    await it.change('a');
    await it.db.query(`SELECT pg_drop_replication_slot('${it.db.slot}')`);
    const refused = await it.read();
    expectRefused(refused, 'config_error', /slot \w+ does not exist any more.*"Re-sync data"/);
    // A refusal leaves no slot behind that would keep WAL.
    expect(await it.db.slots()).toEqual([]);
    const again = (await it.read(resync(it.db))).succeeded();
    expect(again.records()).toHaveLength(4);
    expect(again.logs().join('\n')).toMatch(/Every stream is read again/);
    it.destination.apply(again.messages);
    await it.change('b');
    await it.expectGoesOn(2, resync(it.db));
  });

  test('a slot that moved beyond the state', async () => {
    await using it = await connection();
    await it.first();
    await it.change('a');
    await it.db.query(`SELECT pg_replication_slot_advance('${it.db.slot}', pg_current_wal_lsn())`);
    expectRefused(await it.read(), 'config_error', /has moved to \S+, beyond the state at/);
    const again = (await it.read(resync(it.db))).succeeded();
    expect(again.records()).toHaveLength(4);
    it.destination.apply(again.messages);
    await expectEqual(it.db, it.destination, 'devices');
    await it.change('b');
    await it.expectGoesOn(2);
  });

  test('a slot of another plugin is left alone, whatever is configured', async () => {
    await using db = await createDatabase();
    const it = new Connection(db);
    await db.query(`SELECT pg_create_logical_replication_slot('${db.slot}', 'test_decoding');
                    CREATE TABLE devices (id int PRIMARY KEY)`);
    const catalog = await it.discover();
    const refused = await it.read(resync(db), { catalog, state: [] });
    expectRefused(refused, 'config_error', /uses the plugin test_decoding/);
    expect(
      await db.value('SELECT plugin FROM pg_replication_slots WHERE slot_name = $1', [db.slot]),
    ).toBe('test_decoding');
  });
});

describe('publications', () => {
  const VERIFY = { publication_management: 'verify only' } as const;

  test('verify only makes nothing: publication and slot are asked for', async () => {
    await using db = await createDatabase();
    const it = new Connection(db);
    await db.query('CREATE TABLE devices (id int PRIMARY KEY)');
    const catalog = await it.discover(VERIFY);
    const publication = await it.read(VERIFY, { catalog, state: [] });
    expectRefused(
      publication,
      'config_error',
      /publication \w+ does not exist.*CREATE PUBLICATION/,
    );
    await db.query(`CREATE PUBLICATION ${db.publication} FOR TABLE devices`);
    const slot = await it.read(VERIFY, { catalog, state: [] });
    const message = expectRefused(slot, 'config_error', /replication slot \w+ does not exist/);
    expect(await db.slots()).toEqual([]);
    await db.query(/SELECT .*;/.exec(message)?.[0] ?? '');
    (await it.read(VERIFY, { catalog, state: [] })).succeeded();
  });

  test('one that misses tables, under verify only', async () => {
    await using it = await connection();
    await it.first();
    await it.db.query(`
      CREATE TABLE late (id int PRIMARY KEY); INSERT INTO late VALUES (1);
      CREATE TABLE events (note text)`);
    await it.change('a');
    const catalog = await it.discover(VERIFY);
    const refused = await it.read(VERIFY, { catalog });
    const message = expectRefused(
      refused,
      'config_error',
      /publication \w+ does not cover public\.events, public\.late\./,
    );
    await it.expectGoesOn(2, VERIFY);
    await it.db.query(/ALTER TABLE .*;/.exec(message)?.[0] ?? '');
    const mended = (await it.read(VERIFY, { catalog })).succeeded();
    expect(mended.records('late')).toHaveLength(1);
    expect(mended.records()).toHaveLength(1);
    // Following the advice has not broken the owner's statements.
    await it.db.query(`INSERT INTO events VALUES ('a'); UPDATE events SET note = 'b'`);
  });

  test.each([
    ['a table', `CREATE TABLE events (note text)`],
    ['a key that is deferrable', `CREATE TABLE events (id int PRIMARY KEY DEFERRABLE)`],
    [
      'a hypertable',
      `CREATE TABLE events (time timestamptz NOT NULL);
       SELECT create_hypertable('events', 'time');
       INSERT INTO events VALUES ('2026-01-01Z')`,
    ],
  ])('one with updates of %s without identity', async (_, table) => {
    await using it = await connection();
    await it.first();
    await it.change('a');
    await it.db.query(table);
    await it.db.query(`ALTER PUBLICATION ${it.db.publication} ADD TABLE events`);
    const catalog = await it.discover();
    const refused = await it.read({}, { catalog });
    const message = expectRefused(refused, 'config_error', /public\.events is in the publication/);
    expect(refused.errors()[0]).toMatchObject({ stream_descriptor: { name: 'events' } });
    await it.expectGoesOn(2);
    await it.db.query(/ALTER TABLE [^;]*;/.exec(message)?.[0] ?? '');
    (await it.read({}, { catalog })).succeeded();
  });

  test('automatic never publishes updates of a table without identity', async () => {
    await using it = await connection();
    await it.db.query(`
      CREATE TABLE events (note text); INSERT INTO events VALUES ('a');
      CREATE TABLE late (id int PRIMARY KEY DEFERRABLE); INSERT INTO late VALUES (1)`);
    const catalog = await it.discover();
    const first = (await it.read({}, { catalog, state: [] })).succeeded();
    expect(first.records()).toHaveLength(2);
    await it.db.query(`UPDATE events SET note = 'b'; UPDATE late SET id = 2;
                       INSERT INTO late VALUES (3)`);
    const second = (await it.read({}, { catalog, state: first.lastState() })).succeeded();
    expect(second.records().map(({ data }) => data['id'])).toEqual([3]);
  });
});
