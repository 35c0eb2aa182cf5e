/**
 * What becomes of a state of Airbyte's own Postgres source: each stream goes on where that source stood, if that can be
 * told exactly; otherwise it is read from the beginning, which loses nothing, and a warning says why. Never is something
 * taken for read that may not have been.
 */
import type { Client } from 'pg';
import type { AirbytePosition, AirbyteStream, AirbyteValue } from './airbyte-state.ts';
import type { CdcConfig } from './cdc-setup.ts';
import { typeName } from './column-types.ts';
import { typeSql } from './cursor-bounds.ts';
import { ConnectorError, errorCode } from './errors.ts';
import { label, type SyncStream } from './plan.ts';
import { publicationStatus, publicationsSince } from './postgres/publication.ts';
import { serverIdentity, slotCatalogXmin } from './postgres/slot.ts';
import { transactionIds } from './postgres/transaction-ids.ts';
import { formatVisibility, widenXid } from './postgres/visibility.ts';
import { completed, startTable } from './progress.ts';
import type { SourceModel } from './source-model.ts';
import type { InputState, SharedState, StreamProgress } from './state.ts';

type Adoption = {
  readonly client: Client;
  readonly source: SourceModel;
  readonly cdc: CdcConfig | null;
  /** Told why a stream begins anew. */
  readonly warn: (sentence: string) => void;
};

/** Why a stream is read from the beginning. */
class Anew {
  readonly reason: string;

  constructor(reason: string) {
    this.reason = reason;
  }
}

/** The state with every entry of Airbyte's Postgres source taken over, or left out. */
export async function adoptState(
  adoption: Adoption,
  streams: readonly SyncStream[],
  state: InputState,
): Promise<InputState> {
  if (state.airbyteStreams.size === 0) return state;
  const { cdc, client, warn } = adoption;
  // Refused elsewhere: a state of one update method in a sync of another.
  if ((cdc !== null) !== (state.kind === 'global')) return state;
  const shared = cdc === null ? null : await adoptPosition(client, cdc, state.airbytePosition);
  const adopted = new Map<string, StreamProgress>(state.streams);
  for (const stream of streams) {
    const entry = state.airbyteStreams.get(stream.key);
    if (entry === undefined) continue;
    const progress = await adoptStream(adoption, stream, entry);
    if (progress instanceof Anew) {
      warn(`${label(stream.name)} is read from the beginning: ${progress.reason}.`);
    } else adopted.set(stream.key, progress);
  }
  return { ...state, shared, streams: adopted, airbyteStreams: new Map() };
}

async function adoptStream(
  adoption: Adoption,
  stream: SyncStream,
  entry: AirbyteStream,
): Promise<StreamProgress | Anew> {
  switch (stream.mode) {
    case 'full_refresh':
      return new Anew("a full refresh does not go on from a state of Airbyte's Postgres source");
    case 'cursor':
      return adoptCursor(adoption, stream, entry);
    case 'xmin':
      return adoptXmin(adoption, stream, entry);
    case 'cdc':
      return adoptChanges(stream, entry);
    default:
      return stream.mode satisfies never;
  }
}

/** Types whose values that source stores as the server would read them. */
const STORED_ALIKE: ReadonlySet<string> = new Set([
  'int2',
  'int4',
  'int8',
  'float4',
  'float8',
  'numeric',
  'name',
  'text',
  'varchar',
  'bpchar',
  'citext',
  'uuid',
  'date',
  'time',
  'timestamp',
  'timestamptz',
]);

async function adoptCursor(
  { client, source }: Adoption,
  stream: SyncStream,
  { cursor, page }: AirbyteStream,
): Promise<StreamProgress | Anew> {
  if (cursor === null || cursor.field !== stream.cursorField) {
    return new Anew('its cursor is another one now');
  }
  if (page !== null) {
    return new Anew(
      "its first load by Airbyte's Postgres source was not at its end, and rows may have moved since",
    );
  }
  const column = stream.relation.columns.find(({ name }) => name === stream.cursorField);
  if (column === undefined) return new Anew('its cursor is gone');
  const type = typeName(column.typeOid, source.types);
  const isEnum = source.types.get(column.typeOid)?.kind === 'e';
  if (!STORED_ALIKE.has(type) && !isEnum) throw notAlike(stream);
  const value = await serverText(client, column.typeOid, lowered(cursor.value, type));
  if (value === null) throw notAlike(stream);
  return {
    mode: 'cursor',
    cursorField: stream.cursorField,
    cursorType: stream.cursorType,
    cursor: value,
    upper: null,
    progress: null,
  };
}

function notAlike(stream: SyncStream): ConnectorError {
  return new ConnectorError(
    `The state of ${label(stream.name)} comes from Airbyte's Postgres source, and its cursor ${stream.cursorField} cannot be taken over: that source writes values of its type in another form.`,
    {
      kind: 'config_error',
      fix: 'Clear the stream, so that it is read from the beginning.',
      stream: stream.name,
    },
  );
}

/** A number that JSON may have rounded up becomes the next smaller one: some rows more, none less. */
function lowered(value: AirbyteValue, type: string): string {
  if (typeof value !== 'number') return String(value);
  // A double leaves and enters JSON as the same double.
  if (Number.isSafeInteger(value) || type.startsWith('float')) return String(value);
  const below = nextBelow(value);
  return type.startsWith('int') ? String(BigInt(Math.floor(below))) : String(below);
}

function nextBelow(value: number): number {
  const bits = new BigInt64Array(new Float64Array([value]).buffer);
  bits[0] = (bits[0] ?? 0n) + (value > 0 ? -1n : 1n);
  return new Float64Array(bits.buffer)[0] ?? value;
}

/** The value as the server writes it; null where it is none of the type. */
async function serverText(client: Client, typeOid: number, value: string): Promise<string | null> {
  const type = await typeSql(client, typeOid);
  try {
    const read = await client.query<{ value: string }>(`SELECT $1::${type}::text AS value`, [
      value,
    ]);
    return read.rows[0]?.value ?? null;
  } catch (error) {
    // Class 22: data exception.
    if (errorCode(error).startsWith('22')) return null;
    throw error;
  }
}

/** That source fixes the id before it begins to read, so a load that was interrupted can be gone on with as well. */
async function adoptXmin(
  { client }: Adoption,
  stream: SyncStream,
  { xmin, page, filenode }: AirbyteStream,
): Promise<StreamProgress | Anew> {
  if (xmin === null) return new Anew('its state tells of no transaction id');
  if (xmin > (await transactionIds(client)).next) {
    return new Anew('the server has not come as far as the state');
  }
  const { relation, hypertable } = stream;
  const base = {
    mode: 'xmin' as const,
    relation: relation.oid,
    ...(await serverIdentity(client)),
  };
  if (page === null) return { ...base, horizon: xmin, next: null, progress: null };
  if (hypertable !== null || relation.kind !== 'table') {
    return new Anew('places in its parts say nothing about it as a whole');
  }
  const progress = { ...startTable(), relation: relation.oid, filenode, page };
  return { ...base, horizon: null, next: xmin, progress };
}

/** Only what is said to be read to its end, of tables whose changes that source can follow. */
function adoptChanges(stream: SyncStream, { done }: AirbyteStream): StreamProgress | Anew {
  const { relation, hypertable } = stream;
  if (hypertable !== null) {
    return new Anew("Airbyte's Postgres source does not see the changes of a hypertable");
  }
  if (relation.kind !== 'table' || stream.identity.length === 0) {
    return new Anew("Airbyte's Postgres source follows only tables with a primary key");
  }
  if (!done) return new Anew('its state does not say that all its rows were read');
  const progress = completed({ ...startTable(), relation: relation.oid + 1 });
  return { mode: 'cdc', progress };
}

/**
 * The position, as one of ours. Whether the slot can serve it is judged with every other one. That source does not say
 * when it last looked at the publication: what was added to it after the slot's oldest picture of the system catalog counts
 * as new.
 */
async function adoptPosition(
  client: Client,
  cdc: CdcConfig,
  position: AirbytePosition | null,
): Promise<SharedState> {
  if (position?.lsn == null) {
    throw new ConnectorError(
      "The state comes from Airbyte's Postgres source and has no position in the write-ahead log.",
      {
        kind: 'config_error',
        fix: 'Clear the connection, so that it starts without a state.',
      },
    );
  }
  const oldest = await slotCatalogXmin(client, cdc.slot);
  const { next } = await transactionIds(client);
  const since = oldest === null ? next : widenXid(oldest, next);
  const seen = { xmin: since, xmax: since, running: new Set<bigint>() };
  const changed = oldest !== null && (await publicationsSince(client, cdc.publication, seen));
  const { oid = null } = (await publicationStatus(client, cdc.publication)) ?? {};
  return {
    lsn: position.lsn,
    lsnSeen: null,
    emittedTo: null,
    cursorFloor: 0,
    slot: cdc.slot,
    publication: cdc.publication,
    // None has this one: a publication that has changed since counts as made again.
    publicationOid: changed ? 0 : oid,
    publicationsSeen: formatVisibility(seen),
    settled: false,
    columns: null,
    ...(await serverIdentity(client)),
  };
}
