import { describe, expect, it } from 'vitest';
import type { ConfiguredStream } from '../src/airbyte/protocol.ts';
import { ConnectorError } from '../src/errors.ts';
import { label, parseCatalog, planSync, type SyncStream } from '../src/plan.ts';
import {
  CDC,
  column,
  configured,
  HYPERTABLE,
  INT4,
  METRICS,
  NOTES,
  relation,
  REPORT,
  SOURCE,
  sourceOf,
  STANDARD,
  TEXT,
} from './source-model.ts';

function refusal(work: () => unknown): ConnectorError {
  try {
    work();
  } catch (error) {
    if (error instanceof ConnectorError) return error;
    throw error;
  }
  throw new Error('it was not refused');
}

const STREAM = { name: 'metrics', namespace: 'public', json_schema: {} };

describe('a configured catalog', () => {
  it.each<[string, unknown, string]>([
    ['null', null, 'it has no `streams`'],
    ['a list', [], 'it has no `streams`'],
    ['a discovered message', { type: 'CATALOG', catalog: { streams: [] } }, 'it has no `streams`'],
    ['streams that are no list', { streams: {} }, 'it has no `streams`'],
    ['a stream that is null', { streams: [null] }, 'a stream has no name'],
    ['a stream that is not configured', { streams: [STREAM] }, 'a stream has no name'],
    ['a name of another type', { streams: [{ stream: { name: 7 } }] }, 'a stream has no name'],
    [
      'no sync mode',
      { streams: [{ stream: STREAM }] },
      'the sync_mode of "metrics" must be "full_refresh" or "incremental"',
    ],
    [
      "the acceptance tests' sync mode",
      { streams: [{ stream: STREAM, sync_mode: 'INVALID' }] },
      'the sync_mode of "metrics" must be "full_refresh" or "incremental"',
    ],
  ])('is refused: %s', (_, catalog, what) => {
    const error = refusal(() => parseCatalog(catalog));
    expect(error.kind).toBe('config_error');
    expect(error.message).toBe(`The configured catalog is not valid: ${what}.`);
    expect(error.fix).toContain('Refresh the schema');
  });

  it('may be empty, and carry what nobody asked for', () => {
    expect(parseCatalog({ streams: [] })).toEqual([]);
    const stream = { stream: STREAM, sync_mode: 'full_refresh', cursor_field: null, x: 1 };
    expect(parseCatalog({ streams: [stream] })).toEqual([stream]);
  });

  it('that holds a stream twice is refused', () => {
    const twice = [configured(NOTES), configured(NOTES, { namespace: null })];
    expect(refusal(() => planSync(twice, SOURCE, CDC)).message).toContain('the same stream twice');
  });
});

function plan(stream: ConfiguredStream, config = CDC): SyncStream {
  const { streams } = planSync([stream], SOURCE, config);
  if (streams[0] === undefined) throw new Error('it is missing');
  return streams[0];
}

const full = { sync_mode: 'full_refresh' } as const;

describe('how a stream is read', () => {
  it.each<[string, ConfiguredStream, 'CDC' | 'Standard', SyncStream['mode']]>([
    ['a hypertable by CDC', configured(METRICS), 'CDC', 'cdc'],
    ['a table by CDC', configured(NOTES), 'CDC', 'cdc'],
    ['a view by CDC, in full', configured(REPORT), 'CDC', 'full_refresh'],
    ['in full as asked, under CDC', configured(METRICS, full), 'CDC', 'full_refresh'],
    ['in full as asked', configured(METRICS, full), 'Standard', 'full_refresh'],
    ['a hypertable by its time', configured(METRICS), 'Standard', 'cursor'],
    ['a table without a cursor, in full', configured(NOTES), 'Standard', 'full_refresh'],
    ['a table by a cursor', configured(NOTES, { cursor_field: ['id'] }), 'Standard', 'cursor'],
    ['a view by a cursor', configured(REPORT, { cursor_field: ['id'] }), 'Standard', 'cursor'],
  ])('%s', (_, stream, method, mode) => {
    expect(plan(stream, method === 'CDC' ? CDC : STANDARD).mode).toBe(mode);
  });

  it.each([
    ['a view', REPORT, CDC, 'public.report is read in full: it has no changes in the WAL.'],
    ['a table', NOTES, STANDARD, 'public.notes is read in full: it has no cursor.'],
  ])('is said where it is not as asked: %s', (_, from, config, warning) => {
    expect(planSync([configured(from)], SOURCE, config).warnings).toEqual([warning]);
    expect(planSync([configured(from, full)], SOURCE, config).warnings).toEqual([]);
  });

  it('in full under CDC for an unlogged table, whose changes never reach the WAL', () => {
    const unlogged = relation(7, 'public', 'unlogged', { logged: false });
    const { streams } = planSync([configured(unlogged)], sourceOf([unlogged]), CDC);
    expect(streams[0]?.mode).toBe('full_refresh');
  });
});

describe('the cursor', () => {
  it.each<[string, readonly string[] | null | undefined, string]>([
    ['is the time by default', undefined, 'ts'],
    ['is the time for null', null, 'ts'],
    ['is the time for an empty list', [], 'ts'],
    ['is the time for an empty name', [''], 'ts'],
    ['is what the user chose', ['device'], 'device'],
  ])('%s', (_, cursor_field, cursor) => {
    const stream = configured(METRICS, cursor_field === undefined ? {} : { cursor_field });
    expect(plan(stream, STANDARD)).toMatchObject({ mode: 'cursor', cursorField: cursor });
  });

  it('that is not selected is a cursor all the same', () => {
    const stream = plan(configured(METRICS, { select: ['value'] }), STANDARD);
    expect(stream.cursorField).toBe('ts');
    expect(stream.columns.map(({ name }) => name)).toEqual(['value']);
  });

  it.each(['gone', '_ab_cdc_cursor'])('that is no column is refused: %s', (name) => {
    const stream = configured(METRICS, { cursor_field: [name] });
    const error = refusal(() => planSync([stream], SOURCE, STANDARD));
    expect(error).toMatchObject({
      kind: 'config_error',
      message: `The cursor ${name} of public.metrics is not one of its columns.`,
    });
  });

  it('that CDC defines is not looked for among the columns', () => {
    expect(plan(configured(METRICS, { cursor_field: ['_ab_cdc_cursor'] })).mode).toBe('cdc');
  });
});

describe('a planned stream', () => {
  it('is a hypertable, with its relation and identity', () => {
    expect(plan(configured(METRICS))).toMatchObject({
      name: { name: 'metrics', namespace: 'public' },
      relation: METRICS,
      hypertable: HYPERTABLE,
      identity: ['ts', 'device'],
    });
    expect(plan(configured(NOTES)).hypertable).toBeNull();
  });

  it('has the columns that are selected and there, in the order of the table', () => {
    const select = ['value', 'ts', 'dropped', '_ab_cdc_lsn', '_ab_cdc_cursor'];
    const stream = plan(configured(METRICS, { select }));
    expect(stream.columns.map(({ name }) => name)).toEqual(['ts', 'value']);
    expect(stream.cdcColumns).toEqual(['_ab_cdc_lsn', '_ab_cdc_cursor']);
  });

  it('has generated columns only where the WAL is not needed', () => {
    const names = (stream: SyncStream) => stream.columns.map(({ name }) => name);
    expect(names(plan(configured(METRICS)))).not.toContain('twice');
    expect(names(plan(configured(METRICS, full)))).toContain('twice');
    expect(names(plan(configured(METRICS), STANDARD))).toContain('twice');
  });

  it('has CDC columns only under CDC', () => {
    expect(plan(configured(METRICS)).cdcColumns).toHaveLength(4);
    expect(plan(configured(METRICS, full)).cdcColumns).toEqual([]);
    expect(plan(configured(METRICS), STANDARD).cdcColumns).toEqual([]);
  });

  it('has no columns where the schema names none', () => {
    const stream = configured(NOTES);
    const bare = { ...stream, stream: { ...stream.stream, json_schema: {} } };
    expect(plan(bare).columns).toEqual([]);
  });

  it.each<[number | null | undefined, number | null | undefined, string]>([
    [3, 12, '3/12'],
    [0, 0, '0/0'],
    [3, null, ''],
    [null, 12, ''],
    [undefined, undefined, ''],
  ])('belongs to the refresh of generation %s and job %s: %j', (generation, sync, refresh) => {
    const ids = {
      ...(generation === undefined ? {} : { generation_id: generation }),
      ...(sync === undefined ? {} : { sync_id: sync }),
    };
    expect(plan(configured(NOTES, { ...full, ...ids })).refresh).toBe(refresh);
    expect(plan(configured(NOTES, ids)).refresh).toBe('');
  });
});

describe('a stream of the catalog is found', () => {
  const elsewhere = relation(5000, 'other', 'notes', {
    columns: [column('n', INT4), column('t', TEXT)],
  });
  const two = sourceOf([NOTES, elsewhere]);

  it('by name and namespace', () => {
    const { streams } = planSync([configured(elsewhere)], two, CDC);
    expect(streams.map(({ relation: { oid } }) => oid)).toEqual([5000]);
  });

  it.each([null, ''])('by its name alone where the namespace is %j', (namespace) => {
    const { streams, missing } = planSync([configured(METRICS, { namespace })], SOURCE, CDC);
    expect(streams[0]?.name).toEqual({ name: 'metrics', namespace: 'public' });
    expect(missing).toEqual([]);
  });

  it('not, where its name alone is that of two', () => {
    const { streams, missing } = planSync([configured(NOTES, { namespace: null })], two, CDC);
    expect([streams, missing]).toEqual([[], [{ name: 'notes', namespace: '' }]]);
  });

  it('or missing, and then the others go on', () => {
    const gone = configured(relation(1, 'public', 'gone'));
    const moved = configured(NOTES, { namespace: 'elsewhere' });
    const { streams, missing } = planSync([gone, configured(METRICS), moved], SOURCE, CDC);
    expect(streams.map(({ name }) => name.name)).toEqual(['metrics']);
    expect(missing).toEqual([
      { name: 'gone', namespace: 'public' },
      { name: 'notes', namespace: 'elsewhere' },
    ]);
  });
});

describe('a label', () => {
  it.each([
    ['public', 'metrics', 'public.metrics'],
    ['', 'metrics', 'metrics'],
  ])('of %j and %s is %s', (namespace, name, text) => {
    expect(label({ namespace, name })).toBe(text);
  });
});
