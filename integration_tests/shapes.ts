/** The life of a hypertable under CDC, the same for every shape: found, read, changed, read on. */
import pg from 'pg';
import { expect } from 'vitest';
import type { JsonObject, JsonValue } from '../src/airbyte/protocol.ts';
import type { Database } from './database.ts';
import type { RunResult } from './run-result.ts';
import { type Connection, connectTo, stopWhen, untilWaiting } from './scenario.ts';

/** A table's schema and name, as they are. */
export type TableName = readonly [schema: string, name: string];

export type Shape = {
  /** SQL that makes the one table of the database, with its first rows. */
  readonly table: string;
  readonly stream: TableName;
  /** Its dimensions, as `discover` tells them. */
  readonly dimensions: readonly JsonObject[];
  /** SQL that inserts, updates, deletes, and makes a chunk. */
  readonly changes: string;
  /** How many records these are: a row of the new chunk is one, whatever became of it. */
  readonly records: number;
};

/** Makes the table, syncs, changes it and syncs again. Everything is there afterwards, and came once. */
export async function follow(
  db: Database,
  shape: Shape,
  overrides: JsonObject = {},
): Promise<Connection> {
  await db.query(shape.table);
  const connection = await connectTo(db, {}, overrides);
  expectStream(connection, shape, await chunkCount(db, shape.stream));
  await expectFirstSync(connection, shape.stream);
  await expectChanges(connection, shape);
  return connection;
}

/** One stream with its annotation, and no chunk as a stream. */
export function expectStream(
  connection: Connection,
  shape: Pick<Shape, 'stream' | 'dimensions'>,
  chunks: number,
): void {
  const { streams } = connection.catalog;
  expect(streams.map(({ stream }) => [stream.namespace, stream.name])).toEqual([shape.stream]);
  const { dimensions } = shape;
  const interval = dimensions[0]?.['interval'];
  expect(annotation(connection)).toMatchObject({
    kind: 'hypertable',
    dimensions,
    ...(interval === undefined ? {} : { chunk_interval: interval }),
    chunks,
  });
}

function annotation(connection: Connection): JsonValue | undefined {
  return connection.catalog.streams[0]?.stream.json_schema['x-timescaledb'];
}

/** Each row once, each chunk once. */
export async function expectFirstSync(
  connection: Connection,
  stream: TableName,
): Promise<RunResult> {
  const { db } = connection;
  const first = (await connection.sync()).succeeded();
  expect(first.records(stream.join('.'))).toHaveLength(await rowCount(db, stream));
  expect(chunkReads(first)).toHaveLength(await chunkCount(db, stream));
  await connection.expectEqual(stream.join('.'));
  return first;
}

/** The changes, and nothing but them. */
export async function expectChanges(
  connection: Connection,
  shape: Pick<Shape, 'stream' | 'changes' | 'records'>,
): Promise<RunResult> {
  const { db } = connection;
  const before = await chunkCount(db, shape.stream);
  await db.query(shape.changes);
  expect(await chunkCount(db, shape.stream)).toBeGreaterThan(before);
  const second = (await connection.sync()).succeeded();
  expect(second.records(shape.stream.join('.'))).toHaveLength(shape.records);
  await connection.expectEqual(shape.stream.join('.'));
  return second;
}

/** Names of the chunks that a sync has read. */
export function chunkReads(result: RunResult): string[] {
  return result.logs().flatMap((line) => /: chunk (.+) read, \d+ rows/.exec(line)?.[1] ?? []);
}

/** How many chunks a hypertable has, tiered ones too. */
export function chunkCount(db: Database, stream: TableName): Promise<number> {
  return db.value<number>(
    `SELECT count(*)::int FROM pg_inherits WHERE inhparent = format('%I.%I', $1::text, $2::text)::regclass`,
    [...stream],
  );
}

function rowCount(db: Database, stream: TableName): Promise<number> {
  const table = stream.map((part) => pg.escapeIdentifier(part)).join('.');
  return db.value<number>(`SELECT count(*)::int FROM ${table}`);
}

/**
 * A sync that is held between its first chunk, which must be more than the pipe holds, and its second one: there the
 * SQL runs and commits.
 */
export async function syncAltered(
  connection: Connection,
  stream: TableName,
  sql: string,
): Promise<RunResult> {
  const { db } = connection;
  const session = await db.client();
  let altered: Promise<void> | undefined;
  const alter = async (): Promise<void> => {
    await untilWaiting(db, 'rows');
    await session.query(sql);
    await session.query('COMMIT');
  };
  try {
    const second = await chunkName(db, stream, 1);
    const result = await connection.sync({
      timeoutSeconds: 60,
      ...stopWhen(
        ({ type }) => type === 'RECORD',
        async () => {
          // Its ALTER waits for the hypertable, on which the read has a lock that waits for this one: not it is to give way.
          await session.query(`SET deadlock_timeout = '1min'`);
          await session.query(`BEGIN; LOCK TABLE ONLY ${second} IN ACCESS EXCLUSIVE MODE`);
          altered = alter();
          // Awaited below: until then a failure of it is nobody's.
          altered.catch(() => undefined);
        },
      ),
    });
    await altered;
    return result;
  } finally {
    await session.end();
  }
}

/** The nth chunk by time, from 0, as SQL. */
export function chunkName(db: Database, stream: TableName, n: number): Promise<string> {
  return db.value<string>(
    `SELECT format('%I.%I', chunk_schema, chunk_name) FROM timescaledb_information.chunks
      WHERE hypertable_schema = $1 AND hypertable_name = $2 ORDER BY range_start, range_start_integer OFFSET $3 LIMIT 1`,
    [...stream, n],
  );
}
