/**
 * Whether a value surely fits a JSON schema: the short answer for a configuration that is right. What it does not know
 * it denies, and the full validator, which takes longer to load than everything else, finds the reasons.
 */
import type { JsonObject, JsonValue } from './airbyte/protocol.ts';

/** Keywords that say nothing about a value. */
const ANNOTATIONS = new Set([
  '$schema',
  'airbyte_hidden',
  'airbyte_secret',
  'always_show',
  'default',
  'description',
  'display_type',
  'examples',
  'group',
  'groups',
  'multiline',
  'order',
  'title',
]);

export function surelyFits(value: unknown, schema: JsonObject): boolean {
  return Object.entries(schema).every(
    ([keyword, wanted]) => ANNOTATIONS.has(keyword) || satisfies(value, keyword, wanted, schema),
  );
}

function satisfies(
  value: unknown,
  keyword: string,
  wanted: JsonValue,
  schema: JsonObject,
): boolean {
  switch (keyword) {
    case 'type':
      return hasType(value, wanted);
    case 'const':
      return value === wanted;
    case 'enum':
      return Array.isArray(wanted) && wanted.some((it) => it === value);
    case 'minimum':
      return typeof value === 'number' && value >= Number(wanted);
    case 'maximum':
      return typeof value === 'number' && value <= Number(wanted);
    case 'minLength':
      return typeof value === 'string' && Array.from(value).length >= Number(wanted);
    case 'minItems':
      return Array.isArray(value) && value.length >= Number(wanted);
    case 'uniqueItems':
      return (
        Array.isArray(value) &&
        value.every((it) => typeof it !== 'object') &&
        new Set(value).size === value.length
      );
    case 'items':
      return (
        Array.isArray(value) && isObject(wanted) && value.every((it) => surelyFits(it, wanted))
      );
    case 'required':
      return (
        isObject(value) &&
        Array.isArray(wanted) &&
        wanted.every((name) => Object.hasOwn(value, String(name)))
      );
    case 'properties':
      return isObject(value) && isObject(wanted) && propertiesFit(value, wanted);
    case 'additionalProperties':
      return wanted === true && isObject(schema['properties']);
    default:
      return false;
  }
}

function propertiesFit(value: JsonObject, properties: JsonObject): boolean {
  return Object.entries(properties).every(
    ([name, schema]) =>
      !Object.hasOwn(value, name) || (isObject(schema) && surelyFits(value[name], schema)),
  );
}

function hasType(value: unknown, type: JsonValue): boolean {
  switch (type) {
    case 'string':
    case 'boolean':
      return typeof value === type;
    case 'integer':
      return Number.isInteger(value);
    case 'array':
      return Array.isArray(value);
    case 'object':
      return isObject(value);
    default:
      return false;
  }
}

function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
