/** A stream's progress on its way through the state document, as the platform keeps it between two syncs. */
import type { HypertableProgress } from '../src/progress.ts';
import { parseState, streamKey } from '../src/state.ts';
import { serialiseStream } from '../src/state-writing.ts';
import type { StreamProgress } from '../src/state.ts';

export const METRICS = { name: 'metrics', namespace: 'public' };

export function throughJson(progress: StreamProgress): StreamProgress | undefined {
  const stream = serialiseStream(METRICS, progress);
  const document: unknown = JSON.parse(JSON.stringify([{ type: 'STREAM', stream }]));
  return parseState(document, [METRICS]).streams.get(streamKey(METRICS));
}

/** What the next sync takes a hypertable's progress to be. */
export function resumed(progress: HypertableProgress): HypertableProgress {
  const next = throughJson({ mode: 'cdc', progress })?.progress;
  if (next?.kind !== 'hypertable') throw new Error('the progress of a hypertable got lost');
  return next;
}

export function documentBytes(progress: HypertableProgress): number {
  return JSON.stringify(serialiseStream(METRICS, { mode: 'cdc', progress })).length;
}
