/** What Airbyte's acceptance tests and its form demand of a specification, each rule under the name of its test there. */
import type { JsonObject, JsonValue } from '../src/airbyte/protocol.ts';
import { isJsonObject } from '../src/spec.ts';

type Place = { readonly path: string; readonly schema: JsonObject };

/** Returns what is wrong, one text for each fault. */
type Rule = (places: readonly Place[]) => string[];

const FORBIDDEN =
  'not anyOf patternProperties prefixItems allOf if then else dependentSchemas dependentRequired'.split(
    ' ',
  );

/** Names that the platform takes for secrets wherever they stand. */
const SECRET_NAMES = new Set(
  (
    'client_token access_token api_token token secret client_secret password key service_account_info service_account ' +
    'tenant_id certificate jwt credentials app_id appid refresh_token'
  ).split(' '),
);

const HOLDS_A_SECRET: readonly unknown[] = ['string', 'integer', 'number'];

/** By the name of Airbyte's test. */
export const SPEC_RULES: Readonly<Record<string, Rule>> = {
  test_enum_usage: each(({ enum: values }) => {
    if (!Array.isArray(values)) return null;
    return new Set(values).size === values.length ? null : 'the same value twice in an enum';
  }),
  test_oneof_usage: each(oneOfFault),
  test_additional_properties_is_true: each(({ additionalProperties }) =>
    additionalProperties === undefined || additionalProperties === true
      ? null
      : 'additionalProperties is not true',
  ),
  test_forbidden_complex_types: each((schema) => {
    const found = Object.keys(schema).filter((key) => FORBIDDEN.includes(key));
    return found.length === 0 ? null : `uses ${found.join(', ')}`;
  }),
  test_defined_refs_exist_in_json_spec_file: each(({ $ref }) =>
    $ref === undefined ? null : 'a $ref',
  ),
  test_property_type_is_not_array: each(({ type }) => {
    if (!Array.isArray(type)) return null;
    const fits = type.length === 1 || (type.length === 2 && type[1] === 'null');
    return fits ? null : `the types ${type.join(', ')}`;
  }),
  test_object_not_empty: (places) =>
    places.flatMap(({ path, schema }) =>
      path === '' || schema['type'] !== 'object' || 'oneOf' in schema || hasProperties(schema)
        ? []
        : [`${path}: an object without properties`],
    ),
  test_array_type: each(({ type, items }) => {
    if (type !== 'array' || items === undefined) return null;
    if (!isJsonObject(items)) return 'items of more than one form';
    const simple = ['object', 'string', 'number', 'integer'].includes(String(items['type']));
    return simple || 'enum' in items ? null : 'items that the form cannot show';
  }),
  test_secret_is_properly_marked: (places) =>
    places.flatMap(({ path, schema }) => {
      const name = /\.properties\.([^.]+)$/.exec(path)?.[1]?.toLowerCase() ?? '';
      if (!SECRET_NAMES.has(name)) return [];
      const holds = HOLDS_A_SECRET.includes(schema['type']) && schema['const'] === undefined;
      const marked = schema['airbyte_secret'] === true;
      return holds === marked ? [] : [`${path}: ${marked ? 'marked' : 'not marked'} as secret`];
    }),
  test_duplicate_order: each(({ properties }) => {
    const places = propertiesOf(properties).flatMap(([, schema]) =>
      schema['order'] === undefined
        ? []
        : [`${JSON.stringify(schema['group'] ?? '')} ${String(schema['order'])}`],
    );
    return new Set(places).size === places.length ? null : 'two properties in one place';
  }),
  test_nested_group: (places) =>
    places.flatMap(({ path, schema }) =>
      schema['group'] === undefined || /^\.properties\.[^.]+$/.test(path)
        ? []
        : [`${path}: a group below the top`],
    ),
  test_display_type: each(({ display_type: display, oneOf }) => {
    if (display === undefined) return null;
    const fits = oneOf !== undefined && (display === 'dropdown' || display === 'radio');
    return fits ? null : 'a display_type that does not fit';
  }),
};

/** What is wrong with a specification; empty when nothing is. @param only the rule of this name. */
export function specFaults(connectionSpecification: JsonValue, only?: string): string[] {
  if (!isJsonObject(connectionSpecification)) return ['no connectionSpecification'];
  const places = schemasIn(connectionSpecification, '');
  return Object.entries(SPEC_RULES).flatMap(([name, rule]) =>
    only === undefined || only === name ? rule(places).map((fault) => `${name}: ${fault}`) : [],
  );
}

function each(fault: (schema: JsonObject) => string | null): Rule {
  return (places) =>
    places.flatMap(({ path, schema }) => {
      const found = fault(schema);
      return found === null ? [] : [`${path}: ${found}`];
    });
}

/** A choice is an object; its variants have exactly one common property that is a constant in each. */
function oneOfFault({ oneOf, type }: JsonObject): string | null {
  if (oneOf === undefined) return null;
  if (type !== 'object') return 'oneOf in what is no object';
  const variants = (Array.isArray(oneOf) ? oneOf : []).map((variant) =>
    isJsonObject(variant) ? propertiesOf(variant['properties']) : [],
  );
  if (variants.some((properties) => properties.length === 0)) return 'a variant without properties';
  const constants = variants.map((properties) =>
    properties.filter(([, schema]) => schema['const'] !== undefined).map(([name]) => name),
  );
  const [first = [], ...others] = constants;
  const common = first.filter((name) => others.every((names) => names.includes(name)));
  if (common.length !== 1) return `${common.length} constants that all variants have`;
  for (const [name, tag] of variants.flat()) {
    if (name !== common[0]) continue;
    const { const: value, default: preset = value, enum: values = [value ?? null] } = tag;
    const same = Array.isArray(values) && values.length === 1 && values[0] === value;
    if (preset !== value || !same) return `${name} is more than its constant`;
  }
  return null;
}

function hasProperties({ properties }: JsonObject): boolean {
  return propertiesOf(properties).length > 0;
}

function propertiesOf(properties: JsonValue | undefined): (readonly [string, JsonObject])[] {
  return Object.entries(isJsonObject(properties) ? properties : {}).flatMap(([name, schema]) =>
    isJsonObject(schema) ? [[name, schema] as const] : [],
  );
}

/** The schema itself and all that stand in it, with the way to each. */
function schemasIn(schema: JsonObject, path: string): Place[] {
  const { properties, oneOf, items } = schema;
  const inner = [
    ...propertiesOf(properties).map(([name, one]) => [`${path}.properties.${name}`, one] as const),
    ...propertiesOf(Array.isArray(oneOf) ? Object.fromEntries(oneOf.entries()) : {}).map(
      ([index, one]) => [`${path}.oneOf.${index}`, one] as const,
    ),
    ...(isJsonObject(items) ? [[`${path}.items`, items] as const] : []),
  ];
  return [{ path, schema }, ...inner.flatMap(([way, one]) => schemasIn(one, way))];
}
