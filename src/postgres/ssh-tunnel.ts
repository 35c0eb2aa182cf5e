/**
 * One SSH connection to a bastion; each session gets a channel of it, and nobody else on this machine can reach it.
 * `ssh2` speaks the protocol: there need be no ssh program where the connector runs.
 */
import { createPrivateKey, type KeyObject } from 'node:crypto';
import type { Duplex } from 'node:stream';
import ssh2 from 'ssh2';
import { asConnectorError, ConnectorError, errorCode } from '../errors.ts';
import { pemText } from './tls.ts';

type SshServer = { readonly host: string; readonly port: number; readonly user: string };

export type TunnelSettings =
  | { readonly method: 'NO_TUNNEL' }
  | ({
      readonly method: 'SSH_KEY_AUTH';
      readonly key: string;
      /** Of an encrypted key; passed over where it is not. */
      readonly passphrase?: string;
    } & SshServer)
  | ({ readonly method: 'SSH_PASSWORD_AUTH'; readonly password: string } & SshServer);

type KeySettings = { readonly key: string; readonly passphrase?: string };
type SshSettings = Exclude<TunnelSettings, { readonly method: 'NO_TUNNEL' }>;

const READY_TIMEOUT_MS = 30_000;
const KEEPALIVE_MS = 15_000;
/** Unanswered ones before the tunnel is given up. */
const KEEPALIVES = 4;

/** What `pg` expects of a socket, on a channel that is connected already. */
type ChannelSocket = Duplex & {
  connect(): void;
  setNoDelay(): void;
  setKeepAlive(): void;
  ref(): void;
  unref(): void;
};

export class Tunnel {
  readonly #client: ssh2.Client;
  readonly #where: string;

  private constructor(client: ssh2.Client, where: string) {
    this.#client = client;
    this.#where = where;
  }

  /** @throws ConnectorError: config where a person must act, transient where the bastion does not answer. */
  static open(settings: SshSettings): Promise<Tunnel> {
    const { host, port, user } = settings;
    const where = `${host}:${port}`;
    const login =
      settings.method === 'SSH_KEY_AUTH'
        ? {
            authHandler: [{ type: 'publickey' as const, username: user, key: usableKey(settings) }],
          }
        : { password: settings.password, tryKeyboard: true };
    const client = new ssh2.Client();
    if (settings.method === 'SSH_PASSWORD_AUTH') {
      const { password } = settings;
      client.on('keyboard-interactive', (_name, _text, _language, prompts, answer) => {
        answer(prompts.map(() => password));
      });
    }
    return new Promise((resolve, reject) => {
      client.once('ready', () => resolve(new Tunnel(client, where)));
      // Also after the login: what it cuts off is told by each session that it breaks.
      client.on('error', (error) => reject(explain(error, settings, where)));
      client.once('close', () => reject(broken(`The SSH server ${where} closed the connection.`)));
      client.connect({
        host,
        port,
        username: user,
        ...login,
        readyTimeout: READY_TIMEOUT_MS,
        keepaliveInterval: KEEPALIVE_MS,
        keepaliveCountMax: KEEPALIVES,
      });
    });
  }

  /** A way to the database server, as the bastion sees its name. */
  channel(host: string, port: number): Promise<ChannelSocket> {
    return new Promise((resolve, reject) => {
      const fail = (error: Error): void => reject(refusedChannel(error, this.#where, host, port));
      try {
        this.#client.forwardOut('127.0.0.1', 0, host, port, (error, channel) => {
          if (error === undefined) resolve(asSocket(channel));
          else fail(error);
        });
      } catch (error) {
        fail(error instanceof Error ? error : new Error(String(error)));
      }
    });
  }

  onClose(listener: () => void): void {
    this.#client.once('close', listener);
  }

  end(): void {
    this.#client.end();
  }
}

const nothing = (): void => undefined;

function asSocket(channel: Duplex): ChannelSocket {
  return Object.assign(channel, {
    connect: () => {
      queueMicrotask(() => channel.emit('connect'));
    },
    setNoDelay: nothing,
    setKeepAlive: nothing,
    ref: nothing,
    unref: nothing,
  });
}

function bad(
  what: string,
  cause?: unknown,
  fix = 'Paste a private key in OpenSSH or PEM format, from its BEGIN to its END line.',
): ConnectorError {
  return new ConnectorError(`\`tunnel_method.ssh_key\` ${what}.`, {
    kind: 'config_error',
    fix,
    cause,
  });
}

function locked(): ConnectorError {
  return bad(
    'is protected by a passphrase',
    undefined,
    'Put it into `tunnel_method.ssh_key_passphrase`, or take it away: ssh-keygen -p.',
  );
}

/** @param cause says nothing of the key: that one's own words are about padding and check bytes. */
function wrongPassphrase(cause: unknown): ConnectorError {
  return new ConnectorError('`tunnel_method.ssh_key_passphrase` does not open the SSH key.', {
    kind: 'config_error',
    fix: 'Enter the passphrase of this key, as ssh-keygen -y asks for it.',
    cause,
  });
}

/**
 * A key as `ssh2` reads it, unencrypted. PKCS#8, which it does not read, is written anew in the older form of its kind.
 * Opened once: an OpenSSH key makes that slow on purpose.
 */
function usableKey({ key: given, passphrase }: KeySettings): ssh2.ParsedKey {
  const text = pemText(given);
  const key = /BEGIN (ENCRYPTED )?PRIVATE KEY/.test(text) ? olderForm(text, passphrase) : text;
  const parsed = ssh2.utils.parseKey(key, passphrase);
  if (parsed instanceof Error) {
    if (/no passphrase given/i.test(parsed.message)) throw locked();
    // The second one: by a cipher that authenticates, such as aes256-gcm.
    if (/bad passphrase|unable to authenticate/i.test(parsed.message))
      throw wrongPassphrase(parsed);
    throw bad('cannot be read', parsed);
  }
  const [first] = Array.isArray(parsed) ? parsed : [parsed];
  if (first?.isPrivateKey() !== true) throw bad('is a public key, not the private one');
  return first;
}

/** @param text a key as PKCS#8. */
function olderForm(text: string, passphrase: string | undefined): string {
  const encrypted = text.includes('BEGIN ENCRYPTED');
  if (encrypted && passphrase === undefined) throw locked();
  let key: KeyObject;
  try {
    key = createPrivateKey({ key: text, ...(encrypted ? { passphrase: passphrase ?? '' } : {}) });
  } catch (error) {
    throw encrypted ? wrongPassphrase(error) : bad('cannot be read', error);
  }
  if (key.asymmetricKeyType === 'rsa')
    return key.export({ type: 'pkcs1', format: 'pem' }).toString();
  if (key.asymmetricKeyType === 'ec') return key.export({ type: 'sec1', format: 'pem' }).toString();
  throw bad(
    `is a ${key.asymmetricKeyType} key as PKCS#8`,
    undefined,
    'Write it anew in OpenSSH format: ssh-keygen -p.',
  );
}

function explain(
  error: Error & { level?: string },
  settings: SshSettings,
  where: string,
): ConnectorError {
  if (error.level === 'client-authentication') {
    const what = settings.method === 'SSH_KEY_AUTH' ? 'key' : 'password';
    return new ConnectorError(`The SSH server ${where} refused the user or the ${what}.`, {
      kind: 'config_error',
      fix: `Check \`tunnel_method.tunnel_user\` and \`tunnel_method.${what === 'key' ? 'ssh_key' : 'tunnel_user_password'}\`, and what the server lets in.`,
      cause: error,
    });
  }
  if (error.level === 'client-timeout')
    return broken(`The SSH server ${where} does not answer.`, error);
  const known = asConnectorError(error, `connecting to the SSH server ${where}`);
  const fix = 'Check `tunnel_method.tunnel_host` and `tunnel_method.tunnel_port`.';
  if (known.kind === 'system_error') {
    return new ConnectorError(`There is no SSH session with ${where}: ${error.message}.`, {
      kind: 'config_error',
      fix,
      cause: error,
    });
  }
  return new ConnectorError(known.message, {
    kind: known.kind,
    fix,
    cause: error,
    ...(known.again === undefined ? {} : { again: known.again }),
  });
}

function broken(sentence: string, cause?: unknown): ConnectorError {
  return new ConnectorError(sentence, { kind: 'transient_error', again: 'once connected', cause });
}

/** Reasons of RFC 4254, section 5.1. */
const PROHIBITED = 1;
const CONNECT_FAILED = 2;

function refusedChannel(
  error: Error & { reason?: number },
  where: string,
  host: string,
  port: number,
): ConnectorError {
  const target = `${host}:${port}`;
  if (error.reason === PROHIBITED) {
    return new ConnectorError(
      `The SSH server ${where} does not forward connections to ${target}.`,
      {
        kind: 'config_error',
        fix: 'Allow it there: AllowTcpForwarding and PermitOpen in sshd_config, permitopen in authorized_keys.',
        cause: error,
      },
    );
  }
  if (error.reason === CONNECT_FAILED) {
    return new ConnectorError(`The SSH server ${where} cannot reach ${target}: ${error.message}.`, {
      kind: 'transient_error',
      again: 'once connected',
      fix: 'Check `host` and `port` as the bastion sees them, and that the server listens there.',
      cause: error,
    });
  }
  return broken(
    `The SSH tunnel through ${where} broke${errorCode(error) === '' ? '' : ` (${errorCode(error)})`}.`,
    error,
  );
}
