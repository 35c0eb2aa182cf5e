/** Interleaved rounds (A B C A B C ...), so that whatever slows the machine down for a while slows all of them. */
import { type Cost, measure } from './bench-process.ts';
import type { Contestant } from './bench-contestants.ts';
import type { ServerCpu } from './bench-server.ts';
import type { Cell, Printer } from './demo-print.ts';

export type Result = { readonly name: string; readonly costs: readonly Cost[] };

/** A figure of the issue: a contestant's seconds against another's. */
export type Goal = {
  readonly what: string;
  readonly of: string;
  readonly against: string;
  /** The most that seconds(of) / seconds(against) may be. */
  readonly atMost: number;
};

export async function rounds(
  contestants: readonly Contestant[],
  count: number,
  server: ServerCpu,
  onProgress: (text: string) => void,
): Promise<readonly Result[]> {
  const results = contestants.map((contestant) => ({ contestant, costs: [] as Cost[] }));
  for (let round = 1; round <= count; round += 1) {
    for (const { contestant, costs } of results) {
      onProgress(`round ${round} of ${count}: ${contestant.name}`);
      await contestant.prepare?.();
      try {
        costs.push(await measure(contestant.program, server));
      } finally {
        await contestant.tidy?.();
      }
    }
  }
  return results.map(({ contestant, costs }) => ({ name: contestant.name, costs }));
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? upper) + upper) / 2;
}

function medianSeconds(result: Result): number {
  return median(result.costs.map(({ seconds }) => seconds));
}

/** Of each round by itself, then the median: rounds differ more than contestants do within one. */
function ratio(of: Result, against: Result): number {
  return median(
    of.costs.map(({ seconds }, at) => seconds / (against.costs[at]?.seconds ?? Number.NaN)),
  );
}

/** One line for each contestant; `rows` is what each of them has read. */
export function printResults(
  out: Printer,
  results: readonly Result[],
  baseline: string,
  rows: number,
): void {
  const base = results.find(({ name }) => name === baseline);
  const heading = [
    '',
    's',
    'rows/s',
    'ratio',
    'its CPU s',
    'server CPU s',
    'peak MB',
    'MB written',
  ];
  out.table(
    heading,
    results.map((result): Cell[] => {
      const middle = (value: (cost: Cost) => number | undefined): number =>
        median(result.costs.map((cost) => value(cost) ?? Number.NaN));
      const seconds = medianSeconds(result);
      return [
        result.name,
        fixed(seconds, 2),
        Math.round(rows / seconds),
        base === undefined ? '-' : fixed(ratio(result, base), 2),
        fixed(
          middle((cost) => cost.cpuSeconds),
          2,
        ),
        fixed(
          middle((cost) => cost.serverCpuSeconds),
          2,
        ),
        fixed(
          middle((cost) => cost.peakMb),
          0,
        ),
        fixed(
          middle((cost) => cost.bytes / 1e6),
          0,
        ),
      ];
    }),
  );
}

/** Each goal with what was measured. */
export function printGoals(out: Printer, results: readonly Result[], goals: readonly Goal[]): void {
  for (const { what, of, against, atMost } of goals) {
    const one = results.find(({ name }) => name === of);
    const other = results.find(({ name }) => name === against);
    if (one === undefined || other === undefined) continue;
    const measured = ratio(one, other);
    const times = atMost < 0.3 ? `${fixed(1 / measured, 1)} times as fast` : fixed(measured, 2);
    out.result(measured <= atMost, `${what}: ${times}`);
  }
}

const MEMORY_GOAL_MB = 120;

/** The most memory that a contestant had in any round. */
export function printMemory(out: Printer, results: readonly Result[], name: string): void {
  const costs = results.find((result) => result.name === name)?.costs ?? [];
  const peak = Math.max(...costs.map(({ peakMb }) => peakMb ?? Number.NaN));
  if (Number.isNaN(peak)) return;
  out.result(peak < MEMORY_GOAL_MB, `memory under ${MEMORY_GOAL_MB} MB: ${fixed(peak, 0)} MB`);
}

/** A dash for what could not be measured. */
export function fixed(value: number, digits: number): string {
  return Number.isFinite(value) ? value.toFixed(digits) : '-';
}
