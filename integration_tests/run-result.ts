import type { AirbyteCatalog, AirbyteTrace } from '../src/airbyte/protocol.ts';
import { type Message, type RecordMessage, type StateMessage, streamName } from './messages.ts';

type ErrorTrace = Extract<AirbyteTrace, { readonly type: 'ERROR' }>['error'];

type Run = {
  readonly exitCode: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly messages: readonly Message[];
  readonly lines: readonly string[];
  readonly stderr: string;
  readonly inputState: readonly unknown[];
  readonly seconds: number;
  readonly maxRssKb: number | undefined;
  readonly killedAfterMs: number | undefined;
};

/** What a run of the connector gave, as far as it was delivered: whole lines only. */
export class RunResult {
  /** Null when a signal ended it. */
  readonly exitCode: number | null;
  readonly signal: NodeJS.Signals | null;
  /** In order; empty when they were not to be kept. */
  readonly messages: readonly Message[];
  readonly lines: readonly string[];
  readonly stderr: string;
  readonly seconds: number;
  /** Where the system tells. */
  readonly maxRssKb: number | undefined;
  /** When the random kill came; undefined when the run ended before. */
  readonly killedAfterMs: number | undefined;
  readonly #inputState: readonly unknown[];

  constructor(run: Run) {
    this.exitCode = run.exitCode;
    this.signal = run.signal;
    this.messages = run.messages;
    this.lines = run.lines;
    this.stderr = run.stderr;
    this.seconds = run.seconds;
    this.maxRssKb = run.maxRssKb;
    this.killedAfterMs = run.killedAfterMs;
    this.#inputState = run.inputState;
  }

  /** @param stream `name` or `schema.name`; all unless given. */
  records(stream?: string): RecordMessage['record'][] {
    return this.messages
      .filter((message) => message.type === 'RECORD')
      .map(({ record }) => record)
      .filter(
        (record) =>
          stream === undefined ||
          record.stream === stream ||
          `${record.namespace ?? ''}.${record.stream}` === stream,
      );
  }

  states(): StateMessage[] {
    return this.messages.filter((message) => message.type === 'STATE');
  }

  /** What the platform stores and hands to the next run: the state before, replaced by what this run sent. */
  lastState(): readonly unknown[] {
    return storedState(this.#inputState, this.states());
  }

  /** The ERROR traces. */
  errors(): ErrorTrace[] {
    return this.messages.flatMap((message) =>
      message.type === 'TRACE' && message.trace.type === 'ERROR' ? [message.trace.error] : [],
    );
  }

  /** Log lines as `LEVEL text`. */
  logs(): string[] {
    return this.messages.flatMap((message) =>
      message.type === 'LOG' ? [`${message.log.level} ${message.log.message}`] : [],
    );
  }

  /** Of `check`. @throws Error when there is none. */
  connectionStatus(): { readonly status: 'SUCCEEDED' | 'FAILED'; readonly message?: string } {
    for (const message of this.messages) {
      if (message.type === 'CONNECTION_STATUS') return message.connectionStatus;
    }
    throw new Error(this.#without('CONNECTION_STATUS'));
  }

  /** Of `discover`. @throws Error when there is none. */
  catalog(): AirbyteCatalog {
    for (const message of this.messages) if (message.type === 'CATALOG') return message.catalog;
    throw new Error(this.#without('CATALOG'));
  }

  /** Returns itself. @throws Error with what the connector said, when the run failed or was killed. */
  succeeded(): this {
    if (this.exitCode === 0) return this;
    throw new Error(this.#without('success'));
  }

  /** How it ended and what it said about that, for messages of failed tests. */
  describe(): string {
    const errors = this.errors().map((error) => JSON.stringify(error, null, 2));
    const end = `exit code ${this.exitCode}, signal ${this.signal}`;
    return [end, ...errors, ...this.logs().slice(-20), this.stderr].join('\n').trim();
  }

  #without(what: string): string {
    return `no ${what}: ${this.describe()}`;
  }
}

/** The stored state after these messages: one GLOBAL state, or the last STREAM state of each stream. */
export function storedState(
  before: readonly unknown[],
  states: readonly StateMessage[],
): readonly unknown[] {
  const last = states.at(-1)?.state;
  if (last === undefined) return before;
  if (last.type === 'GLOBAL') return [last];
  const streams = new Map<string, unknown>();
  for (const state of [...before, ...states.map((message) => message.state)]) {
    const { stream } = state as { stream?: { stream_descriptor: { name: string } } };
    if (stream !== undefined) streams.set(streamName(stream.stream_descriptor), state);
  }
  return [...streams.values()];
}
