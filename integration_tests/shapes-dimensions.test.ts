/** Hypertables by what they are partitioned by: time of every type, integers, hashes, functions, and their outermost values. */
import { expect, test } from 'vitest';
import { createDatabase, type Database } from './database.ts';
import { connectTo, DAY_ZERO } from './scenario.ts';
import { chunkCount, chunkReads, expectChanges, expectFirstSync, follow } from './shapes.ts';

const ONE_BY_ONE = { timescaledb_max_concurrent_chunks: 1 };
const TIME = { column: 'time', type: 'timestamp with time zone', interval: '1 day' };

/** The start of the nth day, as SQL. */
function day(n: number): string {
  return `('${DAY_ZERO}'::timestamptz + interval '${n} days')`;
}

/** Devices 1 to 40 on each of these days. */
function rows(table: string, fromDay: number, toDay: number): string {
  return `INSERT INTO ${table}
    SELECT ${day(0)} + day * interval '1 day' + device * interval '1 minute', device, repeat('x', 200)
      FROM generate_series(${fromDay}, ${toDay}) day, generate_series(1, 40) device;`;
}

test('space partitions: new ones in a time that is read already, and in a new one', async () => {
  await using db = await createDatabase();
  await follow(db, {
    table: `
      CREATE TABLE metrics (time timestamptz NOT NULL, device int NOT NULL, note text, PRIMARY KEY (time, device));
      SELECT create_hypertable('metrics', by_range('time', interval '1 day'));
      SELECT add_dimension('metrics', by_hash('device', 4));
      ${rows('metrics', 0, 2)}
      INSERT INTO metrics VALUES (${day(3)}, 1, 'alone in its slice')`,
    stream: ['public', 'metrics'],
    dimensions: [TIME, { column: 'device', type: 'integer', partitions: 4 }],
    // Day 3: three partitions that were not there. Key changes to another partition are a delete and an insert.
    changes: `
      INSERT INTO metrics SELECT ${day(3)} + interval '1 hour', device, 'new' FROM generate_series(1, 40) device;
      ${rows('metrics', 7, 7)}
      UPDATE metrics SET note = 'changed' WHERE device = 3 AND time < ${day(3)};
      DELETE FROM metrics WHERE device = 4 AND time < ${day(3)}`,
    records: 40 + 40 + 3 + 3,
  });
});

test.for([
  { name: 'with a key, which delivers what came behind the last state too', key: true },
  { name: 'without a key, each row once', key: false },
])('space partitions: killed between those of a new time, $name', async ({ key }) => {
  await using db = await createDatabase();
  await db.query(`
    CREATE TABLE metrics (time timestamptz NOT NULL, device int NOT NULL, note text);
    SELECT create_hypertable('metrics', by_range('time', interval '1 day'));
    SELECT add_dimension('metrics', by_hash('device', 4));
    ALTER TABLE metrics ${key ? 'ADD PRIMARY KEY (time, device)' : 'REPLICA IDENTITY FULL'};
    ${rows('metrics', 0, 1)}`);
  const connection = await connectTo(db, {}, ONE_BY_ONE);
  await expectFirstSync(connection, ['public', 'metrics']);
  // More than the pipe holds, in each of the four: the process cannot be ahead of its last state by two chunks.
  await db.query(`
    INSERT INTO metrics SELECT ${day(2)} + i * interval '1 second', i % 64, repeat('y', 200) FROM generate_series(1, 4000) i`);
  const before = await chunkCount(db, ['public', 'metrics']);
  expect(before).toBe(12);
  // The state at the beginning, those of two partitions.
  const killed = await connection.attempt({ killAfterStates: 3 });
  expect(killed.signal).toBe('SIGKILL');
  const last = killed.messages.findIndex((message) => message === killed.states()[2]);
  connection.destination.apply(key ? killed.messages : killed.messages.slice(0, last + 1));
  await db.query(`
    DELETE FROM metrics WHERE device IN (1, 2, 3, 4, 5, 6, 7, 8) AND note LIKE 'y%';
    UPDATE metrics SET note = 'changed' WHERE device IN (9, 10, 11, 12, 13, 14, 15, 16);
    INSERT INTO metrics SELECT ${day(2)} + interval '12 hours', device, 'late' FROM generate_series(1, 40) device`);
  const rest = (await connection.sync()).succeeded();
  expect(chunkReads(rest)).toHaveLength(2);
  await connection.expectEqual('metrics');
});

test('two open dimensions: a new chunk at an old time, and at a new one', async () => {
  await using db = await createDatabase();
  await follow(db, {
    table: `
      CREATE TABLE metrics (time timestamptz NOT NULL, batch bigint NOT NULL, note text, PRIMARY KEY (time, batch));
      SELECT create_hypertable('metrics', by_range('time', interval '1 day'));
      SELECT add_dimension('metrics', by_range('batch', 100));
      INSERT INTO metrics SELECT ${day(0)} + d * interval '1 day', batch, 'initial'
        FROM generate_series(0, 2) d, generate_series(-150, 250, 50) batch`,
    stream: ['public', 'metrics'],
    dimensions: [TIME, { column: 'batch', type: 'bigint', interval: '100' }],
    changes: `
      INSERT INTO metrics VALUES (${day(1)}, 1000, 'old time, new batch'), (${day(5)}, 0, 'new time, old batch');
      UPDATE metrics SET note = 'changed' WHERE batch = 100; DELETE FROM metrics WHERE batch = -100`,
    records: 2 + 3 + 3,
  });
});

/** Where the outermost chunks end is not the same for all of them. */
const INTEGERS = [
  { type: 'smallint', interval: 1000, least: '-32768', greatest: '32767' },
  { type: 'integer', interval: 100_000, least: '-2147483648', greatest: '2147483647' },
  {
    type: 'bigint',
    interval: 100_000,
    least: '-9223372036854775808',
    greatest: '9223372036854775807',
  },
];

test.for(INTEGERS)(
  'integer time: $type, with negative values and the outermost ones',
  async (it) => {
    await using db = await createDatabase();
    const { type, interval, least, greatest } = it;
    await follow(db, {
      table: `
      CREATE TABLE ticks (tick ${type} PRIMARY KEY, note text);
      SELECT create_hypertable('ticks', 'tick', chunk_time_interval => ${interval});
      INSERT INTO ticks SELECT i * ${interval / 4}, 'initial' FROM generate_series(-20, 20) i;
      INSERT INTO ticks VALUES ('${least}', 'least'), ('${greatest}', 'greatest')`,
      stream: ['public', 'ticks'],
      dimensions: [{ column: 'tick', type, interval: String(interval) }],
      changes: `
      INSERT INTO ticks VALUES (${least}::${type} + 1, 'beside the least'), (${greatest}::${type} - 1, 'beside the greatest');
      INSERT INTO ticks VALUES (${interval * -9}, 'new chunk'), (${interval * 9}, 'new chunk');
      UPDATE ticks SET note = 'changed' WHERE tick IN ('${least}', '${greatest}', 0);
      DELETE FROM ticks WHERE tick IN (-${interval}, ${interval})`
        .replace(`${least}::${type} + 1`, `'${least}'::${type} + 1::${type}`)
        .replace(`${greatest}::${type} - 1`, `'${greatest}'::${type} - 1::${type}`),
      records: 4 + 3 + 2,
    });
  },
);

test('date', async () => {
  await using db = await createDatabase();
  await follow(db, {
    table: `
      CREATE TABLE days (day date NOT NULL, id int NOT NULL, note text, PRIMARY KEY (day, id));
      SELECT create_hypertable('days', 'day', chunk_time_interval => interval '7 days');
      INSERT INTO days SELECT '2026-01-01'::date + i, 1, 'initial' FROM generate_series(-30, 30) i;
      INSERT INTO days VALUES ('4713-01-01 BC', 1, 'early')`,
    stream: ['public', 'days'],
    dimensions: [{ column: 'day', type: 'date', interval: '7 days' }],
    changes: `
      INSERT INTO days VALUES ('2026-01-01', 2, 'same day'), ('2026-06-01', 1, 'new chunk'), ('1969-12-31', 1, 'new chunk');
      UPDATE days SET note = 'changed' WHERE day IN ('2026-01-02', '4713-01-01 BC'); DELETE FROM days WHERE day = '2026-01-03'`,
    records: 3 + 2 + 1,
  });
});

test('timestamp without time zone', async () => {
  await using db = await createDatabase();
  await follow(db, {
    table: `
      CREATE TABLE events (at timestamp NOT NULL, id int NOT NULL, note text, PRIMARY KEY (at, id));
      SELECT create_hypertable('events', 'at', chunk_time_interval => interval '90 minutes');
      INSERT INTO events SELECT '2026-01-01'::timestamp + i * interval '1 hour', i, 'initial' FROM generate_series(-10, 10) i`,
    stream: ['public', 'events'],
    dimensions: [{ column: 'at', type: 'timestamp without time zone', interval: '90 minutes' }],
    changes: `
      INSERT INTO events VALUES ('2026-01-01', 99, 'same time'), ('1969-12-31 23:59:59.999999', 1, 'new chunk');
      UPDATE events SET note = 'changed' WHERE id = 1; DELETE FROM events WHERE id = 2`,
    records: 2 + 1 + 1,
  });
});

test('UUIDs of version 7', async (context) => {
  await using db = await createDatabase();
  if (!(await hasUuidTime(db))) {
    context.skip('before TimescaleDB 2.22 a UUID is no time: the hypertable cannot be made');
  }
  await follow(db, {
    table: `
      CREATE FUNCTION version7(at timestamptz, n int) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
        SELECT (substr(h, 1, 8) || '-' || substr(h, 9, 4) || '-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid
          FROM (SELECT lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') AS h) x $$;
      CREATE TABLE events (id uuid PRIMARY KEY, note text);
      SELECT create_hypertable('events', 'id', chunk_time_interval => interval '1 day');
      INSERT INTO events SELECT version7(${day(0)} + i * interval '1 hour', i), 'initial' FROM generate_series(0, 71) i`,
    stream: ['public', 'events'],
    dimensions: [{ column: 'id', type: 'uuid', interval: '1 day' }],
    changes: `
      INSERT INTO events VALUES (version7(${day(0)}, 1000), 'same time'), (version7(${day(20)}, 1), 'new chunk');
      UPDATE events SET note = 'changed' WHERE id = version7(${day(0)} + interval '1 hour', 1);
      DELETE FROM events WHERE id = version7(${day(0)} + interval '2 hours', 2)`,
    records: 2 + 1 + 1,
  });
});

async function hasUuidTime(db: Database): Promise<boolean> {
  const version = await db.value<string>(
    `SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'`,
  );
  const [major = 0, minor = 0] = version.split('.').map(Number);
  return major > 2 || minor >= 22;
}

/** The time lies within the value; a function finds it. */
const FUNCTIONS = [
  {
    type: 'jsonb',
    time: `'${DAY_ZERO}'::timestamptz + (($1->>'hour')::int) * interval '1 hour'`,
    value: (hour: string) => `jsonb_build_object('hour', ${hour})`,
  },
  {
    type: 'text',
    time: `to_timestamp(substr($1, 2)::bigint)`,
    value: (hour: string) => `'T' || (extract(epoch FROM ${day(0)})::bigint + ${hour} * 3600)`,
  },
];

test.for(FUNCTIONS)('time that a function finds in a $type', async ({ type, time, value }) => {
  await using db = await createDatabase();
  await follow(db, {
    table: `
      CREATE TABLE events (event ${type} NOT NULL, id int, note text);
      CREATE FUNCTION event_time(${type}) RETURNS timestamptz LANGUAGE sql IMMUTABLE AS $$ SELECT ${time} $$;
      SELECT create_hypertable('events', by_range('event', interval '1 day', 'event_time'));
      ALTER TABLE events REPLICA IDENTITY FULL;
      INSERT INTO events SELECT ${value('i')}, i, 'initial' FROM generate_series(0, 71) i`,
    stream: ['public', 'events'],
    // In which unit a function's intervals are is not known.
    dimensions: [{ column: 'event', type }],
    // An update of a row without a key is a delete and an insert.
    changes: `
      INSERT INTO events VALUES (${value('0')}, 100, 'same time'), (${value('1000')}, 101, 'new chunk');
      UPDATE events SET note = 'changed' WHERE id = 1; DELETE FROM events WHERE id = 2`,
    records: 2 + 2 + 1,
  });
});

test.for([
  { type: 'timestamptz', name: 'timestamp with time zone' },
  { type: 'timestamp', name: 'timestamp without time zone' },
  { type: 'date', name: 'date' },
])('infinity, in the outermost chunks of a $name', async ({ type, name }) => {
  await using db = await createDatabase();
  await follow(db, {
    table: `
      CREATE TABLE events (at ${type} NOT NULL, id int, note text);
      SELECT create_hypertable('events', 'at', chunk_time_interval => interval '1 day');
      ALTER TABLE events REPLICA IDENTITY FULL;
      INSERT INTO events SELECT ${day(0)} + i * interval '1 day', i, 'initial' FROM generate_series(0, 4) i;
      INSERT INTO events VALUES ('infinity', 100, 'the end'), ('infinity', 101, 'the end'), ('infinity', 102, 'the end')`,
    stream: ['public', 'events'],
    dimensions: [{ column: 'at', type: name, interval: '1 day' }],
    changes: `
      INSERT INTO events VALUES ('infinity', 103, 'later'), (${day(9)}, 9, 'new chunk');
      UPDATE events SET note = 'changed' WHERE id = 100; DELETE FROM events WHERE id = 101`,
    records: 2 + 2 + 1,
  });
});

test('another chunk interval than before', async () => {
  await using db = await createDatabase();
  const connection = await follow(db, {
    table: `
      CREATE TABLE metrics (time timestamptz NOT NULL, device int NOT NULL, note text, PRIMARY KEY (time, device));
      SELECT create_hypertable('metrics', 'time', chunk_time_interval => interval '1 day');
      ${rows('metrics', 0, 2)}
      SELECT set_chunk_time_interval('metrics', interval '7 days');
      ${rows('metrics', 10, 12)}`,
    stream: ['public', 'metrics'],
    dimensions: [{ ...TIME, interval: '7 days' }],
    // Shorter again; and day 3 to 5 between what is there is cut to fit.
    changes: `
      SELECT set_chunk_time_interval('metrics', interval '6 hours');
      ${rows('metrics', 3, 3)} ${rows('metrics', 20, 20)}
      UPDATE metrics SET note = 'changed' WHERE device = 1; DELETE FROM metrics WHERE device = 2 AND time < ${day(3)}`,
    records: 80 + 6 + 3,
  });
  await expectChanges(connection, {
    stream: ['public', 'metrics'],
    changes: `SELECT set_chunk_time_interval('metrics', interval '30 days'); ${rows('metrics', 60, 61)}`,
    records: 80,
  });
});
