/**
 * States of Airbyte's own Postgres source, of both its generations: recognised, and read for what they say. Pure; what
 * becomes of them is decided in adopt-state.ts. Their shapes:
 * https://github.com/airbytehq/airbyte/tree/master/airbyte-integrations/connectors/source-postgres
 */
import { arrayOf, invalid, object } from './state-fields.ts';
import type { Lsn } from './postgres/lsn.ts';

/** What one stream's entry says. */
export type AirbyteStream = {
  /** Everything up to this value was emitted, or will have been when a load that runs is over. */
  readonly cursor: { readonly field: string; readonly value: AirbyteValue } | null;
  /** Everything written by older transactions was emitted, or will have been; 64 bits. */
  readonly xmin: bigint | null;
  /** The page at which a load was interrupted. */
  readonly page: number | null;
  /** The table's file when that was; 0 where it is not said. */
  readonly filenode: number;
  /** The rows were read to their end, and nothing else is said: a stream of changes, or a full refresh. */
  readonly done: boolean;
};

/** Numbers have gone through JSON: beyond 2^53, and with fractions, they may be rounded. */
export type AirbyteValue = string | number | boolean;

/** Of a connection by CDC: every transaction that committed before was emitted. Null: the state does not say. */
export type AirbytePosition = { readonly lsn: Lsn | null };

const STATE_TYPES: ReadonlySet<unknown> = new Set([
  'cursor_based',
  'xmin_based',
  'ctid_based',
  'xmin',
  'ctid',
]);

/** Whether a stream's entry is one of that source. */
export function isAirbyteStream(blob: Readonly<Record<string, unknown>>): boolean {
  if ('mode' in blob) return false;
  return STATE_TYPES.has(blob['state_type']) || Array.isArray(blob['cursor_field']);
}

/**
 * @param blob for which `isAirbyteStream` holds.
 * @throws ConnectorError (config) where it does not have the form that it should.
 */
export function parseAirbyteStream(blob: Readonly<Record<string, unknown>>): AirbyteStream {
  const ctid = blob['ctid'] ?? null;
  // The older generation keeps what comes after the load in an entry within the entry.
  const later = object(blob['incremental_state']) ?? blob;
  const cursor = cursorOf(later);
  const xmin = xminOf(later);
  const filenode = blob['relation_filenode'];
  return {
    cursor,
    xmin,
    page: ctid === null ? null : pageOf(ctid),
    filenode: typeof filenode === 'number' ? filenode : 0,
    done: blob['state_type'] === 'ctid_based' && ctid === null && cursor === null && xmin === null,
  };
}

function cursorOf(blob: Readonly<Record<string, unknown>>): AirbyteStream['cursor'] {
  const cursors = Object.entries(object(blob['cursors']) ?? {});
  const fields = arrayOf(blob['cursor_field']);
  if (cursors.length > 1 || fields.length > 1) throw invalid('it has a cursor of several columns');
  const [field, value] = cursors[0] ?? [fields[0], blob['cursor']];
  if (typeof field !== 'string' || value === null || value === undefined || value === '') {
    return null;
  }
  if (typeof value !== 'string' && typeof value !== 'number' && typeof value !== 'boolean') {
    throw invalid('a cursor in it is not a value');
  }
  return { field, value };
}

/** The newer generation has what rows carry, but refuses servers on which that is not the whole id. */
function xminOf(blob: Readonly<Record<string, unknown>>): bigint | null {
  const id = blob['xmin_raw_value'] ?? blob['xmin'] ?? null;
  if (id === null) return null;
  if (typeof id === 'number' && Number.isSafeInteger(id) && id >= 0) return BigInt(id);
  if (typeof id === 'string' && /^\d+$/.test(id)) return BigInt(id);
  throw invalid('a transaction id in it is not one');
}

function pageOf(ctid: unknown): number {
  const page = typeof ctid === 'string' ? /^\((\d{1,10}),\d+\)$/.exec(ctid)?.[1] : undefined;
  if (page === undefined) throw invalid('a place in a table (ctid) in it is not one');
  return Number(page);
}

/** The connection's part of a GLOBAL state; null where it is not of that source. */
export function parseAirbytePosition(shared: unknown): AirbytePosition | null {
  const state = object(object(shared)?.['state']);
  if (state === null || object(shared)?.['version'] !== undefined) return null;
  const offsets = Object.values(state).flatMap((value) => {
    const offset = typeof value === 'string' ? parsed(value) : object(value);
    return offset === null ? [] : [offset];
  });
  const [offset] = offsets;
  if (offset === undefined || offsets.length > 1) return { lsn: null };
  // Of the last change, of the last one that was handed on, of the last commit: behind the least of them nothing is missing.
  const named = ['lsn', 'lsn_proc', 'lsn_commit'].map((name) => offset[name] ?? null);
  const given = named.filter((lsn) => lsn !== null);
  if (given.length === 0 || !given.every((lsn) => Number.isSafeInteger(lsn) && Number(lsn) > 0)) {
    return { lsn: null };
  }
  return { lsn: BigInt(Math.min(...given.map(Number))) as Lsn };
}

function parsed(json: string): Record<string, unknown> | null {
  try {
    return object(JSON.parse(json));
  } catch {
    return null;
  }
}
