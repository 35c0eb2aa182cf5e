import { describe, expect, it } from 'vitest';
import {
  type Moment,
  type Outcome,
  painter,
  ProgressBar,
  progressLine,
  summary,
  type Terminal,
} from '../src/progress-bar.ts';

const plain = painter(false);
const metrics = { name: 'metrics', namespace: 'public' };

const moment: Moment = {
  shares: [
    { unit: 'chunk', done: 10, left: 30 },
    { unit: 'slice', done: 0, left: 1 },
  ],
  changes: null,
  records: 1_234_567,
  perSecond: 45_678.4,
  seconds: 60,
};

const outcome: Outcome = {
  shares: [
    { label: 'public.metrics', unit: 'chunk', done: 33, left: 0, rows: 1_000_000 },
    { label: 'public.devices', unit: 'slice', done: 1, left: 0, rows: 119 },
    { label: 'public.idle', unit: 'chunk', done: 0, left: 0, rows: 0 },
  ],
  records: 1_002_119,
  states: 35,
  seconds: 123,
  failure: null,
};

describe('the line', () => {
  it('shows chunks, rows, rate and the time that is left', () => {
    expect(progressLine(moment, 120, plain)).toBe(
      '█████░░░░░░░░░░░░░░░  10 of 40 chunks, 0 of 1 slice  1,234,567 rows  45,678/s  about 3 min left',
    );
  });

  it('shows how far the changes are', () => {
    expect(progressLine({ ...moment, changes: 0.259 }, 120, plain)).toBe(
      '█████░░░░░░░░░░░░░░░  changes 25 %  1,234,567 records  45,678/s',
    );
  });

  it('is narrower than the terminal, whatever that is', () => {
    for (let width = 1; width < 130; width += 1) {
      const line = progressLine(moment, width, plain);
      expect(line.length, line).toBeLessThan(width);
    }
    expect(progressLine(moment, 50, plain)).toBe('10 of 40 chunks, 0 of 1 slice  1,234,567 rows');
  });

  it('promises nothing before the first unit, and nothing after the last', () => {
    const begun = { ...moment, shares: [{ unit: 'chunk' as const, done: 0, left: 3 }] };
    expect(progressLine(begun, 120, plain)).not.toContain('left');
    const done = { ...moment, shares: [{ unit: 'chunk' as const, done: 3, left: 0 }] };
    expect(progressLine(done, 120, plain)).not.toContain('left');
    expect(progressLine({ ...moment, shares: [] }, 120, plain)).toContain('looking at the tables');
  });

  it('has colours only if asked for', () => {
    expect(progressLine(moment, 120, plain)).not.toContain('\u001B');
    expect(progressLine(moment, 120, painter(true))).toContain('\u001B[36m█████\u001B[0m');
  });
});

describe('the summary', () => {
  it('lists the streams that were read, and the changes beside them', () => {
    expect(summary(outcome, plain)).toBe(
      [
        '✓ 1,002,119 records in 2 min (8,147 a second)',
        '    public.metrics  1,000,000 rows of 33 chunks',
        '    public.devices        119 rows of 1 slice',
        '    changes             2,000',
        '    35 states; the last one is for the next read',
        '',
      ].join('\n'),
    );
  });

  it('says why it stopped', () => {
    const text = summary({ ...outcome, failure: 'The disk is full.', states: 0 }, plain);
    expect(text).toMatch(/^✗ Stopped after 1,002,119 records/);
    expect(text).toMatch(/ no state\nThe disk is full\.\n$/);
  });
});

describe('the bar', () => {
  function atTerminal(moving: boolean): { readonly bar: ProgressBar; readonly written: string[] } {
    const written: string[] = [];
    const terminal: Terminal = {
      write: (text) => void written.push(text),
      columns: () => 80,
      colours: false,
      moving,
    };
    return { bar: new ProgressBar(terminal), written };
  }

  it('counts what is read, and what is gone', () => {
    const { bar, written } = atTerminal(false);
    bar.left(metrics, 'chunk', 3);
    bar.done(metrics, { rows: 10 });
    bar.done(metrics, { rows: 0 });
    bar.start(() => ({ records: 14, states: 2 }));
    bar.end(null);
    expect(written.join('')).toMatch(
      /^✓ 14 records in [\d.]+ s\n {4}public.metrics {2}10 rows of 2 chunks\n {4}changes {10}4\n {4}2 states/,
    );
  });

  it('takes its line away when it moves, and touches nothing when it does not', () => {
    const moving = atTerminal(true);
    moving.bar.clear();
    expect(moving.written).toEqual(['\r\u001B[K']);
    const still = atTerminal(false);
    still.bar.clear();
    expect(still.written).toEqual([]);
  });
});
