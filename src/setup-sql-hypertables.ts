/** The blocks of `setup-sql` about tables and hypertables themselves: replica identities, guards, new chunks. Pure. */
import { escapeIdentifier as ident } from 'pg';
import { tableSql } from './check-finding.ts';
import { GUARD } from './check-timescale.ts';
import type { Changes, PublishedTable, SetupFacts } from './setup-sql-facts.ts';
import {
  ANNOUNCE,
  block,
  choice,
  chunkFunction,
  chunkTriggerName,
  dollarQuoted,
  listedNames,
  literals,
  note,
  transaction,
} from './setup-sql-text.ts';

/** Choices, since the owner pays for them in WAL. Before the publications: these go by what a table has then. */
export function identitiesBlock(changes: Changes): readonly string[] {
  const bare = changes.tables.filter(({ identity }) => !identity);
  if (bare.length === 0) return [];
  const tables = bare.filter(({ kind }) => kind !== 'continuous aggregate');
  const aggregates = bare.filter(({ kind }) => kind === 'continuous aggregate');
  return [
    block(
      'Block 2: replica identities',
      ['FULL writes the whole old row into the WAL with each update and delete.'],
      [
        ...(tables.length === 0
          ? []
          : [
              note(
                `Without one, updates and deletes of a table are not seen (it is published with inserts only, in "${changes.inserts}"). Best is a primary key. Each statement takes an exclusive lock on the table and all its chunks for a moment. Once a table is published with inserts only it stays there.`,
              ),
              ...tables.map(fullIdentity),
            ]),
        ...(aggregates.length === 0
          ? []
          : [
              note(
                `The hypertables behind ${listedNames(aggregates.map(({ label }) => label))}: with an identity the refreshes of a continuous aggregate can be followed; without one it is never published, since its refreshes would fail, and can be read in full only.`,
              ),
              ...aggregates.map(fullIdentity),
            ]),
      ],
    ),
  ];
}

function fullIdentity(table: PublishedTable): string {
  return choice(`ALTER TABLE ${tableSql(table)} REPLICA IDENTITY FULL;`);
}

/** Row triggers on DELETE where whole compressed batches could go without a trace. */
export function guardsBlock({ toGuard, tables }: Changes): readonly string[] {
  if (toGuard.length === 0) return [];
  const chunksOf = (schema: string, name: string): number =>
    tables.find((it) => it.schema === schema && it.name === name)?.chunks ?? 0;
  const guard = toGuard.map(({ schema, name }) => {
    const table = tableSql({ schema, name });
    const create = `CREATE TRIGGER source_timescaledb_guard AFTER DELETE ON ${table} FOR EACH ROW EXECUTE FUNCTION ${GUARD}()`;
    return [
      note(`${schema}.${name}: ${chunksOf(schema, name)} chunks are locked for a moment.`),
      transaction(
        [
          'BEGIN',
          '  IF NOT EXISTS (SELECT FROM pg_trigger',
          `                  WHERE tgrelid = ${literals([table])}::regclass AND NOT tgisinternal`,
          `                    AND tgenabled IN ('O', 'A') AND tgtype & 9 = 9) THEN`,
          `    ${create};`,
          '  END IF;',
          'END',
        ].join('\n'),
      ),
    ].join('\n');
  });
  return [
    block(
      'Block 3: guards of hypertables with the columnstore',
      [
        'A row trigger on DELETE that does nothing. It buys: deletes of whole compressed batches, and rows that are written directly in compressed form, come through the chunk and so into the WAL. It costs: such deletes and writes are as slow as any others. Where there is a row trigger on DELETE already nothing is made.',
      ],
      [
        `CREATE OR REPLACE FUNCTION ${GUARD}() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';`,
        ...guard,
      ],
    ),
  ];
}

/** Empty where there is no hypertable whose changes are read. */
export function chunksBlock(changes: Changes, facts: SetupFacts): readonly string[] {
  const hypertables = changes.tables.filter(({ kind }) => kind !== 'table');
  if (hypertables.length === 0) return [];
  const name = ident(chunkTriggerName(changes.publication));
  const call = chunkFunction(changes.publication);
  return [
    block(
      'Block 6: new chunks',
      [
        'The event trigger publishes a new chunk in the transaction that makes it, before its first row, and tells whoever listens to timescaledb_chunk_created. It buys: no gap at all, whatever role writes. It costs: a transaction that makes a chunk keeps the publication until it ends, so that others which make chunks of other hypertables at that moment wait for it (two that do so in opposite order are a deadlock, of which the server ends one); such a transaction cannot be prepared for a two-phase commit; and if the function fails, so does the writer. It looks at CREATE TABLE and ALTER TABLE only.',
        'Sessions with timescaledb.enable_chunk_auto_publication publish their chunks by themselves, without that wait (below).',
      ],
      [
        'BEGIN;',
        `CREATE OR REPLACE FUNCTION ${call}() RETURNS event_trigger`,
        '  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog',
        `  AS ${dollarQuoted(triggerBody(changes))};`,
        `DROP EVENT TRIGGER IF EXISTS ${name};`,
        `CREATE EVENT TRIGGER ${name} ON ddl_command_end WHEN TAG IN ('CREATE TABLE', 'ALTER TABLE')`,
        `  EXECUTE FUNCTION ${call}();`,
        '-- Also for rows that arrive by logical replication.',
        `ALTER EVENT TRIGGER ${name} ENABLE ALWAYS;`,
        'COMMIT;',
        '',
        ...announcing(changes, hypertables, facts),
      ],
    ),
  ];
}

/** Only pg_catalog until a candidate is found: it also runs while the extension is updated or dropped. */
function triggerBody({ publication, inserts }: Changes): string {
  return `DECLARE
  chunk record;
BEGIN
  FOR chunk IN
    SELECT p.pubname AS publication, hn.nspname AS hypertable_schema, h.relname AS hypertable_name,
           n.nspname AS chunk_schema, c.relname AS chunk_name, bool_or(x.oid IS NOT NULL) AS published
      FROM pg_event_trigger_ddl_commands() e
      JOIN pg_class c ON c.oid = e.objid AND c.relkind = 'r' AND NOT c.relispartition
      JOIN pg_namespace n ON n.oid = c.relnamespace
      JOIN pg_inherits i ON i.inhrelid = c.oid
      JOIN pg_class h ON h.oid = i.inhparent
      JOIN pg_namespace hn ON hn.oid = h.relnamespace
      JOIN pg_publication_rel m ON m.prrelid = h.oid
      JOIN pg_publication p ON p.oid = m.prpubid
      LEFT JOIN pg_publication_rel x ON x.prpubid = p.oid AND x.prrelid = c.oid
     WHERE e.classid = 'pg_class'::regclass AND p.pubname IN (${literals([publication, inserts])})
     GROUP BY 1, 2, 3, 4, 5
  LOOP
    CONTINUE WHEN to_regclass('_timescaledb_catalog.hypertable') IS NULL;
    CONTINUE WHEN NOT EXISTS (SELECT FROM _timescaledb_catalog.hypertable t
                               WHERE t.schema_name = chunk.hypertable_schema AND t.table_name = chunk.hypertable_name);
    IF NOT chunk.published
       AND current_setting('timescaledb.enable_chunk_auto_publication', true) IS DISTINCT FROM 'on' THEN
      EXECUTE format('ALTER PUBLICATION %I ADD TABLE ONLY %I.%I',
                     chunk.publication, chunk.chunk_schema, chunk.chunk_name);
    END IF;
    PERFORM pg_notify('timescaledb_chunk_created', json_build_object(
      'hypertable_schema', chunk.hypertable_schema, 'hypertable_name', chunk.hypertable_name,
      'chunk_schema', chunk.chunk_schema, 'chunk_name', chunk.chunk_name)::text);
  END LOOP;
END`;
}

/** What makes the server tell of, or publish, the chunks that the event trigger does not see. */
function announcing(
  changes: Changes,
  hypertables: readonly PublishedTable[],
  { server }: SetupFacts,
): readonly string[] {
  const silent = hypertables.filter(({ announced }) => !announced);
  const names = listedNames(silent.map(({ label }) => label));
  const unseen =
    silent.length === 0
      ? 'Every hypertable has a constraint by which TimescaleDB tells event triggers of new chunks.'
      : `TimescaleDB tells event triggers of a new chunk when it makes the chunk's primary key, unique, foreign key or exclusion constraint (not a check, not an index alone). ${names}: none of these, so the event trigger does not see new chunks.`;
  if (changes.autoPublication !== 'absent')
    return [note(unseen), ...autoPublication(changes, server.database)];
  if (silent.length === 0) return [note(unseen)];
  const tables = silent.filter(({ kind }) => kind === 'hypertable');
  return [
    note(
      `${unseen} Until something is done about it, new chunks are found by each sync: published and read by it if it may, else read again each time. TimescaleDB 2.25 and later can publish them by itself.`,
    ),
    ...(changes.eventTriggers === 'absent' ? [] : eventTriggers(changes, server.database)),
    ...(tables.length === 0
      ? []
      : [
          note(
            'A choice: an exclusion constraint over no row at all. It costs: an exclusive lock while each chunk is scanned once, an empty index per chunk, and no direct compression of inserts.',
          ),
          ...tables.map((table) => choice(announceSql(table))),
        ]),
  ];
}

function announceSql(table: PublishedTable): string {
  const columns = table.dimensions.map((column) => `${ident(column)} WITH =`).join(', ');
  return `ALTER TABLE ${tableSql(table)} ADD CONSTRAINT ${ANNOUNCE} EXCLUDE USING btree (${columns}) WHERE (false);`;
}

/** From 2.25 on. */
function autoPublication(changes: Changes, database: string): readonly string[] {
  if (changes.autoPublication === 'on') {
    return [
      note(
        'timescaledb.enable_chunk_auto_publication is on: the server publishes the chunks of every hypertable that is in a publication.',
      ),
    ];
  }
  const sql = `ALTER DATABASE ${ident(database)} SET timescaledb.enable_chunk_auto_publication = on;`;
  return [
    note(
      'The server publishes new chunks by itself, of every hypertable that a publication names. It buys: hypertables without such constraints and continuous aggregates too, and no writer waits for another. It costs: publications of others get the new chunks of their hypertables as well; a session can switch it off for itself. Sessions that are open now, those of connection pools too, do not have it until they connect again. For these, and for all databases of the server:',
    ),
    choice(
      'ALTER SYSTEM SET timescaledb.enable_chunk_auto_publication = on; SELECT pg_reload_conf();',
    ),
    ...(changes.rowFilters
      ? [
          note(
            'Not switched on: a publication has a row filter on a hypertable, which the server copies to new chunks wrongly where columns were dropped. Inserts or decoding may fail. Take the filter away first.',
          ),
          choice(sql),
        ]
      : [sql]),
  ];
}

/** 2.20 to 2.24. */
function eventTriggers(changes: Changes, database: string): readonly string[] {
  if (changes.eventTriggers === 'on') {
    return [note('timescaledb.enable_event_triggers is on: they see every new chunk.')];
  }
  return [
    note(
      'A choice: TimescaleDB tells event triggers of every new chunk. It costs: refreshes of continuous aggregates that make a chunk then fail with "invalid transaction termination", so only where there are none. Sessions that are open now do not have it until they connect again.',
    ),
    choice(`ALTER DATABASE ${ident(database)} SET timescaledb.enable_event_triggers = on;`),
  ];
}
