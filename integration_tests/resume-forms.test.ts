/**
 * From every state that a sync emits the next one goes on, in whatever form the state comes back: as it was, without
 * namespaces, as Python's models write it, or with what the platform adds.
 */
import { describe, expect, test } from 'vitest';
import type { JsonObject } from '../src/airbyte/protocol.ts';
import { createDatabase, type Database } from './database.ts';
import { Destination } from './destination.ts';
import type { Message } from './messages.ts';
import { connectTo } from './scenario.ts';

const STREAMS = ['devices', 'metrics'] as const;

async function fill(db: Database): Promise<void> {
  await db.query(`
    CREATE TABLE metrics (time timestamptz NOT NULL, device int NOT NULL, note text,
                          PRIMARY KEY (time, device));
    SELECT create_hypertable('metrics', 'time', chunk_time_interval => interval '1 day');
    INSERT INTO metrics SELECT '2026-01-01Z'::timestamptz + day * interval '1 day', i, 'first'
      FROM generate_series(0, 2) day, generate_series(1, 5) i;
    CREATE TABLE devices (time timestamptz NOT NULL, id int PRIMARY KEY);
    INSERT INTO devices SELECT '2026-01-01Z'::timestamptz + i * interval '1 hour', i
      FROM generate_series(1, 4) i`);
}

type Plain = Readonly<Record<string, unknown>>;

/** A pydantic dump: `global_`, every absent key as null, counts as doubles. */
function asPython(state: Plain): Plain {
  const { type, stream, global, sourceStats } = state as {
    readonly type: string;
    readonly stream?: Plain;
    readonly global?: Plain;
    readonly sourceStats?: { readonly recordCount: number };
  };
  return {
    type,
    stream: stream ?? null,
    global_: global ?? null,
    data: null,
    sourceStats: sourceStats ?? null,
    destinationStats: null,
  };
}

function withoutNamespace(state: Plain): Plain {
  return JSON.parse(JSON.stringify(state), (key, value: unknown) =>
    key === 'namespace' ? undefined : value,
  ) as Plain;
}

const FORMS: readonly (readonly [name: string, (state: Plain, index: number) => Plain])[] = [
  ['as it was', (state) => state],
  ['without namespaces', withoutNamespace],
  ["as Python's models write it", asPython],
  [
    'with what the platform adds',
    (state, index) => ({
      ...state,
      id: index + 1,
      partition_id: `p${index}`,
      destinationStats: {},
    }),
  ],
];

const METHODS: readonly (readonly [string, JsonObject])[] = [
  ['CDC', {}],
  ['cursor', { replication_method: { method: 'Standard' } }],
];

describe.each(METHODS)('%s', (method, settings) => {
  test.each(FORMS)(
    'from every state, %s',
    async (_, form) => {
      await using db = await createDatabase();
      await fill(db);
      const overrides = { ...settings, timescaledb_max_concurrent_chunks: 1 };
      const connection = await connectTo(db, { cursorField: 'time' }, overrides);
      const { messages } = (await connection.sync()).succeeded();
      // Later rows, each greater than all before: a cursor sees them as well.
      await db.query(`
      INSERT INTO metrics VALUES ('2026-01-03 12:00Z', 7, 'later'), ('2026-02-01Z', 7, 'new chunk');
      INSERT INTO devices VALUES ('2026-02-01Z', 5)`);
      const stateAt = messages.flatMap(({ type }, index) => (type === 'STATE' ? [index] : []));
      expect(stateAt.length).toBeGreaterThan(STREAMS.length);
      const rows = 15 + 4;
      for (const [nth, at] of stateAt.entries()) {
        connection.destination = new Destination(connection.catalog);
        connection.destination.apply(messages.slice(0, at + 1));
        const state = (connection.destination.state as readonly Plain[]).map(form);
        const rest = (await connection.attempt({ state })).succeeded();
        connection.destination.apply(rest.messages);
        // What came while a pass by cursor was not finished belongs to the pass after it.
        if (method !== 'CDC') (await connection.sync()).succeeded();
        await connection.expectEqual(...STREAMS);
        const delivered = recordsIn(messages.slice(0, at + 1)) + recordsIn(rest.messages);
        const what = `state ${nth + 1} of ${stateAt.length}`;
        expect(delivered, what).toBeGreaterThanOrEqual(rows);
        // A state that was not understood would begin anew.
        if (nth === stateAt.length - 1) expect(recordsIn(rest.messages), what).toBeLessThan(10);
      }
    },
    300_000,
  );
});

function recordsIn(messages: readonly Message[]): number {
  return messages.filter(({ type }) => type === 'RECORD').length;
}
