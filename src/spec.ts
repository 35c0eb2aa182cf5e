/**
 * What spec.json accepts as a type, and where a configuration departs from it in words a person can act on.
 * No value of the configuration is ever printed: any of them may be a secret, or hold one.
 */
import { createRequire } from 'node:module';
import type * as ajvModule from 'ajv';
import type { JsonObject, JsonValue } from './airbyte/protocol.ts';
import { surelyFits } from './schema-fit.ts';

/** A configuration that spec.json accepts; what is accepted and ignored has no place here. */
export type SavedConfig = {
  readonly host: string;
  readonly port: number;
  readonly database: string;
  readonly schemas?: readonly string[];
  readonly username: string;
  readonly password?: string;
  readonly entra_service_principal_auth?: boolean;
  readonly entra_tenant_id?: string;
  readonly entra_client_id?: string;
  /** Only in old configurations and not in the spec, hence of any type. */
  readonly ssl?: unknown;
  readonly ssl_mode?: SavedTls;
  readonly tunnel_method?: SavedTunnel;
  readonly jdbc_url_params?: string;
  readonly replication_method?: SavedReplication;
  readonly check_privileges?: boolean;
  readonly checkpoint_target_interval_seconds?: number;
  readonly max_db_connections?: number;
  readonly timescaledb_support?: boolean;
  readonly timescaledb_chunk_discovery_interval_minutes?: number;
  readonly timescaledb_max_concurrent_chunks?: number;
  readonly timescaledb_enable_chunk_caching?: boolean;
  readonly timescaledb_chunk_cache_ttl_minutes?: number;
  readonly timescaledb_max_memory_mb?: number;
  readonly timescaledb_chunk_order?: 'oldest first' | 'newest first';
  readonly timescaledb_record_metadata?: boolean;
  readonly publication_management?: 'automatic' | 'verify only';
};

/** `ssl_mode` */
export type SavedTls = {
  readonly mode: 'disable' | 'allow' | 'prefer' | 'require' | 'verify-ca' | 'verify-full';
  readonly ca_certificate?: string;
  readonly client_certificate?: string;
  readonly client_key?: string;
  readonly client_key_password?: string;
};

type SavedSshServer = {
  readonly tunnel_host: string;
  readonly tunnel_port: number;
  readonly tunnel_user: string;
};

/** `tunnel_method` */
export type SavedTunnel =
  | { readonly tunnel_method: 'NO_TUNNEL' }
  | ({
      readonly tunnel_method: 'SSH_KEY_AUTH';
      readonly ssh_key: string;
      readonly ssh_key_passphrase?: string;
    } & SavedSshServer)
  | ({
      readonly tunnel_method: 'SSH_PASSWORD_AUTH';
      readonly tunnel_user_password: string;
    } & SavedSshServer);

/** `replication_method` */
export type SavedReplication =
  | {
      readonly method: 'CDC';
      readonly replication_slot: string;
      readonly publication: string;
      readonly initial_waiting_seconds?: number;
      readonly lsn_commit_behaviour?:
        'While reading Data' | 'After loading Data in the destination';
      readonly heartbeat_action_query?: string;
      readonly invalid_cdc_cursor_position_behavior?: 'Fail sync' | 'Re-sync data';
      readonly initial_load_timeout_hours?: number;
      readonly failover_slot?: boolean;
      readonly plugin?: 'pgoutput' | 'wal2json';
    }
  | { readonly method: 'Standard' }
  | { readonly method: 'Xmin' };

/** A JSON object, as opposed to a list, null or a bare value. */
export function isJsonObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/**
 * One clause per departure of `value` from `schema`, none if it fits.
 * @param schema the spec's `connectionSpecification`.
 */
export function departures(value: unknown, schema: JsonObject): readonly string[] {
  const { chosen, unknown } = chooseBranches(value, schema);
  if (unknown.length === 0 && surelyFits(value, chosen)) return [];
  const { Ajv }: typeof ajvModule = createRequire(import.meta.url)('ajv');
  // ajv's strict mode refuses Airbyte's own keywords (`order`, `airbyte_secret`); its logger would write
  // to the console, which belongs to the protocol.
  const ajv = new Ajv({ strict: false, allErrors: true, useDefaults: false, logger: false });
  const validate = ajv.compile(chosen);
  validate(value);
  return [...unknown, ...(validate.errors ?? []).map(clause)];
}

/**
 * Puts the branch that the value's discriminator names in the place of each `oneOf`.
 * ajv reports the failures of all branches of a `oneOf`; only those of the branch meant help anybody.
 */
function chooseBranches(
  value: unknown,
  schema: JsonObject,
): { readonly chosen: JsonObject; readonly unknown: readonly string[] } {
  const unknown: string[] = [];
  const properties = Object.entries(objectAt(schema, 'properties')).map(
    ([name, property]): [string, JsonValue] => {
      if (!isJsonObject(property) || !Array.isArray(property['oneOf'])) return [name, property];
      const given = isJsonObject(value) && Object.hasOwn(value, name) ? value[name] : undefined;
      if (!isJsonObject(given)) return [name, { type: 'object' }];
      const branches = branchesOf(property['oneOf']);
      const branch = branches.find(
        ({ key, tag }) => Object.hasOwn(given, key) && given[key] === tag,
      );
      if (branch !== undefined) return [name, { type: 'object', ...branch.schema }];
      const key = branches[0]?.key ?? '';
      const state = Object.hasOwn(given, key) ? '' : 'is missing: it ';
      unknown.push(`\`${name}.${key}\` ${state}${oneOfList(branches.map(({ tag }) => tag))}`);
      return [name, {}];
    },
  );
  return {
    chosen: { ...schema, properties: Object.fromEntries<JsonValue>(properties) },
    unknown,
  };
}

type Branch = { readonly key: string; readonly tag: JsonValue; readonly schema: JsonObject };

/** The branches of a `oneOf`, each with the property whose `const` tells it from the others. */
function branchesOf(oneOf: readonly JsonValue[]): readonly Branch[] {
  return oneOf.filter(isJsonObject).flatMap((schema) =>
    Object.entries(objectAt(schema, 'properties')).flatMap(([key, property]) => {
      const tag = isJsonObject(property) ? property['const'] : undefined;
      return tag === undefined ? [] : [{ key, tag, schema }];
    }),
  );
}

function objectAt(parent: JsonObject, key: string): JsonObject {
  const child = parent[key];
  return isJsonObject(child) ? child : {};
}

const TYPES: Readonly<Record<string, string>> = {
  string: 'a text',
  integer: 'a whole number',
  boolean: 'true or false',
  array: 'a list',
  object: 'a JSON object',
};

/** One failure as a clause; its parameters come from the schema, never from the value. */
function clause(error: ajvModule.ErrorObject): string {
  const property = propertyName(error.instancePath);
  const subject = property === '' ? 'it' : `\`${property}\``;
  const limit = String(error.params['limit']);
  switch (error.keyword) {
    case 'required': {
      const missing = String(error.params['missingProperty']);
      return `\`${property === '' ? missing : `${property}.${missing}`}\` is missing`;
    }
    case 'type': {
      const type = String(error.params['type']);
      return `${subject} must be ${TYPES[type] ?? type}`;
    }
    case 'minimum':
      return `${subject} must be at least ${limit}`;
    case 'maximum':
      return `${subject} must be at most ${limit}`;
    case 'minLength':
      return `${subject} must not be empty`;
    case 'uniqueItems':
      return `${subject} must not name anything twice`;
    case 'enum':
      return `${subject} ${oneOfList(error.params['allowedValues'])}`;
    default:
      return `${subject} ${error.message ?? 'is not as spec.json asks'}`;
  }
}

/** '/schemas/1' as a person writes it: `schemas[1]`. */
function propertyName(instancePath: string): string {
  return instancePath
    .slice(1)
    .replaceAll(/\/(\d+)/g, '[$1]')
    .replaceAll('/', '.');
}

function oneOfList(values: readonly JsonValue[]): string {
  return `must be one of ${values.map((value) => JSON.stringify(value)).join(', ')}`;
}
