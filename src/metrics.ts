/**
 * `read --metrics-file PATH`: the counters of a sync in the text format of Prometheus, for a node exporter's textfile
 * collector and the like. The file is made of numbers that are kept anyway, and its library is loaded only when asked for.
 * What each name means is told in docs/operations.md.
 * https://prometheus.io/docs/instrumenting/exposition_formats/
 */
import { renameSync, rmSync, writeFileSync } from 'node:fs';
import type { Registry } from 'prom-client';
import type { Counts, Output, Tally, Written } from './airbyte/output.ts';
import { type Counters, type Units, walLag } from './counters.ts';
import { ConnectorError, errorCode } from './errors.ts';

/** How a sync stands. */
type Outcome = 'running' | 'succeeded' | 'failed';

/** All that the file is made of. */
export type Facts = {
  readonly counts: Counts;
  readonly counters: Counters;
  readonly outcome: Outcome;
  readonly version: string;
  /** Milliseconds since 1970. */
  readonly now: number;
  readonly residentBytes: number;
};

type Sample = { readonly labels: Readonly<Record<string, string>>; readonly value: number };

export type Metric = {
  /** Without the prefix. */
  readonly name: string;
  readonly type: 'counter' | 'gauge';
  readonly help: string;
  readonly labels: readonly string[];
  readonly samples: (facts: Facts) => readonly Sample[];
};

export const PREFIX = 'source_timescaledb_';
const STREAM = ['namespace', 'stream'] as const;

/** Every metric there is. */
export const METRICS: readonly Metric[] = [
  {
    name: 'info',
    type: 'gauge',
    help: 'Always 1; the version of the connector',
    labels: ['version'],
    samples: ({ version }) => [{ labels: { version }, value: 1 }],
  },
  {
    name: 'outcome',
    type: 'gauge',
    help: 'How the sync stands: 1 for one of running, succeeded, failed, and 0 for the others',
    labels: ['outcome'],
    samples: ({ outcome }) =>
      (['running', 'succeeded', 'failed'] as const).map((each) => ({
        labels: { outcome: each },
        value: each === outcome ? 1 : 0,
      })),
  },
  single('start_time_seconds', 'gauge', 'When the sync began, in seconds since 1970', (facts) =>
    seconds(facts.counters.startedAt),
  ),
  single('duration_seconds', 'gauge', 'Seconds since the sync began', (facts) =>
    seconds(facts.now - facts.counters.startedAt),
  ),
  single('output_bytes_total', 'counter', 'Bytes of all messages', (facts) => facts.counts.bytes),
  single('states_total', 'counter', 'STATE messages', (facts) => facts.counts.states),
  single(
    'last_state_time_seconds',
    'gauge',
    'When the last STATE was written, in seconds since 1970; absent before the first',
    ({ counts }) => (counts.lastStateAt === null ? null : seconds(counts.lastStateAt)),
  ),
  single(
    'retries_total',
    'counter',
    'How often the sync began again from its last STATE, after a failure that passes by itself',
    (facts) => facts.counters.retries,
  ),
  single(
    'changes_read_seconds_total',
    'counter',
    'Seconds spent on reading changes; CDC only',
    ({ counters }) => (counters.walEnd === null ? null : seconds(counters.changesMilliseconds)),
  ),
  single(
    'wal_position_bytes',
    'gauge',
    'Position in the write-ahead log of the last STATE, as a number of bytes; CDC only',
    ({ counters }) => bytes(counters.walPosition),
  ),
  single(
    'wal_end_bytes',
    'gauge',
    'Where the write-ahead log ended when the server was last asked, as a number of bytes; CDC only',
    ({ counters }) => bytes(counters.walEnd),
  ),
  single(
    'wal_lag_bytes',
    'gauge',
    'Bytes of write-ahead log between the two; CDC only',
    ({ counters }) => bytes(walLag(counters)),
  ),
  single(
    'resident_memory_bytes',
    'gauge',
    'Resident memory of the process',
    (facts) => facts.residentBytes,
  ),
  ofRecords(
    'records_total',
    'RECORD messages, from the rows that were read or the changes',
    'records',
  ),
  ofRecords('record_bytes_total', 'Bytes of the RECORD messages', 'bytes'),
  ofUnits(
    'chunks_read_total',
    'counter',
    'Chunks of a hypertable that were read, or found to be gone',
    'chunk',
    ({ done }) => done,
  ),
  ofUnits('chunks_left', 'gauge', 'Chunks that are left to read', 'chunk', ({ left }) => left),
  ofUnits(
    'slices_read_total',
    'counter',
    'Slices of a table that were read',
    'slice',
    ({ done }) => done,
  ),
  ofUnits('slices_left', 'gauge', 'Slices that are left to read', 'slice', ({ left }) => left),
  ofUnits(
    'rows_read_seconds_total',
    'counter',
    'Seconds spent on reading rows; reads that ran at once add up',
    null,
    ({ milliseconds }) => seconds(milliseconds),
  ),
  ofUnits(
    'read_retries_total',
    'counter',
    'Reads of a chunk or slice that were begun again before their first row, because of maintenance or locks',
    null,
    ({ retries }) => retries,
  ),
];

/** One number for the whole sync; null: it is not known, or does not apply. */
function single(
  name: string,
  type: Metric['type'],
  help: string,
  value: (facts: Facts) => number | null,
): Metric {
  const samples = (facts: Facts): readonly Sample[] => {
    const known = value(facts);
    return known === null ? [] : [{ labels: {}, value: known }];
  };
  return { name, type, help, labels: [], samples };
}

function ofRecords(name: string, help: string, field: keyof Tally): Metric {
  const of = ({ stream: { namespace, name: stream }, ...written }: Written): readonly Sample[] =>
    (['rows', 'changes'] as const).map((from) => ({
      labels: { namespace, stream, from },
      value: written[from][field],
    }));
  const samples = ({ counts }: Facts): readonly Sample[] => counts.streams.flatMap(of);
  return { name, type: 'counter', help, labels: [...STREAM, 'from'], samples };
}

function ofUnits(
  name: string,
  type: Metric['type'],
  help: string,
  unit: Units['unit'] | null,
  value: (units: Units) => number,
): Metric {
  const samples = ({ counters }: Facts): readonly Sample[] =>
    counters.units
      .filter((units) => unit === null || units.unit === unit)
      .map((units) => ({
        labels: { namespace: units.stream.namespace, stream: units.stream.name },
        value: value(units),
      }));
  return { name, type, help, labels: STREAM, samples };
}

function seconds(milliseconds: number): number {
  return milliseconds / 1000;
}

function bytes(position: bigint | null): number | null {
  return position === null ? null : Number(position);
}

/** The text of the file. */
export async function render(facts: Facts): Promise<string> {
  const registry = await registryOf(facts);
  return registry.metrics();
}

async function registryOf(facts: Facts): Promise<Registry> {
  // In the bundle a CommonJS module has its default export only.
  const { default: prometheus } = await import('prom-client');
  const registry = new prometheus.Registry();
  for (const { name, type, help, labels, samples } of METRICS) {
    const taken = samples(facts);
    // By itself it would come with the value 0.
    if (taken.length === 0) continue;
    const options = { name: `${PREFIX}${name}`, help, labelNames: labels, registers: [registry] };
    if (type === 'counter') {
      const counter = new prometheus.Counter(options);
      for (const sample of taken) counter.inc(sample.labels, sample.value);
    } else {
      const gauge = new prometheus.Gauge(options);
      for (const sample of taken) gauge.set(sample.labels, sample.value);
    }
  }
  return registry;
}

const EVERY_MS = 5000;

/** The file, written anew now and then: whole each time, so that whoever reads it never meets a part. */
export class MetricsFile {
  readonly #path: string;
  readonly #facts: (outcome: Outcome) => Facts;
  readonly #output: Output;
  #timer: NodeJS.Timeout | undefined;

  private constructor(
    path: string,
    output: Output,
    facts: (outcome: Outcome) => Omit<Facts, 'counts'>,
  ) {
    this.#path = path;
    this.#output = output;
    this.#facts = (outcome) => ({ ...facts(outcome), counts: output.counts });
  }

  /**
   * Writes the file for the first time, and from then on every few seconds.
   * @throws ConnectorError (config) when it cannot be written.
   */
  static async open(
    path: string,
    output: Output,
    facts: (outcome: Outcome) => Omit<Facts, 'counts'>,
  ): Promise<MetricsFile> {
    const file = new MetricsFile(path, output, facts);
    try {
      await file.#write('running');
    } catch (error) {
      // Only what the file system says is for the user to mend.
      if (errorCode(error) === '') throw error;
      const reason = error instanceof Error ? error.message : String(error);
      throw new ConnectorError(`The metrics file cannot be written: ${reason}.`, {
        kind: 'config_error',
        fix: 'Name a file in a folder that the connector may write to, or leave out --metrics-file.',
        cause: error,
      });
    }
    // It must not keep the process alive.
    file.#timer = setInterval(() => void file.#update('running'), EVERY_MS).unref();
    return file;
  }

  /** The last time. */
  async end(succeeded: boolean): Promise<void> {
    clearInterval(this.#timer);
    await this.#update(succeeded ? 'succeeded' : 'failed');
  }

  /** A sync does not fail because of its metrics. */
  async #update(outcome: Outcome): Promise<void> {
    try {
      await this.#write(outcome);
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      clearInterval(this.#timer);
      this.#output.log('WARN', `The metrics file is not written any more: ${reason}.`);
    }
  }

  async #write(outcome: Outcome): Promise<void> {
    const text = await render(this.#facts(outcome));
    const draft = `${this.#path}.${process.pid}.tmp`;
    try {
      writeFileSync(draft, text);
      renameSync(draft, this.#path);
    } catch (error) {
      rmSync(draft, { force: true });
      throw error;
    }
  }
}
