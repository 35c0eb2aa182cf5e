/** The metrics against their documentation, and the lines at the end of a sync. */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { Output } from '../src/airbyte/output.ts';
import { Counters, summaryLines } from '../src/counters.ts';
import { type Facts, METRICS, PREFIX, render } from '../src/metrics.ts';

const DOCS = readFileSync(new URL('../docs/operations.md', import.meta.url), 'utf8');

const metrics = { namespace: 'public', name: 'metrics' };
const devices = { namespace: 'public', name: 'devices' };
const idle = { namespace: 'public', name: 'idle' };

/** A sync with a hypertable and a table, as far as counters go. */
function sync(): { readonly output: Output; readonly counters: Counters } {
  const counters = new Counters();
  const output = new Output(() => undefined, false, counters);
  for (const stream of [metrics, devices, idle]) output.written(stream);
  const record = (tally: { records: number; bytes: number }, text: string): void => {
    output.buffer.appendText(text);
    output.recordWritten(tally);
  };
  counters.left(metrics, 'chunk', 3);
  record(output.written(metrics).rows, '12345\n');
  record(output.written(metrics).rows, '1\n');
  counters.done(metrics, { rows: 2, milliseconds: 1500, retries: 2 });
  record(output.written(metrics).changes, '123\n');
  counters.left(devices, 'slice', 1);
  counters.done(devices, { rows: 0, milliseconds: 20, retries: 0 });
  counters.target(0x300n);
  counters.windowRead(250);
  counters.position(0x1ffn);
  counters.retried();
  return { output, counters };
}

function facts({ output, counters }: ReturnType<typeof sync>): Facts {
  const now = counters.startedAt + 2000;
  return {
    counters,
    counts: output.counts,
    outcome: 'running',
    version: '1.2.3',
    now,
    residentBytes: 5,
  };
}

it('are documented with type, labels and meaning, and nothing else is', () => {
  const rows = [...DOCS.matchAll(/^\| `(\w+)` +\| (counter|gauge) +\| (.*?) +\| (.*?) +\|$/gm)];
  const words = (text: string): string => text.replaceAll(/`|, and 0 for the others/g, '').trim();
  const said = rows.map(([, name, type, labels = '', help = '']) => [
    name,
    type,
    words(labels),
    words(help),
  ]);
  const are = METRICS.map(({ name, type, labels, help }) => [
    name,
    type,
    labels.join(', '),
    words(help),
  ]);
  const byName = (a: readonly unknown[], b: readonly unknown[]): number =>
    String(a[0]).localeCompare(String(b[0]));
  expect(said.map((row) => row.slice(0, 3)).toSorted(byName)).toEqual(
    are.map((row) => row.slice(0, 3)).toSorted(byName),
  );
  // The same words, but for how they name a label's values.
  for (const [name, , , help] of are) {
    if (name === 'records_total') continue;
    expect(said.find((row) => row[0] === name)?.[3]).toBe(help);
  }
});

it('have the values of the counters', async () => {
  const text = await render(facts(sync()));
  const values = text.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
  const of = (name: string): readonly string[] =>
    values.flatMap((line) => (line.startsWith(PREFIX + name) ? [line.slice(PREFIX.length)] : []));
  const m = 'namespace="public",stream="metrics"';
  const d = 'namespace="public",stream="devices"';
  expect(of('records_total').filter((line) => line.includes('metrics'))).toEqual([
    `records_total{${m},from="rows"} 2`,
    `records_total{${m},from="changes"} 1`,
  ]);
  expect(of('record_bytes_total').filter((line) => line.includes('metrics'))).toEqual([
    `record_bytes_total{${m},from="rows"} 8`,
    `record_bytes_total{${m},from="changes"} 4`,
  ]);
  expect(of('chunks')).toEqual([`chunks_read_total{${m}} 1`, `chunks_left{${m}} 2`]);
  expect(of('slices')).toEqual([`slices_read_total{${d}} 1`, `slices_left{${d}} 0`]);
  expect(of('rows_read')).toEqual([
    `rows_read_seconds_total{${m}} 1.5`,
    `rows_read_seconds_total{${d}} 0.02`,
  ]);
  expect(of('read_retries')).toEqual([`read_retries_total{${m}} 2`, `read_retries_total{${d}} 0`]);
  expect(of('wal')).toEqual(['wal_position_bytes 511', 'wal_end_bytes 768', 'wal_lag_bytes 257']);
  expect(of('retries_total')).toEqual(['retries_total 1']);
  expect(of('changes_read')).toEqual(['changes_read_seconds_total 0.25']);
  expect(of('duration')).toEqual(['duration_seconds 2']);
  expect(of('info')).toEqual(['info{version="1.2.3"} 1']);
  expect(of('last_state')).toEqual([]);
});

describe('the lines at the end', () => {
  it('say of each stream what was read, and of all where the sync is', () => {
    const { output, counters } = sync();
    expect(summaryLines(output.counts, counters, counters.startedAt + 2000)).toEqual([
      'public.metrics: 1 of 3 chunks read, 2 rows (8 bytes) in 1.5 s; begun again 2 times; 1 change (4 bytes).',
      'public.devices: 1 of 1 slice read, 0 rows (0 bytes) in 0.0 s.',
      'Nothing new in 1 stream.',
      'In all: 3 records, 0 states, 12 bytes in 2.0 s; changes read in 0.3 s; position 0/1FF, 257 bytes behind the server; 1 retry.',
    ]);
  });

  it('say nothing of a position without CDC', () => {
    const counters = new Counters();
    const output = new Output(() => undefined, false, counters);
    expect(summaryLines(output.counts, counters, counters.startedAt)).toEqual([
      'In all: 0 records, 0 states, 0 bytes in 0.0 s; 0 retries.',
    ]);
  });
});
