/** spec.json taken apart: its objects, its choices, and the way to each of them. */
import type { JsonObject, JsonValue } from '../src/airbyte/protocol.ts';
import { loadSpec } from '../src/config.ts';
import { isJsonObject } from '../src/spec.ts';

export const spec = await loadSpec();
export const connection = at(spec, 'connectionSpecification');
export const properties = at(connection, 'properties');

export function at(parent: JsonValue | undefined, ...path: readonly string[]): JsonObject {
  let child: JsonValue | undefined = parent;
  for (const key of path) child = isJsonObject(child) ? child[key] : undefined;
  if (!isJsonObject(child)) throw new Error(`nothing at ${path.join('.')}`);
  return child;
}

export function objects(list: JsonValue | undefined): readonly JsonObject[] {
  return Array.isArray(list) ? list.filter(isJsonObject) : [];
}

type Place = { readonly path: string; readonly node: JsonObject };

/** Every object of the spec with the way to it. */
export function places(node: JsonValue, path = ''): readonly Place[] {
  if (typeof node !== 'object' || node === null) return [];
  const inner = Object.entries(node).flatMap(([key, child]) => places(child, `${path}.${key}`));
  return isJsonObject(node) ? [{ path, node }, ...inner] : inner;
}

export function branches(
  name: string,
): readonly { readonly tag: JsonValue; readonly schema: JsonObject }[] {
  return objects(at(properties, name)['oneOf']).map((schema) => {
    const tags = Object.values(at(schema, 'properties')).flatMap((property) =>
      isJsonObject(property) && property['const'] !== undefined ? [property['const']] : [],
    );
    const [tag] = tags;
    if (tag === undefined || tags.length > 1) throw new Error(`discriminator of ${name}`);
    return { tag, schema };
  });
}

/** What the form fills in by itself, but for the choices. */
export function defaultsOf(schemas: JsonObject): JsonObject {
  return Object.fromEntries(
    Object.entries(schemas).flatMap(([name, property]) =>
      isJsonObject(property) && property['default'] !== undefined && !('oneOf' in property)
        ? [[name, property['default']]]
        : [],
    ),
  );
}
