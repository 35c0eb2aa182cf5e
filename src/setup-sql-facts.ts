/** What `setup-sql` asks of the server: what would be read, what is there already, and what this role can do by itself. */
import type { ClientBase } from 'pg';
import { type CdcConfig, hasIdentity } from './cdc-setup.ts';
import { type ServerFacts, serverFacts } from './check-server.ts';
import { timescaleFacts } from './check-timescale.ts';
import type { Config } from './config.ts';
import { alterSlotAdvice, FAILOVER_VERSION, failoverNeeds } from './failover-slot.ts';
import {
  insertsPublication,
  publicationStatus,
  type PublicationStatus,
} from './postgres/publication.ts';
import { slotUse } from './slot-care.ts';
import { listLeaves, type Relation } from './postgres/relations.ts';
import { hasChanges, loadSource, type SourceModel } from './source-model.ts';
import { type Hypertable, isAtLeast } from './timescaledb/hypertables.ts';

/** A relation of the configured schemas, or a partition: these are read one by one, and a GRANT on their parent is none on them. */
type ReadTable = {
  readonly schema: string;
  readonly name: string;
  readonly selectable: boolean;
  readonly owned: boolean;
};

/** One whose changes can be had from the WAL; of a continuous aggregate the hypertable behind it. */
export type PublishedTable = {
  readonly schema: string;
  readonly name: string;
  readonly kind: 'table' | 'hypertable' | 'continuous aggregate';
  /** As the user knows it: of a continuous aggregate the view. */
  readonly label: string;
  readonly identity: boolean;
  /** REPLICA IDENTITY FULL, which somebody has set. */
  readonly full: boolean;
  readonly owned: boolean;
  readonly chunks: number;
  /** Columns of its dimensions; empty for tables. */
  readonly dimensions: readonly string[];
  /** Whether it has a constraint whose making on each new chunk event triggers are told of. */
  readonly announced: boolean;
};

/** A setting of TimescaleDB: 'absent' in versions that do not know it. */
type Setting = 'on' | 'off' | 'absent';

export type Changes = {
  readonly slot: string;
  readonly publication: string;
  readonly inserts: string;
  readonly waitSeconds: number;
  /** `failover_slot` on a server that knows such slots. */
  readonly failover: boolean;
  /** What makes the slot that is there one of these; null where there is nothing to do. */
  readonly alterSlot: string | null;
  /** What is to be told where the server is too old for `failover_slot`. */
  readonly failoverTooNew: string | null;
  /** `publication_management` is 'automatic'. */
  readonly managed: boolean;
  readonly status: PublicationStatus | null;
  readonly tables: readonly PublishedTable[];
  /** Hypertables with the columnstore, if this version writes to it past the changes. */
  readonly toGuard: readonly { readonly schema: string; readonly name: string }[];
  readonly autoPublication: Setting;
  readonly eventTriggers: Setting;
  /** Some publication has a row filter on a hypertable. */
  readonly rowFilters: boolean;
};

export type SetupFacts = {
  readonly server: ServerFacts;
  readonly superuser: boolean;
  /** Where the right to replicate is handed out by membership. */
  readonly replicationGroup: string | null;
  readonly relations: readonly ReadTable[];
  /** Who owns relations in which schema. */
  readonly owners: readonly { readonly schema: string; readonly owner: string }[];
  /** Null: the method reads no changes. */
  readonly changes: Changes | null;
};

const ROLE = `
SELECT r.rolsuper AS superuser,
       (SELECT g.rolname::text FROM pg_roles g WHERE g.rolname = 'rds_replication') AS "replicationGroup",
       ARRAY (SELECT c.oid::bigint FROM pg_class c
               WHERE c.oid = ANY ($1::oid[]) AND pg_has_role(c.relowner, 'MEMBER')) AS owned,
       (SELECT coalesce(json_agg(o ORDER BY o.schema, o.owner), '[]')
          FROM (SELECT DISTINCT n.nspname AS schema, pg_get_userbyid(c.relowner) AS owner
                  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                 WHERE c.oid = ANY ($1::oid[])) o) AS owners,
       ARRAY (SELECT c.oid::bigint FROM pg_class c
               WHERE c.oid = ANY ($1::oid[]) AND has_table_privilege(c.oid, 'SELECT')
                 AND has_schema_privilege(c.relnamespace, 'USAGE')) AS selectable
  FROM pg_roles r WHERE r.rolname = current_user`;

type RoleRow = {
  readonly superuser: boolean;
  readonly replicationGroup: string | null;
  readonly owned: readonly string[];
  readonly owners: SetupFacts['owners'];
  readonly selectable: readonly string[];
};

/**
 * Primary key, unique, foreign key and exclusion constraints are made on a chunk by ALTER TABLE, which event triggers see;
 * check constraints come by inheritance, and unique indexes without a constraint are no constraints. Settings of a role
 * or of this session are nobody else's.
 */
const HYPERTABLES = `
SELECT ARRAY (SELECT DISTINCT k.conrelid::bigint FROM pg_constraint k
               WHERE k.conrelid = ANY ($1::oid[]) AND k.contype IN ('p', 'u', 'x', 'f')) AS announced,
       EXISTS (SELECT FROM pg_publication_rel m
                WHERE m.prrelid = ANY ($1::oid[]) AND to_jsonb(m) ->> 'prqual' IS NOT NULL) AS "rowFilters",
       (SELECT coalesce(json_object_agg(s.name, s.setting = 'on'
                 AND s.source IN ('configuration file', 'command line', 'database')), '{}')
          FROM pg_settings s WHERE s.name IN ('timescaledb.enable_chunk_auto_publication',
                                              'timescaledb.enable_event_triggers')) AS settings`;

type HypertablesRow = {
  readonly announced: readonly string[];
  readonly rowFilters: boolean;
  readonly settings: Readonly<Record<string, boolean>>;
};

/** A fixed number of queries. What the role may not read yet belongs to it: that is what the script is for. */
export async function setupFacts(client: ClientBase, config: Config): Promise<SetupFacts> {
  const server = await serverFacts(client);
  const source = await loadSource(client, { ...config, checkPrivileges: false });
  const leaves = await listLeaves(
    client,
    source.relations.filter(({ kind }) => kind === 'partitioned').map(({ oid }) => oid),
  );
  const read = [...source.relations, ...leaves];
  const { rows } = await client.query<RoleRow>(ROLE, [read.map(({ oid }) => oid)]);
  const [role] = rows;
  if (role === undefined) throw new Error('no answer about the role');
  const owned = new Set(role.owned.map(Number));
  const selectable = new Set([
    ...role.selectable.map(Number),
    // By columns, too.
    ...source.relations.filter((relation) => relation.selectable).map(({ oid }) => oid),
  ]);
  return {
    server,
    superuser: role.superuser,
    replicationGroup: role.replicationGroup,
    relations: read.map(({ oid, schema, name }) => ({
      schema,
      name,
      selectable: selectable.has(oid),
      owned: owned.has(oid),
    })),
    owners: role.owners,
    changes:
      config.replication.method === 'CDC'
        ? await changesOf(client, config, config.replication, server, source, owned)
        : null,
  };
}

async function changesOf(
  client: ClientBase,
  config: Config,
  cdc: CdcConfig,
  server: ServerFacts,
  source: SourceModel,
  owned: ReadonlySet<number>,
): Promise<Changes> {
  const { rows } = await client.query<HypertablesRow>(HYPERTABLES, [
    [...source.hypertables.keys()],
  ]);
  const [row = { announced: [], rowFilters: false, settings: {} }] = rows;
  const announced = new Set(row.announced.map(Number));
  const setting = (name: string): Setting => {
    const on = row.settings[`timescaledb.${name}`];
    return on === undefined ? 'absent' : on ? 'on' : 'off';
  };
  const timescale = await timescaleFacts(client, source);
  const failover = cdc.failoverSlot && server.version >= FAILOVER_VERSION;
  const slot = failover ? await slotUse(client, cdc.slot) : null;
  const tables = source.relations.flatMap((relation) => {
    const table = publishedTable(relation, source, config);
    return table === null ? [] : [{ ...table, owned: owned.has(relation.oid) }];
  });
  return {
    slot: cdc.slot,
    publication: cdc.publication,
    inserts: insertsPublication(cdc.publication),
    waitSeconds: cdc.initialWaitingSeconds,
    failover,
    failoverTooNew: cdc.failoverSlot && !failover ? failoverNeeds(server.versionText) : null,
    alterSlot: slot?.failover === false ? alterSlotAdvice(cdc.slot, server.database) : null,
    managed: config.managePublication,
    status: await publicationStatus(client, cdc.publication),
    tables: tables.map(({ oid, ...table }) => ({ ...table, announced: announced.has(oid) })),
    toGuard:
      timescale === null || !isAtLeast(timescale.version, 2, 17) ? [] : timescale.columnstores,
    autoPublication: setting('enable_chunk_auto_publication'),
    eventTriggers: setting('enable_event_triggers'),
    rowFilters: row.rowFilters,
  };
}

type Published = Omit<PublishedTable, 'owned' | 'announced'> & { readonly oid: number };

function publishedTable(relation: Relation, source: SourceModel, config: Config): Published | null {
  const aggregate = source.continuousAggregates.get(relation.oid);
  const label = `${relation.schema}.${relation.name}`;
  if (aggregate !== undefined) {
    const stored = new Set(aggregate.columns);
    const shown = relation.columns.every(({ name }) => stored.has(name));
    if (aggregate.groupColumns.length === 0 || !shown) return null;
    const { hypertable, fullIdentity } = aggregate;
    const told = { identity: fullIdentity, full: fullIdentity, label };
    return { ...told, ...nameOf(hypertable, source), kind: 'continuous aggregate' };
  }
  if (!hasChanges(relation, source, config)) return null;
  const hypertable = source.hypertables.get(relation.oid);
  const identity = hasIdentity(relation);
  const told = { identity, full: relation.replicaIdentity === 'full', label };
  if (hypertable !== undefined) {
    return { ...told, ...nameOf(hypertable, source), kind: 'hypertable' };
  }
  const { oid, schema, name } = relation;
  return { ...told, oid, schema, name, kind: 'table', chunks: 0, dimensions: [] };
}

function nameOf(
  { oid, id, schema, name, dimensions }: Hypertable,
  source: SourceModel,
): Pick<Published, 'oid' | 'schema' | 'name' | 'chunks' | 'dimensions'> {
  const columns = dimensions.map(({ column }) => column);
  return { oid, schema, name, chunks: source.stats.get(id)?.chunks ?? 0, dimensions: columns };
}
