/**
 * A state that another server was left with: the standby that took over has everything up to where it left the old
 * timeline, and nothing of what was written there behind. Syncs go on with it only where all that ever left lies before
 * that point. Whether the slot is there, and can serve the state, is judged as always.
 */
import type { Config } from './config.ts';
import { asConnectorError } from './errors.ts';
import { connectForReplication } from './postgres/connection.ts';
import { formatLsn, type Lsn } from './postgres/lsn.ts';
import type { ServerIdentity } from './postgres/slot.ts';
import { branchPoint, timelineHistory } from './postgres/timeline.ts';
import { formatVisibility, parseVisibility, visibleInBoth } from './postgres/visibility.ts';
import type { InputState, SharedState, StreamProgress } from './state.ts';

export type Takeover = {
  /** As it is to be gone on with; the one that came in where there was no takeover, or where it is refused. */
  readonly state: InputState;
  /** Why it cannot be gone on with; null where nothing of this kind is in the way. */
  readonly refusal: string | null;
  /** What happened, for the log, where it does not keep the state from being gone on with. */
  readonly note: string | null;
  /** The first sentence of it: other things may be in the way because of it. */
  readonly moved: string | null;
};

/** Asks the server for its history where the state is of an earlier one of it. */
export async function acrossTakeover(
  config: Config,
  identity: ServerIdentity,
  state: InputState,
): Promise<Takeover> {
  const { shared } = state;
  const same =
    shared === null ||
    shared.systemIdentifier !== identity.systemIdentifier ||
    shared.timeline === identity.timeline;
  if (same) return { state, refusal: null, note: null, moved: null };
  if (shared.timeline > identity.timeline) return judgeTakeover(state, shared, identity, '');
  try {
    const session = await connectForReplication(config, 'timeline history');
    try {
      const history = await timelineHistory(session, identity.timeline);
      return judgeTakeover(state, shared, identity, history);
    } finally {
      await session.end().catch(() => undefined);
    }
  } catch (error) {
    const failure = asConnectorError(error, 'asking for the history of the timeline');
    // It may be had the next time; what a person has to mend must not stand in the way of reading everything anew.
    if (failure.kind === 'transient_error') throw error;
    const refusal = `${movedText(shared, identity)}. Where it left the old timeline cannot be found out: ${failure.message}`;
    return { state, refusal, note: null, moved: null };
  }
}

function movedText(shared: SharedState, identity: ServerIdentity): string {
  return `The server is on timeline ${identity.timeline}, the state on ${shared.timeline}: another server took over, or it was restored`;
}

/** Pure. @param history of the timeline that the server is on. */
export function judgeTakeover(
  state: InputState,
  shared: SharedState,
  identity: ServerIdentity,
  history: string,
): Takeover {
  const branch = branchPoint(history, shared.timeline);
  const refusal = cannotFollow(shared, branch);
  const moved = movedText(shared, identity);
  if (refusal !== null || branch === null || shared.lsnSeen === null) {
    return { state, refusal: `${moved}${refusal ?? ''}.`, note: null, moved: null };
  }
  return {
    state: {
      ...state,
      shared: {
        ...shared,
        timeline: identity.timeline,
        publicationsSeen: notNewer(shared.publicationsSeen, shared.lsnSeen),
      },
      streams: new Map(
        [...state.streams].map(([key, progress]) => [key, remembered(progress, shared.lsnSeen)]),
      ),
    },
    refusal: null,
    moved: `${moved}.`,
    note: `${moved}. That was at ${formatLsn(branch)}, and nothing that has left is from behind it: the sync goes on.`,
  };
}

/** The end of a sentence; null where the state may be gone on with. */
function cannotFollow(shared: SharedState, branch: Lsn | null): string | null {
  if (branch === null) return '';
  const left = `the old timeline was left at ${formatLsn(branch)}`;
  // Of a sync that ended by itself nothing but the rows of full refreshes has left since.
  const emittedTo = shared.settled ? shared.lsn : shared.emittedTo;
  if (shared.lsnSeen === null) {
    return `, and the state is of a version that does not tell enough to go on with it: ${left}`;
  }
  if (emittedTo === null) {
    return `, in the middle of a sync: ${left}, and how far its records went is not known`;
  }
  if (emittedTo > branch || shared.lsn > branch) {
    const beyond = emittedTo > shared.lsn ? emittedTo : shared.lsn;
    return `. What was read up to ${formatLsn(beyond)} may not be on it: ${left}`;
  }
  return null;
}

/** Ids of transactions that were given out behind the position are given out again, to others. */
function remembered(progress: StreamProgress, lsnSeen: string | null): StreamProgress {
  if (progress.mode !== 'cdc' || progress.progress.kind !== 'hypertable') return progress;
  const { judged } = progress.progress;
  return { ...progress, progress: { ...progress.progress, judged: notNewer(judged, lsnSeen) } };
}

function notNewer(visibility: string | null, limit: string | null): string | null {
  if (visibility === null || limit === null) return visibility;
  return formatVisibility(visibleInBoth(parseVisibility(visibility), parseVisibility(limit)));
}
