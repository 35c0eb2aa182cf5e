/**
 * Airbyte's acceptance tests of incremental reads, made anew: titles begin with the name of the test there. Airbyte's harness
 * cannot feed GLOBAL states; here they are fed like the others.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { configured, EMPTY_STREAMS, prepare, type Setup, SETUPS } from './acceptance.ts';
import { run } from './connector.ts';
import type { ConfiguredCatalog } from './messages.ts';
import { expectRefused } from './refusals.ts';
import type { RunResult } from './run-result.ts';

/** The greatest values of the cursors. */
const FUTURE: Readonly<Record<string, string>> = {
  devices: '9223372036854775807',
  places: '2147483647',
  spare: '2147483647',
  summary: '2147483647',
  metrics: '9999-12-31 00:00:00+00',
  events: '9999-12-31 00:00:00',
};

type State = {
  readonly type: string;
  readonly stream?: {
    readonly stream_descriptor: { readonly name: string };
    readonly stream_state: object;
  };
};

/** As the harness feeds states back: of the descriptors no more than the name. */
function withoutNamespace(states: readonly unknown[]): unknown[] {
  return JSON.parse(JSON.stringify(states), (key, value: unknown) =>
    key === 'namespace' ? undefined : value,
  ) as unknown[];
}

describe.each(SETUPS.filter(({ name }) => name !== 'full refresh'))('$name', (which) => {
  let setup: Setup;
  let catalog: ConfiguredCatalog;

  beforeAll(async () => {
    setup = await prepare(which);
    const streams = configured(setup).streams.filter(
      ({ sync_mode: mode }) => mode === 'incremental',
    );
    catalog = { streams };
  });

  afterAll(async () => {
    await setup.db[Symbol.asyncDispose]();
  });

  async function read(
    state: readonly unknown[] = [],
    of: ConfiguredCatalog = catalog,
  ): Promise<RunResult> {
    const config = setup.db.config(setup.overrides);
    return (await run('read', { config, catalog: of, state })).succeeded();
  }

  test('test_two_sequential_reads: the second, from states without namespaces, differs', async () => {
    const first = await read();
    expect(first.records().length).toBeGreaterThan(0);
    expect(first.states().length).toBeGreaterThan(0);
    const second = await read(withoutNamespace(first.lastState()));
    const texts = (result: RunResult): string[] =>
      result.records().map(({ stream, data }) => JSON.stringify([stream, data]));
    expect(second.records().length).toBeLessThan(first.records().length);
    expect(texts(second)).not.toEqual(texts(first));
    // What is at the bound of a cursor comes again; the position in the log is exact.
    if (which.name === 'CDC') expect(second.records()).toEqual([]);
    else for (const text of texts(second)) expect(texts(first)).toContain(text);
  });

  test('test_read_sequential_slices: from each state there is at least what it does not count', async () => {
    for (const entry of catalog.streams) {
      if (EMPTY_STREAMS.includes(entry.stream.name)) continue;
      // Each stream by itself, as the harness does, so that a GLOBAL state counts only this one's records.
      const one = { streams: [entry] };
      const whole = await read([], one);
      const total = whole.records().length;
      let counted = 0;
      let last = '';
      for (const { state } of whole.states()) {
        const { sourceStats, ...rest } = state;
        const text = JSON.stringify(rest);
        counted += sourceStats.recordCount;
        if (text === last || sourceStats.recordCount === 0) continue;
        last = text;
        const partial = await read(withoutNamespace([state]), one);
        expect(partial.records().length, text).toBeGreaterThanOrEqual(total - counted);
        expect(partial.records().length, text).toBeLessThan(total);
      }
      expect(counted, entry.stream.name).toBe(total);
      expect(last).not.toBe('');
    }
  }, 300_000);

  // A position in the write-ahead log is no value that could be large: see the next test.
  if (which.name === 'cursor') {
    test('test_state_with_abnormally_large_values: nothing comes, and a state does', async () => {
      const states = (await read()).lastState() as readonly State[];
      const future = states.map((state) => {
        const name = state.stream?.stream_descriptor.name ?? '';
        const blob = { ...state.stream?.stream_state, cursor: FUTURE[name] };
        return { ...state, stream: { ...state.stream, stream_state: blob } };
      });
      expect(future).toHaveLength(catalog.streams.length);
      const result = await read(future);
      expect(result.records()).toEqual([]);
      expect(result.states().length).toBeGreaterThanOrEqual(1);
    });
  } else {
    test('test_state_with_abnormally_large_values: a position that the log has not reached', async () => {
      const state = JSON.stringify((await read()).lastState());
      const future = state.replace(/"lsn":"[^"]+"/, '"lsn":"FFFFFF/0"');
      expect(future).not.toBe(state);
      const config = setup.db.config(setup.overrides);
      const result = await run('read', { config, catalog, state: future, timeoutSeconds: 60 });
      expectRefused(result, 'config_error', /The state is at .*, the server only at/);
    });
  }
});
