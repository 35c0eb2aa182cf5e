/** Records against the catalog: the stream's json schema, its key, its selected columns, the order of changes. */
import { Ajv, type ValidateFunction } from 'ajv';
import type { JsonObject, JsonValue } from '../src/airbyte/protocol.ts';
import { isExactNumber, parseDigits } from './exact-json.ts';
import {
  type ConfiguredCatalog,
  type ConfiguredEntry,
  type RecordData,
  type RecordMessage,
  streamName,
} from './messages.ts';

/** Airbyte's well-known types: https://docs.airbyte.com/understanding-airbyte/supported-data-types */
const DATE = String.raw`\d{4,}-\d{2}-\d{2}`;
const TIME = String.raw`\d{2}:\d{2}:\d{2}(\.\d+)?`;
const ZONE = String.raw`(Z|[+\-]\d{1,2}:\d{2})`;
const PATTERNS: Readonly<Record<string, string>> = {
  date: `^${DATE}( BC)?$`,
  time_without_timezone: `^${TIME}$`,
  time_with_timezone: `^${TIME}${ZONE}$`,
  timestamp_without_timezone: `^${DATE}T${TIME}( BC)?$`,
  timestamp_with_timezone: `^${DATE}T${TIME}${ZONE}( BC)?$`,
};

/** Digits of integers are looked at in the first records of a stream, and in every so many after them. */
const THOROUGH_FIRST = 200;
const THOROUGH_EVERY = 101;

type StreamCheck = {
  readonly validate: ValidateFunction;
  readonly key: readonly string[];
  readonly integers: readonly string[];
  readonly hasCursor: boolean;
  records: number;
};

export class RecordChecker {
  readonly #report: (violation: string) => void;
  readonly #streams: ReadonlyMap<string, StreamCheck>;
  #cursor = -Infinity;

  constructor(catalog: ConfiguredCatalog, report: (violation: string) => void) {
    this.#report = report;
    this.#streams = new Map(
      catalog.streams.map((entry) => [streamName(entry.stream), streamCheck(entry)]),
    );
  }

  see(line: string, { record }: RecordMessage): void {
    const name = streamName({ ...record, name: record.stream });
    const check = this.#streams.get(name);
    if (check === undefined) return; // the order of messages is where that is reported
    const data = plain(record.data);
    if (!check.validate(data)) {
      const faults = (check.validate.errors ?? []).map(
        (fault) => `${fault.instancePath} ${fault.message ?? ''} ${JSON.stringify(fault.params)}`,
      );
      this.#report(`${name}: ${faults.join('; ')}: ${line.slice(0, 300)}`);
    }
    for (const column of check.key) {
      if (column in data && data[column] === null) {
        this.#report(`${name}: null in key column ${column}: ${line.slice(0, 300)}`);
      }
    }
    for (const { field, change } of record.meta?.changes ?? []) {
      if (change === 'NULLED' && data[field] !== null) {
        this.#report(`${name}: ${field} is said to be nulled: ${line.slice(0, 300)}`);
      }
    }
    if (check.hasCursor) this.#order(name, data['_ab_cdc_cursor']);
    if (check.records < THOROUGH_FIRST || check.records % THOROUGH_EVERY === 0) {
      this.#integers(name, check.integers, line);
    }
    check.records += 1;
  }

  #order(name: string, cursor: unknown): void {
    if (typeof cursor !== 'number' || cursor <= this.#cursor) {
      this.#report(`${name}: _ab_cdc_cursor ${String(cursor)} after ${this.#cursor}`);
    } else this.#cursor = cursor;
  }

  /** `1.0` is no integer to a strict reader, though a parsed one cannot tell. */
  #integers(name: string, columns: readonly string[], line: string): void {
    const { record } = parseDigits(line) as RecordMessage;
    for (const column of columns) {
      const value = record.data[column];
      if (isExactNumber(value) && !/^-?\d+$/.test(value.digits)) {
        this.#report(`${name}: ${column} is no integer: ${value.digits}`);
      }
    }
  }
}

function streamCheck(entry: ConfiguredEntry): StreamCheck {
  const { json_schema, source_defined_primary_key } = entry.stream;
  const properties = json_schema['properties'] as Readonly<Record<string, JsonObject>>;
  const annotation = json_schema['x-timescaledb'] as { readonly kind: string } | undefined;
  const grouped = annotation?.kind === 'continuous aggregate';
  const ajv = new Ajv({ strict: false, allErrors: true });
  return {
    validate: ajv.compile({
      type: 'object',
      minProperties: 1,
      additionalProperties: false,
      properties: Object.fromEntries(
        Object.entries(properties).map(([name, fragment]) => [name, strict(fragment)]),
      ),
    }),
    // What a continuous aggregate groups by may be null, and that is a group as well.
    key: grouped ? [] : source_defined_primary_key.map((path) => path[0] ?? ''),
    integers: Object.keys(properties).filter((name) => isInteger(properties[name] ?? {})),
    hasCursor: entry.sync_mode === 'incremental' && '_ab_cdc_cursor' in properties,
    records: 0,
  };
}

function isInteger(fragment: JsonObject): boolean {
  return fragment['airbyte_type'] === 'integer' || fragment['type'] === 'integer';
}

/** What Airbyte's types mean, as JSON schema can say it; every column and element may be null. */
function strict(fragment: JsonObject): JsonObject {
  const type = isInteger(fragment) ? 'integer' : (fragment['type'] ?? null);
  const types: readonly JsonValue[] = Array.isArray(type) ? type : [type];
  const zoned = fragment['airbyte_type'] ?? fragment['format'];
  const pattern = typeof zoned === 'string' ? PATTERNS[zoned] : undefined;
  const items = fragment['items'] as JsonObject | undefined;
  return {
    type: [...new Set([...types, 'null'])],
    ...(pattern === undefined ? {} : { pattern }),
    ...(items === undefined ? {} : { items: strict(items) }),
  };
}

/** Digits as doubles: good enough for types. */
function plain(data: RecordData): Readonly<Record<string, unknown>> {
  const values: Record<string, unknown> = {};
  for (const name of Object.keys(data)) values[name] = plainValue(data[name]);
  return values;
}

function plainValue(value: unknown): unknown {
  if (isExactNumber(value)) return Number(value.digits);
  return Array.isArray(value) ? value.map((item) => plainValue(item)) : value;
}
