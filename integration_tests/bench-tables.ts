/** Tables that the benchmarks read: every value is made from the row's number, so that two runs have the same rows. */
import type { Database } from './database.ts';

export type BenchTable = {
  readonly name: string;
  /** For people. */
  readonly what: string;
  /** At 100 percent. */
  readonly rows: number;
  readonly columns: readonly BenchColumn[];
  readonly chunkInterval: string;
};

type BenchColumn = {
  readonly name: string;
  readonly type: string;
  /** Of the row's number `i`. */
  readonly sql: string;
};

const FIRST = "timestamptz '2026-01-01'";

function timeColumn(step: string): BenchColumn {
  // Whole milliseconds: JavaScript's Date, which the naive reader makes, holds no more.
  return {
    name: 'time',
    type: 'timestamptz NOT NULL',
    sql: `${FIRST} + i * interval '${step}'`,
  };
}

const NUMBERS = [
  'usage_user',
  'usage_system',
  'usage_idle',
  'usage_nice',
  'usage_iowait',
  'usage_irq',
  'usage_softirq',
  'usage_steal',
  'usage_guest',
  'usage_guest_nice',
];

/** As the Time Series Benchmark Suite's table of the same name: a time, two texts, ten numbers. */
function cpu(name: string, what: string, rows: number, chunkInterval: string): BenchTable {
  return {
    name,
    what,
    rows,
    chunkInterval,
    columns: [
      timeColumn('100 milliseconds'),
      { name: 'hostname', type: 'text', sql: `'host_' || i % 4000` },
      {
        name: 'region',
        type: 'text',
        sql: `(ARRAY['eu-central-1','us-west-2','sa-east-1'])[i % 3 + 1]`,
      },
      ...NUMBERS.map((column, index) => ({
        name: column,
        type: 'double precision',
        sql: `(i::bigint * ${7919 + index * 104729} % 1000000) / 10000.0`,
      })),
    ],
  };
}

/** 2 million rows x 13 columns. */
export const CPU = cpu('cpu', '13 columns', 2_000_000, '3 hours');

/** The same in 1,000 chunks. */
export const CHUNKED = cpu('chunked', '13 columns, 1,000 chunks', 2_000_000, '200 seconds');

/** The same, compressed. */
export const COMPRESSED = cpu('compressed', '13 columns, compressed', 2_000_000, '3 hours');

export const NARROW: BenchTable = {
  name: 'narrow',
  what: '3 columns',
  rows: 5_000_000,
  chunkInterval: '3 hours',
  columns: [
    timeColumn('40 milliseconds'),
    { name: 'device', type: 'int', sql: 'i % 1000' },
    { name: 'value', type: 'double precision', sql: '(i::bigint * 7919 % 1000000) / 1000.0' },
  ],
};

export const WIDE: BenchTable = {
  name: 'wide',
  what: 'mixed types',
  rows: 500_000,
  chunkInterval: '3 hours',
  columns: [
    timeColumn('400 milliseconds'),
    { name: 'id', type: 'bigint', sql: 'i::bigint << 24' },
    { name: 'code', type: 'uuid', sql: 'md5(i::text)::uuid' },
    {
      name: 'message',
      type: 'text',
      sql: `'Disk "sd' || i % 9 || '" on C:\\data' || chr(10) || 'löst 日本 \u{1f600} ' || repeat('status nominal ', 8)`,
    },
    { name: 'price', type: 'numeric(20,6)', sql: 'i * 1.000013' },
    {
      name: 'details',
      type: 'jsonb',
      sql: `jsonb_build_object('unit', i % 50, 'label', 'a "b"', 'ok', i % 2 = 0)`,
    },
    { name: 'seen', type: 'timestamptz', sql: `${FIRST} - i * interval '1.234 seconds'` },
    { name: 'tags', type: 'text[]', sql: `ARRAY['t' || i % 7, 'with space', 'q"uote']` },
    { name: 'payload', type: 'bytea', sql: `decode(md5(i::text) || md5(i::text), 'hex')` },
    { name: 'ok', type: 'boolean', sql: 'i % 3 = 0' },
    { name: 'note', type: 'text', sql: `CASE WHEN i % 4 = 0 THEN NULL ELSE 'note ' || i END` },
  ],
};

/** Rows of a table at a percentage. */
export function rowsAt(table: BenchTable, percent: number): number {
  return Math.max(1000, Math.round((table.rows * percent) / 100));
}

/** The INSERT of the rows numbered `from` to `to`. */
export function insertSql(table: BenchTable, from: string, to: string): string {
  return `INSERT INTO ${table.name} SELECT ${table.columns.map(({ sql }) => sql).join(', ')}
            FROM generate_series(${from}, ${to}) i`;
}

/** An empty hypertable. @param chunkInterval instead of the table's own. */
export async function createHypertable(
  db: Database,
  table: BenchTable,
  chunkInterval: string = table.chunkInterval,
): Promise<void> {
  const columns = table.columns.map(({ name, type }) => `${name} ${type}`).join(', ');
  await db.query(`CREATE TABLE ${table.name} (${columns});
    SELECT create_hypertable('${table.name}', 'time', create_default_indexes => false,
                             chunk_time_interval => interval '${chunkInterval}');`);
}

/** A filled hypertable, its hint bits set, so that no reader has to write. */
export async function fillHypertable(
  db: Database,
  table: BenchTable,
  percent: number,
): Promise<number> {
  const rows = rowsAt(table, percent);
  // The same number of chunks, however few rows there are.
  const interval = table === CHUNKED ? `${rows / 10_000} seconds` : table.chunkInterval;
  await createHypertable(db, table, interval);
  await db.query(insertSql(table, '0', String(rows - 1)));
  await db.query(`VACUUM (ANALYZE, FREEZE) ${table.name}`);
  return rows;
}

/** Compresses every chunk (full build only). */
export async function compress(db: Database, table: BenchTable): Promise<void> {
  await db.query(`ALTER TABLE ${table.name} SET (timescaledb.compress,
    timescaledb.compress_segmentby = 'hostname', timescaledb.compress_orderby = 'time')`);
  await db.query(`SELECT count(compress_chunk(c)) FROM show_chunks('${table.name}') c`);
  await db.query(`VACUUM (ANALYZE) ${table.name}`);
}
