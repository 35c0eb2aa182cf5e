/**
 * The configuration file, validated against spec.json, as a typed `Config`.
 * Property names are those of Airbyte's Postgres source, so that a configuration saved for it, new or old, is valid here;
 * this file and the protocol types are the only ones that change snake_case into camelCase.
 * Defaults live here and not in the validator: a saved configuration is never changed by reading it.
 */
import { readFile } from 'node:fs/promises';
import type { JsonObject } from './airbyte/protocol.ts';
import { ConnectorError } from './errors.ts';
import {
  departures,
  isJsonObject,
  type SavedConfig,
  type SavedReplication,
  type SavedTls,
  type SavedTunnel,
} from './spec.ts';
import type { ConnectionSettings } from './postgres/connection.ts';
import { parseParams } from './postgres/connection-params.ts';
import { PUBLIC_AUTHORITY } from './postgres/entra.ts';
import { parseHosts } from './postgres/hosts.ts';

/** What a command is asked to do; every default is applied, nothing is optional but certificates. */
export type Config = ConnectionSettings & {
  /** Empty means every schema that is not the server's own. */
  readonly schemas: readonly string[];
  /** Names in `jdbc_url_params` that have no effect here. */
  readonly ignoredParams: readonly string[];
  readonly replication:
    | {
        readonly method: 'CDC';
        readonly slot: string;
        readonly publication: string;
        readonly initialWaitingSeconds: number;
        /** `lsn_commit_behaviour` is 'While reading Data'. */
        readonly confirmWhileReading: boolean;
        readonly heartbeatActionQuery: string;
        readonly resyncOnInvalidPosition: boolean;
        readonly initialLoadTimeoutHours: number;
        /** The slot is to be one that standbys keep a copy of. */
        readonly failoverSlot: boolean;
        /** An older configuration asks for the plugin wal2json, which no slot of ours has. */
        readonly asksForWal2json: boolean;
      }
    | { readonly method: 'Standard' }
    | { readonly method: 'Xmin' };
  readonly checkPrivileges: boolean;
  readonly checkpointTargetIntervalSeconds: number;
  readonly maxDbConnections: number | null;
  readonly timescaledb: {
    readonly support: boolean;
    readonly chunkDiscoveryIntervalMinutes: number;
    readonly maxConcurrentChunks: number;
    readonly chunkCaching: boolean;
    readonly chunkCacheTtlMinutes: number;
    readonly maxMemoryMb: number;
    readonly chunkOrder: 'oldest first' | 'newest first';
    readonly recordMetadata: boolean;
  };
  /** `publication_management` is 'automatic'. */
  readonly managePublication: boolean;
};

/** What a person should know of a setting. */
export type SettingNote = { readonly property: string; readonly sentence: string };

/** Measured: docs/operations.md has the table, `npm run memory` makes it. */
const LOWEST_MEMORY_MB = 96;

/** The `spec` of the SPEC message, which lies beside `src` and `dist` alike. */
export async function loadSpec(): Promise<JsonObject> {
  const spec: JsonObject = JSON.parse(
    await readFile(new URL('../spec.json', import.meta.url), 'utf8'),
  );
  return spec;
}

/**
 * Reads a file that the platform hands over.
 * @param what the file's role, for the message: "config", "catalog", "state".
 */
export async function readJsonFile(path: string, what: string): Promise<unknown> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new ConnectorError(`The ${what} file cannot be read: ${reason}.`, {
      kind: 'config_error',
      cause: error,
    });
  }
  try {
    return JSON.parse(text);
  } catch {
    // Without its cause: V8's message quotes the text around the mistake, which may be a password.
    throw new ConnectorError(`The ${what} file is not valid JSON.`, { kind: 'config_error' });
  }
}

/**
 * Turns the content of the configuration file into a `Config`.
 * @param entraAuthority where tokens of Microsoft Entra come from.
 * Throws one config_error that names every wrong property and shows no value.
 */
export function parseConfig(
  value: unknown,
  spec: JsonObject,
  entraAuthority: string = PUBLIC_AUTHORITY,
): Config {
  const schema = spec['connectionSpecification'];
  if (!isJsonObject(schema)) {
    throw new ConnectorError('spec.json has no connectionSpecification.', { kind: 'system_error' });
  }
  const problems = [...departures(value, schema), ...beyondSchema(value)];
  if (problems.length > 0) {
    throw new ConnectorError(`The configuration is not valid: ${problems.join('; ')}.`, {
      kind: 'config_error',
    });
  }
  return withDefaults(value as SavedConfig, entraAuthority); // that it is one has just been checked
}

/** What JSON schema cannot say, or cannot say clearly; looks only at values of the right type. */
function beyondSchema(value: unknown): readonly string[] {
  if (!isJsonObject(value)) return [];
  const problems: string[] = [];
  const host = value['host'];
  if (typeof host === 'string' && host !== '' && parseHosts(host, 0) === null) {
    problems.push(
      '`host` must be names or addresses of servers, joined by commas, each with or without :port',
    );
  }
  const params = value['jdbc_url_params'];
  if (typeof params === 'string') {
    problems.push(...parseParams(params, value['ssl_mode'] !== undefined).problems);
  }
  if (value['entra_service_principal_auth'] === true) {
    for (const name of ['entra_tenant_id', 'entra_client_id']) {
      const given = value[name];
      if (given === undefined || given === '') {
        problems.push(`\`${name}\` is missing: logging in through Entra needs it`);
      }
    }
  }
  const replication = value['replication_method'];
  const slot = isJsonObject(replication) ? replication['replication_slot'] : undefined;
  // https://www.postgresql.org/docs/current/warm-standby.html#STREAMING-REPLICATION-SLOTS-MANIPULATION
  const isCdc = isJsonObject(replication) && replication['method'] === 'CDC';
  if (isCdc && typeof slot === 'string' && slot !== '' && !/^[a-z0-9_]{1,63}$/.test(slot)) {
    problems.push(
      '`replication_method.replication_slot` may hold only lower-case letters, digits and underscores, at most 63 of them',
    );
  }
  return problems;
}

function withDefaults(saved: SavedConfig, authority: string): Config {
  const { params, sslMode, ignored } = parseParams(
    saved.jdbc_url_params ?? '',
    saved.ssl_mode !== undefined,
  );
  return {
    hosts: parseHosts(saved.host, saved.port) ?? [],
    database: saved.database,
    schemas: saved.schemas ?? [],
    username: saved.username,
    password: saved.password ?? '',
    tls: tlsOf(saved, sslMode),
    tunnel: tunnelOf(saved.tunnel_method),
    entra:
      saved.entra_service_principal_auth === true
        ? {
            tenantId: saved.entra_tenant_id ?? '',
            clientId: saved.entra_client_id ?? '',
            authority,
          }
        : null,
    params,
    transactionsApart: saved.replication_method?.method !== 'CDC',
    ignoredParams: ignored,
    replication: replicationOf(saved.replication_method),
    checkPrivileges: saved.check_privileges ?? true,
    checkpointTargetIntervalSeconds: saved.checkpoint_target_interval_seconds ?? 300,
    maxDbConnections: saved.max_db_connections ?? null,
    timescaledb: {
      support: saved.timescaledb_support ?? true,
      chunkDiscoveryIntervalMinutes: saved.timescaledb_chunk_discovery_interval_minutes ?? 5,
      maxConcurrentChunks: saved.timescaledb_max_concurrent_chunks ?? 2,
      chunkCaching: saved.timescaledb_enable_chunk_caching ?? true,
      chunkCacheTtlMinutes: saved.timescaledb_chunk_cache_ttl_minutes ?? 10,
      maxMemoryMb: saved.timescaledb_max_memory_mb ?? 512,
      chunkOrder: saved.timescaledb_chunk_order ?? 'oldest first',
      recordMetadata: saved.timescaledb_record_metadata ?? false,
    },
    managePublication: saved.publication_management !== 'verify only',
  };
}

function tlsOf(saved: SavedConfig, sslMode: SavedTls['mode'] | null): Config['tls'] {
  // Old configurations say `ssl: true` and no mode: whoever asked for TLS must not silently get less.
  const old = saved.ssl === true ? 'require' : 'prefer';
  const tls: SavedTls = saved.ssl_mode ?? { mode: saved.ssl === true ? old : (sslMode ?? old) };
  // Forms save a field that was opened and left empty as ''.
  return {
    mode: tls.mode,
    ...(tls.ca_certificate ? { caCertificate: tls.ca_certificate } : {}),
    ...(tls.client_certificate ? { clientCertificate: tls.client_certificate } : {}),
    ...(tls.client_key ? { clientKey: tls.client_key } : {}),
    ...(tls.client_key_password ? { clientKeyPassword: tls.client_key_password } : {}),
  };
}

function tunnelOf(saved: SavedTunnel | undefined): Config['tunnel'] {
  if (saved === undefined || saved.tunnel_method === 'NO_TUNNEL') return { method: 'NO_TUNNEL' };
  const server = { host: saved.tunnel_host, port: saved.tunnel_port, user: saved.tunnel_user };
  return saved.tunnel_method === 'SSH_KEY_AUTH'
    ? {
        method: 'SSH_KEY_AUTH',
        ...server,
        key: saved.ssh_key,
        // Left empty in a form, as above.
        ...(saved.ssh_key_passphrase ? { passphrase: saved.ssh_key_passphrase } : {}),
      }
    : { method: 'SSH_PASSWORD_AUTH', ...server, password: saved.tunnel_user_password };
}

function replicationOf(saved: SavedReplication | undefined): Config['replication'] {
  // Absent is Standard, as Airbyte's older Postgres source took it.
  if (saved === undefined) return { method: 'Standard' };
  if (saved.method !== 'CDC') return { method: saved.method };
  return {
    method: 'CDC',
    slot: saved.replication_slot,
    publication: saved.publication,
    initialWaitingSeconds: saved.initial_waiting_seconds ?? 1200,
    confirmWhileReading: saved.lsn_commit_behaviour === 'While reading Data',
    heartbeatActionQuery: saved.heartbeat_action_query ?? '',
    resyncOnInvalidPosition: saved.invalid_cdc_cursor_position_behavior === 'Re-sync data',
    initialLoadTimeoutHours: saved.initial_load_timeout_hours ?? 8,
    failoverSlot: saved.failover_slot ?? false,
    asksForWal2json: saved.plugin === 'wal2json',
  };
}

/** Settings that do not do what may be expected of them. */
export function settingWarnings(config: Config): readonly SettingNote[] {
  const { timescaledb } = config;
  const found: SettingNote[] = [];
  if (config.ignoredParams.length > 0) {
    const sentence = `Of \`jdbc_url_params\` these have no effect: ${config.ignoredParams.join(', ')}.`;
    found.push({ property: 'jdbc_url_params', sentence });
  }
  if (timescaledb.maxMemoryMb < LOWEST_MEMORY_MB) {
    found.push({
      property: 'timescaledb_max_memory_mb',
      sentence: `\`timescaledb_max_memory_mb\` is ${timescaledb.maxMemoryMb}, but Node.js and the connector take up more than that before the first row: ${LOWEST_MEMORY_MB} is the lowest that holds, 160 where rows are as large as 20 MB.`,
    });
  }
  return found;
}
