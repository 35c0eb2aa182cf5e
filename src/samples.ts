/** Files for those who run the commands by hand: what the platform's forms, and what it stores, would have made. */
import type { AirbyteCatalog, JsonObject } from './airbyte/protocol.ts';
import { ConnectorError } from './errors.ts';

/** A configuration with what must be filled in; every other setting has its default. */
export function sampleConfig(): JsonObject {
  return {
    host: 'db.example.com',
    port: 5432,
    database: 'iot',
    username: 'airbyte',
    password: 'change me',
    schemas: ['public'],
    ssl_mode: { mode: 'require' },
    tunnel_method: { tunnel_method: 'NO_TUNNEL' },
    replication_method: {
      method: 'CDC',
      replication_slot: 'airbyte_slot',
      publication: 'airbyte_publication',
    },
  };
}

/**
 * Configures what `discover` found: incrementally where that needs no cursor to be chosen, otherwise by full refresh.
 * @param names `name` or `schema.name` of the streams wanted; none means all.
 * @throws ConnectorError when one of them was not found.
 */
export function sampleCatalog(catalog: AirbyteCatalog, names: readonly string[]): JsonObject {
  type Stream = AirbyteCatalog['streams'][number];
  const isNamed = (stream: Stream, name: string): boolean =>
    stream.name === name || `${stream.namespace}.${stream.name}` === name;
  const unknown = names.filter((name) => !catalog.streams.some((stream) => isNamed(stream, name)));
  if (unknown.length > 0) {
    throw new ConnectorError(`${unknown.join(', ')} was not found.`, {
      kind: 'config_error',
      fix: '`discover` lists the streams.',
    });
  }
  const wanted = catalog.streams.filter(
    (stream) => names.length === 0 || names.some((name) => isNamed(stream, name)),
  );
  const streams = wanted.map((stream) => {
    const ready = stream.source_defined_cursor || stream.default_cursor_field.length > 0;
    const incremental = ready && stream.supported_sync_modes.includes('incremental');
    const keyed = stream.source_defined_primary_key.length > 0;
    return {
      stream,
      sync_mode: incremental ? 'incremental' : 'full_refresh',
      cursor_field: stream.default_cursor_field,
      destination_sync_mode: !incremental ? 'overwrite' : keyed ? 'append_dedup' : 'append',
      primary_key: stream.source_defined_primary_key,
    };
  });
  return { streams };
}

type StateMessage = {
  readonly type: string;
  readonly state?: {
    readonly type: string;
    readonly stream?: { readonly stream_descriptor: JsonObject };
  } & JsonObject;
};

/**
 * What the platform would store of reads, and hand to the next one: the last state of the connection, or of each stream.
 * @param lines of what `read` printed, in order. One that was cut off in the middle is passed over.
 */
export async function lastState(lines: AsyncIterable<string>): Promise<readonly JsonObject[]> {
  const states = new Map<string, JsonObject>();
  for await (const line of lines) {
    if (!line.startsWith('{"type":"STATE"')) continue;
    const state = parsed(line)?.state;
    if (state === undefined) continue;
    // A connection has one kind of state: a change of it begins anew.
    const others = [...states.values()].some(({ type }) => type !== state.type);
    if (others) states.clear();
    states.set(JSON.stringify(state.stream?.stream_descriptor ?? null), state);
  }
  return [...states.values()];
}

function parsed(line: string): StateMessage | undefined {
  try {
    return JSON.parse(line) as StateMessage;
  } catch {
    return undefined;
  }
}
