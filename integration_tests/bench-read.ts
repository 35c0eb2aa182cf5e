/** `read`: rows of hypertables, by those who could read them. */
import { join } from 'node:path';
import {
  connectorFiles,
  connectorProgram,
  type Contestant,
  ownProgram,
  psqlCopy,
} from './bench-contestants.ts';
import type { BenchOptions } from './bench-options.ts';
import { type Goal, printGoals, printMemory, printResults, rounds } from './bench-rounds.ts';
import { ServerCpu } from './bench-server.ts';
import {
  type BenchTable,
  CHUNKED,
  compress,
  COMPRESSED,
  CPU,
  fillHypertable,
  NARROW,
  WIDE,
} from './bench-tables.ts';
import { expectSame, outputChecksum, tableChecksum } from './bench-verify.ts';
import { type Database, hasCompression } from './database.ts';
import { count, type Printer } from './demo-print.ts';

const CONNECTOR = 'the connector';
const NAIVE = 'naive (pg-query-stream)';
const SNAPSHOT = 'ours, one snapshot';
const COPY_TEXT = 'psql COPY text';

type Case = {
  readonly table: BenchTable;
  /** Against `psql COPY` text. */
  readonly copy?: number;
  /** Times as fast as the naive reader. */
  readonly naive?: number;
  /** Against one snapshot of the whole table. */
  readonly snapshot?: number;
};

const CASES: readonly Case[] = [
  { table: CPU, copy: 0.9, naive: 8 },
  { table: NARROW, copy: 0.9, naive: 10 },
  { table: WIDE, copy: 0.85, naive: 4 },
  { table: CHUNKED, snapshot: 1.1 },
  { table: COMPRESSED },
];

export async function benchRead(db: Database, options: BenchOptions, out: Printer): Promise<void> {
  const server = await ServerCpu.of(db);
  for (const item of CASES) {
    const { table } = item;
    if (!options.wants(table.name)) continue;
    if (table === COMPRESSED && !(await hasCompression(db))) continue;
    out.progress(`filling ${table.name}`);
    const rows = await fillHypertable(db, table, options.rowsPercent);
    if (table === COMPRESSED) await compress(db, table);
    const contestants = (await contestantsOf(db, options, table)).filter(
      ({ name }) => name === CONNECTOR || name === COPY_TEXT || !options.quick,
    );
    if (options.verify) await verify(db, table, contestants, out);
    const results = await rounds(contestants, options.rounds, server, (text) => {
      out.progress(`${table.name}: ${text}`);
    });
    out.endProgress();
    out.section(`read ${table.name}`, `${count(rows)} rows, ${table.what}`);
    printResults(out, results, COPY_TEXT, rows);
    printGoals(out, results, goalsOf(item));
    printMemory(out, results, CONNECTOR);
    await db.query(`DROP TABLE ${table.name}`);
  }
}

async function contestantsOf(
  db: Database,
  options: BenchOptions,
  table: BenchTable,
): Promise<readonly Contestant[]> {
  const folder = join(options.folder, table.name);
  const overrides = { replication_method: { method: 'Standard' } };
  const files = await connectorFiles(db, folder, [table.name], overrides, 'full_refresh');
  const copies = [psqlCopy(db, table.name, 'text'), psqlCopy(db, table.name, 'binary')];
  return [
    ...copies.filter((contestant) => contestant !== null),
    {
      name: CONNECTOR,
      format: 'records',
      program: connectorProgram(files, options.profile),
    },
    {
      name: SNAPSHOT,
      format: 'records',
      program: ownProgram('bench-program-snapshot', [files.config, files.catalog]),
    },
    {
      name: NAIVE,
      format: 'records',
      program: ownProgram('bench-program-naive', [db.url, table.name]),
    },
  ];
}

async function verify(
  db: Database,
  table: BenchTable,
  contestants: readonly Contestant[],
  out: Printer,
): Promise<void> {
  const expected = await tableChecksum(db, table);
  for (const contestant of contestants) {
    out.progress(`${table.name}: comparing the rows of ${contestant.name}`);
    expectSame(contestant.name, expected, await outputChecksum(db, table, contestant));
  }
}

function goalsOf({ copy, naive, snapshot }: Case): readonly Goal[] {
  const goals: Goal[] = [];
  const of = CONNECTOR;
  if (copy !== undefined)
    goals.push({ what: `at most ${copy} of psql COPY text`, of, against: COPY_TEXT, atMost: copy });
  if (naive !== undefined)
    goals.push({
      what: `at least ${naive} times the naive reader`,
      of,
      against: NAIVE,
      atMost: 1 / naive,
    });
  if (snapshot !== undefined)
    goals.push({
      what: `at most ${snapshot} of one full-table read`,
      of,
      against: SNAPSHOT,
      atMost: snapshot,
    });
  return goals;
}
