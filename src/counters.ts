/**
 * What a sync has done, as plain numbers: the lines at its end and the metrics file are made of them, and nothing else
 * has to be done while rows flow. They count over all attempts of the process.
 */
import type { Counts, UnitRead, Watcher, Written } from './airbyte/output.ts';
import { formatLsn, type Lsn } from './postgres/lsn.ts';

type StreamName = { readonly name: string; readonly namespace: string };

/** Chunks of a hypertable, or slices of a table, that were read. */
export type Units = {
  readonly stream: StreamName;
  unit: 'chunk' | 'slice';
  done: number;
  left: number;
  /** Of all reads together: those that ran at once add up. */
  milliseconds: number;
  /** Reads that were begun again before their first row. */
  retries: number;
};

export class Counters implements Watcher {
  /** Milliseconds since 1970. */
  readonly startedAt = Date.now();
  /** How often the sync began again from its last STATE. */
  retries = 0;
  /** Spent on reading changes. */
  changesMilliseconds = 0;
  /** Where the server's write-ahead log ended when it was last asked; null without CDC. */
  walEnd: bigint | null = null;
  /** Of the last STATE; null without CDC. */
  walPosition: bigint | null = null;
  readonly #units = new Map<string, Units>();
  readonly #bar: Pick<Watcher, 'left' | 'done' | 'changes'> | undefined;

  /** @param bar is told as well, where somebody watches at a terminal. */
  constructor(bar?: Pick<Watcher, 'left' | 'done' | 'changes'>) {
    this.#bar = bar;
  }

  get units(): readonly Units[] {
    return [...this.#units.values()];
  }

  left(stream: StreamName, unit: Units['unit'], left: number): void {
    const units = this.#of(stream);
    units.unit = unit;
    units.left = left;
    this.#bar?.left(stream, unit, left);
  }

  done(stream: StreamName, read: UnitRead): void {
    const units = this.#of(stream);
    units.done += 1;
    units.left = Math.max(0, units.left - 1);
    units.milliseconds += read.milliseconds;
    units.retries += read.retries;
    this.#bar?.done(stream, read);
  }

  changes(share: number): void {
    this.#bar?.changes(share);
  }

  windowRead(milliseconds: number): void {
    this.changesMilliseconds += milliseconds;
  }

  target(lsn: bigint): void {
    this.walEnd = lsn;
  }

  position(lsn: bigint): void {
    this.walPosition = lsn;
  }

  retried(): void {
    this.retries += 1;
  }

  #of(stream: StreamName): Units {
    const key = label(stream);
    let units = this.#units.get(key);
    if (units === undefined) {
      const { namespace, name } = stream;
      units = {
        stream: { namespace, name },
        unit: 'slice',
        done: 0,
        left: 0,
        milliseconds: 0,
        retries: 0,
      };
      this.#units.set(key, units);
    }
    return units;
  }
}

/** Bytes of write-ahead log between the last STATE and where the log ended when the server was last asked; null without CDC. */
export function walLag({ walEnd, walPosition }: Counters): bigint | null {
  if (walEnd === null || walPosition === null) return null;
  return walEnd > walPosition ? walEnd - walPosition : 0n;
}

/** The lines at the end of a sync: one for each stream of which something was read, and one for all of it. */
export function summaryLines(counts: Counts, counters: Counters, now: number): readonly string[] {
  const begun = counters.units.filter(({ done, left }) => done + left > 0);
  const units = new Map(begun.map((each) => [label(each.stream), each]));
  const lines = counts.streams.flatMap((written) => {
    const line = streamLine(written, units.get(label(written.stream)));
    return line === null ? [] : [line];
  });
  const idle = counts.streams.length - lines.length;
  if (idle > 0) lines.push(`Nothing new in ${amount(idle, 'stream')}.`);
  return [...lines, connectionLine(counts, counters, now)];
}

function streamLine({ stream, rows, changes }: Written, units: Units | undefined): string | null {
  if (units === undefined && rows.records === 0 && changes.records === 0) return null;
  const parts: string[] = [];
  if (units !== undefined) {
    const { done, left, unit, milliseconds, retries } = units;
    parts.push(
      `${done} of ${amount(done + left, unit)} read, ${amount(rows.records, 'row')} (${amount(rows.bytes, 'byte')}) in ${seconds(milliseconds)} s`,
    );
    if (retries > 0) parts.push(`begun again ${amount(retries, 'time')}`);
  }
  if (changes.records > 0) {
    parts.push(`${amount(changes.records, 'change')} (${amount(changes.bytes, 'byte')})`);
  }
  return `${label(stream)}: ${parts.join('; ')}.`;
}

function connectionLine(counts: Counts, counters: Counters, now: number): string {
  const { records, states, bytes } = counts;
  const parts = [
    `${amount(records, 'record')}, ${amount(states, 'state')}, ${amount(bytes, 'byte')} in ${seconds(now - counters.startedAt)} s`,
  ];
  if (counters.walEnd !== null)
    parts.push(`changes read in ${seconds(counters.changesMilliseconds)} s`);
  const lag = walLag(counters);
  if (counters.walPosition !== null) {
    const behind = lag === null ? '' : `, ${amount(Number(lag), 'byte')} behind the server`;
    parts.push(`position ${formatLsn(counters.walPosition as Lsn)}${behind}`);
  }
  parts.push(amount(counters.retries, 'retry', 'retries'));
  return `In all: ${parts.join('; ')}.`;
}

function amount(value: number, one: string, many = `${one}s`): string {
  return `${value} ${value === 1 ? one : many}`;
}

function seconds(milliseconds: number): string {
  return (milliseconds / 1000).toFixed(1);
}

function label({ namespace, name }: StreamName): string {
  return `${namespace}.${name}`;
}
