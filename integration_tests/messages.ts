/** What the connector prints, as a reader of its lines sees it. */
import type {
  AirbyteMessage,
  AirbyteStream,
  FieldChange,
  SyncMode,
} from '../src/airbyte/protocol.ts';
import { type ExactValue, parseExact } from './exact-json.ts';

export type RecordData = Readonly<Record<string, ExactValue>>;

export type RecordMessage = {
  readonly type: 'RECORD';
  readonly record: {
    readonly stream: string;
    readonly namespace?: string;
    readonly emitted_at: number;
    readonly data: RecordData;
    readonly meta?: { readonly changes: readonly FieldChange[] };
  };
};

export type Message = AirbyteMessage | RecordMessage;

export type StateMessage = Extract<AirbyteMessage, { readonly type: 'STATE' }>;

export type Command = 'spec' | 'check' | 'discover' | 'read';

export type ConfiguredEntry = {
  readonly stream: AirbyteStream;
  readonly sync_mode: SyncMode;
  readonly cursor_field: readonly string[];
  readonly destination_sync_mode: 'append' | 'overwrite' | 'append_dedup';
  readonly primary_key: readonly (readonly string[])[];
  readonly generation_id: number;
  readonly minimum_generation_id: number;
  readonly sync_id: number;
};

export type ConfiguredCatalog = { readonly streams: readonly ConfiguredEntry[] };

/** How a stream is called in what the harness prints and keys by. */
export function streamName(stream: {
  readonly namespace?: string | undefined;
  readonly name: string;
}): string {
  return `${stream.namespace ?? ''}.${stream.name}`;
}

/**
 * Parses a line; in RECORD data no digit is lost.
 * @throws SyntaxError when the line is no JSON.
 */
export function parseMessage(line: string): Message {
  // A state or a schema is compared as its own text, so doubles will do; and only a record begins like this.
  return (line.startsWith(RECORD_START) ? parseExact(line) : JSON.parse(line)) as Message;
}

const RECORD_START = '{"type":"RECORD"';
