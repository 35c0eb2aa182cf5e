/**
 * Shows that a contestant has read the rows of the table, all and unchanged: its output goes back to the server, which
 * reads it as rows of that table and sums their hashes. Not part of a measured run.
 */
import { spawn } from 'node:child_process';
import pg from 'pg';
import { outputOf } from './bench-process.ts';
import { type Contestant, postgresProgram } from './bench-contestants.ts';
import type { BenchTable } from './bench-tables.ts';
import type { Database } from './database.ts';
import { linesOf, tuplesOf } from './bench-decode.ts';

export type Checksum = { readonly rows: number; readonly hash: string };

/** Lines sent to the server at once. */
const BATCH = 5000;

/** Of the table itself: what every contestant has to come to. */
export async function tableChecksum(
  db: Database,
  table: BenchTable,
  where = 'true',
): Promise<Checksum> {
  return checksum(db, `SELECT * FROM ${table.name} WHERE ${where}`, table);
}

/** Of what a contestant writes. */
export async function outputChecksum(
  db: Database,
  table: BenchTable,
  contestant: Contestant,
): Promise<Checksum> {
  const { format } = contestant;
  await contestant.prepare?.();
  try {
    if (format === 'copy-text' || format === 'copy-binary')
      return await copiedChecksum(db, table, contestant);
    const output = outputOf(contestant.program);
    const records = format === 'records' ? dataOf(linesOf(output)) : tuplesOf(output, table);
    return await recordsChecksum(db, table, records);
  } finally {
    await contestant.tidy?.();
  }
}

/** @throws Error when two have not read the same. */
export function expectSame(name: string, expected: Checksum, found: Checksum): void {
  if (found.rows === expected.rows && found.hash === expected.hash) return;
  throw new Error(
    `${name} has read other rows than the table has: ${JSON.stringify({ expected, found })}`,
  );
}

/** jsonb comes as its text from the one and as an object from the other: as jsonb both are the same. */
function rowHash(table: BenchTable): string {
  const columns = table.columns.map(({ name, type }) =>
    type === 'jsonb' ? `${name}::jsonb` : name,
  );
  return `hashtextextended(ROW(${columns.join(', ')})::text, 0)`;
}

async function checksum(db: Database, rows: string, table: BenchTable): Promise<Checksum> {
  const [found] = await db.query<{ rows: string; hash: string }>(
    `SELECT count(*) AS rows, coalesce(sum(${rowHash(table)}), 0) AS hash FROM (${rows}) r`,
  );
  return { rows: Number(found?.rows), hash: found?.hash ?? '' };
}

/** Through a second table. */
async function copiedChecksum(
  db: Database,
  table: BenchTable,
  { format, program }: Contestant,
): Promise<Checksum> {
  await db.query(`CREATE UNLOGGED TABLE copied AS SELECT * FROM ${table.name} WHERE false`);
  try {
    const sql = `COPY copied FROM STDIN (FORMAT ${format.slice('copy-'.length)})`;
    const back = postgresProgram('psql', ['-X', '-q', '-d', db.url, '-c', sql]);
    if (back === null) throw new Error('there is no psql');
    await pipe(program, back);
    return await checksum(db, 'SELECT * FROM copied', table);
  } finally {
    await db.query('DROP TABLE copied');
  }
}

async function pipe(from: Contestant['program'], to: Contestant['program']): Promise<void> {
  const sink = spawn(to.command, to.args, { stdio: ['pipe', 'ignore', 'inherit'] });
  const ended = new Promise<number | null>((resolve, reject) => {
    sink.once('error', reject);
    sink.once('close', resolve);
  });
  for await (const chunk of outputOf(from)) {
    if (!sink.stdin.write(chunk)) await new Promise((resolve) => sink.stdin.once('drain', resolve));
  }
  sink.stdin.end();
  if ((await ended) !== 0) throw new Error('what was copied cannot be read again');
}

/** The `data` of each RECORD line. */
async function* dataOf(lines: AsyncIterable<string>): AsyncGenerator<string> {
  for await (const line of lines) {
    if (line.startsWith('{"type":"RECORD"')) yield line;
  }
}

async function recordsChecksum(
  db: Database,
  table: BenchTable,
  lines: AsyncIterable<string>,
): Promise<Checksum> {
  const client = await db.client();
  let rows = 0;
  let hash = 0n;
  const add = async (batch: readonly string[]): Promise<void> => {
    const found = await client.query<{ rows: string; hash: string }>(
      `SELECT count(*) AS rows, coalesce(sum(${rowHash(table)}), 0) AS hash
         FROM unnest($1::json[]) line,
              json_populate_record(NULL::record_of_table, line -> 'record' -> 'data') r`,
      [batch],
    );
    rows += Number(found.rows[0]?.rows);
    hash += BigInt(found.rows[0]?.hash ?? 0);
  };
  try {
    const columns = table.columns.map(({ name, type }) => {
      const plain = type === 'jsonb' ? 'text' : type.replace(' NOT NULL', '');
      return `${pg.escapeIdentifier(name)} ${plain}`;
    });
    await client.query(`CREATE TYPE pg_temp.record_of_table AS (${columns.join(', ')})`);
    let batch: string[] = [];
    for await (const line of lines) {
      batch.push(line);
      if (batch.length < BATCH) continue;
      await add(batch);
      batch = [];
    }
    if (batch.length > 0) await add(batch);
    return { rows, hash: String(hash) };
  } finally {
    await client.end();
  }
}
