/** The order of messages in a read: statuses, records, states, and the counts that states claim. */
import type { AirbyteState, StreamStatus } from '../src/airbyte/protocol.ts';
import { type ConfiguredCatalog, type Message, streamName } from './messages.ts';

type Seen = {
  readonly statuses: StreamStatus[];
  recordsSinceState: number;
  /** Since STARTED, and behind the last record. */
  stateSinceRecord: boolean;
};

const CLOSED: readonly StreamStatus[] = ['COMPLETE', 'INCOMPLETE'];

export class SequenceChecker {
  readonly #report: (violation: string) => void;
  readonly #streams = new Map<string, Seen>();
  /** False when the catalog is not known: then every stream is. */
  readonly #closedWorld: boolean;
  readonly #lastStates = new Map<string, string>();
  #stateKind: AirbyteState['type'] | null = null;
  #errors = 0;

  constructor(catalog: ConfiguredCatalog | null, report: (violation: string) => void) {
    this.#report = report;
    this.#closedWorld = catalog !== null;
    for (const { stream } of catalog?.streams ?? []) this.#add(streamName(stream));
  }

  see(message: Message): void {
    switch (message.type) {
      case 'RECORD':
        this.#record(streamName({ ...message.record, name: message.record.stream }));
        break;
      case 'STATE':
        this.#state(message.state);
        break;
      case 'TRACE':
        if (message.trace.type === 'ERROR') this.#errors += 1;
        else if (message.trace.type === 'ESTIMATE') this.#known(message.trace.estimate);
        else this.#status(message.trace.stream_status);
        break;
      default:
    }
  }

  /** @param killed the process had no chance to end its streams. */
  finish(exitCode: number | null, killed: boolean): void {
    if (killed) return;
    if (exitCode !== 0) {
      if (this.#errors === 0) this.#report(`exit code ${exitCode} without an ERROR trace`);
      return;
    }
    if (this.#errors > 0) this.#report('exit code 0 in spite of an ERROR trace');
    for (const [name, { statuses }] of this.#streams) {
      const last = statuses.at(-1);
      if (last !== 'COMPLETE')
        this.#report(`exit code 0, but ${name} ended as ${last ?? 'nothing'}`);
    }
  }

  #add(name: string): Seen {
    const seen: Seen = { statuses: [], recordsSinceState: 0, stateSinceRecord: false };
    this.#streams.set(name, seen);
    return seen;
  }

  #known(stream: { readonly namespace?: string; readonly name: string }): Seen | null {
    const name = streamName(stream);
    const seen = this.#streams.get(name);
    if (seen !== undefined) return seen;
    if (!this.#closedWorld) return this.#add(name);
    this.#report(`${name} is not in the catalog`);
    return null;
  }

  #record(name: string): void {
    const seen = this.#streams.get(name);
    if (seen === undefined) {
      this.#report(`a record of ${name}, which is not in the catalog`);
      return;
    }
    const status = seen.statuses.at(-1);
    if (status !== 'STARTED' && status !== 'RUNNING') {
      this.#report(`a record of ${name} while its status is ${status ?? 'none'}`);
    }
    seen.recordsSinceState += 1;
    seen.stateSinceRecord = false;
  }

  #state(state: AirbyteState): void {
    this.#stateKind ??= state.type;
    if (state.type !== this.#stateKind) this.#report(`${this.#stateKind} and ${state.type} states`);
    if (state.type === 'STREAM') {
      const seen = this.#known(state.stream.stream_descriptor);
      if (seen === null) return;
      const name = streamName(state.stream.stream_descriptor);
      this.#counted(name, state.stream, state.sourceStats.recordCount, [seen]);
      return;
    }
    const descriptors = state.global.stream_states.map(
      ({ stream_descriptor }) => stream_descriptor,
    );
    if (new Set(descriptors.map((one) => streamName(one))).size !== descriptors.length) {
      this.#report('a stream stands twice in one state');
    }
    for (const one of descriptors) this.#known(one);
    const all = [...this.#streams.values()];
    this.#counted('GLOBAL', state.global, state.sourceStats.recordCount, all);
  }

  #counted(name: string, blob: unknown, claimed: number, streams: readonly Seen[]): void {
    const counted = streams.reduce((sum, seen) => sum + seen.recordsSinceState, 0);
    if (claimed !== counted) {
      this.#report(`a ${name} state claims ${claimed} records, but there were ${counted}`);
    }
    const text = JSON.stringify(blob);
    if (counted > 0 && this.#lastStates.get(name) === text) {
      this.#report(`${name}: two equal states with ${counted} records between`);
    }
    this.#lastStates.set(name, text);
    for (const seen of streams) {
      seen.recordsSinceState = 0;
      if (seen.statuses.length > 0) seen.stateSinceRecord = true;
    }
  }

  #status(said: {
    readonly stream_descriptor: { readonly name: string; readonly namespace?: string };
    readonly status: StreamStatus;
  }): void {
    const seen = this.#known(said.stream_descriptor);
    if (seen === null) return;
    const name = streamName(said.stream_descriptor);
    const last = seen.statuses.at(-1);
    const allowed = followers(last);
    if (!allowed.includes(said.status)) {
      this.#report(`${name}: status ${said.status} after ${last ?? 'none'}`);
    }
    if (said.status === 'COMPLETE' && !seen.stateSinceRecord) {
      this.#report(`${name}: COMPLETE without a STATE after STARTED and its last record`);
    }
    seen.statuses.push(said.status);
  }
}

/** A stream that fails may end before it ran. */
function followers(status: StreamStatus | undefined): readonly StreamStatus[] {
  if (status === undefined) return ['STARTED'];
  if (status === 'STARTED') return ['RUNNING', 'INCOMPLETE'];
  return status === 'RUNNING' ? ['RUNNING', ...CLOSED] : [];
}
