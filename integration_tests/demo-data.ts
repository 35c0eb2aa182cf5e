/** The tables of the demonstration, and what happens to them between its two reads. */
import type { Database } from './database.ts';

const DAY = `interval '1 day'`;
const METRICS_START = `timestamptz '2026-03-05 00:00Z'`;
const MESSAGES_START = `timestamptz '2026-01-01 00:00Z'`;
const METRICS_DAYS = 21;
const MESSAGES_WEEKS = 12;

/** Rows before this moment are in the metrics' oldest chunk. */
export const RETENTION_CUT = '2026-03-06T00:00:00.000000Z';

const TABLES = `
  CREATE TABLE devices (
    device_id integer PRIMARY KEY,
    name text NOT NULL,
    site text NOT NULL,
    installed date NOT NULL,
    tags text[] NOT NULL
  );

  CREATE TABLE metrics (
    time timestamptz NOT NULL,
    device_id integer NOT NULL,
    cpu double precision,
    memory_bytes bigint,
    temperature numeric(6, 2),
    status text,
    PRIMARY KEY (time, device_id)
  );
  SELECT create_hypertable('metrics', 'time', chunk_time_interval => ${DAY});

  -- An event store as Message DB has it: no primary key, since a hypertable's would have to hold the time.
  CREATE SEQUENCE messages_global_position_seq;
  CREATE TABLE messages (
    global_position bigint NOT NULL DEFAULT nextval('messages_global_position_seq'),
    position bigint NOT NULL,
    stream_name text NOT NULL,
    type text NOT NULL,
    data jsonb,
    metadata jsonb,
    id uuid NOT NULL,
    time timestamptz NOT NULL
  );
  SELECT create_hypertable('messages', 'time', chunk_time_interval => interval '7 days');
  CREATE UNIQUE INDEX messages_id_time ON messages (id, time);
  CREATE INDEX messages_stream ON messages (stream_name, position);
  ALTER TABLE messages REPLICA IDENTITY USING INDEX messages_id_time;

  CREATE FUNCTION write_message(
    _stream_name text, _type text, _data jsonb, _metadata jsonb, _time timestamptz
  ) RETURNS bigint LANGUAGE plpgsql AS $$
  DECLARE
    _position bigint;
  BEGIN
    -- One writer per category at a time, so that positions have no gaps.
    PERFORM pg_advisory_xact_lock(hashtextextended(split_part(_stream_name, '-', 1), 0));
    SELECT coalesce(max(position), -1) + 1 INTO _position
      FROM messages WHERE stream_name = _stream_name;
    INSERT INTO messages (position, stream_name, type, data, metadata, id, time)
      VALUES (_position, _stream_name, _type, _data, _metadata, gen_random_uuid(), _time);
    RETURN _position;
  END $$;
`;

const FILL_DEVICES = `
  INSERT INTO devices
  SELECT n, 'device-' || to_char(n, 'FM000'), (ARRAY['Oslo', 'Zürich', 'Nairobi', '東京'])[1 + n % 4],
         date '2024-01-01' + n, ARRAY['rack ' || n % 10, CASE WHEN n % 3 = 0 THEN 'edge' ELSE 'core' END]
    FROM generate_series(1, 120) n`;

/** One value of each device every five minutes. */
const FILL_METRICS = `
  INSERT INTO metrics
  SELECT ${METRICS_START} + minute * interval '5 minutes', device,
         50 + 40 * sin(minute / 50.0 + device), 1000000000 + (minute * 7919::bigint * device) % 900000000,
         (15 + (minute * device) % 3000 / 100.0)::numeric(6, 2),
         CASE WHEN (minute + device) % 97 = 0 THEN 'degraded' WHEN (minute + device) % 89 <> 0 THEN 'ok' END
    FROM generate_series(0, ${METRICS_DAYS} * 288 - 1) minute, generate_series(1, 120) device`;

/** The same rows as write_message would make, all at once. */
const FILL_MESSAGES = `
  INSERT INTO messages (position, stream_name, type, data, metadata, id, time)
  SELECT n / 2000, (ARRAY['account', 'order', 'invoice', 'shipment'])[1 + n % 4] || '-' || n % 2000,
         CASE WHEN n < 2000 THEN 'Opened' WHEN n % 5 = 0 THEN 'Withdrawn' ELSE 'Deposited' END,
         jsonb_build_object('amount', n % 100000 / 100.0, 'note', 'No. ' || n || ' “quoted” ☂', 'items', n % 7),
         jsonb_build_object('correlationStreamName', 'session-' || n % 500, 'schemaVersion', 1),
         md5('message ' || n)::uuid,
         ${MESSAGES_START} + n * (${MESSAGES_WEEKS} * interval '7 days' / 300000)
    FROM generate_series(0, 299999) n`;

function writeMessages(number: number, from: string, step: string): string {
  return `
    SELECT count(*) FROM (
      SELECT write_message('payment-' || n % 25, 'Settled', jsonb_build_object('n', n),
                           CASE WHEN n % 2 = 0 THEN '{"retry": false}'::jsonb END, ${from} + n * ${step})
        FROM generate_series(1, ${number}) n OFFSET 0) written`;
}

/** Creates and fills the tables: more than a million rows in 33 chunks, and an ordinary table. */
export async function createTables(db: Database, say: (what: string) => void): Promise<void> {
  await db.query(TABLES);
  say('devices');
  await db.query(FILL_DEVICES);
  say('metrics');
  await db.query(FILL_METRICS);
  say('messages');
  await db.query(FILL_MESSAGES);
  say('messages, one by one');
  await db.query(writeMessages(3000, MESSAGES_START, `interval '1 hour' / 2`));
  await db.query('ANALYZE');
}

/** What a change does to its table, and how many records tell of it. */
export type Change = { readonly table: string; readonly what: string; readonly records: number };

type Step = {
  readonly table: string;
  readonly what: string;
  readonly sql: string;
  /** A change of a key is a delete of the old one and an insert of the new one. */
  readonly recordsPerRow?: number;
};

const CHANGES: readonly Step[] = [
  {
    table: 'metrics',
    what: 'new rows in an old chunk: devices that report late',
    sql: `INSERT INTO metrics SELECT ${METRICS_START} + 5 * ${DAY} + n * interval '1 minute', 1000 + n % 10, n
            FROM generate_series(1, 1400) n RETURNING 1`,
  },
  {
    table: 'metrics',
    what: 'new rows in a new chunk: the next day begins',
    sql: `INSERT INTO metrics SELECT ${METRICS_START} + ${METRICS_DAYS} * ${DAY} + hour * interval '1 hour', device, 1
            FROM generate_series(0, 11) hour, generate_series(1, 120) device RETURNING 1`,
  },
  {
    table: 'metrics',
    what: 'updated rows, over several chunks',
    sql: `UPDATE metrics SET status = 'recalibrated', temperature = temperature + 0.25
           WHERE device_id = 42 AND time >= ${METRICS_START} + 8 * ${DAY}
             AND time < ${METRICS_START} + ${METRICS_DAYS} * ${DAY} RETURNING 1`,
  },
  {
    table: 'metrics',
    what: 'rows with a new key: a device is renumbered',
    sql: `UPDATE metrics SET device_id = 700
           WHERE device_id = 7 AND time >= ${METRICS_START} + 12 * ${DAY}
             AND time < ${METRICS_START} + 13 * ${DAY} RETURNING 1`,
    recordsPerRow: 2,
  },
  {
    table: 'metrics',
    what: 'deleted rows: an hour of all devices',
    sql: `DELETE FROM metrics WHERE time >= ${METRICS_START} + 15 * ${DAY}
             AND time < ${METRICS_START} + 15 * ${DAY} + interval '1 hour' RETURNING 1`,
  },
  {
    table: 'messages',
    what: 'new messages in a new chunk, by write_message()',
    sql: `SELECT write_message('payment-' || n % 25, 'Refunded', jsonb_build_object('n', n), NULL,
                               ${MESSAGES_START} + ${MESSAGES_WEEKS} * interval '7 days' + n * interval '1 minute')
            FROM generate_series(1, 500) n`,
  },
  {
    table: 'messages',
    what: 'updated messages: the metadata of one stream in all chunks',
    sql: `UPDATE messages SET metadata = metadata || '{"schemaVersion": 2}'
           WHERE stream_name = 'order-1' RETURNING 1`,
  },
  {
    table: 'messages',
    what: 'deleted messages: a stream is forgotten',
    sql: `DELETE FROM messages WHERE stream_name = 'account-4' RETURNING 1`,
  },
  {
    table: 'devices',
    what: 'a new device',
    sql: `INSERT INTO devices VALUES (121, 'device-121', 'Reykjavík', '2026-03-27', '{}') RETURNING 1`,
  },
  {
    table: 'devices',
    what: 'moved devices',
    sql: `UPDATE devices SET site = 'Lima' WHERE site = 'Oslo' RETURNING 1`,
  },
  {
    table: 'devices',
    what: 'retired devices',
    sql: 'DELETE FROM devices WHERE device_id IN (119, 120) RETURNING 1',
  },
];

/** Changes rows of every kind. */
export async function changeTables(db: Database): Promise<readonly Change[]> {
  const changes: Change[] = [];
  for (const { table, what, sql, recordsPerRow = 1 } of CHANGES) {
    const rows = await db.query(sql);
    changes.push({ table, what, records: rows.length * recordsPerRow });
  }
  return changes;
}

/** Drops the metrics' oldest chunk, as a retention policy does. Returns the number of its rows. */
export async function dropOldestChunk(db: Database): Promise<number> {
  const rows = await db.value<string>('SELECT count(*) FROM metrics WHERE time < $1', [
    RETENTION_CUT,
  ]);
  const dropped = await db.query(`SELECT drop_chunks('metrics', older_than => $1::timestamptz)`, [
    RETENTION_CUT,
  ]);
  if (dropped.length !== 1) throw new Error(`${dropped.length} chunks dropped in place of one`);
  return Number(rows);
}

export type TableFacts = {
  readonly name: string;
  readonly rows: number;
  /** 0 for an ordinary table. */
  readonly chunks: number;
};

/** The tables as they are now. */
export async function tableFacts(db: Database): Promise<readonly TableFacts[]> {
  const facts: TableFacts[] = [];
  for (const name of ['metrics', 'messages', 'devices']) {
    const rows = await db.value<string>(`SELECT count(*) FROM ${name}`);
    const chunks = await db.value<string>(
      'SELECT count(*) FROM timescaledb_information.chunks WHERE hypertable_name = $1',
      [name],
    );
    facts.push({ name, rows: Number(rows), chunks: Number(chunks) });
  }
  return facts;
}
