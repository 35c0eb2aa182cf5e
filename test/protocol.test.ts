/** Every kind of message that the connector can make, against Airbyte's schema where it lies beside the checkout. */
import { existsSync, readFileSync } from 'node:fs';
import { Ajv } from 'ajv';
import { describe, expect, it } from 'vitest';
import { Output } from '../src/airbyte/output.ts';
import type { AirbyteStream, JsonObject } from '../src/airbyte/protocol.ts';
import { columnType } from '../src/column-types.ts';
import { Ledger } from '../src/ledger.ts';
import { parseLsn } from '../src/postgres/lsn.ts';
import { completed, startHypertable, startTable } from '../src/progress.ts';
import { chunkDoneAmong } from './progress-steps.ts';
import { CDC_COLUMNS, RecordClock, RecordEncoder } from '../src/record.ts';
import type { SharedState } from '../src/state.ts';
import { tuple, UNCHANGED } from './pgoutput-bytes.ts';
import { HYPERTABLE, INT4, METRICS, NOTES, planned, TEXT } from './source-model.ts';
import { spec } from './spec-walk.ts';

const folder = new URL('../../shared/oracle/', import.meta.url);

type Make = (output: Output) => void;

const SHARED: SharedState = {
  lsn: parseLsn('16/B374D848'),
  lsnSeen: '5:5:',
  emittedTo: parseLsn('16/B374D849'),
  cursorFloor: 1_700_000_000_000_001,
  slot: 'airbyte_slot',
  publication: 'airbyte_publication',
  publicationOid: 16_400,
  publicationsSeen: '5:5:',
  systemIdentifier: '7300000000000000001',
  timeline: 1,
  columns: new Map([['public.metrics', '0a1b2c3d/16401']]),
  settled: false,
};

const metrics = planned(METRICS);
const notes = planned(NOTES);

function ledger(output: Output, shared: SharedState | null): Ledger {
  const kind = shared === null ? 'STREAM' : 'GLOBAL';
  return new Ledger(output, new RecordClock(0), [metrics, notes], new Map(), kind, shared);
}

function writeRecord(output: Output, cells: Parameters<typeof tuple>[0], deleted: boolean): void {
  const columns = [INT4, TEXT].map((oid, index) => ({
    name: ['id', 'note'][index] ?? '',
    encode: columnType(oid, -1, 0, new Map()).encode,
  }));
  const encoder = new RecordEncoder(notes.name, columns, CDC_COLUMNS, new RecordClock(0));
  const src = tuple(cells);
  const stamp = { lsn: '97500059720', updatedAt: '2024-01-02T03:04:05.678901Z', deleted };
  encoder.writeTuple(output.buffer, src, 0, src.length, stamp);
  output.recordWritten(output.written(notes.name).changes);
  output.flush();
}

const STREAM: AirbyteStream = {
  name: 'metrics',
  namespace: 'public',
  json_schema: { type: 'object', properties: { id: { type: 'number', airbyte_type: 'integer' } } },
  supported_sync_modes: ['full_refresh', 'incremental'],
  source_defined_cursor: true,
  default_cursor_field: ['_ab_cdc_cursor'],
  source_defined_primary_key: [['id']],
  is_resumable: true,
};

const now = 1_700_000_000_000;
const error = { message: 'It broke.', failure_type: 'config_error' } as const;

const MESSAGES: readonly (readonly [string, Make])[] = [
  [
    'SPEC',
    // Stands in until the project has an address.
    (output) =>
      output.message({ type: 'SPEC', spec: { documentationUrl: 'https://example.org/', ...spec } }),
  ],
  [
    'CONNECTION_STATUS that succeeded',
    (output) =>
      output.message({ type: 'CONNECTION_STATUS', connectionStatus: { status: 'SUCCEEDED' } }),
  ],
  [
    'CONNECTION_STATUS that failed',
    (output) =>
      output.message({
        type: 'CONNECTION_STATUS',
        connectionStatus: { status: 'FAILED', message: 'No.' },
      }),
  ],
  ['CATALOG', (output) => output.message({ type: 'CATALOG', catalog: { streams: [STREAM] } })],
  ['CATALOG of nothing', (output) => output.message({ type: 'CATALOG', catalog: { streams: [] } })],
  ['LOG', (output) => output.log('WARN', 'Careful.')],
  [
    'LOG with a stack',
    (output) =>
      output.message({ type: 'LOG', log: { level: 'ERROR', message: 'x', stack_trace: 'at x' } }),
  ],
  ...(['STARTED', 'RUNNING', 'COMPLETE', 'INCOMPLETE'] as const).map(
    (status) =>
      [`STREAM_STATUS ${status}`, (output: Output) => output.status(notes.name, status)] as const,
  ),
  [
    'ESTIMATE',
    (output) =>
      output.trace({
        type: 'ESTIMATE',
        emitted_at: now,
        estimate: { ...notes.name, type: 'STREAM', row_estimate: 7, byte_estimate: 700 },
      }),
  ],
  ['ERROR', (output) => output.trace({ type: 'ERROR', emitted_at: now, error })],
  [
    'ERROR of a stream',
    (output) =>
      output.trace({
        type: 'ERROR',
        emitted_at: now,
        error: {
          ...error,
          internal_message: 'why',
          stack_trace: 'at x',
          stream_descriptor: notes.name,
        },
      }),
  ],
  ['RECORD', (output) => writeRecord(output, ['7', 'x'], false)],
  ['RECORD of a deletion', (output) => writeRecord(output, ['7', null], true)],
  ['RECORD with a note', (output) => writeRecord(output, ['7', UNCHANGED], false)],
  [
    'STATE of a connection',
    (output) => {
      const chunk = { id: 1, oid: 5001, rangeStart: 0n, rangeEnd: 10n };
      const seen = { visibility: '5:9:7', until: parseLsn('0/40') };
      const book = ledger(output, SHARED);
      const start = startHypertable(HYPERTABLE, [chunk, { ...chunk, id: 2 }]);
      book.setRows(metrics, chunkDoneAmong(start, chunk, seen, [chunk, { ...chunk, id: 2 }]));
      book.setRows(notes, completed(startTable()));
      book.checkpoint(notes);
    },
  ],
  ['STATE of a connection that begins', (output) => ledger(output, SHARED).checkpoint(notes)],
  [
    'STATE of a stream',
    (output) => {
      const book = ledger(output, null);
      book.set(notes, {
        mode: 'cursor',
        cursorField: 'id',
        cursorType: 'int4',
        cursor: null,
        upper: '9',
        progress: startTable(),
      });
      book.checkpoint(notes);
    },
  ],
];

function written(make: Make): readonly string[] {
  let text = '';
  make(
    new Output((bytes) => {
      text += Buffer.from(bytes).toString();
    }, false),
  );
  return text.split('\n').slice(0, -1);
}

describe('one message', () => {
  it.each(MESSAGES)('is one line of JSON with its type: %s', (name, make) => {
    const lines = written(make);
    expect(lines).toHaveLength(1);
    const { type, trace } = JSON.parse(lines[0] ?? '');
    expect(name.startsWith(type === 'TRACE' ? trace.type : type)).toBe(true);
  });
});

describe.skipIf(!existsSync(folder))("Airbyte's schema of the protocol", () => {
  const accepts = (message: unknown): string => {
    validator ??= compile();
    return validator.validate(message) ? '' : validator.errors();
  };
  let validator: ReturnType<typeof compile> | undefined;

  function compile() {
    const read = (name: string): JsonObject =>
      JSON.parse(readFileSync(new URL(name, folder), 'utf8'));
    const ajv = new Ajv({ strict: false, logger: false, validateFormats: false, allErrors: true });
    ajv.addSchema(read('airbyte_protocol.schema.json'));
    const validate = ajv.compile(read('airbyte_message_strict.schema.json'));
    return {
      validate: (message: unknown) => validate(message),
      errors: () => ajv.errorsText(validate.errors),
    };
  }

  it.each(MESSAGES)('accepts %s', (_, make) => {
    expect(accepts(JSON.parse(written(make)[0] ?? ''))).toBe('');
  });

  it.each<[string, unknown]>([
    ['a message of no type', {}],
    ['a state without a kind', { type: 'STATE', state: { data: {} } }],
    ['a record without data', { type: 'RECORD', record: { stream: 'x', emitted_at: now } }],
    [
      'a failed check without a reason',
      { type: 'CONNECTION_STATUS', connectionStatus: { status: 'FAILED' } },
    ],
  ])('does not accept %s', (_, message) => {
    expect(accepts(message)).not.toBe('');
  });
});
