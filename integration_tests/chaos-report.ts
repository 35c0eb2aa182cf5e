/** What the chaos harness tells: a journal of the events of a round, the story of a failure, the summary at the end. */
import { appendFileSync } from 'node:fs';
import type { Counts } from './chaos-session.ts';

/** Events with their times since the round began, in a file that outlives a process that is killed. */
export class Journal {
  readonly lines: string[] = [];
  readonly #started = performance.now();
  readonly #file: string;

  constructor(file: string) {
    this.#file = file;
  }

  seconds(): number {
    return (performance.now() - this.#started) / 1000;
  }

  /** As it stands in front of each line. */
  now(): string {
    return this.seconds().toFixed(2);
  }

  note(text: string): void {
    const line = `${this.now().padStart(7)}  ${text.slice(0, 600)}`;
    this.lines.push(line);
    appendFileSync(this.#file, `${line}\n`);
  }
}

/** A round that went wrong; `story` is for people. */
export class RoundFailure extends Error {
  override readonly name = 'RoundFailure';
  readonly story: readonly string[];

  constructor(message: string, story: readonly string[] = [], cause?: unknown) {
    super(message, { cause });
    this.story = story;
  }
}

export type Totals = {
  rounds: number;
  syncs: number;
  kills: number;
  restarts: number;
  cuts: number;
  pauses: number;
  /** Syncs that ended with a transient error after a cut, a restart or a kill. */
  transient: number;
  records: number;
  comparedRows: number;
  retained: number;
  /** Of the round at hand, in seconds. */
  longestSync: number;
  readonly statements: Counts;
  readonly maintenance: Counts;
};

export function summary(totals: Totals, minutes: number): string[] {
  const { rounds, syncs, kills, restarts, cuts, pauses, transient, records } = totals;
  return [
    `${rounds} rounds in ${minutes.toFixed(1)} minutes, ${syncs} syncs`,
    `${kills} kills, ${restarts} server restarts, ${cuts} network cuts, ${pauses} pauses; ` +
      `${transient} syncs ended with a transient error`,
    `${records} records, ${totals.comparedRows} rows compared, ${totals.retained} of dropped chunks kept`,
    ...table('statements', totals.statements),
    ...table('maintenance', totals.maintenance),
    '0 missing, 0 extra, 0 different',
  ];
}

function table(title: string, counts: Counts): string[] {
  const list = (map: ReadonlyMap<string, number>): string =>
    [...map]
      .toSorted(([, a], [, b]) => b - a)
      .map(([kind, count]) => `${kind} ${count}`)
      .join('; ');
  const lines = [`${title}: ${list(counts.done)}`];
  if (counts.refused.size > 0) lines.push(`  refused by the server: ${list(counts.refused)}`);
  return lines;
}

const LAST_EVENTS = 80;

/** A failure as it is printed. */
export function failureReport(
  failure: unknown,
  about: { readonly round: string; readonly journal: Journal; readonly folder: string },
): string[] {
  const error = failure instanceof Error ? failure : new Error(String(failure));
  const cause = error.cause instanceof Error ? [`caused by ${error.cause.stack ?? ''}`] : [];
  const { lines } = about.journal;
  return [
    `FAILED: ${about.round}`,
    ...(error instanceof RoundFailure ? [error.message] : [error.stack ?? error.message]),
    ...cause,
    `The last events (of ${lines.length}), in seconds since the round began:`,
    ...lines.slice(-LAST_EVENTS),
    ...(error instanceof RoundFailure ? error.story : []),
    `All that the syncs printed is in ${about.folder}`,
  ];
}
