/** How many chunks are read at once: as configured, within connections and memory. */
import { expect, it } from 'vitest';
import { parseConfig } from '../src/config.ts';
import { readersAtOnce } from '../src/load.ts';
import { spec } from './spec-walk.ts';

function readers(chunks: number, memoryMb: number, connections: number | null, cdc = true): number {
  const config = parseConfig(
    {
      host: 'db',
      port: 5432,
      database: 'metrics',
      username: 'reader',
      timescaledb_max_concurrent_chunks: chunks,
      timescaledb_max_memory_mb: memoryMb,
      ...(connections === null ? {} : { max_db_connections: connections }),
    },
    spec,
  );
  return readersAtOnce(config, cdc);
}

it('as many as configured', () => {
  expect([1, 2, 9].map((chunks) => readers(chunks, 512, null))).toEqual([1, 2, 9]);
});

it('no more than connections are left, and always one', () => {
  expect([1, 3, 5].map((connections) => readers(16, 8192, connections))).toEqual([1, 1, 3]);
  expect(readers(16, 8192, 5, false)).toBe(4);
});

it('no more than memory has room for, each with a row of 20 MB', () => {
  expect([64, 128, 175, 176, 512].map((mb) => readers(16, mb, null))).toEqual([1, 1, 1, 2, 9]);
});
