/** Whether the chunks, hypertables and continuous aggregates are still those of the last look: one cheap query. */
import type { ClientBase } from 'pg';
import type { Chunk } from './chunks.ts';
import type { TimescaleCatalog } from './hypertables.ts';

export type ObjectKind = 'hypertable' | 'continuous aggregate';

export type CatalogObject = {
  readonly kind: ObjectKind;
  /** Of the hypertable; of a continuous aggregate that of the hypertable behind it. */
  readonly id: number;
  /** `schema.name`, for messages. */
  readonly name: string;
};

/** By hypertable id: how many chunks there are, the greatest id, and a text that differs where any chunk or status does. */
export type Digests = ReadonlyMap<
  number,
  { readonly chunks: number; readonly newest: number; readonly mark: string }
>;

/** The same of a list of chunks as `pollCatalog` gives of the system catalog. */
export function digestOf(chunks: readonly Chunk[]): Digests {
  const sums = new Map<number, { chunks: number; newest: number; ids: bigint; states: bigint }>();
  for (const { id, hypertableId, status } of chunks) {
    const sum = sums.get(hypertableId) ?? { chunks: 0, newest: 0, ids: 0n, states: 0n };
    sum.chunks += 1;
    sum.newest = Math.max(sum.newest, id);
    sum.ids += BigInt(id);
    sum.states += BigInt(id) * BigInt(status);
    sums.set(hypertableId, sum);
  }
  return new Map(
    [...sums].map(([id, sum]) => [
      id,
      { chunks: sum.chunks, newest: sum.newest, mark: `${sum.chunks} ${sum.ids} ${sum.states}` },
    ]),
  );
}

function pollSql(catalog: TimescaleCatalog): string {
  const present = catalog.chunkHasDropped ? 'AND NOT ch.dropped' : '';
  const ofUsers = catalog.hypertableHasCompressedState ? 'h.compression_state <> 2' : 'true';
  return `
SELECT 'chunks' AS kind, ch.hypertable_id AS id, '' AS name, count(*)::int AS chunks, max(ch.id) AS newest,
       count(*) || ' ' || sum(ch.id::bigint) || ' ' || sum(ch.id::bigint * ch.status) AS mark
  FROM _timescaledb_catalog.chunk ch
 WHERE ch.hypertable_id = ANY ($1::int[]) ${present}
 GROUP BY ch.hypertable_id
UNION ALL
SELECT 'hypertable', h.id, h.schema_name || '.' || h.table_name, 0, 0, ''
  FROM _timescaledb_catalog.hypertable h
 WHERE ${ofUsers}
   AND NOT EXISTS (SELECT FROM _timescaledb_catalog.continuous_agg c WHERE c.mat_hypertable_id = h.id)
UNION ALL
SELECT 'continuous aggregate', c.mat_hypertable_id, c.user_view_schema || '.' || c.user_view_name, 0, 0, ''
  FROM _timescaledb_catalog.continuous_agg c`;
}

/** Reads the digests of these hypertables' chunks, and the names of all hypertables and continuous aggregates. One query. */
export async function pollCatalog(
  client: ClientBase,
  catalog: TimescaleCatalog,
  hypertableIds: readonly number[],
): Promise<{ readonly digests: Digests; readonly objects: readonly CatalogObject[] }> {
  const { rows } = await client.query<{
    kind: 'chunks' | ObjectKind;
    id: number;
    name: string;
    chunks: number;
    newest: number;
    mark: string;
  }>(pollSql(catalog), [hypertableIds]);
  const digests = rows.filter(({ kind }) => kind === 'chunks');
  return {
    digests: new Map(digests.map(({ id, chunks, newest, mark }) => [id, { chunks, newest, mark }])),
    objects: rows.flatMap(({ kind, id, name }) => (kind === 'chunks' ? [] : [{ kind, id, name }])),
  };
}

/** The JSON that the event trigger of `setup-sql` sends on `timescaledb_chunk_created`; null for anything else. */
export function parseNotification(payload: string): {
  readonly schema: string;
  readonly name: string;
  readonly chunkSchema: string;
  readonly chunkName: string;
} | null {
  let told: Readonly<Record<string, unknown>> | null;
  try {
    told = JSON.parse(payload);
  } catch {
    return null;
  }
  const text = (field: string): string => {
    const value = told?.[field];
    return typeof value === 'string' ? value : '';
  };
  const found = {
    schema: text('hypertable_schema'),
    name: text('hypertable_name'),
    chunkSchema: text('chunk_schema'),
    chunkName: text('chunk_name'),
  };
  return found.name === '' || found.chunkName === '' ? null : found;
}
