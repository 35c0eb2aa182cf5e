/**
 * Programs beside the server: an sshd and a pgbouncer, from this machine or out of the Debian root that servers are
 * started from. Each runs as long as the test, and ends when its process is gone, however that went.
 */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer, type AddressInfo } from 'node:net';
import { join } from 'node:path';
import { tmpdir } from 'node:os';
import { until } from './database.ts';
import { capture } from './programs.ts';
import { ensureRoot } from './server-debian.ts';

/** Ends the program when its input does. */
const KEEPER = `
"$@" </dev/null >&2 &
pid=$!
trap 'kill $pid' EXIT
read -r _
`;

export type Service = {
  readonly port: number;
  /** What it has logged so far. */
  readonly log: () => string;
  readonly stop: () => Promise<void>;
};

/** Where a program is, and how to run it: `prefix` goes before the command, `root` before paths of its files. */
export type Place = { readonly prefix: readonly string[]; readonly root: string };

/** @returns the reason where there is none. */
export async function placeOf(program: string): Promise<Place | string> {
  if (existsSync(program)) return { prefix: [], root: '' };
  try {
    const root = await ensureRoot('trixie', () => undefined);
    return { prefix: ['chroot', root], root };
  } catch (error) {
    return `there is no ${program} here, and no root can be made: ${String(error)}`;
  }
}

export async function freePort(): Promise<number> {
  const probe = createServer();
  await new Promise<void>((resolve) => probe.listen(0, '127.0.0.1', () => resolve()));
  const { port } = probe.address() as AddressInfo;
  await new Promise((resolve) => probe.close(resolve));
  return port;
}

async function start(
  place: Place,
  command: readonly string[],
  port: number,
  ready: RegExp,
  folder: string,
): Promise<Service> {
  const child = spawn('sh', ['-c', KEEPER, 'sh', ...place.prefix, ...command], {
    stdio: ['pipe', 'ignore', 'pipe'],
  });
  let log = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => (log += text));
  const closed = new Promise((resolve) => child.once('close', resolve));
  await until(`${command[0]} is ready`, () => {
    if (child.exitCode !== null) throw new Error(`${command[0]} ended: ${log}`);
    return Promise.resolve(ready.test(log));
  });
  const stop = async (): Promise<void> => {
    child.stdin.end();
    await closed;
    await rm(folder, { recursive: true, force: true });
  };
  return { port, log: () => log, stop };
}

export type Bastion = Service & {
  readonly user: string;
  /** Null: only a bastion of our own has a user whose password is known. */
  readonly password: string | null;
  /** Private keys; it lets in all but `foreign`. Those whose name begins with `locked` have the passphrase. */
  readonly keys: Readonly<Record<(typeof KEYS)[number], string>>;
};

export const PASSPHRASE = "offen s'il ß%&";
const KEYS = ['openssh', 'pem', 'locked', 'lockedPem', 'lockedGcm', 'foreign'] as const;

const TUNNEL_PASSWORD = "p'ä ß%1";

/** @param lines more of sshd_config. */
export async function startBastion(place: Place, lines: readonly string[] = []): Promise<Bastion> {
  const folder = await mkdtemp(
    join(place.root === '' ? tmpdir() : join(place.root, 'srv'), 'sshd-'),
  );
  const inside = folder.slice(place.root.length);
  await chmod(folder, 0o755);
  const make = (name: string, ...args: string[]): Promise<string> =>
    capture('ssh-keygen', ['-q', '-C', 'test', '-f', join(folder, name), ...args]);
  await make('host', '-t', 'ed25519', '-N', '');
  await make('openssh', '-t', 'ed25519', '-N', '');
  await make('pem', '-t', 'rsa', '-b', '2048', '-m', 'PEM', '-N', '');
  await make('locked', '-t', 'ed25519', '-N', PASSPHRASE);
  await make('lockedPem', '-t', 'rsa', '-b', '2048', '-m', 'PEM', '-N', PASSPHRASE);
  await make('lockedGcm', '-t', 'ecdsa', '-Z', 'aes256-gcm@openssh.com', '-N', PASSPHRASE);
  await make('foreign', '-t', 'ed25519', '-N', '');
  const read = (name: string): Promise<string> => readFile(join(folder, name), 'utf8');
  const known = await Promise.all(
    KEYS.filter((name) => name !== 'foreign').map((name) => read(`${name}.pub`)),
  );
  await writeFile(join(folder, 'authorized_keys'), known.join(''));
  const port = await freePort();
  const own = place.root !== '';
  await writeFile(
    join(folder, 'config'),
    [
      `Port ${port}`,
      'ListenAddress 127.0.0.1',
      `HostKey ${inside}/host`,
      `AuthorizedKeysFile ${inside}/authorized_keys`,
      'PidFile none',
      'StrictModes no',
      'UsePAM no',
      'LogLevel VERBOSE',
      `PasswordAuthentication ${own ? 'yes' : 'no'}`,
      'KbdInteractiveAuthentication no',
      'PermitRootLogin prohibit-password',
      ...lines,
      '',
    ].join('\n'),
  );
  let user = process.env['USER'] ?? 'root';
  if (own) {
    user = 'tunnel';
    await mkdir(join(place.root, 'run/sshd'), { recursive: true, mode: 0o755 });
    await capture('chroot', [
      place.root,
      'sh',
      '-c',
      'flock /srv sh -c "id tunnel >/dev/null 2>&1 || useradd -m tunnel; echo \\"tunnel:$1\\" | chpasswd" sh "$1"',
      'sh',
      TUNNEL_PASSWORD,
    ]);
  } else await mkdir('/run/sshd', { recursive: true });
  const command = ['/usr/sbin/sshd', '-D', '-e', '-f', `${inside}/config`];
  const service = await start(place, command, port, /Server listening/, folder);
  const keys = Object.fromEntries(
    await Promise.all(KEYS.map(async (name) => [name, await read(name)] as const)),
  ) as Bastion['keys'];
  return {
    ...service,
    user,
    password: own ? TUNNEL_PASSWORD : null,
    keys,
  };
}

/** @param url of the server behind it. @param mode its pool_mode. @param lines more of its settings. */
export async function startPooler(
  place: Place,
  url: string,
  mode: 'session' | 'transaction' | 'statement',
  lines: readonly string[] = [],
): Promise<Service> {
  const folder = await mkdtemp(
    join(place.root === '' ? tmpdir() : join(place.root, 'srv'), 'pool-'),
  );
  await chmod(folder, 0o755);
  const inside = folder.slice(place.root.length);
  const { hostname, port: serverPort } = new URL(url);
  const port = await freePort();
  await writeFile(
    join(folder, 'pgbouncer.ini'),
    `[databases]
* = host=${hostname} port=${serverPort}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${port}
unix_socket_dir =
auth_type = trust
auth_file = ${inside}/users
pool_mode = ${mode}
ignore_startup_parameters = extra_float_digits,options
${lines.join('\n')}
`,
  );
  await writeFile(join(folder, 'users'), '"postgres" ""\n');
  const command = [
    '/usr/sbin/pgbouncer',
    '-u',
    place.root === '' ? 'nobody' : 'postgres',
    `${inside}/pgbouncer.ini`,
  ];
  return start(place, command, port, /process up/, folder);
}
