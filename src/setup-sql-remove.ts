/** The SQL that takes away what the script of `setup-sql` has made. Pure. */
import { escapeIdentifier as ident } from 'pg';
import { tableSql } from './check-finding.ts';
import { GUARD } from './check-timescale.ts';
import type { Changes, SetupFacts } from './setup-sql-facts.ts';
import { dropPublication } from './setup-sql-publication.ts';
import {
  ANNOUNCE,
  block,
  choice,
  chunkFunction,
  chunkTriggerName,
  doBlock,
  literals,
  note,
} from './setup-sql-text.ts';

/** Names what the other script names; what is not there is passed over, so that it may be run again. */
export function removeSql(facts: SetupFacts): string {
  const { server, changes } = facts;
  const blocks = [
    [
      note(
        `source-timescaledb setup-sql --remove: takes away what setup-sql has made for the role "${server.role}" in the database "${server.database}". Run it as a superuser in this database, statement by statement, as psql -f does, when no sync runs. It may be run again. A connection whose slot is gone must be cleared before its next sync.`,
      ),
      '',
      `SET client_encoding = 'UTF8';`,
      'SET client_min_messages = warning;',
      'SET search_path = pg_catalog;',
      `SET lock_timeout = '5s';`,
    ].join('\n'),
    ...(changes === null ? [] : changeBlocks(changes, facts)),
    ...roleBlock(facts),
  ];
  return `${blocks.join('\n\n')}\n`;
}

function changeBlocks(changes: Changes, facts: SetupFacts): readonly string[] {
  const tables = changes.tables.reduce((sum, table) => sum + table.chunks, changes.tables.length);
  return [
    block(
      'Block 1: the slot',
      ['First: it cannot be read without its publications. The server may forget its WAL then.'],
      [
        `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = ${literals([changes.slot])} AND database = current_database();`,
      ],
    ),
    ...(facts.server.timescaleVersion === null ? [] : [chunks(changes, facts)]),
    block(
      'Block 3: the publications',
      [],
      [dropPublication(changes.publication, tables), dropPublication(changes.inserts, tables)],
    ),
    ...tableBlocks(changes, facts),
  ];
}

function chunks(changes: Changes, { server }: SetupFacts): string {
  const database = ident(server.database);
  return block(
    'Block 2: new chunks',
    ['The setting goes when no other connection has an event trigger in this database.'],
    [
      `DROP EVENT TRIGGER IF EXISTS ${ident(chunkTriggerName(changes.publication))};`,
      `DROP FUNCTION IF EXISTS ${chunkFunction(changes.publication)}();`,
      doBlock(`BEGIN
  IF NOT EXISTS (SELECT FROM pg_event_trigger WHERE starts_with(evtname, 'source_timescaledb_chunks_')) THEN
    ALTER DATABASE ${database} RESET timescaledb.enable_chunk_auto_publication;
    ALTER DATABASE ${database} RESET timescaledb.enable_event_triggers;
  END IF;
END`),
    ],
  );
}

function tableBlocks(changes: Changes, facts: SetupFacts): readonly string[] {
  const hypertables = changes.tables.filter(({ kind }) => kind === 'hypertable');
  const full = changes.tables.filter((table) => table.full);
  return [
    ...(hypertables.length === 0 || facts.server.timescaleVersion === null
      ? []
      : [
          block(
            'Block 4: guards and constraints of hypertables',
            [
              'The guards serve every connection that reads these tables: leave them while another does.',
            ],
            [
              dropEach(hypertables.map((table) => tableSql(table))),
              doBlock(`BEGIN
  IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgfoid = to_regprocedure('${GUARD}()')) THEN
    DROP FUNCTION IF EXISTS ${GUARD}();
  END IF;
END`),
            ],
          ),
        ]),
    ...(full.length === 0
      ? []
      : [
          block(
            'Block 5: replica identities',
            ['Somebody has set them; perhaps not for this connection.'],
            full.map((table) => choice(`ALTER TABLE ${tableSql(table)} REPLICA IDENTITY DEFAULT;`)),
          ),
        ]),
  ];
}

function dropEach(tables: readonly string[]): string {
  return doBlock(`DECLARE
  hypertable text;
BEGIN
  FOREACH hypertable IN ARRAY ARRAY[
    ${tables.map((table) => literals([table])).join(',\n    ')}
  ]::text[] LOOP
    CONTINUE WHEN to_regclass(hypertable) IS NULL;
    IF EXISTS (SELECT FROM pg_trigger WHERE tgrelid = hypertable::regclass
                AND tgname = 'source_timescaledb_guard' AND tgfoid = to_regprocedure('${GUARD}()')) THEN
      EXECUTE format('DROP TRIGGER source_timescaledb_guard ON %s', hypertable);
    END IF;
    IF EXISTS (SELECT FROM pg_constraint
                WHERE conrelid = hypertable::regclass AND conname = '${ANNOUNCE}') THEN
      EXECUTE format('ALTER TABLE %s DROP CONSTRAINT ${ANNOUNCE}', hypertable);
    END IF;
  END LOOP;
END`);
}

/** Whether the role had a privilege before, nobody can tell: so this block says what it takes. */
function roleBlock(facts: SetupFacts): readonly string[] {
  if (facts.superuser) return [];
  const role = ident(facts.server.role);
  const tables = facts.relations.filter(({ owned }) => !owned);
  const schemas = [...new Set(tables.map(({ schema }) => schema))];
  const sql = [
    ...facts.owners
      .filter(({ schema }) => schemas.includes(schema))
      .map(
        ({ schema, owner }) =>
          `ALTER DEFAULT PRIVILEGES FOR ROLE ${ident(owner)} IN SCHEMA ${ident(schema)} REVOKE SELECT ON TABLES FROM ${role};`,
      ),
    ...tables.map((table) => `REVOKE SELECT ON ${tableSql(table)} FROM ${role};`),
    ...schemas.map((schema) => `REVOKE USAGE ON SCHEMA ${ident(schema)} FROM ${role};`),
    ...(facts.changes === null
      ? []
      : [
          facts.replicationGroup === null
            ? `ALTER ROLE ${role} NOREPLICATION;`
            : `REVOKE ${ident(facts.replicationGroup)} FROM ${role};`,
        ]),
  ];
  return [
    block(
      'Block 6: the role',
      [
        'Leave this block out if the role is used for anything else: whatever of this it had before setup-sql goes as well. The role itself stays: DROP ROLE removes it.',
      ],
      sql,
    ),
  ];
}
