/** Floats in binary format: the digits are those that the server prints, whatever the values of a chunk are like. */
import { randomInt } from 'node:crypto';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { LineBuffer } from '../src/airbyte/line-buffer.ts';
import { floatEncoder } from '../src/column-floats.ts';
import { createDatabase, type Database } from './database.ts';
import { connectTo, DAY_ZERO } from './scenario.ts';

let db: Database;

beforeAll(async () => {
  db = await createDatabase();
});
afterAll(() => db?.[Symbol.asyncDispose]());

/** mulberry32: the same values for the same seed. */
function randomOf(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

/** The double so many steps away. */
function stepped(value: number, steps: number): number {
  const bits = new BigInt64Array(new Float64Array([value]).buffer);
  const moved = BigInt64Array.from(bits, (own) => own + BigInt(steps));
  return new Float64Array(moved.buffer)[0] ?? 0;
}

function generators(random: () => number): readonly (() => number)[] {
  const below = (end: number): number => Math.floor(random() * end);
  return [
    () => (random() - 0.5) * 10 ** below(25),
    () => Number(`${below(10 ** below(17))}e-${below(20)}`),
    () => Number(`-${below(1e6)}e${below(25) - 6}`),
    () => stepped(2 ** (below(2046) - 1022), below(5) - 2),
    () => stepped(Number(`1e${below(600) - 300}`), below(5) - 2),
    () => random() * 2e-308,
    () => (2 ** 53 + below(2 ** 50)) * 2 ** below(20),
    () => stepped(0, below(2 ** 30)) * 2 ** below(1000),
  ];
}

test('each double is printed to the digits of the server', async () => {
  const seed = Number(process.env['TYPES_SEED'] ?? randomInt(1_000_000));
  console.log(`TYPES_SEED=${seed}`);
  const random = randomOf(seed);
  const values = generators(random).flatMap((next) => Array.from({ length: 5000 }, next));
  const rows = await db.query<{ text: string }>(
    'SELECT unnest($1::double precision[])::text AS text',
    [values.map((value) => (Object.is(value, -0) ? '-0' : String(value)))],
  );
  const encode = floatEncoder({ values: 0, long: 0 });
  const out = new LineBuffer(128);
  const bytes = Buffer.alloc(8);
  const printed = values.map((value) => {
    bytes.writeDoubleBE(value);
    out.length = 0;
    expect(encode(out, bytes, 0, 8)).toBe(true);
    return out.bytes.toString('latin1', 0, out.length);
  });
  expect(printed).toEqual(rows.map(({ text }) => text));
});

test('chunk by chunk, with values that are short, long, and neither', async () => {
  await db.query(`
    CREATE TABLE floats (time timestamptz NOT NULL, id int, short float8, long float8, mixed float8, real float4,
                         PRIMARY KEY (time, id));
    SELECT create_hypertable('floats', 'time', chunk_time_interval => interval '1 day');
    INSERT INTO floats
    SELECT '${DAY_ZERO}'::timestamptz + day * interval '1 day', i,
           CASE WHEN i % 7 = 0 THEN NULL ELSE (i * 7919 % 100000) / 1000.0 END, sin(i),
           -- Short in the first chunks, then long, then what has no JSON form or an exponent.
           CASE WHEN day < 3 THEN -i / 4.0 WHEN day < 5 THEN sqrt(i + day)
                ELSE (ARRAY['NaN', 'Infinity', '-Infinity', '1e23', '1e-07', '-0', '8.41e21', '5e-324'])[i % 8 + 1]::float8 END,
           i / 7.0
      FROM generate_series(0, 7) day, generate_series(1, 600) i`);
  const connection = await connectTo(db, { streams: ['floats'] });
  const result = (await connection.sync()).succeeded();
  expect(result.records('floats')).toHaveLength(8 * 600);
  await connection.expectEqual('floats');
  const data = result.records('floats').map((record) => record.data);
  const where = (day: number, i: number): unknown =>
    data.find((row) => row['id'] === i && String(row['time']).startsWith(`2026-01-0${day + 1}`));
  expect(where(7, 3)).toMatchObject({ short: 23.757, mixed: { digits: '9.999999999999999e+22' } });
  expect(where(7, 7)).toMatchObject({ short: null, mixed: { digits: '5e-324' } });
  expect(where(7, 8)).toMatchObject({ mixed: null });
});
