/** Round after round until the time is up. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { failureReport, Journal, summary, type Totals } from './chaos-report.ts';
import { planRound, type RoundPlan, runRound } from './chaos-round.ts';
import { Counts } from './chaos-session.ts';
import type { Log, TimescaleServer } from './server.ts';

export type ChaosOptions = {
  readonly server: TimescaleServer;
  readonly seed: number;
  readonly minutes: number;
  readonly kills: boolean;
  readonly log: Log;
  /** Ends the run early, but in order. */
  readonly signal?: AbortSignal;
};

const ROUND_SECONDS = 40;
/** A round that is shorter has hardly a second sync. */
const SHORTEST_ROUND_SECONDS = 8;

/** @returns whether all rounds went well; what there is to say was logged. */
export async function runChaos(options: ChaosOptions): Promise<boolean> {
  const { server, seed, minutes, kills, log } = options;
  const signal = options.signal ?? new AbortController().signal;
  const totals: Totals = emptyTotals();
  const started = performance.now();
  const secondsLeft = (): number => minutes * 60 - (performance.now() - started) / 1000;
  for (let index = 0; index === 0 || secondsLeft() > SHORTEST_ROUND_SECONDS; index += 1) {
    if (signal.aborted) break;
    const seconds = Math.max(SHORTEST_ROUND_SECONDS, Math.min(ROUND_SECONDS, secondsLeft()));
    const plan = planRound(seed + index, seconds, kills);
    const round = `round ${index + 1}, ${describe(plan)}`;
    const folder = await mkdtemp(join(tmpdir(), 'chaos-'));
    const journal = new Journal(join(folder, 'journal.txt'));
    const script = new Journal(join(folder, 'statements.txt'));
    try {
      const before = { ...totals };
      totals.longestSync = 0;
      await runRound(plan, { server, journal, script, totals, folder, signal });
      log(`${round}: ${progress(before, totals, journal)}`);
    } catch (error) {
      const report = failureReport(error, { round, journal, folder });
      await writeFile(join(folder, 'report.txt'), report.join('\n'));
      for (const line of report) log(line);
      return false;
    }
    await rm(folder, { recursive: true });
  }
  for (const line of summary(totals, (performance.now() - started) / 60_000)) log(line);
  return true;
}

function describe({ seed, exact, settings, firstStreams, writers }: RoundPlan): string {
  const values = Object.entries(settings).map(
    ([name, value]) => `${name} ${JSON.stringify(value)}`,
  );
  const parts = [`seed ${seed}`, exact ? 'nothing interrupted' : 'interrupted'];
  return [...parts, ...values, `${firstStreams} streams at first`, `${writers} writers`].join(', ');
}

function progress(before: Totals, after: Totals, journal: Journal): string {
  const names = ['syncs', 'kills', 'restarts', 'cuts', 'records', 'comparedRows'] as const;
  const counts = names.map((name) => `${after[name] - before[name]} ${name}`);
  const longest = `the longest sync ${after.longestSync.toFixed(1)} s`;
  return [...counts, longest, `${journal.seconds().toFixed(0)} s`].join(', ');
}

function emptyTotals(): Totals {
  return {
    rounds: 0,
    syncs: 0,
    kills: 0,
    restarts: 0,
    cuts: 0,
    pauses: 0,
    transient: 0,
    records: 0,
    comparedRows: 0,
    retained: 0,
    longestSync: 0,
    statements: new Counts(),
    maintenance: new Counts(),
  };
}
