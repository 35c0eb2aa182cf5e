/** parseConfig against both the configurations people have saved and those they get wrong. */
import { Ajv } from 'ajv';
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { JsonObject, JsonValue } from '../src/airbyte/protocol.ts';
import { settingNotes } from '../src/cdc-setup.ts';
import { parseConfig, settingWarnings } from '../src/config.ts';
import { ConnectorError } from '../src/errors.ts';
import { DEFAULT_PARAMS } from '../src/postgres/connection-params.ts';
import { isJsonObject } from '../src/spec.ts';
import { at, branches, connection, defaultsOf, properties, spec } from './spec-walk.ts';

const MINIMAL = { host: 'db', port: 5432, database: 'metrics', username: 'reader' };
const CDC = { method: 'CDC', replication_slot: 'airbyte_slot', publication: 'airbyte_publication' };
const SSH = { tunnel_host: 'bastion', tunnel_port: 22, tunnel_user: 'me' };

const parse = (changes: JsonObject = {}) => parseConfig({ ...MINIMAL, ...changes }, spec);
const parseCdc = (changes: JsonObject = {}) =>
  parse({ replication_method: { ...CDC, ...changes } });

function complaint(value: unknown): string {
  try {
    parseConfig(value, spec);
  } catch (error) {
    if (error instanceof ConnectorError && error.kind === 'config_error') return error.userMessage;
    throw error;
  }
  return '';
}

describe('a valid configuration', () => {
  it('needs four properties, everything else has a default', () => {
    expect(parse()).toEqual({
      hosts: [{ host: 'db', port: 5432 }],
      database: 'metrics',
      schemas: [],
      username: 'reader',
      password: '',
      tls: { mode: 'prefer' },
      tunnel: { method: 'NO_TUNNEL' },
      entra: null,
      params: DEFAULT_PARAMS,
      transactionsApart: true,
      ignoredParams: [],
      replication: { method: 'Standard' },
      checkPrivileges: true,
      checkpointTargetIntervalSeconds: 300,
      maxDbConnections: null,
      timescaledb: {
        support: true,
        chunkDiscoveryIntervalMinutes: 5,
        maxConcurrentChunks: 2,
        chunkCaching: true,
        chunkCacheTtlMinutes: 10,
        maxMemoryMb: 512,
        chunkOrder: 'oldest first',
        recordMetadata: false,
      },
      managePublication: true,
    });
    expect(parseCdc().replication).toEqual({
      method: 'CDC',
      slot: 'airbyte_slot',
      publication: 'airbyte_publication',
      initialWaitingSeconds: 1200,
      confirmWhileReading: false,
      heartbeatActionQuery: '',
      resyncOnInvalidPosition: false,
      initialLoadTimeoutHours: 8,
      failoverSlot: false,
      asksForWal2json: false,
    });
  });
});

describe('a saved configuration', () => {
  it('means the same with the defaults of spec.json written out', () => {
    const cdc = branches('replication_method').find(({ tag }) => tag === 'CDC');
    const written = defaultsOf(at(cdc?.schema, 'properties'));
    expect(Object.keys(written)).toContain('initial_load_timeout_hours');
    expect(
      parse({ ...defaultsOf(properties), replication_method: { ...CDC, ...written } }),
    ).toEqual(parseCdc());
  });

  it('accepts what the older Postgres source saved', () => {
    const config = parse({
      ssl: true,
      ssl_mode: { mode: 'require' },
      schemas: ['public'],
      password: 'hunter2',
      jdbc_url_params: '',
      tunnel_method: { tunnel_method: 'NO_TUNNEL' },
      replication_method: {
        ...CDC,
        plugin: 'pgoutput',
        queue_size: 10000,
        initial_waiting_seconds: 300,
        lsn_commit_behaviour: 'After loading Data in the destination',
        heartbeat_action_query: '',
        debezium_shutdown_timeout_seconds: 60,
      },
      something_nobody_knows: { at: 'all' },
    });
    expect(config).toMatchObject({
      schemas: ['public'],
      tls: { mode: 'require' },
      replication: { method: 'CDC', slot: 'airbyte_slot', initialWaitingSeconds: 300 },
    });
    expect(settingWarnings(config)).toEqual([]);
  });

  it.each(['pgoutput', 'wal2json'])('accepts the plugin %s, with any queue size', (plugin) => {
    const config = parse({ replication_method: { ...CDC, plugin, queue_size: 1000 } });
    expect(config.replication).toMatchObject({ asksForWal2json: plugin === 'wal2json' });
    expect(settingWarnings(config)).toEqual([]);
    const notes = config.replication.method === 'CDC' ? settingNotes(config.replication) : [];
    expect(notes).toHaveLength(plugin === 'wal2json' ? 1 : 0);
  });

  it.each([
    [{ ssl: true }, 'require'],
    [{ ssl: false }, 'prefer'],
    [{ ssl: true, ssl_mode: { mode: 'disable' } }, 'disable'],
  ])('reads the old `ssl` of %j as %s', (changes, mode) => {
    expect(parse(changes).tls.mode).toBe(mode);
  });
});

describe('a choice', () => {
  it.each(['disable', 'allow', 'prefer', 'require'])('ssl_mode %s', (mode) => {
    expect(parse({ ssl_mode: { mode } }).tls).toEqual({ mode });
  });

  it.each(['verify-ca', 'verify-full'])('ssl_mode %s', (mode) => {
    const ssl_mode = { mode, ca_certificate: 'CA' };
    expect(parse({ ssl_mode: { ...ssl_mode, client_key: '' } }).tls).toEqual({
      mode,
      caCertificate: 'CA',
    });
    const ours = { client_certificate: 'C', client_key: 'K', client_key_password: 'P' };
    expect(parse({ ssl_mode: { ...ssl_mode, ...ours } }).tls).toEqual({
      mode,
      caCertificate: 'CA',
      clientCertificate: 'C',
      clientKey: 'K',
      clientKeyPassword: 'P',
    });
  });

  it.each([
    [{ tunnel_method: 'NO_TUNNEL' }, { method: 'NO_TUNNEL' }],
    [
      { tunnel_method: 'SSH_KEY_AUTH', ...SSH, ssh_key: 'K' },
      { method: 'SSH_KEY_AUTH', host: 'bastion', port: 22, user: 'me', key: 'K' },
    ],
    [
      { tunnel_method: 'SSH_KEY_AUTH', ...SSH, ssh_key: 'K', ssh_key_passphrase: 'P' },
      { method: 'SSH_KEY_AUTH', host: 'bastion', port: 22, user: 'me', key: 'K', passphrase: 'P' },
    ],
    [
      { tunnel_method: 'SSH_KEY_AUTH', ...SSH, ssh_key: 'K', ssh_key_passphrase: '' },
      { method: 'SSH_KEY_AUTH', host: 'bastion', port: 22, user: 'me', key: 'K' },
    ],
    [
      { tunnel_method: 'SSH_PASSWORD_AUTH', ...SSH, tunnel_user_password: 'P' },
      { method: 'SSH_PASSWORD_AUTH', host: 'bastion', port: 22, user: 'me', password: 'P' },
    ],
  ])('tunnel_method %j', (tunnel_method, tunnel) => {
    expect(parse({ tunnel_method }).tunnel).toEqual(tunnel);
  });

  it.each(['Standard', 'Xmin'])('replication_method %s', (method) => {
    expect(parse({ replication_method: { method } }).replication).toEqual({ method });
  });

  it('hosts, Entra and the enums', () => {
    expect(parse({ host: ' a, b:5433 ,,::1,[::2]:6' }).hosts).toEqual([
      { host: 'a', port: 5432 },
      { host: 'b', port: 5433 },
      { host: '::1', port: 5432 },
      { host: '::2', port: 6 },
    ]);
    const entra = { entra_tenant_id: 't', entra_client_id: 'c' };
    expect(parse(entra).entra).toBeNull();
    expect(parse({ ...entra, entra_service_principal_auth: true }).entra).toEqual({
      tenantId: 't',
      clientId: 'c',
      authority: 'https://login.microsoftonline.com',
    });
    expect(parse({ timescaledb_chunk_order: 'newest first' }).timescaledb.chunkOrder).toBe(
      'newest first',
    );
    expect(parse({ publication_management: 'verify only' }).managePublication).toBe(false);
    expect(
      parseCdc({
        lsn_commit_behaviour: 'While reading Data',
        invalid_cdc_cursor_position_behavior: 'Re-sync data',
        failover_slot: true,
      }).replication,
    ).toMatchObject({
      confirmWhileReading: true,
      resyncOnInvalidPosition: true,
      failoverSlot: true,
    });
  });
});

const WRONG: readonly (readonly [unknown, string])[] = [
  [null, 'it must be a JSON object'],
  [[MINIMAL], 'it must be a JSON object'],
  [{ ...MINIMAL, host: 7 }, '`host` must be a text'],
  [{ ...MINIMAL, host: '' }, '`host` must not be empty'],
  [
    { ...MINIMAL, host: ' , ' },
    '`host` must be names or addresses of servers, joined by commas, each with or without :port',
  ],
  [{ ...MINIMAL, port: '5432' }, '`port` must be a whole number'],
  [{ ...MINIMAL, schemas: 'public' }, '`schemas` must be a list'],
  [{ ...MINIMAL, schemas: ['a', 1] }, '`schemas[1]` must be a text'],
  [{ ...MINIMAL, schemas: ['a', 'a'] }, '`schemas` must not name anything twice'],
  [{ ...MINIMAL, timescaledb_support: 'yes' }, '`timescaledb_support` must be true or false'],
  [
    { ...MINIMAL, timescaledb_chunk_order: 'random' },
    '`timescaledb_chunk_order` must be one of "oldest first", "newest first"',
  ],
  [{ ...MINIMAL, ssl_mode: 'require' }, '`ssl_mode` must be a JSON object'],
  [
    { ...MINIMAL, tunnel_method: { method: 'NO_TUNNEL' } },
    '`tunnel_method.tunnel_method` is missing: it must be one of "NO_TUNNEL", "SSH_KEY_AUTH", "SSH_PASSWORD_AUTH"',
  ],
  [
    { ...MINIMAL, replication_method: { method: 'xmin' } },
    '`replication_method.method` must be one of "CDC", "Xmin", "Standard"',
  ],
  [{ ...MINIMAL, ssl_mode: { mode: 'verify-ca' } }, '`ssl_mode.ca_certificate` is missing'],
  [
    { ...MINIMAL, replication_method: { ...CDC, replication_slot: 'Slot-1' } },
    '`replication_method.replication_slot` may hold only lower-case letters, digits and underscores, at most 63 of them',
  ],
  [
    { ...MINIMAL, replication_method: { ...CDC, replication_slot: '' } },
    '`replication_method.replication_slot` must not be empty',
  ],
  [
    { ...MINIMAL, entra_service_principal_auth: true, entra_client_id: 'c' },
    '`entra_tenant_id` is missing: logging in through Entra needs it',
  ],
];

describe('a wrong configuration', () => {
  it.each(WRONG)('%j', (value, clause) => {
    expect(complaint(value)).toBe(`The configuration is not valid: ${clause}.`);
  });

  it('is told everything that is wrong in one sentence', () => {
    const message = complaint({
      port: 70000,
      database: 'd',
      username: 7,
      replication_method: { method: 'CDC', replication_slot: 'A' },
    });
    expect(message).toMatch(/^The configuration is not valid: .*\.$/);
    expect(message).not.toContain('. ');
    for (const clause of [
      '`host` is missing',
      '`port` must be at most 65535',
      '`username` must be a text',
      '`replication_method.publication` is missing',
      '`replication_method.replication_slot` may hold only',
    ]) {
      expect(message).toContain(clause);
    }
  });

  it.each<[name: string, least: number, most: number | null]>([
    ['port', 1, 65535],
    ['checkpoint_target_interval_seconds', 1, null],
    ['max_db_connections', 1, null],
    ['timescaledb_chunk_discovery_interval_minutes', 1, 60],
    ['timescaledb_max_concurrent_chunks', 1, 16],
    ['timescaledb_chunk_cache_ttl_minutes', 1, 1440],
    ['timescaledb_max_memory_mb', 64, 8192],
    ['replication_method.initial_waiting_seconds', 120, 2400],
    ['replication_method.initial_load_timeout_hours', 4, 24],
    ['tunnel_method.tunnel_port', 1, 65535],
  ])('%s lies between %s and %s', (name, least, most) => {
    const [outer = '', inner] = name.split('.');
    const ssh = { tunnel_method: 'SSH_KEY_AUTH', ...SSH, ssh_key: 'K' };
    const rest = outer === 'replication_method' ? CDC : ssh;
    const withValue = (value: number) =>
      complaint({ ...MINIMAL, [outer]: inner === undefined ? value : { ...rest, [inner]: value } });
    expect(withValue(least)).toBe('');
    expect(withValue(least - 1)).toContain(`\`${name}\` must be at least ${least}`);
    expect(withValue(least + 0.5)).toContain(`\`${name}\` must be a whole number`);
    if (most === null) return;
    expect(withValue(most)).toBe('');
    expect(withValue(most + 1)).toContain(`\`${name}\` must be at most ${most}`);
  });
});

/** Configurations right and wrong: any property may be missing, of another type, or hold the canary. */
function anyConfig(canary: string): fc.Arbitrary<JsonObject> {
  const wrong = fc.constantFrom<JsonValue>(canary, [canary], { [canary]: canary }, 0, true, '');
  const record = (example: JsonObject) => {
    const model = Object.fromEntries(
      Object.entries(example).map(([name, value]) => [
        name,
        fc.oneof({ weight: 30, arbitrary: fc.constant(value) }, { weight: 1, arbitrary: wrong }),
      ]),
    );
    // Half of them complete: few others are valid.
    return fc.oneof(
      fc.record(model, { noNullPrototype: true }),
      fc.record(model, { noNullPrototype: true, requiredKeys: [] }),
    );
  };
  const choices = (name: string) =>
    fc.oneof(...branches(name).map(({ schema }) => record(exampleOf(at(schema, 'properties')))));
  return fc
    .tuple(
      record(exampleOf(properties)),
      fc.record(
        Object.fromEntries(
          ['ssl_mode', 'tunnel_method', 'replication_method'].map((name) => [name, choices(name)]),
        ),
        { noNullPrototype: true, requiredKeys: [] },
      ),
    )
    .map(([plain, chosen]) => ({ ...MINIMAL, ...plain, ...chosen }));

  function exampleOf(schemas: JsonObject): JsonObject {
    return Object.fromEntries(
      Object.entries(schemas).flatMap(([name, schema]) => {
        if (!isJsonObject(schema) || 'oneOf' in schema) return [];
        const { const: tag, default: usual, type, enum: values } = schema;
        const text = name === 'jdbc_url_params' ? 'connectTimeout=10' : canary;
        const filler = type === 'array' ? [canary] : type === 'integer' ? 1 : text;
        const [first] = Array.isArray(values) ? values : [];
        return [[name, tag ?? usual ?? first ?? filler]];
      }),
    );
  }
}

describe('for any configuration', () => {
  const ajv = new Ajv({ strict: false, logger: false });
  const fits = ajv.compile(connection);
  const beyondSchema = /`host` must be names|`jdbc_url_params`|Entra needs it|may hold only/;

  it('agrees with the schema as ajv reads it, oneOf and all, and never shows a value', () => {
    let accepted = 0;
    fc.assert(
      fc.property(anyConfig('hunter2'), (config) => {
        const message = complaint(config);
        if (message === '') accepted += 1;
        if (!beyondSchema.test(message)) expect(fits(config)).toBe(message === '');
        expect(message).not.toContain('hunter2');
      }),
      { numRuns: 100 },
    );
    expect(accepted).toBeGreaterThan(0); // else this says nothing about valid ones
  }, 30_000);
});
