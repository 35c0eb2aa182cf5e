/** What Airbyte's acceptance tests are run with: one database, read by each update method. */
import type { AirbyteCatalog, AirbyteStream, JsonObject } from '../src/airbyte/protocol.ts';
import { configuredCatalog, run } from './connector.ts';
import { createDatabase, type Database } from './database.ts';
import type { ConfiguredCatalog, ConfiguredEntry } from './messages.ts';

export type Setup = {
  readonly name: 'CDC' | 'cursor' | 'full refresh';
  readonly overrides: JsonObject;
  readonly db: Database;
  readonly catalog: AirbyteCatalog;
};

const STANDARD = { replication_method: { method: 'Standard' } };

/** A state after each chunk, in the order of their time. */
const ONE_BY_ONE = { timescaledb_max_concurrent_chunks: 1 };

/** What is new in a configuration. */
export const SETUPS: readonly Pick<Setup, 'name' | 'overrides'>[] = [
  { name: 'CDC', overrides: ONE_BY_ONE },
  { name: 'cursor', overrides: { ...STANDARD, ...ONE_BY_ONE } },
  { name: 'full refresh', overrides: { ...STANDARD, ...ONE_BY_ONE } },
];

const DAYS = 4;

/** Streams that may be without records. */
export const EMPTY_STREAMS: readonly string[] = ['spare'];

/** Which column a user would choose where none is proposed. */
const CURSORS: Readonly<Record<string, string>> = {
  devices: 'id',
  places: 'id',
  spare: 'id',
  summary: 'device',
};

/** Hypertables with a key and without, tables, an empty one, a partitioned one and a view: no name twice. */
async function createTables(db: Database): Promise<void> {
  await db.query(`
    CREATE TABLE metrics (
      time timestamptz NOT NULL, device int NOT NULL, value float8, exact numeric(20,4), good bool,
      PRIMARY KEY (time, device));
    SELECT create_hypertable('metrics', 'time', chunk_time_interval => interval '1 day');
    INSERT INTO metrics
      SELECT '2026-01-01Z'::timestamptz + day * interval '1 day' + i * interval '1 minute', i,
             i / 7.0, i * 1.25, i % 2 = 0
        FROM generate_series(0, ${DAYS - 1}) day, generate_series(1, 10) i;
    CREATE TABLE events (time timestamp NOT NULL, payload jsonb, tags text[]);
    SELECT create_hypertable('events', 'time', chunk_time_interval => interval '1 day');
    ALTER TABLE events REPLICA IDENTITY FULL;
    INSERT INTO events
      SELECT '2026-01-01'::timestamp + day * interval '1 day', jsonb_build_object('day', day),
             ARRAY['a', 'line\u2028separator']
        FROM generate_series(0, ${DAYS - 1}) day;
    CREATE TABLE devices (
      id bigint PRIMARY KEY, name text, since date, at time, alarm timetz, raw bytea, code uuid);
    INSERT INTO devices
      SELECT i, 'device ' || i, '2026-01-01'::date + i, '12:00'::time, '12:00+02'::timetz, '\\x0102',
             md5(i::text)::uuid
        FROM generate_series(1, 20) i;
    CREATE TABLE places (id int NOT NULL, region text NOT NULL, PRIMARY KEY (id, region))
      PARTITION BY LIST (region);
    CREATE TABLE places_north PARTITION OF places FOR VALUES IN ('north');
    CREATE TABLE places_south PARTITION OF places FOR VALUES IN ('south');
    INSERT INTO places SELECT i, (ARRAY['north', 'south'])[1 + i % 2] FROM generate_series(1, 6) i;
    CREATE TABLE spare (id int PRIMARY KEY, note text);
    CREATE VIEW summary AS SELECT device, count(*) AS readings FROM metrics GROUP BY device`);
}

/** A database for one configuration, and what is discovered in it. */
export async function prepare({
  name,
  overrides,
}: Pick<Setup, 'name' | 'overrides'>): Promise<Setup> {
  const db = await createDatabase();
  await createTables(db);
  // The rules for catalogs are tests of their own.
  const options = { config: db.config(overrides), unchecked: true };
  const discovered = (await run('discover', options)).succeeded();
  return { name, overrides, db, catalog: discovered.catalog() };
}

/** Every stream with the mode of the configuration, and a cursor where that needs one. */
export function configured({ name, catalog }: Setup): ConfiguredCatalog {
  const syncMode = name === 'full refresh' ? 'full_refresh' : 'incremental';
  const { streams } = configuredCatalog(catalog, { syncMode });
  return { streams: streams.map((entry) => withCursor(entry)) };
}

function withCursor(entry: ConfiguredEntry): ConfiguredEntry {
  const chosen = CURSORS[entry.stream.name];
  if (entry.sync_mode !== 'incremental' || entry.cursor_field.length > 0) return entry;
  if (chosen === undefined) throw new Error(`no cursor for ${entry.stream.name}`);
  return { ...entry, cursor_field: [chosen] };
}

export function keyOf(stream: AirbyteStream): string[] {
  return stream.source_defined_primary_key.map(([name = '']) => name);
}
