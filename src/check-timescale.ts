/** What `check` asks of TimescaleDB under CDC. The requirements are pure: facts in, findings out. */
import type { ClientBase } from 'pg';
import { type Finding, listed, listedSql, tableLabel, tableSql, warning } from './check-finding.ts';
import type { SourceModel } from './source-model.ts';
import { type Hypertable, isAtLeast } from './timescaledb/hypertables.ts';

export type TimescaleFacts = {
  readonly version: string;
  /** The Apache-only build has no columnstore. */
  readonly apache: boolean;
  /** null: this version has no such setting. */
  readonly markers: 'on' | 'off' | null;
  /** Those of the user. */
  readonly hypertables: readonly Hypertable[];
  /** Of these: with the columnstore. */
  readonly columnstores: readonly Hypertable[];
  /** OIDs of those with a row trigger on DELETE. */
  readonly guarded: ReadonlySet<number>;
};

/** tgtype: 1 for each row, 8 on DELETE. Triggers that replica sessions do not fire count, as TimescaleDB counts them. */
const SETTINGS = `
SELECT current_setting('timescaledb.enable_compression_wal_markers', true) AS markers,
       current_setting('timescaledb.license', true) AS license,
       ARRAY (SELECT DISTINCT tgrelid::bigint FROM pg_trigger
               WHERE tgrelid = ANY ($1::oid[]) AND NOT tgisinternal AND tgenabled IN ('O', 'A')
                 AND tgtype & 9 = 9) AS guarded`;

/** Null: there is nothing of TimescaleDB to be asked about. One query, after others have loaded the extension's library. */
export async function timescaleFacts(
  client: ClientBase,
  source: SourceModel,
): Promise<TimescaleFacts | null> {
  const streams = new Set(source.relations.map(({ oid }) => oid));
  const hypertables = [...source.hypertables.values()].filter(({ oid }) => streams.has(oid));
  if (source.timescale === null || hypertables.length === 0) return null;
  const { rows } = await client.query<{
    markers: string | null;
    license: string | null;
    guarded: readonly string[];
  }>(SETTINGS, [hypertables.map(({ oid }) => oid)]);
  const [row] = rows;
  return {
    version: source.timescale.version,
    apache: row?.license === 'apache',
    markers: row?.markers === 'on' || row?.markers === 'off' ? row.markers : null,
    hypertables,
    columnstores: hypertables.filter(
      ({ compression, id }) => compression || (source.stats.get(id)?.compressedChunks ?? 0) > 0,
    ),
    guarded: new Set((row?.guarded ?? []).map(Number)),
  };
}

/** Compression moves rows by deleting and inserting them; the markers tell that from what users do. */
export function markers(facts: TimescaleFacts): readonly Finding[] {
  if (facts.apache) return [];
  if (facts.markers === 'off') {
    return [
      warning(
        'timescaledb.enable_compression_wal_markers is off: compressing and decompressing rows looks like deleting and inserting them. Streams with a key are read right all the same, but slowly, as each deletion is looked up; those without one are refused.',
        'ALTER SYSTEM SET timescaledb.enable_compression_wal_markers = on; SELECT pg_reload_conf();',
      ),
    ];
  }
  if (facts.markers === null) {
    return [
      warning(
        `TimescaleDB ${facts.version} does not mark in the WAL what compression moves: it looks like deletes and inserts. Streams with a key are read right all the same, but slowly, as each deletion is looked up; those without one are refused.`,
        'Update to 2.19 or later: ALTER EXTENSION timescaledb UPDATE;',
      ),
    ];
  }
  if (isAtLeast(facts.version, 2, 19) || facts.columnstores.length === 0) return [];
  return [
    warning(
      `TimescaleDB ${facts.version} does not mark in the WAL what its compression policies recompress: it looks like deletes. Streams with a key are read right all the same, as each deletion is looked up.`,
      'Update to 2.19 or later: ALTER EXTENSION timescaledb UPDATE;',
    ),
  ];
}

/** The function of the guard triggers: one for all connections. */
export const GUARD = 'public.source_timescaledb_guard';

/** Whole batches are deleted, and rows written straight into the columnstore, without a trace in the chunk's changes. */
export function guards(facts: TimescaleFacts): readonly Finding[] {
  const open = facts.columnstores.filter(({ oid }) => !facts.guarded.has(oid));
  if (open.length === 0 || !isAtLeast(facts.version, 2, 17)) return [];
  const triggers = open.map(
    (hypertable) =>
      `CREATE TRIGGER source_timescaledb_guard AFTER DELETE ON ${tableSql(hypertable)} FOR EACH ROW EXECUTE FUNCTION ${GUARD}()`,
  );
  return [
    warning(
      `Deletes of whole compressed batches, and rows written directly in compressed form, do not show in the changes of ${listed(open.map(tableLabel))}. A row trigger on DELETE that does nothing prevents both:`,
      `CREATE OR REPLACE FUNCTION ${GUARD}() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; ${listedSql('', triggers, '; ')}`,
    ),
  ];
}
