/** `host` as a list: which servers there are, and which of them is meant. */
import { isIPv6 } from 'node:net';
import { asConnectorError, ConnectorError } from '../errors.ts';

export type Host = { readonly host: string; readonly port: number };

/** As JDBC's targetServerType: https://jdbc.postgresql.org/documentation/use/#connection-parameters */
export type Target = 'any' | 'primary' | 'secondary' | 'preferPrimary' | 'preferSecondary';

/** A host of the list, with or without a port; an address of IPv6 with a port stands in brackets. Null: it is none. */
function parseHost(text: string, defaultPort: number): Host | null {
  if (isIPv6(text)) return { host: text, port: defaultPort };
  const match = /^(?:\[([^\]]+)\]|([^\s:[\]]+))(?::(\d{1,5}))?$/.exec(text);
  const [, address, name, port] = match ?? [];
  const host = address ?? name;
  const number = port === undefined ? defaultPort : Number(port);
  if (host === undefined || number > 65535 || (address !== undefined && !isIPv6(address)))
    return null;
  return { host, port: number };
}

/** The hosts of a comma-separated list. Null: one of them is not a host, or there is none. */
export function parseHosts(list: string, defaultPort: number): readonly Host[] | null {
  const parts = list
    .split(',')
    .map((part) => part.trim())
    .filter((part) => part !== '');
  const hosts = parts.map((part) => parseHost(part, defaultPort));
  if (hosts.length === 0 || hosts.includes(null)) return null;
  return hosts.filter((host) => host !== null);
}

/** `host:port` for a sentence. */
export function hostLabel({ host, port }: Host): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
}

/** Whether a server that is (not) a standby is what is wanted, first and where that finds none. */
export function wantedStandby(target: Target): readonly (boolean | null)[] {
  switch (target) {
    case 'any':
      return [null];
    case 'primary':
      return [false];
    case 'secondary':
      return [true];
    case 'preferPrimary':
      return [false, null];
    case 'preferSecondary':
      return [true, null];
    default:
      return target satisfies never;
  }
}

/** A server that answers but is not the one that is meant. */
export class OtherServer extends Error {
  override readonly name = 'OtherServer';
}

export type Refusal = { readonly host: Host; readonly error: unknown };

/** None of several hosts fits: one sentence that says why for each. */
export function noneFits(refusals: readonly Refusal[], target: Target): ConnectorError {
  const reasons = refusals.map(({ host, error }) => {
    const where = hostLabel(host);
    if (error instanceof OtherServer) return `${where} ${error.message}`;
    return `${where}: ${asConnectorError(error, 'connecting').message.replace(/\.$/, '')}`;
  });
  const wanted =
    target === 'secondary' ? 'a standby' : target === 'primary' ? 'the primary' : 'one to use';
  const transient = refusals.some(
    ({ error }) =>
      !(error instanceof OtherServer) &&
      asConnectorError(error, 'connecting').kind === 'transient_error',
  );
  return new ConnectorError(`None of the hosts is ${wanted}: ${reasons.join('; ')}.`, {
    kind: transient ? 'transient_error' : 'config_error',
    // While another server takes over there is no primary for a moment.
    again: 'once connected',
    fix: 'Check `host`, and targetServerType in `jdbc_url_params`.',
  });
}
