import { describe, expect, it } from 'vitest';
import { asConnectorError, ConnectorError, errorCode, type FailureKind } from '../src/errors.ts';

/** As `pg` throws what the server or the socket says. */
function failure(code: string, message = 'what the server said'): Error {
  return Object.assign(new Error(message), { code });
}

describe('an error of the server or the socket', () => {
  it.each<[code: string, kind: FailureKind, says: RegExp]>([
    ['28P01', 'config_error', /user name or password/],
    ['28000', 'config_error', /does not let this user in/],
    ['3D000', 'config_error', /database does not exist/],
    ['42501', 'config_error', /lacks a privilege/],
    ['42704', 'config_error', /does not exist/],
    ['42P01', 'config_error', /table .* does not exist/],
    ['42703', 'config_error', /column .* does not exist/],
    ['53300', 'transient_error', /no free connection slot/],
    ['53400', 'config_error', /limit set on the server/],
    ['53100', 'transient_error', /short of a resource/],
    ['53200', 'transient_error', /short of a resource/],
    ['55006', 'transient_error', /in use by another session/],
    ['55P03', 'transient_error', /lock could not be had/],
    ['55000', 'config_error', /present state/],
    ['57014', 'transient_error', /cancelled/],
    ['57P01', 'transient_error', /shutting down/],
    ['57P03', 'transient_error', /starting up/],
    ['40001', 'transient_error', /rolled our transaction back/],
    ['40P01', 'transient_error', /rolled our transaction back/],
    ['08006', 'transient_error', /connection to the server broke/],
    ['08P01', 'transient_error', /connection to the server broke/],
    ['25006', 'config_error', /read-only/],
    ['58P01', 'config_error', /WAL .* is gone/],
    ['ENOTFOUND', 'config_error', /host name cannot be resolved/],
    ['EAI_AGAIN', 'transient_error', /cannot be resolved at the moment/],
    ['ECONNREFUSED', 'transient_error', /Nothing accepts connections/],
    ['ETIMEDOUT', 'transient_error', /did not answer in time/],
    ['EHOSTUNREACH', 'transient_error', /host cannot be reached/],
    ['ENETUNREACH', 'transient_error', /network cannot be reached/],
    ['ECONNRESET', 'transient_error', /connection to the server broke/],
    ['EPIPE', 'transient_error', /connection to the server broke/],
    ['XX000', 'system_error', /^Failed while reading/],
    ['42601', 'system_error', /^Failed while reading/],
    ['22P02', 'system_error', /^Failed while reading/],
    ['EACCES', 'system_error', /^Failed while reading/],
    ['', 'system_error', /^Failed while reading/],
  ])('%s is a %s', (code, kind, says) => {
    const cause = failure(code);
    const error = asConnectorError(cause, 'reading');
    expect(error.kind).toBe(kind);
    expect(error.message).toMatch(says);
    expect(error.message).toContain('what the server said');
    expect(error.message).toContain('while reading');
    expect(error.cause).toBe(cause);
    if (kind === 'config_error') expect(error.fix).toMatch(/^[A-Z].*\.$/);
  });

  it.each<[text: string, kind: FailureKind]>([
    ['Connection terminated unexpectedly', 'transient_error'],
    ['Client has encountered a connection error and is not queryable', 'transient_error'],
    ['timeout expired', 'transient_error'],
    ['The server does not support SSL connections', 'config_error'],
    ['self-signed certificate in certificate chain', 'config_error'],
    ['unable to verify the first certificate', 'config_error'],
    ['something else', 'system_error'],
  ])('without a code is told by its text: %s', (text, kind) => {
    expect(asConnectorError(new Error(text), 'reading').kind).toBe(kind);
  });

  it.each(['SELF_SIGNED_CERT_IN_CHAIN', 'CERT_HAS_EXPIRED', 'ERR_TLS_CERT_ALTNAME_INVALID'])(
    'of TLS (%s) is for the user to settle',
    (code) => {
      const error = asConnectorError(failure(code, 'certificate has expired'), 'connecting');
      expect([error.kind, error.fix]).toEqual([
        'config_error',
        'Check `ssl_mode` and the certificates.',
      ]);
    },
  );

  it('of the server is not taken for one of TLS because of a name in it', () => {
    const error = asConnectorError(failure('22P02', 'invalid input: "ssl_certificate"'), 'reading');
    expect(error.kind).toBe('system_error');
  });

  it('of several addresses tells what they said', () => {
    const each = ['::1', '127.0.0.1'].map((at) =>
      failure('ECONNREFUSED', `connect ECONNREFUSED ${at}:5432`),
    );
    const all = Object.assign(new AggregateError(each), { code: 'ECONNREFUSED' });
    const error = asConnectorError(all, 'connecting');
    expect(error.kind).toBe('transient_error');
    expect(error.message).toContain('connect ECONNREFUSED 127.0.0.1:5432');
  });
});

describe('anything thrown', () => {
  it.each<[unknown, string]>([
    ['a text', 'a text'],
    [7, '7'],
    [null, 'null'],
    [undefined, 'undefined'],
    [{ code: 7 }, '[object Object]'],
  ])('is told, whatever it is: %j', (thrown, text) => {
    const error = asConnectorError(thrown, 'reading');
    expect(error).toBeInstanceOf(ConnectorError);
    expect(error.kind).toBe('system_error');
    expect(error.message).toBe(`Failed while reading: ${text}`);
  });

  it('passes unchanged if it has its sentence already', () => {
    const error = new ConnectorError('Said.', { kind: 'config_error', fix: 'Do this.' });
    expect(asConnectorError(error, 'reading')).toBe(error);
  });
});

describe('a password in a connection string', () => {
  it.each([
    'cannot use postgres://me:hunter2@db:5432/metrics',
    'cannot use postgresql://me:hunter2@db/metrics?sslmode=require',
    'cannot use postgres://me:p%40hunter2@db',
    'cannot use postgres://:hunter2@db',
    'cannot use "host=db user=me password=hunter2 dbname=metrics"',
    "cannot use host=db password='two words hunter2' dbname=metrics",
    'cannot use postgres://db/metrics?user=me&password=hunter2&ssl=true',
    'first postgres://a:hunter2@b, then postgres://c:hunter2@d',
  ])('is not shown: %s', (text) => {
    for (const code of ['08006', 'XX000']) {
      const { message, userMessage } = asConnectorError(failure(code, text), 'connecting');
      expect(`${message} ${userMessage}`).not.toContain('hunter2');
      expect(message).toMatch(/metrics|@db|@d/);
    }
  });

  it('does not hide what only looks like one', () => {
    const text = 'relation "a:b" at 10:20 in host:5432, mail me@db.example';
    expect(asConnectorError(new Error(text), 'reading').message).toContain(text);
  });
});

describe('a ConnectorError', () => {
  it('tells what happened and what to do', () => {
    const error = new ConnectorError('It broke.', { kind: 'config_error', fix: 'Mend it.' });
    expect(error.userMessage).toBe('It broke. Mend it.');
    expect(new ConnectorError('It broke.', { kind: 'system_error' }).userMessage).toBe('It broke.');
  });

  it('may name its stream and its cause', () => {
    const stream = { name: 'metrics', namespace: 'public' };
    const cause = new Error('why');
    const error = new ConnectorError('It broke.', { kind: 'system_error', stream, cause });
    expect(error).toMatchObject({ name: 'ConnectorError', stream, cause });
    expect('cause' in new ConnectorError('It broke.', { kind: 'system_error' })).toBe(false);
  });
});

describe('a code', () => {
  it.each<[unknown, string]>([
    [failure('42P01'), '42P01'],
    [{ code: 'EPIPE' }, 'EPIPE'],
    [{ code: 7 }, ''],
    [new Error('x'), ''],
    ['42P01', ''],
    [null, ''],
  ])('of %s is %j', (thrown, code) => {
    expect(errorCode(thrown)).toBe(code);
  });
});
