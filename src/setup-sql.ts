/**
 * The command `setup-sql`: the SQL that a DBA may run for this configuration on this server, and the SQL that takes it
 * away again. Nothing is written to the server. What the tables need is worked out here; which chunks there are, and what
 * is missing, the script looks up when it runs, so that it may be run again.
 */
import { escapeIdentifier as ident } from 'pg';
import { tableSql } from './check-finding.ts';
import type { Config } from './config.ts';
import { connect } from './postgres/connection.ts';
import { chunksBlock, guardsBlock, identitiesBlock } from './setup-sql-hypertables.ts';
import { publicationBlock, slotBlock, tablesBlock } from './setup-sql-publication.ts';
import { removeSql } from './setup-sql-remove.ts';
import { type Changes, type SetupFacts, setupFacts } from './setup-sql-facts.ts';
import { block, listedNames, LOCKS_AT_ONCE, note, oneLine } from './setup-sql-text.ts';

/**
 * The script as text, to be run by a superuser.
 * @param remove the script that takes everything away again.
 * @throws ConnectorError when the server cannot be reached or read.
 */
export async function printSetup(config: Config, remove: boolean): Promise<string> {
  const client = await connect(config, 'setup-sql');
  try {
    const facts = await setupFacts(client, config);
    return remove ? removeSql(facts) : setupSql(facts);
  } finally {
    await client.end().catch(() => undefined);
  }
}

/** Pure: what is known of the server, as the script. */
export function setupSql(facts: SetupFacts): string {
  const { changes } = facts;
  const blocks = [
    header(facts),
    ...roleBlock(facts),
    ...(changes === null
      ? []
      : [
          ...identitiesBlock(changes),
          ...guardsBlock(changes),
          tablesBlock(changes),
          publicationBlock(changes, facts),
          ...chunksBlock(changes, facts),
          slotBlock(changes),
        ]),
  ];
  return `${blocks.join('\n\n')}\n`;
}

function header(facts: SetupFacts): string {
  const { server, changes } = facts;
  const extension =
    server.timescaleVersion === null
      ? 'without TimescaleDB'
      : `with TimescaleDB ${server.timescaleVersion}`;
  const slot =
    changes === null
      ? 'The replication method reads no changes: the role needs to read the tables, and nothing else.'
      : `Publications "${changes.publication}" and "${changes.inserts}", replication slot "${changes.slot}".`;
  return [
    note(
      `source-timescaledb setup-sql: what a DBA may run for a connection. Database "${server.database}" of PostgreSQL ${server.versionText} ${extension}; role "${server.role}". ${slot}`,
    ),
    '--',
    note(
      'Run it as a superuser in this database, statement by statement, as psql -f does (not with -1: a slot cannot be made in a transaction that writes). It may be run again at any time: what is there stays, and what is missing in the publications is added. A statement that says "canceling statement due to lock timeout" has changed nothing: run the script again.',
    ),
    note(
      'Statements behind "-- " are choices with a price: take the dashes away from those that you want. setup-sql --remove prints the SQL that takes everything away again.',
    ),
    '--',
    ...ability(facts).map(note),
    '',
    `SET client_encoding = 'UTF8';`,
    '-- No notices of what is not there to be dropped.',
    'SET client_min_messages = warning;',
    '-- No other function or table of the same name can come between.',
    'SET search_path = pg_catalog;',
    '-- A statement that waits for a lock makes others wait behind it: it gives up instead.',
    `SET lock_timeout = '5s';`,
  ].join('\n');
}

/** What the role can do without this script, and what follows for new chunks. */
function ability(facts: SetupFacts): readonly string[] {
  const { server, relations, superuser, changes } = facts;
  const unreadable = relations.filter(({ selectable }) => !selectable).map(labelOf);
  const lines = [
    `What the role "${server.role}" can do by itself${superuser ? ' (it is a superuser)' : ''}:`,
    `* read ${relations.length - unreadable.length} of ${relations.length} tables and views${unreadable.length === 0 ? '' : `, but not ${listedNames(unreadable)}`}`,
  ];
  if (changes === null) return lines;
  const owned = changes.tables.filter((table) => table.owned).length;
  const publication =
    changes.status === null
      ? `make publications: ${yesOrNo(server.mayCreate)}`
      : `change the publication, which exists: ${yesOrNo(changes.status.ours)}`;
  const publishes = (changes.status?.ours ?? server.mayCreate) && owned > 0;
  return [
    ...lines,
    `* use replication slots: ${yesOrNo(server.mayReplicate)}`,
    `* ${publication}`,
    `* add tables to it: ${owned} of ${changes.tables.length}, those that it owns`,
    ...(changes.tables.some(({ kind }) => kind !== 'table')
      ? [`* new chunks: ${newChunks(changes, publishes)}`]
      : []),
    ...(changes.failoverTooNew === null ? [] : [changes.failoverTooNew]),
    ...(server.walLevel === 'logical'
      ? []
      : [
          `wal_level is "${server.walLevel}": the slot cannot be made before ALTER SYSTEM SET wal_level = logical; and a restart.`,
        ]),
  ];
}

function yesOrNo(it: boolean): string {
  return it ? 'yes' : 'no';
}

function newChunks(changes: Changes, publishes: boolean): string {
  if (changes.autoPublication === 'on') return 'published by the server at their birth already';
  if (publishes && changes.managed) {
    return 'each sync looks for them, publishes and reads them (publication_management "automatic"); with block 6 they are published at their birth, without a gap';
  }
  const why = changes.managed
    ? 'may not publish them'
    : 'is to publish nothing (publication_management "verify only")';
  return `the role ${why}: each sync reads them again until somebody does, which block 6 makes the server do`;
}

function labelOf({ schema, name }: { readonly schema: string; readonly name: string }): string {
  return oneLine(`${schema}.${name}`);
}

/** Empty for superusers, who need none of it. */
function roleBlock(facts: SetupFacts): readonly string[] {
  if (facts.superuser) return [];
  const role = ident(facts.server.role);
  const tables = facts.relations.filter(({ owned }) => !owned);
  const schemas = [...new Set(tables.map(({ schema }) => schema))];
  const sql = [
    ...(facts.changes === null ? [] : replicationSql(facts, role)),
    ...schemas.map((schema) => `GRANT USAGE ON SCHEMA ${ident(schema)} TO ${role};`),
    ...tables.map((table) => `GRANT SELECT ON ${tableSql(table)} TO ${role};`),
    ...facts.owners
      .filter(({ schema }) => schemas.includes(schema))
      .map(
        ({ schema, owner }) =>
          `ALTER DEFAULT PRIVILEGES FOR ROLE ${ident(owner)} IN SCHEMA ${ident(schema)} GRANT SELECT ON TABLES TO ${role};`,
      ),
  ];
  return [
    block(
      'Block 1: the role',
      [
        'REPLICATION: use replication slots. It lets the role read every change of the cluster, and take WAL from the server with a slot. SELECT on a hypertable, and on a continuous aggregate, passes on to its chunks, and to new ones. Leave out tables that are not to be read.',
        'The default privileges let the role read tables that their owners make in these schemas later; without them each new table needs a GRANT of its own.',
        ...manyLocks(facts),
      ],
      sql,
    ),
  ];
}

/** PostgreSQL 18 locks what a GRANT names, and TimescaleDB names all chunks at once. */
function manyLocks({ server, changes }: SetupFacts): readonly string[] {
  const large = (changes?.tables ?? []).filter(({ chunks }) => chunks > LOCKS_AT_ONCE);
  if (server.version < 180000 || large.length === 0) return [];
  const names = large.map(({ label, chunks }) => `${label} (${chunks})`);
  return [
    `On PostgreSQL 18 the GRANT takes a lock on every chunk of ${listedNames(names)}. Should it fail with "out of shared memory", raise max_locks_per_transaction, or GRANT pg_read_all_data instead.`,
  ];
}

function replicationSql({ replicationGroup }: SetupFacts, role: string): readonly string[] {
  if (replicationGroup !== null) return [`GRANT ${ident(replicationGroup)} TO ${role};`];
  return [`ALTER ROLE ${role} REPLICATION;`];
}
