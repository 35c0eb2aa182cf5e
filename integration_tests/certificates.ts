/** Certificates for tests, made by the openssl program. */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { capture } from './programs.ts';

async function openssl(folder: string, ...args: readonly string[]): Promise<void> {
  await capture('sh', ['-c', 'cd "$1" && shift && exec openssl "$@"', 'sh', folder, ...args]);
}

async function issue(
  folder: string,
  name: string,
  authority: string,
  subject: string,
  more = '',
): Promise<void> {
  await openssl(
    folder,
    'req',
    '-new',
    '-newkey',
    'rsa:2048',
    '-nodes',
    '-keyout',
    `${name}.key`,
    '-out',
    `${name}.csr`,
    '-subj',
    `/CN=${subject}`,
  );
  await writeFile(join(folder, `${name}.ext`), more);
  await openssl(
    folder,
    'x509',
    '-req',
    '-in',
    `${name}.csr`,
    '-CA',
    `${authority}.crt`,
    '-CAkey',
    `${authority}.key`,
    '-CAcreateserial',
    '-days',
    '2',
    '-extfile',
    `${name}.ext`,
    '-out',
    `${name}.crt`,
  );
}

/** A server's and a client's certificate by `ca`, a stranger's by `foreign`; each name with `.crt` and `.key`, as PEM. */
export async function makeCertificates(): Promise<Readonly<Record<string, string>>> {
  const pem: Record<string, string> = {};
  const folder = await mkdtemp(join(tmpdir(), 'certificates-'));
  for (const name of ['ca', 'foreign']) {
    await openssl(
      folder,
      'req',
      '-x509',
      '-newkey',
      'rsa:2048',
      '-nodes',
      '-keyout',
      `${name}.key`,
      '-out',
      `${name}.crt`,
      '-subj',
      `/CN=${name}`,
      '-days',
      '2',
    );
  }
  await issue(folder, 'server', 'ca', 'db.example', 'subjectAltName=DNS:db.example,IP:127.0.0.1');
  await issue(folder, 'client', 'ca', 'certified');
  await issue(folder, 'stranger', 'foreign', 'certified');
  for (const name of [
    'ca.crt',
    'foreign.crt',
    'server.crt',
    'server.key',
    'client.crt',
    'client.key',
    'stranger.crt',
    'stranger.key',
  ]) {
    pem[name] = await readFile(join(folder, name), 'utf8');
  }
  await rm(folder, { recursive: true, force: true });
  return pem;
}
