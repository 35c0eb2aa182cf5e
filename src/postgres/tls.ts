/**
 * `ssl_mode` as libpq means it: when to encrypt, what to verify, and what is wrong with certificates in words.
 * https://www.postgresql.org/docs/current/libpq-ssl.html#LIBPQ-SSL-PROTECTION
 */
import { createPrivateKey, type KeyObject, X509Certificate } from 'node:crypto';
import { checkServerIdentity, type ConnectionOptions } from 'node:tls';
import { ConnectorError, errorCode } from '../errors.ts';

export type TlsSettings = {
  readonly mode: 'disable' | 'allow' | 'prefer' | 'require' | 'verify-ca' | 'verify-full';
  readonly caCertificate?: string;
  readonly clientCertificate?: string;
  readonly clientKey?: string;
  readonly clientKeyPassword?: string;
};

/** Whether to encrypt: the first attempt, and the one that follows where the first is turned away. */
export function tlsAttempts(mode: TlsSettings['mode']): readonly boolean[] {
  if (mode === 'disable') return [false];
  if (mode === 'allow') return [false, true];
  return mode === 'prefer' ? [true, false] : [true];
}

/**
 * What Node's TLS is to do for this host.
 * @throws ConnectorError (config) when a certificate or a key cannot be used.
 */
export function tlsOptions(tls: TlsSettings, host: string, now: Date): ConnectionOptions {
  const { caCertificate } = tls;
  const own = ownCertificate(tls, now);
  if (caCertificate === undefined) {
    if (tls.mode.startsWith('verify-')) throw unusable('ssl_mode.ca_certificate', 'is missing');
    return { ...own, rejectUnauthorized: false };
  }
  const ca = pemText(caCertificate);
  // As libpq: where an authority is given it is asked, in every mode.
  const authorities = ca.match(/-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----/g) ?? [];
  if (authorities.length === 0 || !authorities.every(isCertificate)) {
    throw unusable('ssl_mode.ca_certificate', 'is not a certificate in PEM format');
  }
  return {
    ...own,
    ca: authorities,
    rejectUnauthorized: true,
    checkServerIdentity: (_, certificate) =>
      tls.mode === 'verify-full' ? checkServerIdentity(host, certificate) : undefined,
  };
}

function ownCertificate(tls: TlsSettings, now: Date): ConnectionOptions {
  if (tls.clientCertificate === undefined && tls.clientKey === undefined) return {};
  if (tls.clientKey === undefined) {
    throw unusable('ssl_mode.client_key', 'is missing: the client certificate needs its key');
  }
  if (tls.clientCertificate === undefined) {
    throw unusable(
      'ssl_mode.client_certificate',
      'is missing: the client key needs its certificate',
    );
  }
  const text = pemText(tls.clientCertificate);
  if (!isCertificate(text)) {
    throw unusable('ssl_mode.client_certificate', 'is not a certificate in PEM format');
  }
  const certificate = new X509Certificate(text);
  const key = privateKey(pemText(tls.clientKey), tls.clientKeyPassword);
  if (!certificate.checkPrivateKey(key)) {
    throw unusable('ssl_mode.client_key', 'does not belong to the client certificate');
  }
  if (new Date(certificate.validTo) < now) {
    throw unusable('ssl_mode.client_certificate', `has expired (${certificate.validTo})`);
  }
  if (new Date(certificate.validFrom) > now) {
    throw unusable(
      'ssl_mode.client_certificate',
      `is not valid yet (from ${certificate.validFrom} on)`,
    );
  }
  return { cert: text, key: key.export({ type: 'pkcs8', format: 'pem' }) };
}

function privateKey(text: string, passphrase: string | undefined): KeyObject {
  const encrypted = /BEGIN ENCRYPTED PRIVATE KEY|^Proc-Type:.*ENCRYPTED/m.test(text);
  if (encrypted && passphrase === undefined) {
    throw unusable(
      'ssl_mode.client_key',
      'is encrypted: `ssl_mode.client_key_password` is missing',
    );
  }
  try {
    return createPrivateKey({ key: text, ...(encrypted ? { passphrase: passphrase ?? '' } : {}) });
  } catch (error) {
    // OpenSSL's own words are about padding and ASN.1.
    throw encrypted
      ? unusable('ssl_mode.client_key_password', 'does not open the client key', error)
      : unusable('ssl_mode.client_key', 'is not a private key in PEM format', error);
  }
}

function isCertificate(text: string): boolean {
  try {
    return new X509Certificate(text).serialNumber !== '';
  } catch {
    return false;
  }
}

/** Forms and environment files bring line ends in other forms, down to the two characters `\n`. */
export function pemText(text: string): string {
  return `${text.replaceAll('\\r', '').replaceAll('\\n', '\n').replaceAll('\r\n', '\n').trim()}\n`;
}

function unusable(property: string, what: string, cause?: unknown): ConnectorError {
  return new ConnectorError(`\`${property}\` ${what}.`, {
    kind: 'config_error',
    fix: 'Paste the whole PEM text, from its BEGIN to its END line.',
    cause,
  });
}

/** What Node and OpenSSL say of the server's certificate: https://nodejs.org/api/tls.html#x509-certificate-error-codes */
const SERVER_CERTIFICATE: Readonly<Record<string, string>> = {
  CERT_HAS_EXPIRED: "The server's certificate has expired.",
  CERT_NOT_YET_VALID: "The server's certificate is not valid yet.",
  CERT_REVOKED: "The server's certificate was revoked.",
  DEPTH_ZERO_SELF_SIGNED_CERT: 'UNKNOWN',
  SELF_SIGNED_CERT_IN_CHAIN: 'UNKNOWN',
  UNABLE_TO_GET_ISSUER_CERT: 'UNKNOWN',
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: 'UNKNOWN',
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: 'UNKNOWN',
  CERT_SIGNATURE_FAILURE: 'UNKNOWN',
};
const UNKNOWN_AUTHORITY =
  "The server's certificate was not issued by the authority in `ssl_mode.ca_certificate`.";

/** Gives failures of TLS their sentence; everything else passes unchanged. */
export function explainTls(error: unknown, mode: TlsSettings['mode'], host: string): unknown {
  if (!(error instanceof Error)) return error;
  const code = errorCode(error);
  const say = (sentence: string, fix: string): ConnectorError =>
    new ConnectorError(sentence, { kind: 'config_error', fix, cause: error });
  if (/does not support SSL/.test(error.message)) {
    return say(
      'The server does not offer TLS.',
      `Turn TLS on at the server, or set \`ssl_mode\` to "prefer" or "disable" (now "${mode}").`,
    );
  }
  if (code === 'ERR_TLS_CERT_ALTNAME_INVALID') {
    return say(
      `The server's certificate is not made out for ${host}.`,
      'Put the name that is in the certificate into `host`, or set `ssl_mode` to "verify-ca".',
    );
  }
  const known = SERVER_CERTIFICATE[code];
  if (known !== undefined) {
    return say(
      known === 'UNKNOWN' ? UNKNOWN_AUTHORITY : known,
      known === 'UNKNOWN'
        ? "Paste the certificate of the authority that signed the server's one, with all between them."
        : 'Have the certificate of the server renewed.',
    );
  }
  if (
    /ALERT_(UNKNOWN_CA|BAD_CERTIFICATE|CERTIFICATE_|UNSUPPORTED_CERTIFICATE|NO_CERT)/.test(code)
  ) {
    return say(
      'The server does not accept our client certificate.',
      'Give one that is issued by the authority in its ssl_ca_file (`ssl_mode.client_certificate`).',
    );
  }
  return error;
}
