/** `jdbc_url_params`, hosts and certificates: the pure parts of connecting. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { parseConfig, settingWarnings } from '../src/config.ts';
import { ConnectorError } from '../src/errors.ts';
import { DEFAULT_PARAMS, parseParams } from '../src/postgres/connection-params.ts';
import { noneFits, OtherServer, parseHosts } from '../src/postgres/hosts.ts';
import { tlsAttempts, tlsOptions } from '../src/postgres/tls.ts';

import { spec } from './spec-walk.ts';

describe('parameters', () => {
  it.each([
    ['', {}],
    ['&&', {}],
    ['connectTimeout=5&loginTimeout=3', { connectTimeoutMs: 3000 }],
    ['connectTimeout=0', { connectTimeoutMs: 0 }],
    ['connectTimeout=0&loginTimeout=7', { connectTimeoutMs: 7000 }],
    ['socketTimeout=60', { socketTimeoutMs: 60_000 }],
    ['tcpKeepAlive=false', { keepAlive: false }],
    ['ApplicationName=air%20byte', { applicationName: 'air byte' }],
    ['targetServerType=preferSecondary', { target: 'preferSecondary' }],
    ['targetServerType=MASTER', { target: 'primary' }],
    [
      'options=-c%20statement_timeout%3D9&currentSchema=a%20b,c',
      { options: String.raw`-c statement_timeout=9 -c search_path=a\ b,c` },
    ],
    ['prepareThreshold=0&assumeMinServerVersion=9.6', {}],
  ])('%s', (text, expected) => {
    const parsed = parseParams(text, true);
    expect(parsed.problems).toEqual([]);
    expect(parsed.ignored).toEqual([]);
    expect(parsed.params).toEqual({ ...DEFAULT_PARAMS, ...expected });
  });

  it.each([
    ['connectTimeout', /key=value/],
    ['=x', /key=value/],
    ['a=%zz', /key=value/],
    ['connectTimeout=soon', /`connectTimeout` .* a number of seconds/],
    ['socketTimeout=-1', /`socketTimeout` .* a number of seconds/],
    ['tcpKeepAlive=maybe', /`tcpKeepAlive` .* true or false/],
    ['targetServerType=best', /`targetServerType`/],
    ['password=geheim', /`password` must not be/],
    ['sslmode=verify-full', /set `ssl_mode`/],
    ['ssl=true', /set `ssl_mode`/],
  ])('wrong: %s', (text, sentence) => {
    const { problems } = parseParams(text, false);
    expect(problems).toHaveLength(1);
    expect(problems[0]).toMatch(sentence);
    expect(problems[0]).not.toMatch(/geheim|soon|maybe|best/);
  });

  it('those without a meaning here are named', () => {
    const params = 'prepareThreshold=0&socketFactory=x&sslmode=require&assumeMinServerVersion=9';
    const config = parseConfig(
      {
        host: 'a',
        port: 1,
        database: 'd',
        username: 'u',
        jdbc_url_params: params,
        ssl_mode: { mode: 'disable' },
      },
      spec,
    );
    expect(settingWarnings(config)).toEqual([
      {
        property: 'jdbc_url_params',
        sentence: 'Of `jdbc_url_params` these have no effect: sslmode, socketFactory.',
      },
    ]);
  });

  it('sslmode counts without ssl_mode only', () => {
    expect(parseParams('sslmode=require', false).sslMode).toBe('require');
    expect(parseParams('sslmode=require', true)).toMatchObject({
      sslMode: null,
      ignored: ['sslmode'],
    });
  });
});

describe('hosts', () => {
  it.each(['a:b', 'a:99999', '[a]', 'a b', '::1:x', ''])('%s is none', (text) => {
    expect(parseHosts(text, 5432)).toBeNull();
  });

  it('say why none fits', () => {
    const refused = Object.assign(new Error('no'), { code: 'ECONNREFUSED' });
    const error = noneFits(
      [
        { host: { host: 'a', port: 1 }, error: refused },
        { host: { host: '::1', port: 2 }, error: new OtherServer('is a standby') },
      ],
      'primary',
    );
    expect(error.kind).toBe('transient_error');
    expect(error.message).toMatch(/the primary: a:1: .*accepts.*; \[::1\]:2 is a standby\.$/);
  });
});

const folder = mkdtempSync(join(tmpdir(), 'certificates-'));
afterAll(() => rmSync(folder, { recursive: true }));

function openssl(...args: string[]): void {
  execFileSync('openssl', args, { cwd: folder, stdio: 'ignore' });
}

const read = (name: string): string => readFileSync(join(folder, name), 'utf8');

describe('certificates', () => {
  openssl(
    'req',
    '-x509',
    '-newkey',
    'rsa:2048',
    '-nodes',
    '-keyout',
    'k8',
    '-out',
    'c',
    '-subj',
    '/CN=a',
    '-days',
    '2',
  );
  openssl('rsa', '-in', 'k8', '-traditional', '-out', 'k1');
  openssl('rsa', '-in', 'k8', '-traditional', '-aes256', '-passout', 'pass:geheim', '-out', 'k1e');
  openssl('pkcs8', '-topk8', '-in', 'k8', '-passout', 'pass:geheim', '-out', 'k8e');
  openssl('genrsa', '-out', 'other', '2048');
  const client = (key: string, clientKeyPassword?: string, now = new Date()): unknown =>
    tlsOptions(
      {
        mode: 'verify-ca',
        caCertificate: read('c') + read('c'),
        clientCertificate: read('c').replaceAll('\n', '\r\n'),
        clientKey: read(key),
        ...(clientKeyPassword === undefined ? {} : { clientKeyPassword }),
      },
      'a',
      now,
    );
  const complaint = (work: () => unknown): string => {
    try {
      work();
    } catch (error) {
      if (error instanceof ConnectorError && error.kind === 'config_error') return error.message;
      throw error;
    }
    return '';
  };

  it.each([
    ['k1', undefined],
    ['k8', undefined],
    ['k8', 'not needed'],
    ['k1e', 'geheim'],
    ['k8e', 'geheim'],
  ])('a key as %s', (key, password) => {
    expect(client(key, password)).toMatchObject({
      key: read('k8'),
      ca: [expect.any(String), expect.any(String)],
    });
  });

  it('say what is wrong with them', () => {
    expect(complaint(() => client('k8e'))).toMatch(/`ssl_mode.client_key_password` is missing/);
    expect(complaint(() => client('k1e', 'x'))).toMatch(/client_key_password` does not open/);
    expect(complaint(() => client('k8e', 'x'))).toMatch(/client_key_password` does not open/);
    expect(complaint(() => client('other'))).toMatch(/does not belong to the client certificate/);
    expect(complaint(() => client('c'))).toMatch(/client_key` is not a private key/);
    const later = new Date(Date.now() + 3 * 86_400_000);
    expect(complaint(() => client('k8', undefined, later))).toMatch(/has expired/);
    const earlier = new Date(Date.now() - 86_400_000);
    expect(complaint(() => client('k8', undefined, earlier))).toMatch(/not valid yet/);
    const ca = (caCertificate: string) => () =>
      tlsOptions({ mode: 'require', caCertificate }, 'a', new Date());
    expect(complaint(ca('no'))).toMatch(/ca_certificate` is not a certificate/);
    const half = { mode: 'require', clientCertificate: read('c') } as const;
    expect(complaint(() => tlsOptions(half, 'a', new Date()))).toMatch(/client_key` is missing/);
  });

  it('are asked for where libpq does', () => {
    expect(tlsOptions({ mode: 'require' }, 'a', new Date())).toEqual({ rejectUnauthorized: false });
    const trusted = { mode: 'require', caCertificate: read('c') } as const;
    expect(tlsOptions(trusted, 'a', new Date())).toMatchObject({ rejectUnauthorized: true });
    expect(tlsAttempts('prefer')).toEqual([true, false]);
    expect(tlsAttempts('allow')).toEqual([false, true]);
    expect(tlsAttempts('verify-ca')).toEqual([true]);
  });
});
