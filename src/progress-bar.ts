/**
 * What a person at a terminal sees of a read: a line that moves, and a summary at its end. Rendering is pure; the class
 * below only counts and writes. stdout belongs to the protocol: all of this goes to stderr, and only when that is a
 * terminal.
 */
import type { UnitRead, Watcher } from './airbyte/output.ts';

type Unit = 'chunk' | 'slice';

type StreamName = { readonly name: string; readonly namespace: string };

/** What was read of a stream, and what is left. */
type Share = { readonly label: string; unit: Unit; done: number; left: number; rows: number };

/** One moment of a read. */
export type Moment = {
  readonly shares: readonly Omit<Share, 'label' | 'rows'>[];
  /** Of the write-ahead log that is being read, 0 to 1; null while rows are read. */
  readonly changes: number | null;
  readonly records: number;
  readonly perSecond: number;
  /** Since the beginning, without the time spent on changes. */
  readonly seconds: number;
};

export type Outcome = {
  readonly shares: readonly Readonly<Share>[];
  readonly records: number;
  readonly states: number;
  readonly seconds: number;
  /** Null when all went well. */
  readonly failure: string | null;
};

type Paint = (style: keyof typeof CODES, text: string) => string;

const CODES = { bold: 1, dim: 2, red: 31, green: 32, cyan: 36 } as const;

/** Colours the text, or leaves it as it is. */
export function painter(colours: boolean): Paint {
  return (style, text) =>
    colours && text !== '' ? `\u001B[${CODES[style]}m${text}\u001B[0m` : text;
}

const LONGEST_BAR = 20;
const SHORTEST_BAR = 8;

/** The moving line, never wider than the terminal: what matters least is left out first. */
export function progressLine(moment: Moment, width: number, paint: Paint): string {
  const { changes, records, perSecond } = moment;
  const [done, left] = [total(moment, 'done'), total(moment, 'left')];
  const share = changes ?? (done + left === 0 ? 0 : done / (done + left));
  const what = changes === null ? unitsText(moment) : `changes ${Math.floor(share * 100)} %`;
  const rest = [
    `${count(records)} ${changes === null ? 'rows' : 'records'}`,
    `${count(perSecond)}/s`,
    ...(changes === null ? timeLeft(moment.seconds, done, left) : []),
  ];
  const fits = (parts: readonly string[], spare: number): boolean =>
    parts.join('  ').length + spare < width;
  const parts = [what, ...rest];
  while (parts.length > 1 && !fits(parts, 0)) parts.pop();
  const text = parts.join('  ').slice(0, Math.max(0, width - 1));
  const room = Math.min(LONGEST_BAR, width - 3 - text.length);
  if (room < SHORTEST_BAR) return text;
  const full = Math.round(share * room);
  return `${paint('cyan', '█'.repeat(full))}${paint('dim', '░'.repeat(room - full))}  ${text}`;
}

function total(moment: Moment, field: 'done' | 'left'): number {
  return moment.shares.reduce((sum, share) => sum + share[field], 0);
}

function unitsText({ shares }: Moment): string {
  const texts = (['chunk', 'slice'] as const).flatMap((unit) => {
    const own = shares.filter((share) => share.unit === unit);
    const done = own.reduce((sum, share) => sum + share.done, 0);
    const all = own.reduce((sum, share) => sum + share.left, done);
    return all === 0 ? [] : [`${done} of ${amount(all, unit)}`];
  });
  return texts.length === 0 ? 'looking at the tables' : texts.join(', ');
}

function timeLeft(seconds: number, done: number, left: number): readonly string[] {
  if (done === 0 || left === 0) return [];
  return [`about ${duration(Math.ceil((seconds / done) * left))} left`];
}

/** The lines at the end. */
export function summary(outcome: Outcome, paint: Paint): string {
  const { shares, records, states, seconds, failure } = outcome;
  const pace = seconds >= 1 ? ` (${count(records / seconds)} a second)` : '';
  const head = `${amount(records, 'record')} in ${duration(seconds)}${pace}`;
  const lines = [
    failure === null
      ? `${paint('green', '✓')} ${paint('bold', head)}`
      : `${paint('red', '✗')} ${paint('bold', `Stopped after ${head}`)}`,
  ];
  const rows = shares.filter((share) => share.done > 0);
  const changes = records - rows.reduce((sum, share) => sum + share.rows, 0);
  const table = rows.map((share) => [
    share.label,
    count(share.rows),
    `rows of ${amount(share.done, share.unit)}`,
  ]);
  if (changes > 0) table.push(['changes', count(changes), '']);
  const widths = [0, 1].map((at) => Math.max(0, ...table.map((row) => row[at]?.length ?? 0)));
  for (const [label = '', number = '', what = ''] of table) {
    const cells = `${label.padEnd(widths[0] ?? 0)}  ${number.padStart(widths[1] ?? 0)}`;
    lines.push(`    ${cells} ${paint('dim', what)}`.trimEnd());
  }
  const next =
    states === 0 ? 'no state' : `${amount(states, 'state')}; the last one is for the next read`;
  lines.push(`    ${paint('dim', next)}`);
  if (failure !== null) lines.push(paint('red', failure));
  return `${lines.join('\n')}\n`;
}

function amount(value: number, what: string): string {
  return `${count(value)} ${what}${value === 1 ? '' : 's'}`;
}

function count(value: number): string {
  return Math.round(value).toLocaleString('en-US');
}

function duration(seconds: number): string {
  if (seconds < 10 && !Number.isInteger(seconds)) return `${seconds.toFixed(1)} s`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

/** The terminal, as the bar needs it. */
export type Terminal = {
  readonly write: (text: string) => void;
  /** Asked each time: windows change. */
  readonly columns: () => number;
  readonly colours: boolean;
  /** False where the line would be torn by what else is written, or cannot be written over: then only the summary. */
  readonly moving: boolean;
};

const EVERY_MS = 200;
/** The rate is that of the last so many steps. */
const RATE_STEPS = 25;
const START_OF_LINE = '\r\u001B[K';

/** Counts what a read does, and shows it. */
export class ProgressBar implements Pick<Watcher, 'left' | 'done' | 'changes'> {
  readonly #terminal: Terminal;
  readonly #paint: Paint;
  readonly #shares = new Map<string, Share>();
  #changes: number | null = null;
  #changesSince = 0;
  #changesMs = 0;
  readonly #started = performance.now();
  #counts: () => { readonly records: number; readonly states: number } = () => ({
    records: 0,
    states: 0,
  });
  readonly #samples: { readonly at: number; readonly records: number }[] = [];
  #timer: NodeJS.Timeout | undefined;

  constructor(terminal: Terminal) {
    this.#terminal = terminal;
    this.#paint = painter(terminal.colours);
  }

  /** @param counts what was written so far. */
  start(counts: () => { readonly records: number; readonly states: number }): void {
    this.#counts = counts;
    if (!this.#terminal.moving) return;
    // It must not keep the process alive.
    this.#timer = setInterval(() => {
      this.#draw();
    }, EVERY_MS).unref();
  }

  left(stream: StreamName, unit: Unit, left: number): void {
    const share = this.#share(stream);
    share.unit = unit;
    share.left = left;
    this.#rowsAgain();
  }

  done(stream: StreamName, { rows }: Pick<UnitRead, 'rows'>): void {
    const share = this.#share(stream);
    share.done += 1;
    share.left = Math.max(0, share.left - 1);
    share.rows += rows;
  }

  changes(share: number): void {
    if (this.#changes === null) this.#changesSince = performance.now();
    this.#changes = share;
  }

  /** Takes the line away, and leaves nothing instead. */
  clear(): void {
    clearInterval(this.#timer);
    if (this.#terminal.moving) this.#terminal.write(START_OF_LINE);
  }

  /** Puts the summary in place of the line. @param failure what the user should know; null when all went well. */
  end(failure: string | null): void {
    this.clear();
    const outcome = {
      ...this.#counts(),
      shares: [...this.#shares.values()],
      seconds: (performance.now() - this.#started) / 1000,
      failure,
    };
    this.#terminal.write(summary(outcome, this.#paint));
  }

  #rowsAgain(): void {
    if (this.#changes === null) return;
    this.#changes = null;
    this.#changesMs += performance.now() - this.#changesSince;
  }

  #share({ namespace, name }: StreamName): Share {
    const label = `${namespace}.${name}`;
    let share = this.#shares.get(label);
    if (share === undefined) {
      share = { label, unit: 'slice', done: 0, left: 0, rows: 0 };
      this.#shares.set(label, share);
    }
    return share;
  }

  #draw(): void {
    const at = performance.now();
    const { records } = this.#counts();
    this.#samples.push({ at, records });
    if (this.#samples.length > RATE_STEPS) this.#samples.shift();
    const first = this.#samples[0] ?? { at, records };
    const moment: Moment = {
      shares: [...this.#shares.values()],
      changes: this.#changes,
      records,
      perSecond: at > first.at ? ((records - first.records) / (at - first.at)) * 1000 : 0,
      seconds: (at - this.#started - this.#changesMs) / 1000,
    };
    const line = progressLine(moment, this.#terminal.columns(), this.#paint);
    this.#terminal.write(`${START_OF_LINE}${line}`);
  }
}
