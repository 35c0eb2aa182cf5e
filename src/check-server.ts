/** What `check` asks of the server and of the replication slot. The requirements are pure: facts in, findings out. */
import { type ClientBase, escapeIdentifier } from 'pg';
import { slotProblem } from './cdc-position.ts';
import type { CdcConfig } from './cdc-setup.ts';
import { failure, type Finding, warning } from './check-finding.ts';
import type { Config } from './config.ts';
import {
  alterSlotAdvice,
  createSlotSql,
  FAILOVER_OFF,
  FAILOVER_VERSION,
  failoverNeeds,
} from './failover-slot.ts';
import { bytesText, slotDangers, type SlotUse } from './slot-care.ts';
import { isAtLeast } from './timescaledb/hypertables.ts';

export type ServerFacts = {
  /** server_version_num, such as 170011. */
  readonly version: number;
  readonly versionText: string;
  /** Of the extension; null where it is not installed in this database. */
  readonly timescaleVersion: string | null;
  readonly database: string;
  readonly role: string;
  readonly standby: boolean;
  /** hot_standby_feedback. */
  readonly standbyFeedback: boolean;
  /** max_standby_streaming_delay as the server shows it, such as "30s". */
  readonly standbyDelay: string;
  readonly walLevel: string;
  readonly mayReplicate: boolean;
  /** CREATE on the database: what a publication takes. */
  readonly mayCreate: boolean;
  readonly slots: number;
  readonly slotsUsed: number;
  /** Some standby has to have what slots for failover, or commits, tell of: synchronized_standby_slots, synchronous_standby_names. */
  readonly awaitsStandbys: boolean;
};

/** Managed servers hand the right out by membership: https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/Appendix.PostgreSQL.CommonDBATasks.Roles.html */
const REPLICATION_ROLES: readonly string[] = ['rds_replication', 'rds_superuser'];

const SERVER = `
SELECT current_setting('server_version_num')::int AS version, current_setting('server_version') AS "versionText",
       (SELECT extversion FROM pg_extension WHERE extname = 'timescaledb') AS "timescaleVersion",
       current_database()::text AS database, current_user::text AS role,
       pg_is_in_recovery() AS standby, current_setting('hot_standby_feedback') = 'on' AS "standbyFeedback",
       current_setting('max_standby_streaming_delay') AS "standbyDelay", current_setting('wal_level') AS "walLevel",
       EXISTS (SELECT FROM pg_roles r WHERE r.rolname = current_user AND (r.rolsuper OR r.rolreplication))
         OR EXISTS (SELECT FROM pg_roles g
                     WHERE g.rolname = ANY ($1) AND pg_has_role(g.oid, 'MEMBER')) AS "mayReplicate",
       has_database_privilege(current_database(), 'CREATE') AS "mayCreate",
       current_setting('max_replication_slots')::int AS slots,
       (SELECT count(*)::int FROM pg_replication_slots) AS "slotsUsed",
       concat(current_setting('synchronized_standby_slots', true),
              current_setting('synchronous_standby_names')) <> '' AS "awaitsStandbys"`;

/** One query that every supported version, and every older one that lets us in, can answer. */
export async function serverFacts(client: ClientBase): Promise<ServerFacts> {
  const { rows } = await client.query<ServerFacts>(SERVER, [REPLICATION_ROLES]);
  const [facts] = rows;
  if (facts === undefined) throw new Error('no answer about the server');
  return facts;
}

/** What the other requirements depend on: on older versions their queries need not work. */
export function supportedVersions(server: ServerFacts): readonly Finding[] {
  const findings: Finding[] = [];
  if (server.version < 140000) {
    findings.push(
      failure(`The server is PostgreSQL ${server.versionText}: PostgreSQL 14 or later is needed.`),
    );
  }
  if (server.timescaleVersion !== null && !isAtLeast(server.timescaleVersion, 2, 13)) {
    findings.push(
      failure(
        `TimescaleDB is ${server.timescaleVersion} in this database: 2.13 or later is needed.`,
        'ALTER EXTENSION timescaledb UPDATE;',
      ),
    );
  }
  return findings;
}

/** Without the extension everything is an ordinary table, which is fine, but perhaps not what was meant. */
export function extensionInstalled(config: Config, server: ServerFacts): readonly Finding[] {
  if (!config.timescaledb.support || server.timescaleVersion !== null) return [];
  return [
    warning(
      `TimescaleDB is not installed in the database "${server.database}": every table is read as an ordinary one.`,
    ),
  ];
}

/** A slot on a standby, and what its visibility list lacks, are beyond this version. */
export function primary(server: ServerFacts): readonly Finding[] {
  if (!server.standby) return [];
  return [
    failure(
      'The server is a standby: this version reads changes from a primary only.',
      'Point `host` at the primary, or choose another update method.',
    ),
  ];
}

/** Without CDC a standby will do, but it may put its recovery before our reads. */
export function standbyReads(server: ServerFacts): readonly Finding[] {
  if (!server.standby || server.standbyFeedback) return [];
  return [
    warning(
      `The server is a standby with hot_standby_feedback off: it cancels reads that hold up its recovery for longer than max_standby_streaming_delay (${server.standbyDelay}). They are tried again, but a large chunk may never get through.`,
      'At the standby: ALTER SYSTEM SET hot_standby_feedback = on; SELECT pg_reload_conf();',
    ),
  ];
}

export function walLevel(server: ServerFacts): readonly Finding[] {
  if (server.walLevel === 'logical') return [];
  return [
    failure(
      `wal_level is "${server.walLevel}": changes can be read at "logical" only.`,
      'ALTER SYSTEM SET wal_level = logical; then restart the server.',
    ),
  ];
}

export function replicationRole(server: ServerFacts): readonly Finding[] {
  if (server.mayReplicate) return [];
  const role = escapeIdentifier(server.role);
  return [
    failure(
      `The role "${server.role}" may not use replication slots.`,
      `ALTER ROLE ${role} REPLICATION; (on Amazon RDS: GRANT rds_replication TO ${role};)`,
    ),
  ];
}

/** One for the connection, and one for the copy that a sync reads from. */
export function freeSlots(server: ServerFacts, slot: SlotUse | null): readonly Finding[] {
  const needed = slot === null ? 2 : 1;
  const free = server.slots - server.slotsUsed;
  if (free >= needed) return [];
  return [
    failure(
      `The server has ${Math.max(0, free)} free replication slots, and ${needed} are needed: ${server.slotsUsed} of ${server.slots} are taken.`,
      `Drop those that nobody uses (SELECT slot_name, active, restart_lsn FROM pg_replication_slots; SELECT pg_drop_replication_slot('name');), or ALTER SYSTEM SET max_replication_slots = ${server.slotsUsed + needed + 5}; and restart the server.`,
    ),
  ];
}

/** A missing slot is made by the first read, unless we are to verify only. */
export function usableSlot(
  config: Config,
  cdc: CdcConfig,
  server: ServerFacts,
  slot: SlotUse | null,
): readonly Finding[] {
  if (slot === null) {
    if (config.managePublication) return [];
    return [
      failure(
        `The replication slot "${cdc.slot}" does not exist.`,
        `Once the publication is there: ${createSlotSql(cdc)} (\`setup-sql\` prints this and the rest)`,
      ),
    ];
  }
  const problem = slotProblem(cdc, slot, server.database);
  if (problem === null) return [];
  const lost = slot.plugin === 'pgoutput' && slot.database === server.database;
  if (!lost) {
    return [failure(problem, 'Name another slot in `replication_method.replication_slot`.')];
  }
  if (cdc.resyncOnInvalidPosition && config.managePublication) {
    return [warning(problem, 'The next sync makes it anew and reads every stream again.')];
  }
  return [
    failure(
      problem,
      `SELECT pg_drop_replication_slot('${cdc.slot}'); then clear the connection and sync again.`,
    ),
  ];
}

/** What `failover_slot` asks for, and what it needs to be of use. */
export function failoverSlot(
  config: Config,
  cdc: CdcConfig,
  server: ServerFacts,
  slot: SlotUse | null,
): readonly Finding[] {
  if (!cdc.failoverSlot) return [];
  if (server.version < FAILOVER_VERSION) {
    return [failure(failoverNeeds(server.versionText), FAILOVER_OFF)];
  }
  const findings: Finding[] = [];
  if (slot !== null && !slot.failover && slotProblem(cdc, slot, server.database) === null) {
    const sentence = `The replication slot "${cdc.slot}" is not one that standbys keep a copy of.`;
    const advice = config.managePublication
      ? 'The next sync makes it one.'
      : alterSlotAdvice(cdc.slot, server.database);
    findings.push(warning(sentence, advice));
  }
  if (!server.awaitsStandbys) {
    findings.push(
      warning(
        'No standby has to have what a sync reads: if one takes over that lacks some of it, the state is refused.',
        "ALTER SYSTEM SET synchronized_standby_slots = 'the slot of the standby'; SELECT pg_reload_conf();",
      ),
    );
  }
  return findings;
}

const GIGABYTE = 1024 ** 3;

/** Nothing here keeps a sync from running today. @param holder who uses the slot, as a sentence names it. */
export function slotHealth(
  cdc: CdcConfig,
  slot: SlotUse | null,
  holder: string | null,
): readonly Finding[] {
  if (slot === null) return [];
  const findings: Finding[] = [];
  if (holder !== null) {
    findings.push(
      warning(
        `The replication slot "${cdc.slot}" is in use by ${holder}: what that one confirms is missing here.`,
        'Give each consumer a slot of its own.',
      ),
    );
  }
  if ((slot.retained ?? 0) > GIGABYTE) {
    findings.push(
      warning(
        `The server keeps ${bytesText(slot.retained)} of WAL for the replication slot "${cdc.slot}", of which ${bytesText(slot.lag)} are not confirmed.`,
        'Sync more often, and end transactions that stay open for long.',
      ),
    );
  }
  return [...findings, ...slotDangers(cdc.slot, slot)];
}
