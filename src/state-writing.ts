/** The STATE document as it leaves: what `state.ts` reads. Pure. */
import type { JsonObject, StreamState } from './airbyte/protocol.ts';
import { formatLsn } from './postgres/lsn.ts';
import type { HypertableProgress, Progress, Seen, TableProgress } from './progress.ts';
import { type SharedState, type StreamName, type StreamProgress, VERSION } from './state.ts';

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
        cursor_type: state.cursorType,
        cursor: state.cursor,
        upper: state.upper,
        progress,
      };
    case 'xmin':
      return {
        version: VERSION,
        mode: state.mode,
        relation: state.relation,
        system_identifier: state.systemIdentifier,
        timeline: state.timeline,
        horizon: state.horizon === null ? null : String(state.horizon),
        next: state.next === null ? null : String(state.next),
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
  const late = progress.late === null ? null : String(progress.late);
  return { kind, complete, replay, seen, relation, filenode, page, late };
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
    lsn_seen: shared.lsnSeen,
    emitted_to: shared.emittedTo === null ? null : formatLsn(shared.emittedTo),
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
