/**
 * Airbyte's messages, as far as a database source writes and reads them (protocol 0.18).
 * Names are the protocol's own snake_case: this file and `config.ts` are the only ones that change case.
 * https://docs.airbyte.com/understanding-airbyte/airbyte-protocol
 */

export type JsonValue =
  null | boolean | number | string | readonly JsonValue[] | { readonly [key: string]: JsonValue };

export type JsonObject = { readonly [key: string]: JsonValue };

export type SyncMode = 'full_refresh' | 'incremental';

type StreamDescriptor = { readonly name: string; readonly namespace?: string };

export type AirbyteStream = {
  readonly name: string;
  readonly namespace: string;
  readonly json_schema: JsonObject;
  readonly supported_sync_modes: readonly SyncMode[];
  readonly source_defined_cursor: boolean;
  readonly default_cursor_field: readonly string[];
  readonly source_defined_primary_key: readonly (readonly string[])[];
  readonly is_resumable: boolean;
};

export type AirbyteCatalog = { readonly streams: readonly AirbyteStream[] };

/** What the platform sends back: every optional key may be absent or null. */
export type ConfiguredStream = {
  readonly stream: {
    readonly name: string;
    readonly namespace?: string | null;
    readonly json_schema: JsonObject;
  };
  readonly sync_mode: SyncMode;
  readonly cursor_field?: readonly string[] | null;
  readonly generation_id?: number | null;
  readonly sync_id?: number | null;
};

export type LogLevel = 'FATAL' | 'ERROR' | 'WARN' | 'INFO' | 'DEBUG' | 'TRACE';

export type StreamStatus = 'STARTED' | 'RUNNING' | 'COMPLETE' | 'INCOMPLETE';

export type FieldChange = {
  readonly field: string;
  readonly change: 'NULLED' | 'TRUNCATED';
  readonly reason:
    | 'SOURCE_RECORD_SIZE_LIMITATION'
    | 'SOURCE_FIELD_SIZE_LIMITATION'
    | 'SOURCE_RETRIEVAL_ERROR'
    | 'SOURCE_SERIALIZATION_ERROR';
};

export type StreamState = {
  readonly stream_descriptor: StreamDescriptor;
  readonly stream_state: JsonObject;
};

export type AirbyteState =
  | {
      readonly type: 'STREAM';
      readonly stream: StreamState;
      readonly sourceStats: { readonly recordCount: number };
    }
  | {
      readonly type: 'GLOBAL';
      readonly global: {
        readonly shared_state: JsonObject;
        readonly stream_states: readonly StreamState[];
      };
      readonly sourceStats: { readonly recordCount: number };
    };

export type AirbyteTrace =
  | {
      readonly type: 'ERROR';
      readonly emitted_at: number;
      readonly error: {
        readonly message: string;
        readonly internal_message?: string;
        readonly stack_trace?: string;
        readonly failure_type: 'config_error' | 'transient_error' | 'system_error';
        readonly stream_descriptor?: StreamDescriptor;
      };
    }
  | {
      readonly type: 'ESTIMATE';
      readonly emitted_at: number;
      readonly estimate: {
        readonly name: string;
        readonly namespace: string;
        readonly type: 'STREAM';
        readonly row_estimate: number;
        readonly byte_estimate: number;
      };
    }
  | {
      readonly type: 'STREAM_STATUS';
      readonly emitted_at: number;
      readonly stream_status: {
        readonly stream_descriptor: StreamDescriptor;
        readonly status: StreamStatus;
      };
    };

/** Every message but RECORD, which `record.ts` writes as bytes. */
export type AirbyteMessage =
  | { readonly type: 'SPEC'; readonly spec: JsonObject }
  | {
      readonly type: 'CONNECTION_STATUS';
      readonly connectionStatus: {
        readonly status: 'SUCCEEDED' | 'FAILED';
        readonly message?: string;
      };
    }
  | { readonly type: 'CATALOG'; readonly catalog: AirbyteCatalog }
  | { readonly type: 'STATE'; readonly state: AirbyteState }
  | {
      readonly type: 'LOG';
      readonly log: {
        readonly level: LogLevel;
        readonly message: string;
        readonly stack_trace?: string;
      };
    }
  | { readonly type: 'TRACE'; readonly trace: AirbyteTrace };
