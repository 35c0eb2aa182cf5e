/** The tables of the chaos harness: one of each shape that a sync treats in a way of its own. */
import { type Database, hasCompression } from './database.ts';
import { DAY_ZERO } from './scenario.ts';

export type TableName =
  'metrics' | 'spaced' | 'readings' | 'events' | 'traces' | 'plain' | 'ledger' | 'docs' | 'orders';

export type ChaosTable = {
  readonly name: TableName | 'hourly';
  readonly hypertable: boolean;
  /** Whether its stream has a key; without one rows may come twice after a crash. */
  readonly keyed: boolean;
  /** What follows one row through its versions. */
  readonly identity: readonly string[];
  /** Whether updates and deletes show: without a key they do under REPLICA IDENTITY FULL only. */
  readonly changes: boolean;
};

const KEYED = { keyed: true, changes: true };

export const CHAOS_TABLES: readonly ChaosTable[] = [
  { name: 'metrics', hypertable: true, identity: ['ts', 'dev'], ...KEYED },
  { name: 'spaced', hypertable: true, identity: ['ts', 'dev'], ...KEYED },
  { name: 'readings', hypertable: true, identity: ['tag', 'ts'], ...KEYED },
  { name: 'events', hypertable: true, identity: ['id'], keyed: false, changes: true },
  { name: 'traces', hypertable: true, identity: ['id'], keyed: false, changes: false },
  { name: 'plain', hypertable: false, identity: ['id'], keyed: false, changes: false },
  { name: 'ledger', hypertable: false, identity: ['id'], keyed: false, changes: true },
  { name: 'docs', hypertable: false, identity: ['id'], ...KEYED },
  { name: 'orders', hypertable: false, identity: ['id'], ...KEYED },
];

/** A continuous aggregate over `metrics`, where this build has them; what the view shows is what is materialized. */
const AGGREGATE: ChaosTable = {
  name: 'hourly',
  hypertable: false,
  identity: ['bucket', 'dev'],
  ...KEYED,
};

/** What the streams of a round are. */
export async function chaosTables(db: Database): Promise<readonly ChaosTable[]> {
  return (await hasCompression(db)) ? [...CHAOS_TABLES, AGGREGATE] : CHAOS_TABLES;
}

/** Days that have a chunk from the start. */
export const DAYS = 9;
export const STEP_SECONDS = 120;
export const STEPS_A_DAY = 720;
export const DEVICES = 3;
export const DOCS = 20_000;
export const ORDERS = 4000;
/** Ids of a partition of `orders`. */
export const PARTITION = 1000;
/** First value of the sequence that numbers rows without a key. */
const FIRST_ID = 1_000_001;

const START = Date.parse(`${DAY_ZERO.replace('Z', '')}T00:00:00Z`);

/** A moment as the connector writes it. */
export function moment(day: number, seconds = 0): string {
  const iso = new Date(START + (day * 86_400 + seconds) * 1000).toISOString();
  return iso.replace(/\.(\d{3})Z$/, '.$1000Z');
}

/** Which rows of tables without a key there ever were, by text; rolled back with what wrote them. */
const REMEMBER = `
  CREATE TABLE history (line text);
  CREATE FUNCTION remember() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN INSERT INTO history VALUES (TG_ARGV[0] || '' '' || NEW.note); RETURN NULL; END'`;

const TABLES = `
  CREATE SEQUENCE ids START ${FIRST_ID};
  CREATE TABLE metrics (ts timestamptz NOT NULL, dev int NOT NULL, v int, note text, payload text,
                        PRIMARY KEY (ts, dev));
  ALTER TABLE metrics ALTER payload SET STORAGE EXTERNAL;
  SELECT create_hypertable('metrics', 'ts', chunk_time_interval => interval '1 day');
  CREATE TABLE spaced (ts timestamptz NOT NULL, dev int NOT NULL, v int, note text, PRIMARY KEY (ts, dev));
  SELECT create_hypertable('spaced', 'ts', 'dev', 3, chunk_time_interval => interval '1 day');
  CREATE TABLE readings (ts timestamptz NOT NULL, tag text NOT NULL, v int, note text);
  SELECT create_hypertable('readings', 'ts', chunk_time_interval => interval '1 day');
  CREATE UNIQUE INDEX readings_tag_ts ON readings (tag, ts);
  ALTER TABLE readings REPLICA IDENTITY USING INDEX readings_tag_ts;
  CREATE TABLE events (ts timestamptz NOT NULL, id bigint, note text);
  SELECT create_hypertable('events', 'ts', chunk_time_interval => interval '1 day');
  ALTER TABLE events REPLICA IDENTITY FULL;
  CREATE TABLE traces (ts timestamptz NOT NULL, id bigint, note text);
  SELECT create_hypertable('traces', 'ts', chunk_time_interval => interval '1 day');
  CREATE TABLE plain (id bigint, note text);
  CREATE TABLE ledger (id bigint, v int, note text);
  ALTER TABLE ledger REPLICA IDENTITY FULL;
  CREATE TABLE docs (id int PRIMARY KEY, v int, body text);
  ALTER TABLE docs ALTER body SET STORAGE EXTERNAL;
  CREATE TABLE orders (id int PRIMARY KEY, v int, note text) PARTITION BY RANGE (id);
  ${REMEMBER};
  CREATE TRIGGER remember AFTER INSERT OR UPDATE ON events FOR EACH ROW EXECUTE FUNCTION remember('events');
  CREATE TRIGGER remember AFTER INSERT OR UPDATE ON ledger FOR EACH ROW EXECUTE FUNCTION remember('ledger')`;

const COMPRESSION = `
  CREATE FUNCTION guard() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
  ${(
    [
      ['metrics', `, timescaledb.compress_segmentby = 'dev', timescaledb.compress_orderby = 'ts'`],
      ['spaced', `, timescaledb.compress_segmentby = 'dev'`],
      ['readings', `, timescaledb.compress_segmentby = 'tag'`],
      ['events', `, timescaledb.compress_orderby = 'ts'`],
      ['traces', `, timescaledb.compress_orderby = 'ts'`],
    ] as const
  )
    .map(
      ([table, options]) =>
        `ALTER TABLE ${table} SET (timescaledb.compress${options});
         CREATE TRIGGER guard AFTER DELETE ON ${table} FOR EACH ROW EXECUTE FUNCTION guard()`,
    )
    .join(';')}`;

export async function createTables(db: Database): Promise<void> {
  await db.query(TABLES);
  for (let first = 0; first < ORDERS; first += PARTITION) await db.query(partition(first));
  if (await hasCompression(db)) await db.query(COMPRESSION);
  await fill(db);
  if (await hasCompression(db)) await createAggregate(db);
}

async function createAggregate(db: Database): Promise<void> {
  await db.query(`
    CREATE MATERIALIZED VIEW hourly WITH (timescaledb.continuous) AS
      SELECT time_bucket('1 hour', ts) AS bucket, dev, sum(v) AS total, count(*) AS rows
        FROM metrics GROUP BY 1, 2 WITH NO DATA`);
  const table = await db.value<string>(
    `SELECT format('%I.%I', h.schema_name, h.table_name) FROM _timescaledb_catalog.continuous_agg ca
       JOIN _timescaledb_catalog.hypertable h ON h.id = ca.mat_hypertable_id WHERE ca.user_view_name = 'hourly'`,
  );
  await db.query(`
    ALTER TABLE ${table} REPLICA IDENTITY FULL;
    SELECT set_chunk_time_interval('${table}', interval '2 days');
    ALTER MATERIALIZED VIEW hourly SET (timescaledb.compress)`);
  await db.query(`CALL refresh_continuous_aggregate('hourly', NULL, NULL)`);
}

/** A partition of `orders` for the ids from here on. */
export function partition(first: number): string {
  return `CREATE TABLE IF NOT EXISTS orders_${first} PARTITION OF orders
            FOR VALUES FROM (${first}) TO (${first + PARTITION})`;
}

async function fill(db: Database): Promise<void> {
  const steps = (every: number): string =>
    `(SELECT timestamptz '${DAY_ZERO}' + i * interval '${STEP_SECONDS * every} seconds' AS ts, i
        FROM generate_series(0, ${(DAYS * STEPS_A_DAY) / every} - 1) i) steps`;
  const devices = `generate_series(1, ${DEVICES}) dev`;
  await db.query(`
    INSERT INTO metrics SELECT ts, dev, i, 'first/' || i, CASE WHEN i % 200 = 0 THEN repeat('p', 3000) END
      FROM ${steps(1)}, ${devices};
    INSERT INTO spaced SELECT ts, dev, i, 'first/' || i FROM ${steps(2)}, ${devices};
    INSERT INTO readings SELECT ts, 'tag' || i % 4, i, 'first/' || i FROM ${steps(1)};
    INSERT INTO events SELECT ts, id, 'first/' || id
      FROM (SELECT ts, nextval('ids') AS id FROM ${steps(2)}) new;
    INSERT INTO traces SELECT ts, id, 'first/' || id
      FROM (SELECT ts, nextval('ids') AS id FROM ${steps(1)}) new;
    INSERT INTO plain SELECT id, rpad('first/' || id, 90, '.')
      FROM (SELECT nextval('ids') AS id FROM generate_series(1, 30000)) new;
    INSERT INTO ledger SELECT id, 0, rpad('first/' || id, 60, '.')
      FROM (SELECT nextval('ids') AS id FROM generate_series(1, 15000)) new;
    INSERT INTO docs SELECT i, 0, repeat(md5(i::text), CASE WHEN i % 20 = 0 THEN 80 ELSE 3 END)
      FROM generate_series(1, ${DOCS}) i;
    INSERT INTO orders SELECT i, 0, 'first/' || i FROM generate_series(0, ${ORDERS - 1}) i;
    ANALYZE`);
}
