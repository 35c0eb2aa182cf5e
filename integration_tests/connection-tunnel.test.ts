/** The server behind a real sshd. */
import { createPrivateKey } from 'node:crypto';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { JsonObject } from '../src/airbyte/protocol.ts';
import { run } from './connector.ts';
import { createDatabase, type Database } from './database.ts';
import { EMPTY, expectRefused } from './refusals.ts';
import { connectTo, DAY_ZERO, nthState, sessions, stopWhen } from './scenario.ts';
import { type Bastion, PASSPHRASE, placeOf, startBastion } from './services.ts';

let db: Database;
let bastion: Bastion | undefined;
let reason = '';

beforeAll(async () => {
  db = await createDatabase();
  await db.query(`
    CREATE TABLE metrics (time timestamptz NOT NULL, device int NOT NULL, note text, PRIMARY KEY (time, device));
    SELECT create_hypertable('metrics', 'time', chunk_time_interval => interval '1 day');
    INSERT INTO metrics SELECT '${DAY_ZERO}'::timestamptz + i * interval '10 seconds', 1, repeat(md5(i::text), 10)
      FROM generate_series(0, 29999) i`);
  const place = await placeOf('/usr/sbin/sshd');
  if (typeof place === 'string') reason = place;
  else bastion = await startBastion(place);
});

afterAll(async () => {
  await bastion?.stop();
  await db[Symbol.asyncDispose]();
});

function server(it: Bastion): JsonObject {
  return { tunnel_host: '127.0.0.1', tunnel_port: it.port, tunnel_user: it.user };
}

const byKey = (it: Bastion, ssh_key: string, ssh_key_passphrase?: string): JsonObject => ({
  tunnel_method: {
    tunnel_method: 'SSH_KEY_AUTH',
    ...server(it),
    ssh_key,
    ...(ssh_key_passphrase === undefined ? {} : { ssh_key_passphrase }),
  },
});

/** As PKCS#8, which ssh-keygen writes only if it is asked to. */
const asPkcs8 = (key: string, passphrase?: string): string =>
  createPrivateKey(key)
    .export({
      type: 'pkcs8',
      format: 'pem',
      ...(passphrase === undefined ? {} : { cipher: 'aes-256-cbc', passphrase }),
    })
    .toString();

const byPassword = (it: Bastion, tunnel_user_password: string): JsonObject => ({
  tunnel_method: { tunnel_method: 'SSH_PASSWORD_AUTH', ...server(it), tunnel_user_password },
});

async function expectFailure(overrides: JsonObject, sentence: RegExp): Promise<void> {
  const config = db.config(overrides);
  const { message } = (await run('check', { config })).connectionStatus();
  expect(message).toMatch(sentence);
  const secrets = Object.values(overrides['tunnel_method'] as JsonObject).filter(
    (value) => typeof value === 'string' && (value.length > 40 || value.startsWith(PASSPHRASE)),
  );
  for (const secret of secrets) expect(message).not.toContain(secret);
}

test('a sync with changes: every session goes through the one tunnel', async (context) => {
  if (bastion === undefined) {
    context.skip(reason);
    return;
  }
  const before = bastion.log().match(/Accepted publickey/g)?.length ?? 0;
  const connection = await connectTo(db, {}, byKey(bastion, bastion.keys.openssh));
  let seen = 0;
  const first = await connection.sync(
    stopWhen(nthState(1), async () => {
      seen = (await sessions(db)).length;
    }),
  );
  first.succeeded();
  await connection.expectEqual('metrics');
  await db.query(
    `UPDATE metrics SET device = 2 WHERE time < '${DAY_ZERO}'::timestamptz + interval '1 hour'`,
  );
  (await connection.sync()).succeeded();
  await connection.expectEqual('metrics');
  expect(seen).toBeGreaterThan(1);
  // discover, and two reads.
  expect(bastion.log().match(/Accepted publickey/g)?.length).toBe(before + 3);
});

test('keys in PEM format, in PKCS#8, with line ends of other kinds; a password', async (context) => {
  if (bastion === undefined) {
    context.skip(reason);
    return;
  }
  for (const key of [
    bastion.keys.pem,
    asPkcs8(bastion.keys.pem),
    bastion.keys.openssh.trim().replaceAll('\n', '\\n'),
  ]) {
    const check = await run('check', { config: db.config(byKey(bastion, key)) });
    expect(check.connectionStatus(), key.slice(0, 40)).toEqual({ status: 'SUCCEEDED' });
  }
  if (bastion.password === null) return;
  const check = await run('check', { config: db.config(byPassword(bastion, bastion.password)) });
  expect(check.connectionStatus()).toEqual({ status: 'SUCCEEDED' });
});

test('encrypted keys: OpenSSH by an older and a newer cipher, PEM, PKCS#8; a passphrase too many', async (context) => {
  if (bastion === undefined) {
    context.skip(reason);
    return;
  }
  const { keys } = bastion;
  const encrypted = [keys.locked, keys.lockedGcm, keys.lockedPem, asPkcs8(keys.pem, PASSPHRASE)];
  for (const key of [...encrypted, keys.openssh]) {
    const check = await run('check', { config: db.config(byKey(bastion, key, PASSPHRASE)) });
    expect(check.connectionStatus(), key.slice(0, 60)).toEqual({ status: 'SUCCEEDED' });
  }
  // Found out here: nothing was sent, not even to a bastion that is not there.
  const nowhere = { ...bastion, port: 1 };
  for (const key of encrypted) {
    await expectFailure(
      byKey(nowhere, key),
      /^`tunnel_method.ssh_key` is protected by a passphrase\. .*ssh_key_passphrase/,
    );
    await expectFailure(
      byKey(nowhere, key, `${PASSPHRASE} `),
      /^`tunnel_method.ssh_key_passphrase` does not open the SSH key\./,
    );
  }
  const read = await run('read', {
    config: db.config(byKey(nowhere, keys.locked, 'a wrong one')),
    catalog: EMPTY,
  });
  expectRefused(read, 'config_error', /ssh_key_passphrase` does not open/);
  expect(read.lines.join('\n')).not.toContain('a wrong one');
});

test('what is wrong is said', async (context) => {
  if (bastion === undefined) {
    context.skip(reason);
    return;
  }
  const { keys } = bastion;
  await expectFailure(byKey(bastion, 'no key'), /`tunnel_method.ssh_key` cannot be read/);
  await expectFailure(byKey(bastion, keys.foreign), /refused the user or the key/);
  await expectFailure(byPassword(bastion, 'wrong'), /refused the user or the password/);
  await expectFailure(
    { ...byKey(bastion, keys.openssh), port: 1 },
    /SSH server 127\.0\.0\.1:\d+ cannot reach 127\.0\.0\.1:1/,
  );
  const nowhere = { ...bastion, port: 1 };
  await expectFailure(byKey(nowhere, keys.openssh), /SSH server 127\.0\.0\.1:1: .*tunnel_port/);
  const read = await run('read', {
    config: db.config(byKey(nowhere, keys.openssh)),
    catalog: EMPTY,
  });
  expectRefused(read, 'transient_error', /connecting to the SSH server/);
});

test('a tunnel that dies in mid-read: the sync goes on through a new one', async (context) => {
  if (bastion === undefined) {
    context.skip(reason);
    return;
  }
  const it = bastion;
  const connection = await connectTo(db, {}, byKey(it, it.keys.openssh));
  await connection.clear();
  const result = await connection.sync(
    stopWhen(nthState(1), () => {
      const [, pid] = [...it.log().matchAll(/User child is on pid (\d+)/g)].at(-1) ?? [];
      process.kill(Number(pid));
      return Promise.resolve();
    }),
  );
  result.succeeded();
  expect(result.logs().join('\n')).toMatch(/The connection to the server broke|tunnel .* broke/);
  await connection.expectEqual('metrics');
});

test('a server that forwards nothing', async (context) => {
  const place = await placeOf('/usr/sbin/sshd');
  if (typeof place === 'string') {
    context.skip(place);
    return;
  }
  const closed = await startBastion(place, ['AllowTcpForwarding no']);
  try {
    await expectFailure(byKey(closed, closed.keys.openssh), /does not forward connections/);
  } finally {
    await closed.stop();
  }
});
