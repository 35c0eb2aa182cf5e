/** `plan`: discover and an idle sync at 10, 1,000 and 10,000 chunks, and of 500 streams. */
import type { BenchOptions } from './bench-options.ts';
import { idleCase, type IdleResult, printIdle } from './bench-idle.ts';
import { createDatabase, type Database } from './database.ts';
import type { Printer } from './demo-print.ts';

const CASES = [
  { name: '10 chunks', hypertables: 1, chunks: 10 },
  { name: '1,000 chunks', hypertables: 1, chunks: 1000 },
  { name: '10,000 chunks', hypertables: 1, chunks: 10_000 },
  { name: '500 streams', hypertables: 500, chunks: 1 },
] as const;

/** Each case in a database of its own. */
export async function benchPlan(_: Database, options: BenchOptions, out: Printer): Promise<void> {
  const results: IdleResult[] = [];
  for (const item of CASES) {
    if (!options.wants(item.name)) continue;
    await using db = await createDatabase();
    results.push(await idleCase(db, item, options, out));
  }
  out.endProgress();
  out.section('What grows with chunks and streams', 'discover, and a sync with nothing to do');
  printIdle(out, results);
}
