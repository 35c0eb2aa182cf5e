/**
 * What the change stream says of TimescaleDB's own catalog, where somebody has published it. Pure: messages in, changes
 * out. We never publish it ourselves: that takes its owner, and an update of the extension drops it from the publication.
 */
import {
  cellOffsets,
  cellText,
  decodePgoutput,
  type RelationMessage,
} from '../postgres/pgoutput.ts';

type Common = { readonly what: 'new' | 'changed' | 'vanished'; readonly id: number };

export type CatalogChange =
  | (Common & {
      readonly object: 'chunk';
      /** Null of a deletion, which has the id alone. */
      readonly hypertableId: number | null;
      readonly status: number | null;
    })
  | (Common & {
      readonly object: 'other';
      readonly kind: 'hypertable' | 'continuous aggregate';
      readonly name: string;
    });

const RELATION = 0x52;
const INSERT = 0x49;
const UPDATE = 0x55;
const DELETE = 0x44;

export class CatalogChanges {
  /** By OID, as announced. */
  readonly #tables = new Map<number, RelationMessage>();

  /** @returns null for what does not concern chunks, hypertables and continuous aggregates. */
  see(src: Buffer, start: number, end: number): CatalogChange | null {
    const tag = src[start];
    if (tag === RELATION) this.#announce(src, start, end);
    if (this.#tables.size === 0) return null;
    if (tag !== INSERT && tag !== UPDATE && tag !== DELETE) return null;
    const table = this.#tables.get(src.readUInt32BE(start + 1));
    if (table === undefined) return null;
    const message = decodePgoutput(src, start, end);
    switch (message.tag) {
      case 'insert':
      case 'update':
        return change(
          table,
          message.tag === 'insert' ? 'new' : 'changed',
          cells(src, message.newTuple, table),
        );
      case 'delete':
        return change(table, 'vanished', cells(src, message.oldTuple, table));
      default:
        return null;
    }
  }

  #announce(src: Buffer, start: number, end: number): void {
    const message = decodePgoutput(src, start, end);
    if (message.tag !== 'relation' || message.schema !== '_timescaledb_catalog') return;
    if (TABLES.has(message.name)) this.#tables.set(message.oid, message);
  }
}

const TABLES: ReadonlySet<string> = new Set(['chunk', 'hypertable', 'continuous_agg']);

/** By name: the catalog's layout differs between versions. */
function cells(src: Buffer, tuple: number, table: RelationMessage): ReadonlyMap<string, string> {
  const found = new Map<string, string>();
  cellOffsets(src, tuple).forEach((at, index) => {
    const name = table.columns[index]?.name;
    const value = cellText(src, at);
    if (name !== undefined && value !== null) found.set(name, value.toString('utf8'));
  });
  return found;
}

function change(
  table: RelationMessage,
  what: Common['what'],
  row: ReadonlyMap<string, string>,
): CatalogChange | null {
  if (table.name === 'chunk') {
    return {
      object: 'chunk',
      what,
      id: Number(row.get('id')),
      hypertableId: row.has('hypertable_id') ? Number(row.get('hypertable_id')) : null,
      status: row.has('status') ? Number(row.get('status')) : null,
    };
  }
  // Up to 2.28: the internal hypertable of compressed chunks.
  if (row.get('compression_state') === '2') return null;
  const aggregate = table.name === 'continuous_agg';
  // Of a hypertable behind a continuous aggregate the latter is told.
  if (!aggregate && (row.get('table_name') ?? '').startsWith('_materialized_hypertable_')) {
    return null;
  }
  const [schema, name] = aggregate
    ? [row.get('user_view_schema'), row.get('user_view_name')]
    : [row.get('schema_name'), row.get('table_name')];
  return {
    object: 'other',
    what,
    kind: aggregate ? 'continuous aggregate' : 'hypertable',
    id: Number(row.get(aggregate ? 'mat_hypertable_id' : 'id')),
    name: `${schema ?? ''}.${name ?? ''}`,
  };
}
