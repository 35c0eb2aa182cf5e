/**
 * The form of single messages: our own schema of those that the connector sends, and Airbyte's schema of the protocol
 * where its files lie beside the checkout.
 */
import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { Ajv, type ValidateFunction } from 'ajv';

const text = { type: 'string', minLength: 1 };
const millis = { type: 'integer', minimum: 1_000_000_000_000, maximum: 99_999_999_999_999 };

function form(
  properties: Readonly<Record<string, unknown>>,
  optional: readonly string[] = [],
): Readonly<Record<string, unknown>> {
  return {
    type: 'object',
    additionalProperties: false,
    properties,
    required: Object.keys(properties).filter((name) => !optional.includes(name)),
  };
}

const descriptor = form({ name: text, namespace: text });
const streamState = form({
  stream_descriptor: descriptor,
  stream_state: { type: 'object', minProperties: 1 },
});
const sourceStats = form({ recordCount: { type: 'integer', minimum: 0 } });
const fieldChange = form({
  field: text,
  change: { enum: ['NULLED', 'TRUNCATED'] },
  reason: {
    enum: [
      'SOURCE_RECORD_SIZE_LIMITATION',
      'SOURCE_FIELD_SIZE_LIMITATION',
      'SOURCE_RETRIEVAL_ERROR',
      'SOURCE_SERIALIZATION_ERROR',
    ],
  },
});

const stream = form({
  name: text,
  namespace: text,
  json_schema: {
    type: 'object',
    required: ['type', 'properties'],
    properties: { type: { const: 'object' }, properties: { type: 'object', minProperties: 1 } },
  },
  supported_sync_modes: {
    type: 'array',
    minItems: 1,
    uniqueItems: true,
    items: { enum: ['full_refresh', 'incremental'] },
  },
  source_defined_cursor: { type: 'boolean' },
  default_cursor_field: { type: 'array', items: text },
  source_defined_primary_key: { type: 'array', items: { type: 'array', minItems: 1, items: text } },
  is_resumable: { type: 'boolean' },
});

const error = form(
  {
    message: { ...text, maxLength: 50_000 },
    internal_message: { type: 'string', maxLength: 50_000 },
    stack_trace: { type: 'string', maxLength: 100_000 },
    failure_type: { enum: ['config_error', 'transient_error', 'system_error'] },
    stream_descriptor: descriptor,
  },
  ['internal_message', 'stack_trace', 'stream_descriptor'],
);

const estimate = form({
  name: text,
  namespace: text,
  type: { const: 'STREAM' },
  row_estimate: { type: 'integer', minimum: 0 },
  byte_estimate: { type: 'integer', minimum: 0 },
});

const status = { enum: ['STARTED', 'RUNNING', 'COMPLETE', 'INCOMPLETE'] };

const PAYLOADS: Readonly<Record<string, Readonly<Record<string, unknown>>>> = {
  RECORD: {
    record: form(
      {
        namespace: text,
        stream: text,
        emitted_at: millis,
        data: { type: 'object', minProperties: 1 },
        meta: form({ changes: { type: 'array', minItems: 1, items: fieldChange } }),
      },
      ['meta'],
    ),
  },
  STATE: {
    state: {
      oneOf: [
        form({ type: { const: 'STREAM' }, stream: streamState, sourceStats }),
        form({
          type: { const: 'GLOBAL' },
          global: form({
            shared_state: { type: 'object', minProperties: 1 },
            stream_states: { type: 'array', items: streamState },
          }),
          sourceStats,
        }),
      ],
    },
  },
  LOG: {
    log: form(
      {
        level: { enum: ['FATAL', 'ERROR', 'WARN', 'INFO', 'DEBUG', 'TRACE'] },
        message: text,
        stack_trace: text,
      },
      ['stack_trace'],
    ),
  },
  SPEC: {
    spec: {
      type: 'object',
      required: ['connectionSpecification', 'documentationUrl'],
      properties: {
        connectionSpecification: {
          type: 'object',
          required: ['type', 'properties'],
          properties: { type: { const: 'object' } },
        },
      },
    },
  },
  CONNECTION_STATUS: {
    connectionStatus: {
      oneOf: [
        form({ status: { const: 'SUCCEEDED' }, message: text }, ['message']),
        form({ status: { const: 'FAILED' }, message: text }),
      ],
    },
  },
  CATALOG: { catalog: form({ streams: { type: 'array', items: stream } }) },
  TRACE: {
    trace: {
      oneOf: [
        form({ type: { const: 'ERROR' }, emitted_at: millis, error }),
        form({ type: { const: 'ESTIMATE' }, emitted_at: millis, estimate }),
        form({
          type: { const: 'STREAM_STATUS' },
          emitted_at: millis,
          stream_status: form({ stream_descriptor: descriptor, status }),
        }),
      ],
    },
  },
};

const ajv = new Ajv({ strict: false, allErrors: false });

const VALIDATORS: ReadonlyMap<string, ValidateFunction> = new Map(
  Object.entries(PAYLOADS).map(([type, payload]) => [
    type,
    ajv.compile(form({ type: { const: type }, ...payload })),
  ]),
);

const protocol = loadProtocol();

/** Airbyte's own schema, with what its platform demands beyond it. */
function loadProtocol(): ValidateFunction | null {
  const folder = new URL('../../shared/oracle/', import.meta.url);
  const [base, strict] = ['airbyte_protocol', 'airbyte_message_strict'].map((name) =>
    fileURLToPath(new URL(`${name}.schema.json`, folder)),
  );
  if (base === undefined || strict === undefined) return null;
  if (!existsSync(base) || !existsSync(strict)) return null;
  const oracle = new Ajv({ strict: false, validateFormats: false });
  oracle.addSchema(JSON.parse(readFileSync(base, 'utf8')));
  return oracle.compile(JSON.parse(readFileSync(strict, 'utf8')));
}

/**
 * What is wrong with the form of a message; null when nothing.
 * @param thorough also against Airbyte's schema, which is slow.
 */
export function messageFault(message: unknown, thorough: boolean): string | null {
  const type = (message as { readonly type?: unknown } | null)?.type;
  const validator = typeof type === 'string' ? VALIDATORS.get(type) : undefined;
  if (validator === undefined) return `a message of type ${JSON.stringify(type)}`;
  if (!validator(message)) return faults(validator);
  if (thorough && protocol !== null && !protocol(message)) return `protocol: ${faults(protocol)}`;
  return null;
}

function faults(validator: ValidateFunction): string {
  const all = validator.errors ?? [];
  return all.map((fault) => `${fault.instancePath} ${fault.message ?? ''}`).join('; ');
}
