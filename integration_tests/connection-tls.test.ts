/** A server of its own: TLS as libpq means it, ways of authentication, IPv6, several hosts, tokens of Entra. */
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { JsonObject } from '../src/airbyte/protocol.ts';
import { makeCertificates } from './certificates.ts';
import { run } from './connector.ts';
import { createDatabase, Database, until } from './database.ts';
import { EMPTY, expectRefused } from './refusals.ts';
import { connectTo } from './scenario.ts';
import { freePort } from './services.ts';
import { type Standby, startOwnServer, type TimescaleServer } from './server.ts';

let server: TimescaleServer | undefined;
let db: Database;
let reason = '';
let pem: Readonly<Record<string, string>> = {};

/** Unicode that SASLprep changes, quotes, spaces, percent signs. */
const PASSWORD = `p'"\\ %41 ä\u00a0ﬁ&=#€`;

/** What a file of the data directory holds; through the server, which may be in a container. */
async function put(name: string, content: string): Promise<void> {
  const path = `${await db.value<string>('SHOW data_directory')}/${name}`;
  const command = `umask 077; base64 -d > '${path}'`;
  await db.query(
    `COPY (SELECT '${Buffer.from(content).toString('base64')}') TO PROGRAM $$${command}$$`,
  );
}

const HBA = `
local all all trust
host all postgres 127.0.0.1/32 trust
host all postgres ::1/128 trust
host replication postgres all trust
host all scram all scram-sha-256
host all md5 all md5
host all clear all password
hostssl all tls_only all trust
hostnossl all plain_only all trust
hostssl all certified all cert
`;

beforeAll(async () => {
  try {
    server = await startOwnServer();
    if (server.restart === undefined) throw new Error(`it cannot be restarted by ${server.how}`);
  } catch (error) {
    reason = `a server of its own is needed: ${String(error)}`;
    return;
  }
  db = await createDatabase(server.url);
  pem = await makeCertificates();
  await put('server.crt', pem['server.crt'] ?? '');
  await put('server.key', pem['server.key'] ?? '');
  await put('ca.crt', pem['ca.crt'] ?? '');
  await put('pg_hba.conf', HBA);
  for (const [name, value] of [
    ['ssl', 'on'],
    ['ssl_ca_file', 'ca.crt'],
    ['listen_addresses', '127.0.0.1,::1'],
  ]) {
    await db.query(`ALTER SYSTEM SET ${name} = '${value}'`);
  }
  await server.restart('fast');
  const literal = `U&'${Array.from(PASSWORD)
    .map((each) => `!+${(each.codePointAt(0) ?? 0).toString(16).padStart(6, '0')}`)
    .join('')}' UESCAPE '!'`;
  await db.query(`
    CREATE TABLE items (id int PRIMARY KEY); INSERT INTO items SELECT generate_series(1, 50);
    CREATE ROLE tls_only LOGIN; CREATE ROLE plain_only LOGIN; CREATE ROLE certified LOGIN; CREATE ROLE nowhere LOGIN;
    GRANT SELECT ON items TO PUBLIC; GRANT USAGE ON SCHEMA public TO PUBLIC;
    CREATE ROLE scram LOGIN PASSWORD ${literal}; CREATE ROLE clear LOGIN PASSWORD ${literal};
    SET password_encryption = md5; CREATE ROLE md5 LOGIN PASSWORD ${literal};
    RESET password_encryption`);
});

afterAll(async () => {
  await server?.stop();
});

const STANDARD = { replication_method: { method: 'Standard' } };

async function answer(overrides: JsonObject): Promise<string> {
  const config = db.config({ ...STANDARD, ...overrides });
  const { status, message } = (await run('check', { config })).connectionStatus();
  return status === 'SUCCEEDED' ? status : (message ?? '');
}

const verify = (mode: string, more: JsonObject = {}): JsonObject => ({
  ssl_mode: { mode, ca_certificate: `${pem['foreign.crt']}${pem['ca.crt']}`, ...more },
});

describe('TLS', () => {
  test('modes: who is let in, and what is fallen back to', async (context) => {
    if (server === undefined) {
      context.skip(reason);
      return;
    }
    const expected: readonly (readonly [string, string, RegExp])[] = [
      ['disable', 'tls_only', /does not let this user in/],
      ['disable', 'plain_only', /SUCCEEDED/],
      ['allow', 'tls_only', /SUCCEEDED/],
      ['allow', 'plain_only', /SUCCEEDED/],
      ['prefer', 'tls_only', /SUCCEEDED/],
      ['prefer', 'plain_only', /SUCCEEDED/],
      ['require', 'tls_only', /SUCCEEDED/],
      ['require', 'plain_only', /does not let this user in.*pg_hba/],
    ];
    for (const [mode, username, outcome] of expected) {
      expect(await answer({ username, ssl_mode: { mode } }), `${mode} ${username}`).toMatch(
        outcome,
      );
    }
    const { ssl_mode: _, ...old } = db.config({ ...STANDARD, username: 'tls_only', ssl: true });
    const check = await run('check', { config: old });
    expect(check.connectionStatus().status).toBe('SUCCEEDED');
  });

  test('what is verified', async (context) => {
    if (server === undefined) {
      context.skip(reason);
      return;
    }
    expect(await answer(verify('verify-ca'))).toBe('SUCCEEDED');
    expect(await answer(verify('verify-full'))).toBe('SUCCEEDED'); // by the address in the certificate
    expect(await answer({ ...verify('verify-ca'), host: 'localhost' })).toBe('SUCCEEDED');
    expect(await answer({ ...verify('verify-full'), host: 'localhost' })).toMatch(
      /certificate is not made out for localhost/,
    );
    expect(await answer({ ...verify('verify-full'), host: '::1' })).toMatch(/not made out for ::1/);
    const foreign = { ca_certificate: pem['foreign.crt'] ?? '' };
    for (const mode of ['require', 'verify-ca', 'verify-full']) {
      expect(await answer(verify(mode, foreign)), mode).toMatch(/not issued by the authority/);
    }
  });

  test('client certificates', async (context) => {
    if (server === undefined) {
      context.skip(reason);
      return;
    }
    const by = (name: string): JsonObject => ({
      username: 'certified',
      ...verify('verify-full', {
        client_certificate: pem[`${name}.crt`] ?? '',
        client_key: pem[`${name}.key`] ?? '',
      }),
    });
    expect(await answer(by('client'))).toBe('SUCCEEDED');
    expect(await answer(by('stranger'))).toMatch(/does not accept our client certificate/);
    expect(await answer({ ...by('client'), ...verify('verify-ca') })).toMatch(
      /does not let this user in/,
    );
  });
});

test('passwords of any characters, over SCRAM, md5 and in clear', async (context) => {
  if (server === undefined) {
    context.skip(reason);
    return;
  }
  for (const username of ['scram', 'md5', 'clear']) {
    expect(await answer({ username, password: PASSWORD }), username).toBe('SUCCEEDED');
    const wrong = await answer({ username, password: `${PASSWORD}x` });
    expect(wrong).toMatch(/refused the user name or password/);
    expect(wrong).not.toContain(PASSWORD);
  }
});

test('addresses of IPv6, a role without an entry, other parameters', async (context) => {
  if (server === undefined) {
    context.skip(reason);
    return;
  }
  for (const host of ['::1', '[::1]', `[::1]:${new URL(db.url).port}`]) {
    expect(await answer({ host, ...(host.endsWith(']') ? {} : {}) }), host).toBe('SUCCEEDED');
  }
  expect(await answer({ username: 'nowhere' })).toMatch(/does not let this user in.*pg_hba/);
  const params =
    'connectTimeout=5&ApplicationName=named&options=-c%20work_mem%3D8MB&socketTimeout=30';
  const connection = await connectTo(db, {}, { ...STANDARD, jdbc_url_params: params });
  (await connection.sync()).succeeded();
  await connection.expectEqual('items');
  expect(await answer({ jdbc_url_params: 'options=-c%20no_such_setting%3D1' })).toMatch(
    /no_such_setting/,
  );
});

test('of several hosts the primary, or a standby where it is asked for', async (context) => {
  if (server?.standby === undefined) {
    context.skip(reason);
    return;
  }
  const { hostname, port } = new URL(db.url);
  const standby: Standby = await server.standby();
  try {
    const there = new Database(standby.url, db.name);
    await until('the standby answers', () => there.value<boolean>('SELECT pg_is_in_recovery()'));
    const other = `127.0.0.1:${new URL(standby.url).port}`;
    const dead = `127.0.0.1:${await freePort()}`;
    const first = `${hostname}:${port}`;
    const cdc = await connectTo(db, {}, { host: `${dead},${other},${first}` });
    (await cdc.sync()).succeeded();
    await cdc.expectEqual('items');
    const target = (targetServerType: string): JsonObject => ({
      jdbc_url_params: `targetServerType=${targetServerType}`,
    });
    expect(await answer({ host: `${first},${other}`, ...target('secondary') })).toBe('SUCCEEDED');
    expect(await answer({ host: first, ...target('secondary') })).toMatch(/is the primary/);
    expect(await answer({ host: first, ...target('preferSecondary') })).toBe('SUCCEEDED');
    const none = db.config({ ...STANDARD, host: `${dead},${other}` });
    const refused = await run('read', { config: none, catalog: EMPTY });
    expectRefused(
      refused,
      'transient_error',
      /None of the hosts is the primary: .*Nothing accepts.*is a standby/,
    );
  } finally {
    await standby.stop();
  }
});

describe('Microsoft Entra', () => {
  let endpoint: Server;
  let authority = '';
  let requests: URLSearchParams[] = [];
  let reply: () => Promise<readonly [number, JsonObject]>;

  beforeAll(async () => {
    endpoint = createServer((request, response) => {
      let body = '';
      request.on('data', (chunk: Buffer) => (body += chunk.toString()));
      request.on('end', () => {
        requests.push(new URLSearchParams(`${body}&path=${request.url ?? ''}`));
        void reply().then(([status, answered]) => {
          response.writeHead(status, { 'content-type': 'application/json' });
          response.end(JSON.stringify(answered));
        });
      });
    });
    await new Promise<void>((resolve) => endpoint.listen(0, '127.0.0.1', () => resolve()));
    authority = `http://127.0.0.1:${(endpoint.address() as AddressInfo).port}`;
  });

  afterAll(() => endpoint.close());

  const settings = {
    username: 'scram',
    password: 'client-secret-4711',
    entra_service_principal_auth: true,
    entra_tenant_id: 'tenant',
    entra_client_id: 'client',
  };

  test('each session logs in with a token that is valid then', async (context) => {
    if (server === undefined) {
      context.skip(reason);
      return;
    }
    const config = db.config({ ...STANDARD, ...settings });
    const env = { AZURE_AUTHORITY_HOST: authority };
    const catalog = (await connectTo(db, { syncMode: 'full_refresh' }, STANDARD)).catalog;
    for (const [lifetime, times] of [
      [3600, 1],
      [0, 2],
    ] as const) {
      requests = [];
      const token = `token-${lifetime}`;
      await db.query(`ALTER ROLE scram PASSWORD '${token}'`);
      reply = () =>
        Promise.resolve([200, { token_type: 'Bearer', expires_in: lifetime, access_token: token }]);
      const result = (await run('read', { config, catalog, env })).succeeded();
      expect(result.records('items')).toHaveLength(50);
      expect(requests).toHaveLength(times);
    }
    expect(Object.fromEntries(requests[0] ?? [])).toEqual({
      grant_type: 'client_credentials',
      client_id: 'client',
      client_secret: 'client-secret-4711',
      scope: 'https://ossrdbms-aad.database.windows.net/.default',
      path: '/tenant/oauth2/v2.0/token',
    });
  });

  test('what it refuses is said by its codes', async (context) => {
    if (server === undefined) {
      context.skip(reason);
      return;
    }
    const config = db.config({ ...STANDARD, ...settings });
    const env = { AZURE_AUTHORITY_HOST: authority };
    reply = () =>
      Promise.resolve([
        401,
        {
          error: 'invalid_client',
          error_description: 'AADSTS7000215: client-secret-4711 is wrong',
        },
      ]);
    const refused = await run('read', { config, catalog: EMPTY, env });
    expectRefused(
      refused,
      'config_error',
      /refused the service principal \(HTTP 401, invalid_client, AADSTS7000215\)/,
    );
    expect(refused.lines.join('\n') + refused.stderr).not.toContain('4711');
    const nowhere = { AZURE_AUTHORITY_HOST: `http://127.0.0.1:${await freePort()}` };
    const away = await run('read', { config, catalog: EMPTY, env: nowhere });
    expectRefused(away, 'transient_error', /Entra cannot be reached/);
    const plain = { AZURE_AUTHORITY_HOST: 'http://example.com' };
    const open = await run('read', { config, catalog: EMPTY, env: plain });
    expectRefused(open, 'config_error', /not an https URL/);
  });
});
