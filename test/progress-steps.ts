/** Steps of progress for tests, which know every chunk and keep no index of what is left. */
import { chunkDone, type HypertableProgress, type Seen, unreadChunks } from '../src/progress.ts';
import type { ChunkRange } from '../src/unread-chunks.ts';

/** @param chunks every chunk that exists; those that are done already may be left out. */
export function chunkDoneAmong(
  progress: HypertableProgress,
  chunk: ChunkRange & { readonly oid: number },
  seen: Seen | null,
  chunks: readonly ChunkRange[],
): HypertableProgress {
  return chunkDone(progress, chunk, seen, unreadChunks(progress, chunks));
}
