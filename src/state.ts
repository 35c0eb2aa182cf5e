/**
 * The STATE document: what comes in, what goes out. Pure. Its fields are explained in docs/state.md.
 *
 * Missing, null and `{}` always mean "to be read", never "done"; done is an explicit marker.
 */
import type { ColumnMemory } from './remembered-columns.ts';
import { ConnectorError } from './errors.ts';
import { type Lsn, parseLsn } from './postgres/lsn.ts';
import { formatVisibility, parseVisibility } from './postgres/visibility.ts';
import {
  type AirbytePosition,
  type AirbyteStream,
  isAirbyteStream,
  parseAirbytePosition,
  parseAirbyteStream,
} from './airbyte-state.ts';
import type { Progress, Seen } from './progress.ts';
import {
  arrayOf,
  bound,
  boundOrNull,
  formed,
  int,
  invalid,
  object,
  text,
  textOrNull,
} from './state-fields.ts';

export const VERSION = 1;

export type StreamName = { readonly name: string; readonly namespace: string };

/** What the whole connection remembers under CDC. */
export type SharedState = {
  /** Everything that committed before this position was emitted or lies in what is still to be read. */
  readonly lsn: Lsn;
  /**
   * What was visible when the WAL ended at `lsn` or before; null in states of before 0.2. On a server that took over,
   * transactions that are newer may be others than those that the state was made with.
   */
  readonly lsnSeen: string | null;
  /**
   * Every change that has left, and that leaves before the next state, had committed by then; null where that is not
   * known, as while rows are read.
   */
  readonly emittedTo: Lsn | null;
  /** The last order token given out. */
  readonly cursorFloor: number;
  readonly slot: string;
  readonly publication: string;
  /** Another one under the same name does not show what was written before it; null in states of before 0.2. */
  readonly publicationOid: number | null;
  /** What was visible when the publications were last looked at: members added later hide what was written before them. */
  readonly publicationsSeen: string | null;
  readonly systemIdentifier: string;
  readonly timeline: number;
  /** What the columns of each stream were, by its label; null in states of before 0.2. */
  readonly columns: ColumnMemory | null;
  /** The sync ended here by itself; false: more records may have left than this state tells of. */
  readonly settled: boolean;
};

/** One stream's entry. */
export type StreamProgress =
  | { readonly mode: 'cdc'; readonly progress: Progress }
  | {
      readonly mode: 'full_refresh';
      readonly progress: Progress;
      /** The platform's ids of the refresh that this belongs to: another id begins anew. */
      readonly refresh: string;
    }
  | CursorProgress
  | XminProgress;

export type CursorProgress = {
  readonly mode: 'cursor';
  readonly cursorField: string;
  /** The column's type (`typname`): values of another one have another order. Null in states of before 0.2. */
  readonly cursorType: string | null;
  /** Everything up to and with this value was emitted; null before the first pass ended. PostgreSQL's text. */
  readonly cursor: string | null;
  /** Upper bound of the pass at hand, fixed at its begin; null between passes. */
  readonly upper: string | null;
  /** How far the pass at hand is; null between passes. */
  readonly progress: Progress | null;
};

export type XminProgress = {
  readonly mode: 'xmin';
  /** OID of the relation that was read: another one under its name begins anew. */
  readonly relation: number;
  /** Transaction ids mean nothing on another cluster, or in another of its histories. */
  readonly systemIdentifier: string;
  readonly timeline: number;
  /** Every row written by a transaction before this one was emitted; null before the first pass ended. 64 bits. */
  readonly horizon: bigint | null;
  /** What `horizon` will be after the pass at hand, fixed at its begin; null between passes. */
  readonly next: bigint | null;
  /** How far the pass at hand is; null between passes. */
  readonly progress: Progress | null;
};

export type InputState = {
  /** Null unless a usable GLOBAL state came in. */
  readonly shared: SharedState | null;
  /** Entries that hold something, by `streamKey`. */
  readonly streams: ReadonlyMap<string, StreamProgress>;
  /** Entries of Airbyte's Postgres source, by `streamKey`. */
  readonly airbyteStreams: ReadonlyMap<string, AirbyteStream>;
  /** Of a GLOBAL state of that source. */
  readonly airbytePosition: AirbytePosition | null;
  readonly kind: 'none' | 'global' | 'stream';
};

/** A stream's name as one text; names may hold any character but U+0000. */
export function streamKey(stream: StreamName): string {
  return `${stream.namespace}\u0000${stream.name}`;
}

/**
 * Reads the state file's content, tolerant as the platform and its clients need it: nulls, missing namespaces,
 * `global_`, a bare object, blank entries, entries of streams that are not configured.
 * @param configured the streams of the catalog: they resolve entries without a namespace.
 * @throws ConnectorError (config) for LEGACY states, a state of another source or of a newer version.
 */
export function parseState(value: unknown, configured: readonly StreamName[]): InputState {
  const messages = asMessages(value);
  const streams = new Map<string, StreamProgress>();
  const airbyteStreams = new Map<string, AirbyteStream>();
  let shared: unknown = null;
  let kind: InputState['kind'] = 'none';
  for (const message of messages) {
    const global = object(message['global']) ?? object(message['global_']);
    const entries = global === null ? [message['stream']] : arrayOf(global['stream_states']);
    for (const entry of entries) {
      const parsed = parseEntry(entry, configured);
      if (parsed === null) continue;
      const { key, blob } = parsed;
      if (streams.has(key) || airbyteStreams.has(key)) {
        throw invalid('it holds the same stream twice');
      }
      if (isAirbyteStream(blob)) airbyteStreams.set(key, parseAirbyteStream(blob));
      else streams.set(key, parseStream(blob));
      const own = global === null ? 'stream' : 'global';
      if (kind !== 'none' && kind !== own) throw invalid('it mixes those of two update methods');
      kind = own;
    }
    if (global !== null) shared = global['shared_state'];
  }
  // A position without any stream is what a partial clear leaves behind: nothing depends on it any more,
  // and whosever it is must not stop a fresh start.
  const none = { shared: null, streams, airbyteStreams, airbytePosition: null };
  if (streams.size + airbyteStreams.size === 0) return { ...none, kind: 'none' };
  const airbytePosition = kind === 'global' ? parseAirbytePosition(shared) : null;
  if (streams.size > 0 && airbyteStreams.size > 0 && kind === 'global') {
    throw invalid('it mixes those of two sources');
  }
  if (airbyteStreams.size > 0) return { ...none, airbytePosition, kind };
  return { ...none, shared: parseShared(shared), kind };
}

/** The state file may hold an array of messages, one bare message, or nothing. */
function asMessages(value: unknown): readonly Record<string, unknown>[] {
  if (value === null || value === undefined) return [];
  const list = Array.isArray(value) ? value : [value];
  const messages: Record<string, unknown>[] = [];
  for (const item of list) {
    const whole = object(item);
    if (whole === null) continue;
    const message = object(whole['state']) ?? whole;
    if (Object.keys(message).length === 0) continue;
    if (object(message['global']) || object(message['global_']) || object(message['stream'])) {
      messages.push(message);
    } else if (Object.entries(message).some(([key, part]) => key !== 'type' && part != null)) {
      throw new ConnectorError('The state has a form that this connector does not know.', {
        kind: 'config_error',
        fix: 'Clear the connection, so that it starts without a state.',
      });
    }
  }
  return messages;
}

function parseEntry(
  entry: unknown,
  configured: readonly StreamName[],
): { readonly key: string; readonly blob: Readonly<Record<string, unknown>> } | null {
  const stream = object(entry);
  const descriptor = object(stream?.['stream_descriptor']);
  const blob = object(stream?.['stream_state']);
  if (descriptor === null || blob === null || Object.keys(blob).length === 0) return null;
  const name = descriptor['name'];
  const namespace = descriptor['namespace'];
  const matches = configured.filter(
    (candidate) =>
      candidate.name === name &&
      (typeof namespace !== 'string' || namespace === '' || namespace === candidate.namespace),
  );
  const match = matches[0];
  if (match === undefined || matches.length > 1) return null;
  return { key: streamKey(match), blob };
}

function parseStream(blob: Record<string, unknown>): StreamProgress {
  if (blob['version'] !== VERSION) {
    throw invalid('a stream has a state of another source or version');
  }
  const progress = object(blob['progress']);
  switch (blob['mode']) {
    case 'cdc':
      return { mode: 'cdc', progress: parseProgress(progress) };
    case 'full_refresh':
      return {
        mode: 'full_refresh',
        progress: parseProgress(progress),
        refresh: text(blob['refresh']),
      };
    case 'cursor':
      return {
        mode: 'cursor',
        cursorField: text(blob['cursor_field']),
        cursorType: textOrNull(blob['cursor_type']),
        cursor: textOrNull(blob['cursor']),
        upper: textOrNull(blob['upper']),
        progress: progress === null ? null : parseProgress(progress),
      };
    case 'xmin':
      return {
        mode: 'xmin',
        relation: int(blob['relation']),
        systemIdentifier: text(blob['system_identifier']),
        timeline: int(blob['timeline']),
        horizon: boundOrNull(blob['horizon']),
        next: boundOrNull(blob['next']),
        progress: progress === null ? null : parseProgress(progress),
      };
    default:
      throw invalid('a stream has a mode that this connector does not know');
  }
}

function parseProgress(value: Record<string, unknown> | null): Progress {
  if (value === null) throw invalid('a stream lacks its progress');
  const complete = value['complete'] === true;
  const replay = value['replay'] === true;
  if (value['kind'] === 'table') {
    return {
      kind: 'table',
      complete,
      replay,
      seen: value['seen'] === null || value['seen'] === undefined ? null : parseSeen(value['seen']),
      relation: int(value['relation']),
      filenode: int(value['filenode']),
      page: int(value['page']),
      late: boundOrNull(value['late']),
    };
  }
  const seen = new Map<number, Seen>();
  for (const group of arrayOf(value['seen'])) {
    for (const oid of arrayOf(object(group)?.['chunks'])) seen.set(int(oid), parseSeen(group));
  }
  return {
    kind: 'hypertable',
    complete,
    replay,
    hypertableId: int(value['hypertable_id']),
    chunkSchema: text(value['chunk_schema']),
    chunkPrefix: text(value['chunk_prefix']),
    chunkIdMax: int(value['chunk_id_max']),
    covered: arrayOf(value['covered']).map((pair) => ({
      rangeStart: bound(arrayOf(pair)[0]),
      rangeEnd: bound(arrayOf(pair)[1]),
    })),
    read: arrayOf(value['read']).map((triple) => ({
      id: int(arrayOf(triple)[0]),
      rangeStart: bound(arrayOf(triple)[1]),
      rangeEnd: bound(arrayOf(triple)[2]),
    })),
    seen,
    judged:
      value['judged'] == null ? null : formatVisibility(formed(parseVisibility, value['judged'])),
  };
}

function parseSeen(value: unknown): Seen {
  const seen = object(value);
  return {
    visibility: formatVisibility(formed(parseVisibility, seen?.['visibility'])),
    until: formed(parseLsn, seen?.['until']),
  };
}

function parseShared(value: unknown): SharedState | null {
  const shared = object(value);
  if (shared === null || Object.keys(shared).length === 0) return null;
  if (shared['version'] !== VERSION) throw invalid('it comes from another source or version');
  if (shared['lsn'] === null) return null;
  return {
    lsn: formed(parseLsn, shared['lsn']),
    lsnSeen:
      shared['lsn_seen'] == null
        ? null
        : formatVisibility(formed(parseVisibility, shared['lsn_seen'])),
    emittedTo: shared['emitted_to'] == null ? null : formed(parseLsn, shared['emitted_to']),
    cursorFloor: int(shared['cursor_floor']),
    slot: text(shared['slot']),
    publication: text(shared['publication']),
    publicationOid: shared['publication_oid'] == null ? null : int(shared['publication_oid']),
    publicationsSeen:
      shared['publications_seen'] == null
        ? null
        : formatVisibility(formed(parseVisibility, shared['publications_seen'])),
    systemIdentifier: text(shared['system_identifier']),
    timeline: int(shared['timeline']),
    columns: parseColumns(shared['columns']),
    settled: shared['settled'] === true,
  };
}

function parseColumns(value: unknown): ColumnMemory | null {
  const columns = object(value);
  if (columns === null) return null;
  return new Map(Object.entries(columns).map(([name, memory]) => [name, text(memory)]));
}
