/** `wal`: changes out of the write-ahead log, by those who could read them. */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import {
  connectorFiles,
  connectorProgram,
  type Contestant,
  ownProgram,
  postgresProgram,
} from './bench-contestants.ts';
import type { BenchOptions } from './bench-options.ts';
import {
  fixed,
  type Goal,
  median,
  printGoals,
  printMemory,
  printResults,
  type Result,
  rounds,
} from './bench-rounds.ts';
import { ServerCpu } from './bench-server.ts';
import { CPU, createHypertable, insertSql, rowsAt } from './bench-tables.ts';
import { expectSame, outputChecksum, tableChecksum } from './bench-verify.ts';
import { connectTo } from './scenario.ts';
import { createDatabase, type Database, until } from './database.ts';
import { count, type Printer } from './demo-print.ts';

const CONNECTOR = 'the connector';
const RECVLOGICAL = 'pg_recvlogical';
const LIBRARY = 'pg-logical-replication';

type Case = {
  readonly name: string;
  readonly what: string;
  /** Times the rows of the table. */
  readonly times: number;
  readonly rowsPerTransaction: number;
  readonly goals: readonly Goal[];
  /** The library takes minutes where others take seconds. */
  readonly library: boolean;
};

const CASES: readonly Case[] = [
  {
    name: 'many',
    what: 'transactions of 1,000 rows',
    times: 1,
    rowsPerTransaction: 1000,
    library: true,
    goals: [
      { what: 'at most 0.5 of pg_recvlogical', of: CONNECTOR, against: RECVLOGICAL, atMost: 0.5 },
      {
        what: 'at least 4 times pg-logical-replication',
        of: CONNECTOR,
        against: LIBRARY,
        atMost: 0.25,
      },
    ],
  },
  {
    name: 'one',
    what: 'one transaction',
    times: 5,
    rowsPerTransaction: Number.POSITIVE_INFINITY,
    library: false,
    goals: [
      { what: 'at most 0.7 of pg_recvlogical', of: CONNECTOR, against: RECVLOGICAL, atMost: 0.7 },
    ],
  },
];

/** Each case in a database of its own: WAL is decoded for all tables of a database. */
export async function benchWal(_: Database, options: BenchOptions, out: Printer): Promise<void> {
  for (const item of CASES) {
    if (!options.wants(item.name)) continue;
    await using db = await createDatabase();
    await benchCase(db, item, options, out);
  }
}

async function benchCase(
  db: Database,
  item: Case,
  options: BenchOptions,
  out: Printer,
): Promise<void> {
  const rows = rowsAt(CPU, options.rowsPercent) * item.times;
  out.progress(`${item.name}: making ${count(rows)} changes`);
  const contestants = await contestantsOf(db, item, options, rows);
  if (options.verify) {
    const expected = await tableChecksum(db, CPU, `hostname <> '${SEED}'`);
    for (const contestant of contestants) {
      out.progress(`${item.name}: comparing the rows of ${contestant.name}`);
      expectSame(contestant.name, expected, await outputChecksum(db, CPU, contestant));
    }
  }
  const server = await ServerCpu.of(db);
  const results = await rounds(contestants, options.rounds, server, (text) => {
    out.progress(`${item.name}: ${text}`);
  });
  out.endProgress();
  out.section(`wal ${item.name}`, `${count(rows)} rows inserted in ${item.what}`);
  printResults(out, results, RECVLOGICAL, rows);
  printGoals(out, results, item.goals);
  if (item.name === 'many') printCpu(out, results);
  printMemory(out, results, CONNECTOR);
  out.line(`temporary files of the server, over all runs: ${await temporaryMb(db)} MB`);
}

/** In each chunk one, read before the changes begin: the chunks are there, and published. */
const SEED = 'seed';

async function contestantsOf(
  db: Database,
  item: Case,
  options: BenchOptions,
  rows: number,
): Promise<readonly Contestant[]> {
  await createHypertable(db, CPU);
  await db.query(`ALTER TABLE ${CPU.name} REPLICA IDENTITY FULL`);
  await db.query(`INSERT INTO ${CPU.name} (time, hostname)
    SELECT t, '${SEED}' FROM generate_series(timestamptz '2026-01-01',
      timestamptz '2026-01-01' + ${rows} * interval '100 milliseconds' + interval '3 hours', '3 hours') t`);
  const connection = await connectTo(db, { streams: [CPU.name] });
  await connection.sync();
  const slot = `bench_${db.name}`;
  const end = `${slot}_end`;
  // A change behind the last one shows readers that only look at transactions that they have passed it.
  await db.query(
    `CREATE TABLE ${end} (i int PRIMARY KEY); CREATE PUBLICATION ${end} FOR TABLE ${end}`,
  );
  await db.query(`SELECT pg_create_logical_replication_slot($1, 'pgoutput')`, [slot]);
  await insertRows(db, rows, item.rowsPerTransaction);
  const target = await db.value<string>('SELECT pg_current_wal_insert_lsn()::text');
  await db.query(`INSERT INTO ${end} VALUES (1)`);

  const folder = join(options.folder, `wal-${item.name}`);
  await mkdir(folder, { recursive: true });
  const files = await connectorFiles(db, folder, [CPU.name], {}, 'incremental');
  const state = join(folder, 'state.json');
  await writeFile(state, JSON.stringify(connection.destination.state));
  const publications = [db.publication, `${db.publication}_inserts`, end];
  const contestants: Contestant[] = [];
  const recvlogical = recvlogicalProgram(db, slot, publications, target);
  if (recvlogical !== null) contestants.push(recvlogical);
  contestants.push({
    name: CONNECTOR,
    format: 'records',
    program: connectorProgram(files, options.profile, ['--state', state]),
  });
  if (item.library && !options.quick) {
    contestants.push({
      name: LIBRARY,
      format: 'records',
      program: ownProgram('bench-program-replication', [
        db.url,
        `${slot}_run`,
        target,
        ...publications,
      ]),
      ...ownSlot(db, slot, `${slot}_run`),
    });
  }
  return contestants;
}

function recvlogicalProgram(
  db: Database,
  slot: string,
  publications: readonly string[],
  target: string,
): Contestant | null {
  const run = `${slot}_run`;
  const options = ['proto_version=1', `publication_names=${publications.join(',')}`];
  const program = postgresProgram('pg_recvlogical', [
    ...`--start --no-loop --fsync-interval 0 --file - --slot ${run} --endpos ${target}`.split(' '),
    ...options.flatMap((option) => ['--option', option]),
    '--dbname',
    db.url,
  ]);
  if (program === null) return null;
  return { name: RECVLOGICAL, format: 'pgoutput', program, ...ownSlot(db, slot, run) };
}

/** A copy of the slot for each run, since a walsender's reader moves its slot on. */
function ownSlot(
  db: Database,
  slot: string,
  run: string,
): Required<Pick<Contestant, 'prepare' | 'tidy'>> {
  return {
    prepare: async () => {
      await db.query('SELECT pg_copy_logical_replication_slot($1, $2)', [slot, run]);
    },
    tidy: async () => {
      await until('the slot is free', async () =>
        (await db.slots()).every(({ name, active }) => name !== run || !active),
      );
      await db.query('SELECT pg_drop_replication_slot($1)', [run]);
    },
  };
}

async function insertRows(db: Database, rows: number, rowsPerTransaction: number): Promise<void> {
  const size = Math.min(rows, rowsPerTransaction);
  await db.query(`
    CREATE PROCEDURE bench_insert() LANGUAGE plpgsql AS $$
    BEGIN
      FOR k IN 0 .. ${Math.ceil(rows / size) - 1} LOOP
        ${insertSql(CPU, `k * ${size}`, `least(${rows}, (k + 1) * ${size}) - 1`)};
        COMMIT;
      END LOOP;
    END $$`);
  await db.query('CALL bench_insert()');
}

function printCpu(out: Printer, results: readonly Result[]): void {
  const costs = results.find(({ name }) => name === CONNECTOR)?.costs ?? [];
  const part = median(costs.map((cost) => cost.cpuSeconds / (cost.serverCpuSeconds ?? Number.NaN)));
  if (Number.isFinite(part))
    out.result(part <= 1 / 3, `our CPU at most a third of the server's: ${fixed(part, 2)}`);
}

async function temporaryMb(db: Database): Promise<string> {
  const bytes = await db.value<string>(
    'SELECT temp_bytes FROM pg_stat_database WHERE datname = current_database()',
  );
  return count(Number(bytes) / 1e6);
}
