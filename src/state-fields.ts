/** Fields of a stored state, whoever wrote it: each of the form that it must have, or one refusal. Pure. */
import { ConnectorError } from './errors.ts';
import type { JsonValue } from './airbyte/protocol.ts';

export function invalid(what: string): ConnectorError {
  return new ConnectorError(`The state cannot be used: ${what}.`, {
    kind: 'config_error',
    fix: 'Clear the connection, so that it starts without a state.',
  });
}

export function object(value: unknown): Record<string, unknown> | null {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
    ? (value as Record<string, unknown>)
    : null;
}

export function arrayOf(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? (value as readonly JsonValue[]) : [];
}

export function text(value: unknown): string {
  if (typeof value !== 'string') throw invalid('a field that should be a text is not');
  return value;
}

/** A text of a form of its own. */
export function formed<T>(parse: (value: string) => T, value: unknown): T {
  const written = text(value);
  try {
    return parse(written);
  } catch {
    throw invalid('a position or a visibility in it is not one');
  }
}

export function bound(value: unknown): bigint {
  const digits = text(value);
  if (!/^-?\d+$/.test(digits)) throw invalid('a range in it is not one');
  return BigInt(digits);
}

/** A 64-bit number, written as a text. */
export function boundOrNull(value: unknown): bigint | null {
  return value === null || value === undefined ? null : bound(value);
}

export function textOrNull(value: unknown): string | null {
  return value === null || value === undefined ? null : text(value);
}

export function int(value: unknown): number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value)) {
    throw invalid('a field that should be a whole number is not');
  }
  return value;
}
