/**
 * Losses that others have had when they confirm too early or go on at the wrong place (cases B9 to B15). What is resumed
 * from a state that stands behind whole transactions has to bring each row exactly once: the tables have no key.
 */
import { expect, test } from 'vitest';
import type { JsonObject } from '../src/airbyte/protocol.ts';
import { createDatabase, type Database } from './database.ts';
import { Destination } from './destination.ts';
import type { Message } from './messages.ts';
import { expectRefused } from './refusals.ts';
import type { RunResult } from './run-result.ts';
import { type Connection, connectTo, lsnOf, recordWhere, stopWhen } from './scenario.ts';

/** As in the connector: so many records are emitted before a commit gets a STATE. */
const STATE_RECORDS = 50_000;

/** A hypertable over its ids; chunks enough for all that the tests insert. */
async function createEvents(db: Database, overrides: JsonObject = {}): Promise<Connection> {
  await db.query(`
    CREATE TABLE events (id bigint NOT NULL, note text);
    SELECT create_hypertable('events', 'id', chunk_time_interval => 100000);
    ALTER TABLE events REPLICA IDENTITY FULL;
    INSERT INTO events SELECT i * 100000, 'initial' FROM generate_series(0, 4) i`);
  return connectTo(db, {}, overrides);
}

async function syncedEvents(db: Database, overrides: JsonObject = {}): Promise<Connection> {
  const connection = await createEvents(db, overrides);
  (await connection.sync()).succeeded();
  return connection;
}

function insert(from: number, rows: number, note: string): string {
  return `INSERT INTO events SELECT i, '${note}' FROM generate_series(${from}, ${from + rows - 1}) i;`;
}

function stateIndexes(messages: readonly Message[]): number[] {
  return messages.flatMap(({ type }, index) => (type === 'STATE' ? [index] : []));
}

/** Goes on from each STATE of a run in turn, in their order; each time all of it must be there once. */
async function resumeFromEach(
  connection: Connection,
  start: readonly unknown[],
  before: readonly Message[],
  messages: readonly Message[],
): Promise<void> {
  for (const at of stateIndexes(messages)) {
    connection.destination = new Destination(connection.catalog);
    connection.destination.apply(before);
    connection.destination.state = start;
    connection.destination.apply(messages.slice(0, at + 1));
    (await connection.sync()).succeeded();
    await connection.expectEqual('events');
  }
}

/** A first sync, the work, and a second one, which is then gone on with from each of its states. */
async function syncThenResume(db: Database, work: () => Promise<void>): Promise<RunResult> {
  const connection = await createEvents(db);
  const first = (await connection.sync()).succeeded();
  await work();
  const start = connection.destination.state;
  const result = (await connection.sync()).succeeded();
  await connection.expectEqual('events');
  await resumeFromEach(connection, start, first.messages, result.messages);
  return result;
}

test('case B10: a state at a record’s LSN would lose a transaction that began before it and commits behind it', async () => {
  await using db = await createDatabase();
  const older = await db.client();
  try {
    const result = await syncThenResume(db, async () => {
      await older.query(`BEGIN; ${insert(1, 10, 'older')}`);
      await db.query(insert(1000, STATE_RECORDS + 1, 'younger'));
      await older.query(`${insert(101, 10, 'older')} COMMIT`);
    });
    const notes = result.messages.flatMap((message) =>
      message.type === 'STATE'
        ? ['state']
        : message.type === 'RECORD'
          ? [String(message.record.data['note'])]
          : [],
    );
    // A state behind the younger one, though the older one had written before: it is not passed over there.
    const between = notes.indexOf('state', notes.lastIndexOf('younger'));
    expect(between).toBeLessThan(notes.indexOf('older'));
    expect(notes.filter((note) => note === 'older')).toHaveLength(20);
  } finally {
    await older.end();
  }
});

test('case B11: rows that one COPY writes under one LSN would be taken for one event, and skipped', async () => {
  await using db = await createDatabase();
  const rows = 20_000;
  const result = await syncThenResume(db, async () => {
    for (let n = 0; n < 5; n += 1) {
      const from = 100_000 * n + 1;
      // Many rows share a WAL record; a commit and the next begin share a position.
      await db.query(`COPY events (id) FROM PROGRAM 'seq ${from} ${from + rows - 1}'`);
    }
  });
  expect(result.records('events')).toHaveLength(5 * rows);
  expect(result.states().length).toBeGreaterThanOrEqual(3);
  const commits = new Set(result.records('events').map(({ data }) => data['_ab_cdc_lsn']));
  expect(commits.size).toBe(5);
}, 300_000);

test('case B12: changes behind a logical message, whose LSN is of another kind, would be skipped after a restart', async () => {
  await using db = await createDatabase();
  const rows = 20_000;
  const message = (transactional: boolean, prefix: string): string =>
    `SELECT pg_logical_emit_message(${transactional}, '${prefix}', 'text');`;
  const result = await syncThenResume(db, async () => {
    const chunk = await db.value<string>(`SELECT min(c::text) FROM show_chunks('events') c`);
    for (let n = 0; n < 6; n += 1) {
      await db.query(`BEGIN; ${message(true, '::timescaledb-compression-start')}
        CREATE TEMP TABLE moving ON COMMIT DROP AS SELECT * FROM ${chunk};
        DELETE FROM ${chunk}; INSERT INTO ${chunk} SELECT * FROM moving;
        ${message(true, '::timescaledb-compression-end')}
        ${message(true, 'of an application')}
        ${insert(1 + n * rows, rows, `number ${n}`)}
        ${message(false, '::timescaledb-compression-start')} ${message(true, 'behind it')} COMMIT`);
      await db.query(message(n % 2 === 0, 'alone'));
    }
  });
  expect(result.records('events')).toHaveLength(6 * rows);
  expect(result.states().length).toBeGreaterThanOrEqual(4);
}, 300_000);

test('case B13: positions compared as texts would take a state far behind its slot for one ahead of it', async () => {
  await using db = await createDatabase();
  const connection = await syncedEvents(db);
  await db.query(insert(1, 10, 'new'));
  const { state } = connection.destination;
  const [high = ''] = lsnOf(state).split('/');
  // As a text it sorts behind every position of the server, as a number it is 15 bytes from the segment's beginning.
  const forged = JSON.parse(
    JSON.stringify(state).replace(`"lsn":"${lsnOf(state)}"`, `"lsn":"${high}/F"`),
  ) as readonly unknown[];
  expect(lsnOf(forged)).toBe(`${high}/F`);
  expectRefused(
    await connection.attempt({ state: forged }),
    'config_error',
    /has moved to \S+, beyond the state at \S+\/F/,
  );
  (await connection.sync()).succeeded();
  await connection.expectEqual('events');
});

test('case B13: over syncs and crashes no position goes back, and none stands before what was confirmed', async () => {
  await using db = await createDatabase();
  const connection = await syncedEvents(db);
  const positions: string[] = [lsnOf(connection.destination.state)];
  for (let n = 0; n < 6; n += 1) {
    await db.query(insert(1 + n * 1000, 10, 'new'));
    // Another segment of the WAL: its positions have other digits.
    await db.query('SELECT pg_switch_wal()');
    await db.query(insert(501 + n * 1000, 10, 'new'));
    const killed = await connection.attempt({ killAfterStates: 1 });
    // The state at the beginning tells of nothing that came behind it.
    const first = killed.messages.slice(0, stateIndexes(killed.messages)[0]! + 1);
    connection.destination.apply(first);
    positions.push(lsnOf(connection.destination.state));
    const whole = (await connection.sync()).succeeded();
    expect(whole.records('events')).toHaveLength(20);
    positions.push(...whole.states().map((state) => lsnOf([state])));
  }
  const sorted = await db.value<boolean>(
    `SELECT bool_and(behind <= lsn) FROM (SELECT lsn, lag(lsn) OVER (ORDER BY n) AS behind
       FROM unnest($1::pg_lsn[]) WITH ORDINALITY AS positions (lsn, n)) ordered`,
    [positions],
  );
  expect(sorted, positions.join(' ')).toBe(true);
  await connection.expectEqual('events');
});

/** Ended by a signal in the midst of a transaction's records: what came behind the last STATE is thrown away. */
async function endedInTheMidst(
  connection: Connection,
  signal: 'SIGKILL' | 'SIGTERM',
): Promise<RunResult> {
  const { db } = connection;
  const confirmed = (): Promise<string> =>
    db.value<string>(
      'SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1',
      [db.slot],
    );
  const handedIn = lsnOf(connection.destination.state);
  const result = await connection.attempt(
    stopWhen(
      recordWhere(({ note }) => note === 'large'),
      (child) => {
        child.kill(signal);
        return Promise.resolve();
      },
    ),
  );
  expect(result.signal).toBe(signal);
  expect(await confirmed()).toBe(handedIn);
  return result;
}

/** Larger than what the server decodes in memory, and rolled back, in whole or in part. */
async function writeLarge(db: Database): Promise<void> {
  await db.query(`BEGIN; ${insert(1, 60_000, 'rolled back')} ROLLBACK`);
  await db.query(`BEGIN; ${insert(100_001, 30_000, 'large')} SAVEPOINT here;
    ${insert(200_001, 60_000, 'rolled back')} ROLLBACK TO here; ${insert(300_001, 30_000, 'large')} COMMIT`);
}

test('case B14: killed in the midst of a transaction; what was rolled back would come, the rest be lost', async () => {
  await using db = await createDatabase();
  await db.query(`ALTER DATABASE ${db.name} SET logical_decoding_work_mem = '64kB'`);
  const connection = await syncedEvents(db);
  await writeLarge(db);
  const killed = await endedInTheMidst(connection, 'SIGKILL');
  const large = killed.records('events').length;
  expect(large).toBeGreaterThan(0);
  expect(large).toBeLessThan(60_000);
  connection.destination.apply(killed.messages.slice(0, stateIndexes(killed.messages).at(-1)! + 1));
  expect((await connection.sync()).succeeded().records('events')).toHaveLength(60_000);
  await connection.expectEqual('events');
});

test('case B15: ended by SIGTERM between what it received and what it may confirm, it would confirm too much', async () => {
  await using db = await createDatabase();
  const connection = await syncedEvents(db);
  await writeLarge(db);
  const ended = await endedInTheMidst(connection, 'SIGTERM');
  // The last state came before the records, so none of them counts.
  const behind = ended.messages.slice(stateIndexes(ended.messages).at(-1));
  expect(behind.some(({ type }) => type === 'RECORD')).toBe(true);
  connection.destination.apply(ended.messages.slice(0, stateIndexes(ended.messages).at(-1)! + 1));
  await db.query(insert(400_001, 10, 'behind it'));
  expect((await connection.sync()).succeeded().records('events')).toHaveLength(60_010);
  await connection.expectEqual('events');
});

test('case B15: ended by SIGTERM in the midst of a read, and gone on with from its last state', async () => {
  await using db = await createDatabase();
  // One chunk at a time: behind the STATE of another one, rows of the large one would have been delivered, and come again.
  const connection = await syncedEvents(db, { timescaledb_max_concurrent_chunks: 1 });
  await db.query(insert(1, 90_000, 'large'));
  await connection.clear();
  const ended = await connection.attempt(
    stopWhen(
      ({ type }) => type === 'RECORD',
      (child) => {
        child.kill('SIGTERM');
        return Promise.resolve();
      },
    ),
  );
  expect(ended.signal).toBe('SIGTERM');
  connection.destination.apply(ended.messages.slice(0, stateIndexes(ended.messages).at(-1)! + 1));
  (await connection.sync()).succeeded();
  await connection.expectEqual('events');
});
