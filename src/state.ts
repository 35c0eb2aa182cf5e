/**
 * The STATE document: what comes in, what goes out. Pure. Its fields are explained in docs/state.md.
 *
 * Missing, null and `{}` always mean "to be read", never "done"; done is an explicit marker.
 */
import type { ColumnMemory } from './remembered-columns.ts';
import { ConnectorError } from './errors.ts';
import { formatLsn, type Lsn, parseLsn } from './postgres/lsn.ts';
import { formatVisibility, parseVisibility } from './postgres/visibility.ts';
import type { JsonObject, JsonValue, StreamState } from './airbyte/protocol.ts';
import type { HypertableProgress, Progress, Seen, TableProgress } from './progress.ts';

const VERSION = 1;

export type StreamName = { readonly name: string; readonly namespace: string };

/** What the whole connection remembers under CDC. */
export type SharedState = {
  /** Everything that committed before this position was emitted or lies in what is still to be read. */
  readonly lsn: Lsn;
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
  | CursorProgress;

export type CursorProgress = {
  readonly mode: 'cursor';
  readonly cursorField: string;
  /** Everything up to and with this value was emitted; null before the first pass ended. PostgreSQL's text. */
  readonly cursor: string | null;
  /** Upper bound of the pass at hand, fixed at its begin; null between passes. */
  readonly upper: string | null;
  /** How far the pass at hand is; null between passes. */
  readonly progress: Progress | null;
};

export type InputState = {
  /** Null unless a usable GLOBAL state came in. */
  readonly shared: SharedState | null;
  /** Entries that hold something, by `streamKey`. */
  readonly streams: ReadonlyMap<string, StreamProgress>;
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
  let shared: unknown = null;
  let kind: InputState['kind'] = 'none';
  for (const message of messages) {
    const global = object(message['global']) ?? object(message['global_']);
    const entries = global === null ? [message['stream']] : arrayOf(global['stream_states']);
    for (const entry of entries) {
      const parsed = parseEntry(entry, configured);
      if (parsed === null) continue;
      if (streams.has(parsed.key)) throw invalid('it holds the same stream twice');
      streams.set(parsed.key, parsed.progress);
      const own = global === null ? 'stream' : 'global';
      if (kind !== 'none' && kind !== own) throw invalid('it mixes those of two update methods');
      kind = own;
    }
    if (global !== null) shared = global['shared_state'];
  }
  // A position without any stream is what a partial clear leaves behind: nothing depends on it any more,
  // and whosever it is must not stop a fresh start.
  if (streams.size === 0) return { shared: null, streams, kind: 'none' };
  return { shared: parseShared(shared), streams, kind };
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
): { readonly key: string; readonly progress: StreamProgress } | null {
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
  return { key: streamKey(match), progress: parseStream(blob) };
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
        cursor: textOrNull(blob['cursor']),
        upper: textOrNull(blob['upper']),
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

/** The entry of one stream as it leaves. */
export function serialiseStream(stream: StreamName, state: StreamProgress): StreamState {
  return {
    stream_descriptor: { name: stream.name, namespace: stream.namespace },
    stream_state: serialiseBlob(state),
  };
}

function serialiseBlob(state: StreamProgress): JsonObject {
  const progress = state.progress === null ? null : serialiseProgress(state.progress);
  switch (state.mode) {
    case 'cdc':
      return { version: VERSION, mode: state.mode, progress };
    case 'full_refresh':
      return { version: VERSION, mode: state.mode, refresh: state.refresh, progress };
    case 'cursor':
      return {
        version: VERSION,
        mode: state.mode,
        cursor_field: state.cursorField,
        cursor: state.cursor,
        upper: state.upper,
        progress,
      };
    default:
      return state satisfies never;
  }
}

function serialiseProgress(progress: Progress): JsonObject {
  return progress.kind === 'table' ? serialiseTable(progress) : serialiseHypertable(progress);
}

function serialiseTable(progress: TableProgress): JsonObject {
  const { kind, complete, replay, relation, filenode, page } = progress;
  const seen = progress.seen === null ? null : serialiseSeen(progress.seen);
  return { kind, complete, replay, seen, relation, filenode, page };
}

function serialiseHypertable(progress: HypertableProgress): JsonObject {
  // Chunks read one after the other on a quiet server saw the same: each visibility is written once.
  const groups = new Map<string, { readonly seen: Seen; readonly chunks: number[] }>();
  for (const [oid, seen] of progress.seen) {
    const key = `${seen.visibility} ${seen.until}`;
    const group = groups.get(key) ?? { seen, chunks: [] };
    group.chunks.push(oid);
    groups.set(key, group);
  }
  return {
    kind: progress.kind,
    complete: progress.complete,
    replay: progress.replay,
    hypertable_id: progress.hypertableId,
    chunk_schema: progress.chunkSchema,
    chunk_prefix: progress.chunkPrefix,
    chunk_id_max: progress.chunkIdMax,
    covered: progress.covered.map((range) => [String(range.rangeStart), String(range.rangeEnd)]),
    read: progress.read.map(({ id, rangeStart, rangeEnd }) => [
      id,
      String(rangeStart),
      String(rangeEnd),
    ]),
    seen: [...groups.values()].map(({ seen, chunks }) => ({ ...serialiseSeen(seen), chunks })),
    judged: progress.judged,
  };
}

function serialiseSeen(seen: Seen): { readonly visibility: string; readonly until: string } {
  return { visibility: seen.visibility, until: formatLsn(seen.until) };
}

/** @param shared null where no stream follows the WAL: there is no position, but the platform wants some content. */
export function serialiseShared(shared: SharedState | null): JsonObject {
  if (shared === null) return { version: VERSION, lsn: null };
  return {
    version: VERSION,
    lsn: formatLsn(shared.lsn),
    cursor_floor: shared.cursorFloor,
    slot: shared.slot,
    publication: shared.publication,
    publication_oid: shared.publicationOid,
    publications_seen: shared.publicationsSeen,
    system_identifier: shared.systemIdentifier,
    timeline: shared.timeline,
    columns: shared.columns === null ? null : Object.fromEntries(shared.columns),
    settled: shared.settled,
  };
}

function invalid(what: string): ConnectorError {
  return new ConnectorError(`The state cannot be used: ${what}.`, {
    kind: 'config_error',
    fix: 'Clear the connection, so that it starts without a state.',
  });
}

function object(value: unknown): Record<string, unknown> | null {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
    ? (value as Record<string, unknown>)
    : null;
}

function arrayOf(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? (value as readonly JsonValue[]) : [];
}

function text(value: unknown): string {
  if (typeof value !== 'string') throw invalid('a field that should be a text is not');
  return value;
}

/** A text of a form of its own. */
function formed<T>(parse: (value: string) => T, value: unknown): T {
  const written = text(value);
  try {
    return parse(written);
  } catch {
    throw invalid('a position or a visibility in it is not one');
  }
}

function bound(value: unknown): bigint {
  const digits = text(value);
  if (!/^-?\d+$/.test(digits)) throw invalid('a range in it is not one');
  return BigInt(digits);
}

function textOrNull(value: unknown): string | null {
  return value === null || value === undefined ? null : text(value);
}

function int(value: unknown): number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value)) {
    throw invalid('a field that should be a whole number is not');
  }
  return value;
}
