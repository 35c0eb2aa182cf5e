/** The blocks of `setup-sql` about the publications, what is in them, and the slot behind them. Pure. */
import { escapeIdentifier as ident } from 'pg';
import { createPublicationSql } from './postgres/publication.ts';
import type { Changes, SetupFacts } from './setup-sql-facts.ts';
import { block, doBlock, literals, LOCKS_AT_ONCE, note, transaction } from './setup-sql-text.ts';

/** The tables by name, once; and the question what of them, and of their chunks, no publication has. */
export function tablesBlock(changes: Changes): string {
  const rows = changes.tables.map(
    ({ schema, name, kind }) => `  (${literals([schema, name, kind])})`,
  );
  return block(
    'Block 4: the tables whose changes are read',
    [
      'Take a line out for a table that is not to be published. Hypertables are named alone; their chunks are looked up when the script runs. A temporary table and view: they end with the session.',
    ],
    [
      'BEGIN;',
      'DROP VIEW IF EXISTS pg_temp.source_timescaledb_missing;',
      'DROP TABLE IF EXISTS pg_temp.source_timescaledb_tables;',
      'CREATE TEMPORARY TABLE source_timescaledb_tables (schema_name name, table_name name, kind text);',
      ...(rows.length === 0
        ? ['-- There is none: a table must be logged, and no view.']
        : [`INSERT INTO pg_temp.source_timescaledb_tables VALUES\n${rows.join(',\n')};`]),
      missingSql(changes),
      'COMMIT;',
    ],
  );
}

/**
 * A chunk goes where its hypertable is. A table without an identity is never published with updates and deletes: the
 * server would refuse those of its owner; and a continuous aggregate without one not at all, or its refreshes failed.
 */
function missingSql({ publication, inserts }: Changes): string {
  const ours = literals([publication, inserts]);
  return `CREATE TEMPORARY VIEW source_timescaledb_missing AS
WITH root AS (
  SELECT c.oid, t.kind,
         EXISTS (SELECT FROM pg_publication_rel x JOIN pg_publication p ON p.oid = x.prpubid
                  WHERE x.prrelid = c.oid AND p.pubname = ${literals([inserts])}) AS inserts_only
    FROM pg_temp.source_timescaledb_tables t
    JOIN pg_namespace n ON n.nspname = t.schema_name
    JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.table_name
), member AS (
  SELECT oid, kind, inserts_only, false AS is_chunk FROM root
  UNION ALL
  SELECT i.inhrelid, r.kind, r.inserts_only, true
    FROM root r JOIN pg_inherits i ON i.inhparent = r.oid WHERE r.kind <> 'table'
), identified AS (
  SELECT m.*, n.nspname, c.relname,
         c.relreplident = 'f'
         OR EXISTS (SELECT FROM pg_index x
                     WHERE x.indrelid = c.oid AND x.indimmediate AND x.indisvalid
                       AND CASE c.relreplident WHEN 'd' THEN x.indisprimary
                                               WHEN 'i' THEN x.indisreplident ELSE false END) AS identity
    FROM member m
    JOIN pg_class c ON c.oid = m.oid AND c.relkind IN ('r', 'p')
    JOIN pg_namespace n ON n.oid = c.relnamespace
)
SELECT CASE WHEN identity AND NOT inserts_only THEN ${literals([publication])} ELSE ${literals([inserts])} END AS publication,
       oid, nspname, relname, is_chunk
  FROM identified
 WHERE (identity OR kind <> 'continuous aggregate')
   AND NOT EXISTS (SELECT FROM pg_publication_rel x JOIN pg_publication p ON p.oid = x.prpubid
                    WHERE x.prrelid = identified.oid AND p.pubname IN (${ours}));`;
}

/** Empty publications, then the tables; the chunks come behind the event trigger and its predecessors (slotBlock). */
export function publicationBlock(changes: Changes, facts: SetupFacts): string {
  const owner = changes.managed && !facts.superuser ? facts.server.role : null;
  return block(
    'Block 5: the publications',
    [
      'Which tables enter the change stream. It costs nothing where nobody reads. Two of them: in one with updates and deletes the server refuses those of tables without a replica identity, so these are published with inserts only. Both before the slot: a slot cannot be read from before its publications.',
      ...(owner === null
        ? []
        : [
            'They are given to the role, since publication_management is "automatic": it may add tables that it owns.',
          ]),
    ],
    [
      createSql(changes.publication, 'all changes', owner),
      createSql(changes.inserts, 'inserts', owner),
      ...(changes.status?.allTables === true
        ? [
            note(
              `"${changes.publication}" is FOR ALL TABLES: refreshes of continuous aggregates, create_hypertable(), and updates of tables without a key fail because of it. Drop it and run this again.`,
            ),
          ]
        : [addMissing(changes, false, 'block 7 tries again')]),
    ],
  );
}

function createSql(
  publication: string,
  kind: 'all changes' | 'inserts',
  owner: string | null,
): string {
  const give =
    owner === null ? '' : `\n    ALTER PUBLICATION ${ident(publication)} OWNER TO ${ident(owner)};`;
  return transaction(`BEGIN
  IF NOT EXISTS (SELECT FROM pg_publication WHERE pubname = ${literals([publication])}) THEN
    ${createPublicationSql(publication, kind)};${give}
  END IF;
END`);
}

const AGAIN = 'run this script again';

/** Chunks, and then the slot: all that is published is published when it starts. */
export function slotBlock(changes: Changes): string {
  const slot = literals([changes.slot]);
  const hasChunks = changes.tables.some(({ kind }) => kind !== 'table');
  const chunks =
    changes.status?.allTables === true || !hasChunks
      ? []
      : [
          note(
            'The chunks that exist. First those transactions end that made a chunk, unseen so far, before block 6 was there. They lock its hypertable: if one was passed over because of that it comes now.',
          ),
          awaitWriters(changes.waitSeconds),
          addMissing(changes, false, AGAIN),
          awaitWriters(changes.waitSeconds),
          addMissing(changes, true, AGAIN),
          '',
        ];
  return block(
    'Block 7: the chunks that exist, and the slot',
    [
      'The slot is where the change stream begins and where it has been read to. It costs: from now on the server keeps WAL, and old rows of its system catalog, until a sync has confirmed them; drop the slot when the connection is given up. A slot that is there is left as it is.',
      `Making it waits for the transactions that write at that moment (for at most ${changes.waitSeconds} s). Its decoder then keeps a picture of the system catalog from meanwhile, in which new chunks may be missing, until the catalog changes: so a table is made and dropped, the transactions from before are awaited, and the slot is moved behind them. If this ends in an error, drop the slot and run the script again.`,
      ...(changes.failover
        ? [
            'failover: standbys with sync_replication_slots = on keep a copy of it. The slot does not move beyond what the standbys in synchronized_standby_slots have received: if one of them is gone, this waits until it times out.',
          ]
        : []),
      ...(changes.alterSlot === null
        ? []
        : [
            `The slot that is there is not one that standbys keep a copy of, and no SQL makes it one. In a shell: ${changes.alterSlot}`,
          ]),
    ],
    [
      ...chunks,
      'SET lock_timeout = 0;',
      `SET statement_timeout = '${changes.waitSeconds}s';`,
      `SELECT set_config('source_timescaledb.new_slot', '', false);`,
      `SELECT set_config('source_timescaledb.new_slot', slot.slot_name, false)`,
      `  FROM (SELECT (pg_create_logical_replication_slot(${slot}, 'pgoutput'${changes.failover ? ', failover => true' : ''})).slot_name::text`,
      `         WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = ${slot})) slot;`,
      'BEGIN;',
      'CREATE TEMPORARY TABLE source_timescaledb_start () ON COMMIT DROP;',
      'COMMIT;',
      MOVE_BEHIND,
      'RESET statement_timeout;',
      'RESET lock_timeout;',
      'RESET search_path;',
      'RESET client_min_messages;',
    ],
  );
}

const MOVE_BEHIND = doBlock(`DECLARE
  slot name := current_setting('source_timescaledb.new_slot');
  start xid8 := pg_snapshot_xmax(pg_current_snapshot());
BEGIN
  IF slot = '' THEN
    RETURN; -- it was there
  END IF;
  WHILE pg_snapshot_xmin(pg_current_snapshot()) < start LOOP
    PERFORM pg_sleep(0.1);
  END LOOP;
  PERFORM pg_replication_slot_advance(slot, pg_current_wal_insert_lsn());
END`);

/** Of the hypertables, at most so long: a chunk that is missed is added by the next run, or by a sync. */
function awaitWriters(seconds: number): string {
  return doBlock(`DECLARE
  held text[];
  until timestamptz := clock_timestamp() + interval '${seconds} s';
BEGIN
  LOOP
    SELECT array_agg(DISTINCT l.virtualtransaction) INTO held
      FROM pg_locks l
      JOIN pg_class c ON c.oid = l.relation
      JOIN pg_namespace n ON n.oid = c.relnamespace
      JOIN pg_temp.source_timescaledb_tables t
        ON t.schema_name = n.nspname AND t.table_name = c.relname AND t.kind <> 'table'
     WHERE l.locktype = 'relation' AND l.granted AND l.pid <> pg_backend_pid()
       AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
       AND l.mode NOT IN ('AccessShareLock', 'RowShareLock')
       AND (held IS NULL OR l.virtualtransaction = ANY (held));
    EXIT WHEN held IS NULL;
    IF clock_timestamp() > until THEN
      RAISE WARNING 'transactions % write to hypertables and do not end: run this script again later', held;
      EXIT;
    END IF;
    PERFORM pg_sleep(0.1);
  END LOOP;
END`);
}

/** Few enough for the server's lock table: each takes a lock until its transaction ends. */
const TABLES_PER_STATEMENT = 200;

/**
 * Adds what is missing, chunks too or only the tables themselves. A lock that is not free at once is not waited for: with
 * others held meanwhile the server might find a deadlock, and end a writer.
 */
function addMissing(changes: Changes, chunks: boolean, otherwise: string): string {
  const members = changes.tables.reduce((sum, table) => sum + table.chunks, changes.tables.length);
  const count = chunks ? members : changes.tables.length;
  const commits = count > LOCKS_AT_ONCE;
  const sql = (commits ? doBlock : transaction)(`DECLARE
  batch record;
  size int := ${TABLES_PER_STATEMENT};
  passed oid[] := '{}';
BEGIN
  LOOP
    PERFORM set_config('lock_timeout', '500ms', true);
    SELECT m.publication, array_agg(m.oid) AS oids,
           string_agg(format('ONLY %I.%I', m.nspname, m.relname), ', ') AS tables INTO batch
      FROM (SELECT * FROM pg_temp.source_timescaledb_missing
             WHERE ${chunks ? '' : 'NOT is_chunk AND '}oid <> ALL (passed)
             ORDER BY is_chunk, publication, oid LIMIT size) m
     GROUP BY m.publication ORDER BY min(m.oid) LIMIT 1;
    EXIT WHEN NOT FOUND;
    BEGIN
      EXECUTE format('ALTER PUBLICATION %I ADD TABLE %s', batch.publication, batch.tables);
    EXCEPTION WHEN lock_not_available OR deadlock_detected OR undefined_table THEN
      IF size = 1 THEN
        passed := passed || batch.oids;
      END IF;
      size := 1; -- one by one, so that the others need not wait
    END;${commits ? '\n    COMMIT;' : ''}
  END LOOP;
  IF cardinality(passed) > 0 THEN
    RAISE WARNING '% tables are locked by others: ${otherwise}', cardinality(passed);
  END IF;
END`);
  if (!commits) return sql;
  return [
    note(
      `${count} at the moment: each takes a lock until its transaction ends, so they are committed some hundred at a time. This statement cannot run within a transaction.`,
    ),
    sql,
  ].join('\n');
}

/** For the script that takes everything away: a publication of many tables is emptied first. */
export function dropPublication(publication: string, tables: number): string {
  const drop = `DROP PUBLICATION IF EXISTS ${ident(publication)};`;
  if (tables <= LOCKS_AT_ONCE) return drop;
  const empty = doBlock(`DECLARE
  tables text;
BEGIN
  LOOP
    SELECT string_agg(format('ONLY %I.%I', n.nspname, c.relname), ', ') INTO tables
      FROM (SELECT m.prrelid FROM pg_publication_rel m JOIN pg_publication p ON p.oid = m.prpubid
             WHERE p.pubname = ${literals([publication])} LIMIT ${TABLES_PER_STATEMENT}) m
      JOIN pg_class c ON c.oid = m.prrelid
      JOIN pg_namespace n ON n.oid = c.relnamespace;
    EXIT WHEN tables IS NULL;
    EXECUTE format('ALTER PUBLICATION %I DROP TABLE %s', ${literals([publication])}, tables);
    COMMIT;
  END LOOP;
END`);
  return `${empty}\n${drop}`;
}
