/**
 * How a table has changed since its catalog was made. No change of a row tells of a new type, name or default: rows that
 * were emitted before stay as they were, so the user is told. Pure.
 */
import type { JsonObject } from './airbyte/protocol.ts';
import { columnType } from './column-types.ts';
import type { Relation } from './postgres/relations.ts';
import type { SourceModel } from './source-model.ts';

/**
 * What a person should know of it, as sentences.
 * @param stream its name, for messages.
 * @param properties of its json schema in the configured catalog.
 */
export function schemaChanges(
  stream: string,
  properties: Readonly<Record<string, unknown>>,
  relation: Relation,
  source: Pick<SourceModel, 'types'>,
): readonly string[] {
  const refresh =
    'Refresh the schema of the connection; rows that were synced before keep what they had until the stream is refreshed.';
  return Object.entries(properties).flatMap(([property, known]) => {
    // Destinations may have columns of their own in it, but none of ours is called so.
    if (property.startsWith('_ab_')) return [];
    const column = relation.columns.find((candidate) => candidate.name === property);
    if (column === undefined) {
      return [`${stream} has no column "${property}" any more: its records lack it. ${refresh}`];
    }
    const { typeOid, typmod, dimensions } = column;
    const now = columnType(typeOid, typmod, dimensions, source.types).jsonSchema;
    return sameType(known, now)
      ? []
      : [`The type of ${stream}."${property}" has changed since the catalog was made. ${refresh}`];
  });
}

const TYPE_KEYWORDS = ['type', 'format', 'airbyte_type'];

/** Platforms add keywords and reorder: what says the type is compared, as far as the catalog says it. */
function sameType(known: unknown, now: JsonObject): boolean {
  const said = (known ?? {}) as Readonly<Record<string, unknown>>;
  return TYPE_KEYWORDS.every((keyword) => {
    const before = said[keyword];
    if (before === undefined) return said['type'] === undefined || now[keyword] === undefined;
    return typeNames(before).join() === typeNames(now[keyword]).join();
  });
}

/** null says nothing about the type: some platforms add it. */
function typeNames(value: unknown): readonly unknown[] {
  return (Array.isArray(value) ? value : [value]).filter((name) => name !== 'null');
}
