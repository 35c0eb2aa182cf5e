/**
 * The script of `setup-sql`, run as it stands by a superuser: what a role that has nothing else can then do, and that
 * `setup-sql --remove` leaves nothing behind.
 */
import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type pg from 'pg';
import { expect, test } from 'vitest';
import type { JsonObject } from '../src/airbyte/protocol.ts';
import { run } from './connector.ts';
import { createDatabase, type Database, hasCompression, until } from './database.ts';
import { createRoles } from './roles.ts';
import { connectTo, type Connection, DAY_ZERO } from './scenario.ts';
import { hasSetting } from './ways.ts';

const MAIN = fileURLToPath(new URL('../dist/main.js', import.meta.url));
const PUBLICATION = `Our "pub" it's`;
/** A hypertable that has no constraint: event triggers are not told of its chunks. */
const EVENTS = `"Odd $setup$ S"."it's ""e"""`;
const EVENTS_STREAM = `Odd $setup$ S.it's "e"`;

/** The script for a configuration. */
async function setupSql(config: JsonObject, ...options: readonly string[]): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'setup-sql-'));
  try {
    const file = join(folder, 'config.json');
    await writeFile(file, JSON.stringify(config));
    const args = [MAIN, 'setup-sql', '--config', file, ...options];
    const { stdout, stderr } = await promisify(execFile)(process.execPath, args);
    expect(stderr).toBe('');
    return stdout;
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** In one message to the server, in a session of its own, as often as asked. */
async function execute(db: Database, script: string, times = 1): Promise<void> {
  for (let n = 0; n < times; n += 1) await inSession(db, (client) => client.query(script));
}

/** As psql -f does: one statement after the other. A line that ends in a semicolon, and is in no body, ends one. */
async function executeEach(db: Database, script: string): Promise<void> {
  const statements: string[] = [];
  let statement = '';
  let quoted = false;
  for (const line of script.split('\n')) {
    if (!quoted && line.startsWith('--')) continue;
    statement += `${line}\n`;
    if (line.split('$setup$').length % 2 === 0) quoted = !quoted;
    if (!quoted && line.endsWith(';')) {
      statements.push(statement);
      statement = '';
    }
  }
  expect(statement.trim()).toBe('');
  await inSession(db, async (client) => {
    for (const each of statements) await client.query(each);
  });
}

async function inSession<T>(db: Database, work: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = await db.client();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}

/** Takes the dashes away from the choices that match; each must be among them. */
function choose(script: string, ...choices: readonly RegExp[]): string {
  return choices.reduce((text, pattern) => {
    const lines = text.split('\n');
    const chosen = lines.filter((line) => line.startsWith('-- ALTER') && pattern.test(line));
    expect(chosen).toHaveLength(1);
    return lines.map((line) => (chosen.includes(line) ? line.slice(3) : line)).join('\n');
  }, script);
}

function verifyOnly(db: Database, username: string): JsonObject {
  return {
    username,
    publication_management: 'verify only',
    replication_method: {
      method: 'CDC',
      replication_slot: db.slot,
      publication: PUBLICATION,
      initial_waiting_seconds: 120,
    },
  };
}

/** Whether this server publishes new chunks by itself, which it can from 2.25 on. */
function hasAutoPublication(db: Database): Promise<boolean> {
  return db.value<boolean>(
    `SELECT EXISTS (SELECT FROM _timescaledb_catalog.hypertable)
            AND current_setting('timescaledb.enable_chunk_auto_publication', true) IS NOT NULL`,
  );
}

async function fill(db: Database): Promise<void> {
  await db.query(`
    CREATE TABLE metrics (time timestamptz NOT NULL, device int, value float8, PRIMARY KEY (time, device));
    SELECT create_hypertable('metrics', 'time', chunk_time_interval => interval '1 day');
    CREATE SCHEMA "Odd $setup$ S";
    CREATE TABLE ${EVENTS} ("at $setup$" timestamptz NOT NULL, id int);
    SELECT create_hypertable($x$${EVENTS}$x$, 'at $setup$'::name, chunk_time_interval => interval '1 day');
    CREATE TABLE devices (id int PRIMARY KEY, name text);
    CREATE TABLE notes (id int, note text);
    CREATE TABLE lines (id int, line text);
    INSERT INTO devices SELECT i, 'device ' || i FROM generate_series(1, 10) i;
    INSERT INTO notes SELECT i, 'note ' || i FROM generate_series(1, 10) i;
    INSERT INTO lines SELECT i, 'line ' || i FROM generate_series(1, 10) i;`);
  await insert(db, 0, 4);
}

/** Ten rows a day in each hypertable, from a session of its own: settings of the database hold in new ones only. */
async function insert(db: Database, fromDay: number, toDay: number): Promise<void> {
  const time = `'${DAY_ZERO}'::timestamptz + day * interval '1 day' + i * interval '1 minute'`;
  const days = `generate_series(${fromDay}, ${toDay}) day, generate_series(1, 10) i`;
  await execute(
    db,
    `INSERT INTO metrics SELECT ${time}, i, day FROM ${days};
     INSERT INTO ${EVENTS} SELECT ${time}, day * 100 + i FROM ${days}`,
  );
}

/** Of every kind of table: changes of old rows, and new chunks. @returns the number of changes for each stream. */
async function change(db: Database, day: number): Promise<Readonly<Record<string, number>>> {
  await insert(db, day, day + 1);
  await db.query(`
    UPDATE metrics SET value = -1 WHERE device = ${day} AND time < '${DAY_ZERO}'::timestamptz + interval '5 days';
    DELETE FROM metrics WHERE device = ${day + 1} AND time < '${DAY_ZERO}'::timestamptz + interval '5 days';
    UPDATE devices SET name = 'changed' WHERE id = ${day};
    DELETE FROM notes WHERE id = ${day};
    INSERT INTO lines VALUES (${100 + day}, 'new')`);
  return { metrics: 20 + 5 + 5, [EVENTS_STREAM]: 20, devices: 1, notes: 1, lines: 1 };
}

async function expectChanges(connection: Connection, day: number): Promise<void> {
  const expected = await change(connection.db, day);
  const result = (await connection.sync()).succeeded();
  const found = Object.keys(expected).map((name) => [name, result.records(name).length]);
  expect(Object.fromEntries(found)).toEqual(expected);
  // Published at birth: none of the new chunks is read.
  expect(result.logs().filter((line) => / read, /.test(line))).toEqual([]);
  await connection.expectEqual(...Object.keys(expected));
}

/** Everything that the script makes, by name. */
function leftovers(db: Database): Promise<readonly { readonly what: string }[]> {
  return db.query<{ what: string }>(
    `SELECT 'slot ' || slot_name AS what FROM pg_replication_slots WHERE database = current_database()
     UNION ALL SELECT 'publication ' || pubname FROM pg_publication
     UNION ALL SELECT 'event trigger ' || evtname FROM pg_event_trigger WHERE evtname LIKE 'source_timescaledb%'
     UNION ALL SELECT 'function ' || proname FROM pg_proc WHERE proname LIKE 'source_timescaledb%'
     UNION ALL SELECT 'trigger ' || tgname FROM pg_trigger WHERE tgname LIKE 'source_timescaledb%'
     UNION ALL SELECT 'constraint ' || conname FROM pg_constraint WHERE conname LIKE '%source_timescaledb%'
     UNION ALL SELECT 'setting ' || unnest(setconfig) FROM pg_db_role_setting
                WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
     UNION ALL SELECT 'default privileges' FROM pg_default_acl`,
  );
}

test('a role with nothing but a login: three syncs with new chunks in between, and nothing is left', async () => {
  await using roles = await createRoles();
  await using db = await createDatabase();
  await fill(db);
  const role = await roles.create('LOGIN');
  const config = db.config(verifyOnly(db, role));
  const script = await setupSql(config);
  expect(script).toContain(`-- * use replication slots: no`);
  const choices = (await hasAutoPublication(db)) ? [] : [/ADD CONSTRAINT .* EXCLUDE/];
  const chosen = choose(script, /"notes" REPLICA IDENTITY FULL/, ...choices);
  await execute(db, chosen);
  const confirmed = `SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = '${db.slot}'`;
  const before = await db.value<string>(confirmed);
  await execute(db, choices.length === 0 ? chosen : choose(script, /"notes" REPLICA IDENTITY/));
  expect(await db.value<string>(confirmed)).toBe(before);

  const checked = await run('check', { config });
  expect(checked.succeeded().logs().join('\n')).toContain('without a gap');
  const connection = await connectTo(db, {}, verifyOnly(db, role));
  expect((await connection.sync()).succeeded().records()).toHaveLength(50 + 50 + 30);
  await connection.expectEqual('metrics', EVENTS_STREAM, 'devices', 'notes', 'lines');
  await expectChanges(connection, 5);
  await expectChanges(connection, 7);

  const publications = await db.query(`SELECT pubname, count(*)::int AS tables
    FROM pg_publication_tables GROUP BY pubname ORDER BY pubname`);
  expect(publications).toEqual([
    { pubname: PUBLICATION, tables: 1 + 9 + 2 },
    { pubname: `${PUBLICATION}_inserts`, tables: 1 + 9 + 1 },
  ]);
  expect(await leftovers(db)).not.toEqual([]);
  await execute(db, await setupSql(config, '--remove'), 2);
  expect(await leftovers(db)).toEqual([]);
  // It fails while the role has a privilege on anything.
  await db.query(`DROP ROLE ${role}`);
});

test('with automatic management the role goes on adding to what the script has made', async () => {
  await using roles = await createRoles();
  await using db = await createDatabase();
  const role = await roles.create('LOGIN');
  await db.query(`
    CREATE TABLE events (time timestamptz NOT NULL, id int);
    SELECT create_hypertable('events', 'time', chunk_time_interval => interval '1 day');
    ALTER TABLE events OWNER TO ${role};
    INSERT INTO events SELECT '${DAY_ZERO}', i FROM generate_series(1, 10) i`);
  const automatic = { ...verifyOnly(db, role), publication_management: 'automatic' };
  // Connected before the script, so that no setting of the database reaches it; and no event trigger sees its chunks.
  const writer = await db.client();
  try {
    await execute(db, await setupSql(db.config(automatic)), 2);
    const connection = await connectTo(db, {}, automatic);
    expect((await connection.sync()).succeeded().records()).toHaveLength(10);
    await writer.query(`INSERT INTO events SELECT '2027-01-01Z', i FROM generate_series(11, 20) i`);
    expect(await unpublished(db, 'events')).toBe(1);
    expect((await connection.sync()).succeeded().records()).toHaveLength(10);
    expect(await unpublished(db, 'events')).toBe(0);
    await connection.expectEqual('events');
  } finally {
    await writer.end();
  }
});

test('who listens is told of new chunks, by the transaction that makes them', async () => {
  await using roles = await createRoles();
  await using db = await createDatabase();
  await fill(db);
  const role = await roles.create('LOGIN');
  await execute(db, await setupSql(db.config(verifyOnly(db, role))));
  const listener = await db.client();
  try {
    const told: unknown[] = [];
    listener.on('notification', ({ payload }) => told.push(JSON.parse(payload ?? '')));
    await listener.query('LISTEN timescaledb_chunk_created');
    await execute(db, `BEGIN; INSERT INTO metrics VALUES ('2027-01-01Z', 1, 1); ROLLBACK`);
    await execute(db, `INSERT INTO metrics VALUES ('2028-01-01Z', 1, 1)`);
    await until('the chunk is told', () => Promise.resolve(told.length > 0));
    const chunk = await db.value<string>(
      `SELECT chunk_name::text FROM timescaledb_information.chunks
        WHERE hypertable_name = 'metrics' ORDER BY range_start DESC LIMIT 1`,
    );
    expect(told).toEqual([
      {
        hypertable_schema: 'public',
        hypertable_name: 'metrics',
        chunk_schema: '_timescaledb_internal',
        chunk_name: chunk,
      },
    ]);
  } finally {
    await listener.end();
  }
});

test('a chunk made by a transaction that is open while the script runs is published', async () => {
  await using roles = await createRoles();
  await using db = await createDatabase();
  await fill(db);
  const role = await roles.create('LOGIN');
  const script = await setupSql(db.config(verifyOnly(db, role)));
  const writer = await db.client();
  try {
    await writer.query(`BEGIN; INSERT INTO metrics VALUES ('2028-01-01Z', 1, 1)`);
    const ended = execute(db, script);
    await until('the script waits for the writer', () =>
      db.value<boolean>(
        `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep')
             OR EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = '${db.slot}')`,
      ),
    );
    expect(await db.slots()).toEqual([]);
    await writer.query('COMMIT');
    await ended;
  } finally {
    await writer.end();
  }
  expect(await unpublished(db, 'metrics')).toBe(0);
});

/** Of the hypertable and its chunks, how many are in no publication. */
function unpublished(db: Database, hypertable: string): Promise<number> {
  return db.value<number>(
    `SELECT count(*)::int
       FROM (SELECT '${hypertable}'::regclass AS oid
             UNION SELECT inhrelid FROM pg_inherits WHERE inhparent = '${hypertable}'::regclass) member
      WHERE NOT EXISTS (SELECT FROM pg_publication_rel m WHERE m.prrelid = member.oid)`,
  );
}

test('more chunks than one transaction should lock are published, and taken out, in parts', async () => {
  await using roles = await createRoles();
  await using db = await createDatabase();
  await db.query(`
    CREATE TABLE metrics (time timestamptz NOT NULL, device int, PRIMARY KEY (time, device));
    SELECT create_hypertable('metrics', 'time', chunk_time_interval => interval '1 day');
    INSERT INTO metrics SELECT '${DAY_ZERO}'::timestamptz + day * interval '1 day', 1 FROM generate_series(1, 1001) day`);
  const role = await roles.create('LOGIN');
  const config = db.config(verifyOnly(db, role));
  const script = await setupSql(config);
  await executeEach(db, script);
  expect(await unpublished(db, 'metrics')).toBe(0);
  const transactions = await db.value<number>(
    'SELECT count(DISTINCT xmin::text)::int FROM pg_publication_rel',
  );
  // Six batches of chunks, and the hypertable.
  expect(transactions).toBe(7);
  await executeEach(db, await setupSql(config, '--remove'));
  expect(await leftovers(db)).toEqual([]);
});

test('PostgreSQL without TimescaleDB', async () => {
  await using roles = await createRoles();
  await using db = await createDatabase();
  await inSession(db, (client) => client.query('DROP EXTENSION timescaledb'));
  await db.query(`
    CREATE TABLE devices (id int PRIMARY KEY, name text);
    CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY RANGE (id);
    CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (1000);
    INSERT INTO devices SELECT i, 'device ' || i FROM generate_series(1, 10) i;
    INSERT INTO parted SELECT generate_series(1, 10)`);
  const role = await roles.create('LOGIN');
  const config = db.config(verifyOnly(db, role));
  const script = await setupSql(config);
  expect(script).not.toMatch(/event trigger|guard/i);
  await execute(db, script, 2);
  const connection = await connectTo(db, {}, verifyOnly(db, role));
  expect((await connection.sync()).succeeded().records()).toHaveLength(20);
  await db.query(`DELETE FROM devices WHERE id < 3; INSERT INTO parted VALUES (100)`);
  expect((await connection.sync()).succeeded().records()).toHaveLength(3);
  await connection.expectEqual('devices', 'parted');
  await execute(db, await setupSql(config, '--remove'), 2);
  expect(await leftovers(db)).toEqual([]);
  await db.query(`DROP ROLE ${role}`);
});

test('the columnstore is guarded, and a continuous aggregate is followed', async (context) => {
  await using roles = await createRoles();
  await using db = await createDatabase();
  if (!(await hasCompression(db))) context.skip('only the full build has the columnstore');
  await fill(db);
  await db.query(
    `ALTER TABLE metrics SET (timescaledb.compress, timescaledb.compress_segmentby = 'device')`,
  );
  await db.query(`
    CREATE MATERIALIZED VIEW daily WITH (timescaledb.continuous) AS
      SELECT time_bucket('1 day', time) AS bucket, device, sum(value) AS total FROM metrics GROUP BY 1, 2 WITH NO DATA`);
  const refresh = `CALL refresh_continuous_aggregate('daily', NULL, NULL)`;
  await db.query(refresh);
  const role = await roles.create('LOGIN');
  const config = db.config(verifyOnly(db, role));
  const script = await setupSql(config);
  await execute(db, choose(script, /_materialized_hypertable_.* REPLICA IDENTITY FULL/), 2);
  await db.query('SELECT compress_chunk(c) FROM show_chunks($$metrics$$) c');

  const connection = await connectTo(db, { streams: ['metrics', 'daily'] }, verifyOnly(db, role));
  (await connection.sync()).succeeded();
  await connection.expectEqual('metrics', 'daily');
  // A whole compressed batch, of which the write-ahead log says nothing without the guard.
  await db.query('DELETE FROM metrics WHERE device = 3');
  await insert(db, 20, 40);
  await inSession(db, (client) => client.query(refresh));
  const second = (await connection.sync()).succeeded();
  const readAgain = second.logs().filter((line) => / read, /.test(line));
  // Nobody is told of new chunks of a hypertable without constraints, as this one is, before the server publishes by itself.
  const published = await hasSetting(db, 'timescaledb.enable_chunk_auto_publication');
  expect(readAgain.filter((line) => published || !line.includes('public.daily: '))).toEqual([]);
  await connection.expectEqual('metrics', 'daily');
  await execute(db, await setupSql(config, '--remove'), 2);
  expect(await leftovers(db)).toEqual([]);
});
