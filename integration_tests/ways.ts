/** What the tests of the ways to lose or invent rows share: a hypertable without a key, where each row counts. */
import type { Database } from './database.ts';
import { DAY_ZERO } from './scenario.ts';

/**
 * One chunk at a time, so that a test knows which one is next. No session is left for a look at new chunks in between,
 * which would take its turn when the machine is slow.
 */
export const ONE_BY_ONE = { timescaledb_max_concurrent_chunks: 1, max_db_connections: 3 };

/** As SQL: the beginning of a day. */
export function day(n: number): string {
  return `'${DAY_ZERO}'::timestamptz + interval '${n} days'`;
}

/** Rows of the first chunk, which is larger than what the pipe and its reader hold: a stopped process is still in the midst of it. */
const FIRST_CHUNK_ROWS = 3000;
/** Rows of each other chunk. */
export const CHUNK_ROWS = 24;

/** `readings`: chunks of a day each. */
export async function fillReadings(db: Database, days: number): Promise<void> {
  await db.query(`
    CREATE TABLE readings (time timestamptz NOT NULL, device int, note text);
    SELECT create_hypertable('readings', 'time', chunk_time_interval => interval '1 day');
    ALTER TABLE readings REPLICA IDENTITY FULL;
    INSERT INTO readings SELECT ${day(0)} + i * interval '1 second', i, repeat('x', 200)
      FROM generate_series(1, ${FIRST_CHUNK_ROWS}) i;
    INSERT INTO readings SELECT ${day(0)} + day * interval '1 day' + i * interval '30 minutes', i, 'day ' || day
      FROM generate_series(1, ${days - 1}) day, generate_series(1, ${CHUNK_ROWS}) i`);
}

/**
 * The columnstore, with the trigger that makes deletes of whole batches visible.
 * @param options more of ALTER TABLE ... SET.
 */
export async function useColumnstore(db: Database, options = ''): Promise<void> {
  await db.query(`
    ALTER TABLE readings SET (timescaledb.compress, timescaledb.compress_orderby = 'time'${options});
    CREATE FUNCTION guard() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
    CREATE TRIGGER guard AFTER DELETE ON readings FOR EACH ROW EXECUTE FUNCTION guard()`);
}

/** One insert, one update (a delete and an insert, without a key) and one delete in a day: four records. */
export function changes(n: number, tag: string): string {
  return `
    INSERT INTO readings VALUES (${day(n)} + interval '1 minute', -1, '${tag}');
    UPDATE readings SET note = '${tag}'
     WHERE time > ${day(n)} AND time < ${day(n + 1)} AND device = 3;
    DELETE FROM readings WHERE time > ${day(n)} AND time < ${day(n + 1)} AND device = 4;`;
}

/** The chunks of a hypertable as SQL names them, by time. */
export async function chunkNames(db: Database, hypertable = 'readings'): Promise<string[]> {
  const rows = await db.query<{ name: string }>(
    `SELECT format('%I.%I', chunk_schema, chunk_name) AS name
       FROM timescaledb_information.chunks WHERE hypertable_name = $1 ORDER BY range_start, range_start_integer`,
    [hypertable],
  );
  return rows.map(({ name }) => name);
}

/** Whether TimescaleDB knows a setting; its library is loaded by any use of it. */
export async function hasSetting(db: Database, name: string): Promise<boolean> {
  await db.query('SELECT count(*) FROM timescaledb_information.hypertables');
  return db.value<boolean>('SELECT EXISTS (SELECT FROM pg_settings WHERE name = $1)', [name]);
}
