/** What `check` asks of the publications. The requirements are pure: facts in, findings out. */
import { escapeIdentifier } from 'pg';
import { type PublicationFacts, publishSql, type StreamCoverage } from './check-coverage.ts';
import {
  failure,
  type Finding,
  listed,
  listedSql,
  note,
  tableLabel,
  tableSql,
  warning,
} from './check-finding.ts';
import type { ServerFacts } from './check-server.ts';
import type { Config } from './config.ts';
import type { SourceModel } from './source-model.ts';
import {
  type BareTable,
  createPublicationSql,
  type PublicationStatus,
  type TableName,
} from './postgres/publication.ts';

/** A missing publication is made by the first read, if the role may and is to. */
export function publicationExists(
  config: Config,
  server: ServerFacts,
  facts: PublicationFacts,
): readonly Finding[] {
  if (facts.status !== null || willCreate(config, server)) return [];
  const create = `${createPublicationSql(facts.name, 'all changes')};`;
  const may = config.managePublication
    ? ` Or let this role make it: GRANT CREATE ON DATABASE ${escapeIdentifier(server.database)} TO ${escapeIdentifier(server.role)};`
    : ' (`setup-sql` prints this and the rest)';
  return [
    failure(
      `The publication "${facts.name}" does not exist.`,
      [
        create,
        publishSql(
          facts,
          facts.streams.filter(({ extent }) => extent !== 'all'),
        ),
      ]
        .join(' ')
        .trim() + may,
    ),
  ];
}

function willCreate(config: Config, server: ServerFacts): boolean {
  return config.managePublication && server.mayCreate;
}

export function publishesChanges(source: SourceModel, facts: PublicationFacts): readonly Finding[] {
  const { status } = facts;
  if (status === null) return [];
  // As a read has it: without an identity the server refuses updates and deletes of published tables anyway.
  const told = facts.streams.some(({ identity }) => identity);
  const kinds = told ? (['insert', 'update', 'delete'] as const) : (['insert'] as const);
  const lacking = kinds.filter((kind) => !status[kind]);
  if (lacking.length === 0) return [];
  const bare = facts.bare.filter(({ publication }) => publication === facts.name);
  const first =
    bare.length === 0
      ? ''
      : `${fullIdentitySql(ownersOf(bare, source).map(({ table }) => table))} `;
  return [
    failure(
      `The publication "${facts.name}" does not publish ${lacking.map((kind) => `${kind}s`).join(' and ')}: they would be lost.`,
      `${first}ALTER PUBLICATION ${escapeIdentifier(facts.name)} SET (publish = 'insert, update, delete, truncate');`,
    ),
  ];
}

/** Publications that break statements of the database's owner, now or at the next chunk. */
export function publishesTooMuch(facts: PublicationFacts): readonly Finding[] {
  const name = escapeIdentifier(facts.name);
  if (facts.status?.allTables === true) {
    return [
      warning(
        `The publication "${facts.name}" is FOR ALL TABLES: refreshes of continuous aggregates, create_hypertable(), and updates of tables without a key fail because of it.`,
        `DROP PUBLICATION ${name}; and make one that names its tables.`,
      ),
    ];
  }
  if (facts.schemas.every((schema) => !schema.startsWith('_timescaledb_'))) return [];
  return [
    warning(
      `The publication "${facts.name}" holds the schema _timescaledb_internal: refreshes of continuous aggregates, and updates of hypertables without a key fail because of it.`,
      `ALTER PUBLICATION ${name} DROP TABLES IN SCHEMA _timescaledb_internal; and add the chunks by name.`,
    ),
  ];
}

/** Which streams will be selected is not known here: only where none can be read has it failed. */
export function coverage(
  config: Config,
  server: ServerFacts,
  facts: PublicationFacts,
): readonly Finding[] {
  if (facts.status === null && !willCreate(config, server)) return [];
  const lacking = facts.streams.filter(({ extent, addable }) => extent !== 'all' && !addable);
  const chunks = lacking.filter(
    ({ hypertable, extent }) => hypertable !== null && extent !== 'none',
  );
  const tables = lacking.filter((stream) => !chunks.includes(stream));
  const findings: Finding[] = [];
  if (tables.length > 0) {
    const readable = facts.streams.length > tables.length;
    const names = labels(tables);
    const why = config.managePublication
      ? 'this role may not add them (it must own both the tables and the publication)'
      : 'with `publication_management` "verify only" nothing is added (`setup-sql` prints the SQL for all of it)';
    findings.push(
      (readable ? warning : failure)(
        `The publication "${facts.name}" does not cover ${names}, and ${why}: their changes cannot be read.`,
        publishSql(facts, tables),
      ),
    );
  }
  if (chunks.length > 0) {
    const names = chunks.map(
      ({ relation, missing }) => `${missing.length} chunks of ${tableLabel(relation)}`,
    );
    findings.push(
      warning(
        `The publication "${facts.name}" lacks ${listed(names)}, and nothing adds them: each sync reads them again, and their deletes are not seen.`,
        publishSql(facts, chunks),
      ),
    );
  }
  return findings;
}

/** With updates or deletes published, the server refuses them on tables whose rows have no identity. */
export function ownersStatements(source: SourceModel, facts: PublicationFacts): readonly Finding[] {
  const publications: readonly (readonly [string, PublicationStatus | null])[] = [
    [facts.name, facts.status],
    [facts.insertsName, facts.inserts],
  ];
  return publications.flatMap(([name, status]) => {
    if (status === null || !(status.update || status.delete)) return [];
    const owners = ownersOf(
      facts.bare.filter(({ publication }) => publication === name),
      source,
    );
    if (owners.length === 0) return [];
    const out =
      status.allTables || facts.schemas.length > 0
        ? ''
        : ` Or take them out: ${listedSql(
            `ALTER PUBLICATION ${escapeIdentifier(name)} DROP TABLE `,
            owners.flatMap(({ members }) => members.map((table) => `ONLY ${tableSql(table)}`)),
          )}`;
    return [
      failure(
        `The publication "${name}" has updates and deletes of ${listed(owners.map((owner) => owner.label))}, whose rows have no replica identity: the server refuses to update and delete them.`,
        `${fullIdentitySql(owners.map(({ table }) => table))}${out}`,
      ),
    ];
  });
}

type Owner = {
  readonly table: Pick<TableName, 'schema' | 'name'>;
  readonly label: string;
  readonly members: readonly BareTable[];
};

/** Tables as their owner knows them, chunks by their hypertable. TimescaleDB's own relations are not for the user to mend. */
function ownersOf(bare: readonly BareTable[], source: SourceModel): readonly Owner[] {
  const owners = new Map<number, Owner>();
  for (const table of bare) {
    const hypertable =
      source.hypertables.get(table.parent ?? 0) ?? source.hypertables.get(table.oid);
    if (hypertable === undefined && table.schema.startsWith('_timescaledb_')) continue;
    const oid = hypertable?.oid ?? table.oid;
    const aggregate = hypertable?.continuousAggregate ?? null;
    const owner = owners.get(oid) ?? {
      table: hypertable ?? table,
      label:
        aggregate === null
          ? tableLabel(hypertable ?? table)
          : `${tableLabel(aggregate)} (a continuous aggregate: refreshes fail)`,
      members: [],
    };
    owners.set(oid, { ...owner, members: [...owner.members, table] });
  }
  return [...owners.values()].toSorted((a, b) => (a.label < b.label ? -1 : 1));
}

/** Tables without an identity are kept out of the publication with updates and deletes: what that costs. */
export function insertsOnly(
  config: Config,
  server: ServerFacts,
  facts: PublicationFacts,
): readonly Finding[] {
  if (facts.status === null && !willCreate(config, server)) return [];
  const there = facts.streams.filter((stream) => stream.insertsOnly);
  const planned = facts.streams.filter(
    ({ identity, extent, addable }) => !identity && extent === 'none' && addable,
  );
  const streams = [...there, ...planned];
  if (streams.length === 0) return [];
  const bare = streams.filter(({ identity }) => !identity).map(({ relation }) => relation);
  const identities = bare.length === 0 ? '' : fullIdentitySql(bare);
  // Named without ONLY a hypertable takes its chunks along.
  const drop =
    there.length === 0
      ? ''
      : ` ${listedSql(
          `ALTER PUBLICATION ${escapeIdentifier(facts.insertsName)} DROP TABLE `,
          there.map(({ relation }) => tableSql(relation)),
        )}`;
  return [
    warning(
      `Updates and deletes of ${labels(streams)} are not seen: without a replica identity they are published with inserts only (publication "${facts.insertsName}").`,
      `To see them: ${identities}${drop}`.replace(':  ', ': '),
    ),
  ];
}

/** Which of the three levels of privilege was found, and what follows for new chunks. */
export function newChunks(config: Config, facts: PublicationFacts): readonly Finding[] {
  const hypertables = facts.streams.filter(({ hypertable }) => hypertable !== null);
  if (hypertables.length === 0) return [];
  if (facts.chunkPublisher !== null) {
    return [
      note(
        `Set up by a DBA: new chunks are published by ${facts.chunkPublisher}, in the transaction that makes them: without a gap.`,
      ),
    ];
  }
  const refused = hypertables.filter(({ addable }) => !addable);
  const level = config.managePublication ? 'Read only' : 'Verify only';
  const findings: Finding[] = [];
  if (refused.length < hypertables.length) {
    findings.push(
      warning(
        'Owner: new chunks are looked for and published by this role: rows that are inserted and deleted before it has seen their chunk do not show.',
      ),
    );
  }
  if (refused.length > 0) {
    findings.push(
      warning(
        `${level}: new chunks of ${labels(refused)} are seen but nobody publishes them: each sync reads them again, and their deletes are not seen, until somebody adds them.`,
        'A DBA can run what `setup-sql` prints, which publishes each chunk as it is made.',
      ),
    );
  }
  return findings;
}

function labels(streams: readonly StreamCoverage[]): string {
  return listed(streams.map(({ relation }) => tableLabel(relation)));
}

function fullIdentitySql(tables: readonly Pick<TableName, 'schema' | 'name'>[]): string {
  const statements = tables.map((table) => `ALTER TABLE ${tableSql(table)} REPLICA IDENTITY FULL`);
  return listedSql('', statements, '; ');
}
