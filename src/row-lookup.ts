/** Rows as they are now, looked up by key while the stream waits: for what the WAL leaves out or leaves in doubt. */
import { type Client, escapeIdentifier as ident } from 'pg';
import type { ChangeSink } from './cdc.ts';
import type { ChunkBook } from './chunk-book.ts';
import { errorCode } from './errors.ts';
import type { RowKey } from './held-deletes.ts';
import type { SyncStream } from './plan.ts';

type TableName = { readonly schema: string; readonly name: string };
type TextRow = readonly (string | null)[];

export class RowLookup {
  readonly #client: Client;
  readonly #book: ChunkBook;

  constructor(client: Client, book: ChunkBook) {
    this.#client = client;
    this.#book = book;
  }

  /**
   * The values that cells have now, where an update left them out of the WAL. A later change of the cell comes later in
   * the stream, with its value; a row that is gone is deleted later in the stream.
   */
  async fetchCells(
    sink: ChangeSink,
    key: readonly (Buffer | null)[],
    positions: readonly number[],
  ): Promise<ReadonlyMap<number, Buffer | null>> {
    const names = positions.map((position) => sink.relation.columns[position]?.name ?? '');
    const keyNames = sink.stream.identity;
    if (keyNames.length === 0 || sink.identity.includes(-1) || key.includes(null)) return new Map();
    const { schema, name } = sink.stream.relation;
    const text = `SELECT ${names.map((column) => ident(column)).join(', ')} FROM ${ident(schema)}.${ident(name)}
      WHERE ${keyNames.map((column, index) => `${ident(column)} = $${index + 1}`).join(' AND ')}`;
    const values = key.map((value) => value?.toString('utf8') ?? null);
    const [row] = await this.#settled(sink.stream, text, values, 1);
    if (row === undefined) return new Map();
    return new Map(
      positions.map((position, index) => {
        const value = row[index];
        return [position, value === null || value === undefined ? null : Buffer.from(value)];
      }),
    );
  }

  /**
   * Which of these rows are in the table now. Looked for in the chunk that the deletions named, as long as there is one;
   * the table as a whole would be planned over all of its chunks.
   */
  async rowsPresent(sink: ChangeSink, keys: readonly RowKey[]): Promise<ReadonlySet<number>> {
    const { stream, relation } = sink;
    const chunk = this.#book.get(relation.oid);
    const types = await this.#typeNames(
      sink.identity.map((position) => relation.columns[position]?.typeOid ?? 0),
    );
    const values = stream.identity.map((_, index) =>
      keys.map((key) => key[index]?.toString('utf8') ?? null),
    );
    const look = (table: TableName): Promise<readonly TextRow[]> =>
      this.#settled(stream, presenceSql(stream, types, table), values, keys.length);
    let rows: readonly TextRow[];
    try {
      rows = await look(chunk ?? stream.relation);
    } catch (error) {
      if (chunk === undefined || errorCode(error) !== UNDEFINED_TABLE) throw error;
      // Dropped, or merged into another one, since the list was read.
      rows = await look(stream.relation);
    }
    return new Set(rows.map(([place]) => Number(place) - 1));
  }

  /** As SQL spells them. */
  async #typeNames(oids: readonly number[]): Promise<readonly string[]> {
    const { rows } = await this.#client.query<{ names: string[] }>(
      `SELECT ARRAY (SELECT pg_catalog.format_type(t.oid, NULL)
                       FROM unnest($1::oid[]) WITH ORDINALITY AS t (oid, place) ORDER BY t.place) AS names`,
      [oids],
    );
    return rows[0]?.names ?? [];
  }

  /**
   * The rows of a query, as texts. The server plans with its newest system catalog, so a row that compression moves
   * meanwhile can be in none of the places that are looked at: that rows are missing counts only if no chunk changed
   * before and after.
   */
  async #settled(
    stream: SyncStream,
    text: string,
    values: readonly (string | null | readonly (string | null)[])[],
    expected: number,
  ): Promise<readonly TextRow[]> {
    let before: string | null = null;
    for (let attempt = 1; ; attempt += 1) {
      const rows = await this.#queryTexts(text, values, attempt < FETCH_ATTEMPTS);
      if (rows !== null && (rows.length >= expected || stream.hypertable === null)) return rows;
      const after = await this.#chunkVersions(stream.hypertable?.id ?? 0);
      if (rows !== null && (after === before || attempt >= FETCH_ATTEMPTS)) return rows;
      before = after;
    }
  }

  /** @returns null for a deadlock with maintenance, which is worth another attempt. */
  async #queryTexts(
    text: string,
    values: readonly (string | null | readonly (string | null)[])[],
    again: boolean,
  ): Promise<readonly TextRow[] | null> {
    try {
      const { rows } = await this.#client.query<(string | null)[]>({
        text,
        values: [...values],
        rowMode: 'array',
        types: { getTypeParser: () => (value: string) => value },
      });
      return rows;
    } catch (error) {
      if (again && errorCode(error) === DEADLOCK) return null;
      throw error;
    }
  }

  /** Changes with every change of a chunk of the hypertable. */
  async #chunkVersions(hypertableId: number): Promise<string> {
    const { rows } = await this.#client.query<{ versions: string | null }>(
      `SELECT md5(string_agg(id || ' ' || status || ' ' || xmin, ',' ORDER BY id)) AS versions
         FROM _timescaledb_catalog.chunk WHERE hypertable_id = $1`,
      [hypertableId],
    );
    return rows[0]?.versions ?? '';
  }
}

const FETCH_ATTEMPTS = 40;
const DEADLOCK = '40P01';
const UNDEFINED_TABLE = '42P01';

/** $1, $2, ...: the key's columns, each as an array of texts. Gives the places, from 1, of the rows that are there. */
function presenceSql(stream: SyncStream, types: readonly string[], table: TableName): string {
  const notNull = new Set(
    stream.relation.columns.filter((column) => column.notNull).map((column) => column.name),
  );
  const same = stream.identity.map((name, index) => {
    // Only groups of a continuous aggregate can have nulls; an index serves no more than equality.
    const operator = notNull.has(name) ? '=' : 'IS NOT DISTINCT FROM';
    return `t.${ident(name)} ${operator} w.k${index + 1}::${types[index] ?? 'text'}`;
  });
  const names = stream.identity.map((_, index) => `k${index + 1}`);
  const arrays = stream.identity.map((_, index) => `$${index + 1}::text[]`);
  return `SELECT w.place FROM unnest(${arrays.join(', ')}) WITH ORDINALITY AS w (${names.join(', ')}, place)
           WHERE EXISTS (SELECT FROM ${ident(table.schema)}.${ident(table.name)} t WHERE ${same.join(' AND ')})`;
}
