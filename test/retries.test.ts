/** What is tried again, how often, and what begins the count anew. */
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { Output } from '../src/airbyte/output.ts';
import { Counters } from '../src/counters.ts';
import { ConnectorError } from '../src/errors.ts';
import { withRetries } from '../src/retries.ts';

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

const BROKEN = Object.assign(new Error('read ECONNRESET'), { code: 'ECONNRESET' });
const REFUSED = Object.assign(new Error('no such table'), { code: '42P01' });
const FULL = Object.assign(new Error('too many connections'), { code: '53300' });

class Attempts {
  count = 0;
  said = '';
  readonly counters = new Counters();
  readonly output = new Output(
    (bytes) => {
      this.said += Buffer.from(bytes).toString();
    },
    false,
    this.counters,
  );
  readonly #script: readonly (Error | 'state, then broken' | 'done')[];

  constructor(script: readonly (Error | 'state, then broken' | 'done')[]) {
    this.#script = script;
  }

  async run(connected = true): Promise<string> {
    const running = withRetries(
      this.output,
      () => connected,
      async () => this.#attempt(),
    );
    // It is looked at below; until then it must not count as unhandled.
    running.catch(() => undefined);
    await vi.runAllTimersAsync();
    return running;
  }

  #attempt(): string {
    const step = this.#script[Math.min(this.count, this.#script.length - 1)];
    this.count += 1;
    if (step === 'done') return 'done';
    if (step !== 'state, then broken') throw step;
    const state = { type: 'GLOBAL', global: { shared_state: {}, stream_states: [] } } as const;
    this.output.message({ type: 'STATE', state: { ...state, sourceStats: { recordCount: 0 } } });
    throw BROKEN;
  }
}

describe('a sync', () => {
  it('that succeeds is not tried again', async () => {
    const attempts = new Attempts(['done']);
    expect(await attempts.run()).toBe('done');
    expect([attempts.count, attempts.said]).toEqual([1, '']);
  });

  it.each([BROKEN, FULL])('goes on after %s, and says so', async (failure) => {
    const attempts = new Attempts([failure, failure, 'done']);
    expect(await attempts.run()).toBe('done');
    expect(attempts.count).toBe(3);
    expect(attempts.said.match(/Trying again in/g)).toHaveLength(2);
    expect(attempts.counters.retries).toBe(2);
  });

  it('gives up after so many failures without a STATE between them', async () => {
    const attempts = new Attempts([BROKEN]);
    await expect(attempts.run()).rejects.toThrow(BROKEN);
    expect(attempts.count).toBe(1 + 8);
    expect(attempts.counters.retries).toBe(8);
  });

  it('begins to count anew with each STATE', async () => {
    const few = Array.from({ length: 6 }, () => BROKEN);
    const step = 'state, then broken';
    const attempts = new Attempts([...few, step, ...few, step, ...few, 'done']);
    expect(await attempts.run()).toBe('done');
    expect(attempts.count).toBe(3 * 6 + 2 + 1);
    expect(attempts.counters.retries).toBe(3 * 6 + 2);
  });

  it.each<[string, Error]>([
    ['what a person must mend', REFUSED],
    ['what has been waited for already', new ConnectorError('no', { kind: 'transient_error' })],
    ['a reader that has gone', new Error('the reader of the output has gone')],
  ])('does not try again after %s', async (_, failure) => {
    const attempts = new Attempts([failure]);
    await expect(attempts.run()).rejects.toThrow(failure);
    expect(attempts.count).toBe(1);
  });

  it('does not try a server again that never was there, unless it says that it is full', async () => {
    const broken = new Attempts([BROKEN, 'done']);
    await expect(broken.run(false)).rejects.toThrow(BROKEN);
    const full = new Attempts([FULL, 'done']);
    expect(await full.run(false)).toBe('done');
  });
});
