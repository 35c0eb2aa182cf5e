/**
 * Random values of every PostgreSQL type through the connector: from a table, from a hypertable and from the write-ahead
 * log, against what the server says that they are. Counts them by type; what differs is printed, with the exit code 1.
 *
 *   npm run types -- [--values 1000000] [--seed N]
 */
import { randomInt } from 'node:crypto';
import { parseArgs } from 'node:util';
import { startServer } from './server.ts';
import { TypesCheck, type TypesReport } from './types-check.ts';

/** Rows of a round: their lines are held in memory. */
const ROWS = 400;

async function main(): Promise<boolean> {
  const { values } = parseArgs({
    options: {
      values: { type: 'string', default: '1000000' },
      seed: { type: 'string', default: String(randomInt(1_000_000)) },
    },
  });
  const wanted = Number(values.values);
  const seed = Number(values.seed);
  const server = await startServer({ log: (line) => console.log(line) });
  process.env['TIMESCALEDB_URL'] = server.url;
  const started = performance.now();
  const check = new TypesCheck();
  console.log(`seed ${seed}`);
  try {
    for (let round = 0; check.values < wanted; round += 1) {
      await check.round(ROWS, ((seed + round) % 1_000_000) / 1_000_000);
      console.log(`round ${round + 1}: ${check.values} values`);
    }
  } finally {
    await server.stop();
  }
  print(check.report(), (performance.now() - started) / 1000);
  return check.report().faults.length === 0;
}

function print({ types, values, rows, faults }: TypesReport, seconds: number): void {
  console.log(
    `\n${'type'.padEnd(20)}${'values'.padStart(10)}${'null'.padStart(10)}${'no JSON'.padStart(10)}`,
  );
  for (const [type, count] of types) {
    const cells = [count.values, count.nulls, count.unencodable];
    console.log(type.padEnd(20) + cells.map((cell) => String(cell).padStart(10)).join(''));
  }
  console.log(
    `\n${values} values of ${types.size} types in ${rows} rows, each read twice and streamed three times, in ${seconds.toFixed(0)} s`,
  );
  for (const fault of faults) console.log(`✗ ${fault}`);
  console.log(faults.length === 0 ? 'all the same' : `${faults.length} faults shown`);
}

process.exitCode = (await main()) ? 0 : 1;
