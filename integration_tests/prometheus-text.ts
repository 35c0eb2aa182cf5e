/**
 * Reads the text format of Prometheus, and refuses what `promtool check metrics` would object to.
 * https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format
 */

export type Series = {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
};

const NAME = /^[a-zA-Z_:][a-zA-Z0-9_:]*$/;
const HEAD = /^# (HELP|TYPE) (\S+) (.+)$/;
const SAMPLE = /^([^\s{]+)(?:\{(.*)\})? (\S+)$/;
const LABEL = /([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"(?:,|$)/gy;

/** @throws Error at the first line that is not as it must be. */
export function parseMetrics(text: string): readonly Series[] {
  if (!text.endsWith('\n')) throw new Error('the last line does not end');
  const help = new Map<string, string>();
  const types = new Map<string, string>();
  const series = new Map<string, Series>();
  let current = '';
  for (const line of text.split('\n')) {
    if (line === '') continue;
    const head = HEAD.exec(line);
    if (head !== null) {
      const [, kind = '', name = '', rest = ''] = head;
      const known = kind === 'HELP' ? help : types;
      if (!NAME.test(name) || known.has(name)) throw new Error(`name, or twice: ${line}`);
      known.set(name, rest);
      if (kind === 'TYPE') checkType(name, rest);
      current = name;
      continue;
    }
    const one = parseSample(line);
    if (one.name !== current || !help.has(one.name) || !types.has(one.name)) {
      throw new Error(`not below its HELP and TYPE: ${line}`);
    }
    const key = JSON.stringify([one.name, Object.entries(one.labels)]);
    if (series.has(key)) throw new Error(`twice: ${line}`);
    if (types.get(one.name) === 'counter' && one.value < 0) throw new Error(`below 0: ${line}`);
    series.set(key, one);
  }
  return [...series.values()];
}

function checkType(name: string, type: string): void {
  if (type !== 'counter' && type !== 'gauge') throw new Error(`${name} is a ${type}`);
  if (name.endsWith('_total') !== (type === 'counter')) {
    throw new Error(`a counter, and nothing else, ends in _total: ${name}`);
  }
  if (/milliseconds|minutes|kilobytes|megabytes|_mb\b|_ms\b/.test(name)) {
    throw new Error(`not in a base unit: ${name}`);
  }
}

function parseSample(line: string): Series {
  const [, name = '', inner = '', number = ''] = SAMPLE.exec(line) ?? [];
  if (!NAME.test(name)) throw new Error(`no sample: ${line}`);
  const value = Number(number);
  if (!Number.isFinite(value)) throw new Error(`no number: ${line}`);
  const labels: Record<string, string> = {};
  LABEL.lastIndex = 0;
  let end = 0;
  for (let match = LABEL.exec(inner); match !== null; match = LABEL.exec(inner)) {
    const [, label = '', escaped = ''] = match;
    if (label in labels) throw new Error(`a label twice: ${line}`);
    labels[label] = escaped.replace(/\\([\\"n])/g, (_, char: string) =>
      char === 'n' ? '\n' : char,
    );
    end = LABEL.lastIndex;
  }
  if (end !== inner.length) throw new Error(`labels: ${line}`);
  return { name, labels, value };
}

/** The value of one series. @throws Error where there is none, or more than one. */
export function valueOf(
  series: readonly Series[],
  name: string,
  labels: Readonly<Record<string, string>> = {},
): number {
  const found = series.filter(
    (one) =>
      one.name === `source_timescaledb_${name}` &&
      Object.entries(labels).every(([label, value]) => one.labels[label] === value),
  );
  const [only] = found;
  if (only === undefined || found.length > 1) {
    throw new Error(`${found.length} series of ${name} ${JSON.stringify(labels)}`);
  }
  return only.value;
}
