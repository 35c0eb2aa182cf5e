/**
 * A token of Microsoft Entra in the place of a password.
 * https://learn.microsoft.com/en-us/entra/identity-platform/v2-oauth2-client-creds-grant-flow
 */
import { ConnectorError } from '../errors.ts';

export type EntraSettings = {
  readonly tenantId: string;
  readonly clientId: string;
  /** URL of the token service; Azure's libraries take it from AZURE_AUTHORITY_HOST, for clouds of their own. */
  readonly authority: string;
};

export const PUBLIC_AUTHORITY = 'https://login.microsoftonline.com';
const SCOPE = 'https://ossrdbms-aad.database.windows.net/.default';
const TIMEOUT_MS = 30_000;
/** A token that ends sooner is not used any more: a login takes a moment. */
const MARGIN_MS = 60_000;

type Token = { readonly text: string; readonly until: number };

const tokens = new WeakMap<EntraSettings, Token>();

/**
 * A token that is valid now; asked for anew when the last one is about to end.
 * @param secret the client secret. @throws ConnectorError, never with the secret or a token.
 */
export async function entraToken(settings: EntraSettings, secret: string): Promise<string> {
  const known = tokens.get(settings);
  if (known !== undefined && known.until > Date.now() + MARGIN_MS) return known.text;
  const token = await requestToken(settings, secret);
  tokens.set(settings, token);
  return token.text;
}

async function requestToken(settings: EntraSettings, secret: string): Promise<Token> {
  const url = tokenUrl(settings);
  let response: Response;
  let body: unknown;
  try {
    response = await fetch(url, {
      method: 'POST',
      body: new URLSearchParams({
        grant_type: 'client_credentials',
        client_id: settings.clientId,
        client_secret: secret,
        scope: SCOPE,
      }),
      redirect: 'error',
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    body = await response.json().catch(() => null);
  } catch (error) {
    const reason = error instanceof Error && error.cause instanceof Error ? error.cause : error;
    throw new ConnectorError(
      `Microsoft Entra cannot be reached at ${url.origin}: ${reason instanceof Error ? reason.message : 'no answer'}.`,
      { kind: 'transient_error', again: 'once connected', cause: error },
    );
  }
  if (response.ok && isAnswer(body)) {
    return { text: body.access_token, until: Date.now() + Number(body.expires_in) * 1000 };
  }
  throw refused(response.status, body);
}

function tokenUrl({ authority, tenantId }: EntraSettings): URL {
  const usable = URL.canParse(authority) ? new URL(authority) : null;
  const local = /^(localhost|127\.0\.0\.1|\[::1\])$/.test(usable?.hostname ?? '');
  if (
    usable === null ||
    !(usable.protocol === 'https:' || (usable.protocol === 'http:' && local))
  ) {
    throw new ConnectorError('AZURE_AUTHORITY_HOST is not an https URL.', { kind: 'config_error' });
  }
  return new URL(`/${encodeURIComponent(tenantId)}/oauth2/v2.0/token`, usable);
}

function isAnswer(body: unknown): body is { access_token: string; expires_in: number | string } {
  return (
    typeof body === 'object' &&
    body !== null &&
    'access_token' in body &&
    typeof body.access_token === 'string' &&
    'expires_in' in body &&
    Number.isFinite(Number(body.expires_in))
  );
}

/** Only codes are shown: descriptions quote what was sent. */
function refused(status: number, body: unknown): ConnectorError {
  const fields = typeof body === 'object' && body !== null ? body : {};
  const code = 'error' in fields ? String(fields.error) : '';
  const number =
    'error_description' in fields ? /AADSTS\d+/.exec(String(fields.error_description)) : null;
  const shown = [
    `HTTP ${status}`,
    ...(/^\w{1,60}$/.test(code) ? [code] : []),
    ...(number ?? []),
  ].join(', ');
  if (status === 429 || status >= 500) {
    return new ConnectorError(`Microsoft Entra gives no token at the moment (${shown}).`, {
      kind: 'transient_error',
      again: 'always',
    });
  }
  return new ConnectorError(`Microsoft Entra refused the service principal (${shown}).`, {
    kind: 'config_error',
    fix: 'Check `entra_tenant_id`, `entra_client_id` and `password`, which is the client secret: it may have expired.',
  });
}
