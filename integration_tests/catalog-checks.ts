/** What Airbyte demands of a discovered catalog, each rule under the name of its acceptance test. */
import { Ajv } from 'ajv';
import type { AirbyteCatalog, AirbyteStream, JsonObject } from '../src/airbyte/protocol.ts';
import { isJsonObject } from '../src/spec.ts';

type Rule = (stream: AirbyteStream) => string | null;

const ajv = new Ajv({ strict: false, validateFormats: false });

/** As the platform makes destination columns of them; anything else is of an unknown type there. */
const TYPES: readonly string[] = [
  'boolean',
  'integer',
  'number',
  'number integer',
  'object',
  'array',
  'string',
  'string date',
  'string date-time',
  'string date-time timestamp_with_timezone',
  'string date-time timestamp_without_timezone',
  'string time time_with_timezone',
  'string time time_without_timezone',
];

/** By the name of Airbyte's test, or of what the platform does with it. */
export const CATALOG_RULES: Readonly<Record<string, Rule>> = {
  test_streams_have_valid_json_schemas: ({ json_schema }) => {
    if (ajv.validateSchema(json_schema) !== true) return ajv.errorsText();
    return isJsonObject(json_schema['properties']) ? null : 'no properties';
  },
  test_defined_cursors_exist_in_schema: ({ default_cursor_field, json_schema }) => {
    const [name] = default_cursor_field;
    if (name === undefined || columnsOf(json_schema).has(name)) return null;
    return `no column ${name}`;
  },
  test_defined_refs_exist_in_schema: ({ json_schema }) => keyword(json_schema, ['$ref']),
  test_defined_keyword_exist_in_schema: ({ json_schema }) => keyword(json_schema, ['allOf', 'not']),
  test_primary_keys_exist_in_schema: ({ source_defined_primary_key, json_schema }) => {
    const missing = source_defined_primary_key.filter(
      ([name = '']) => !columnsOf(json_schema).has(name),
    );
    return missing.length === 0 ? null : `no column ${missing.join(', ')}`;
  },
  test_primary_keys_data_type: ({ source_defined_primary_key, json_schema }) => {
    const types = source_defined_primary_key.map(([name = '']) =>
      String(columnsOf(json_schema).get(name)?.['type']),
    );
    const found = types.find((type) => type === 'object' || type === 'array');
    return found === undefined ? null : `a key of type ${found}`;
  },
  test_streams_has_sync_modes: ({ supported_sync_modes }) =>
    supported_sync_modes.length > 0 ? null : 'no sync mode',
  test_additional_properties_is_true: ({ json_schema }) => {
    const { additionalProperties } = json_schema;
    return additionalProperties === undefined || additionalProperties === true
      ? null
      : 'additionalProperties is not true';
  },
  test_catalog_has_supported_data_types: ({ json_schema }) => {
    for (const [name, { type, format, airbyte_type }] of columnsOf(json_schema)) {
      const known = [type, format, airbyte_type].filter((part) => part !== undefined).join(' ');
      if (!TYPES.includes(known)) return `${name} of the unknown type "${known}"`;
    }
    return null;
  },
  'a stream that is resumable says whether its cursor is its own': (stream) =>
    stream.is_resumable && typeof stream.source_defined_cursor !== 'boolean'
      ? 'source_defined_cursor is missing'
      : null,
};

/** What is wrong with a catalog; empty when nothing is. @param only the rule of this name. */
export function catalogFaults({ streams }: AirbyteCatalog, only?: string): string[] {
  return streams.flatMap((stream) =>
    Object.entries(CATALOG_RULES).flatMap(([name, rule]) => {
      if (only !== undefined && only !== name) return [];
      const fault = rule(stream);
      return fault === null ? [] : [`${name}: ${stream.namespace}.${stream.name}: ${fault}`];
    }),
  );
}

function columnsOf({ properties }: JsonObject): ReadonlyMap<string, JsonObject> {
  const columns = Object.entries(isJsonObject(properties) ? properties : {});
  return new Map(columns.flatMap(([name, one]) => (isJsonObject(one) ? [[name, one]] : [])));
}

/** In the schema and in those of its columns; a column may well have the name of a keyword. */
function keyword(schema: JsonObject, names: readonly string[]): string | null {
  const places = [schema, ...columnsOf(schema).values()];
  const found = names.find((name) => places.some((place) => name in place));
  return found === undefined ? null : `uses ${found}`;
}
