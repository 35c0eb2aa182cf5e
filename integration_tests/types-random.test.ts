/** Random values of every type, some 20,000; `npm run types` runs as many as one likes. */
import { randomInt } from 'node:crypto';
import { expect, test } from 'vitest';
import { TypesCheck } from './types-check.ts';

const ROWS = 45;

test('values of every type are the same from a table, from the log and as the server has them', async () => {
  const seed = Number(process.env['TYPES_SEED'] ?? randomInt(1_000_000));
  console.log(`TYPES_SEED=${seed}`);
  const check = new TypesCheck();
  await check.round(ROWS, seed / 1_000_000);
  const { faults, types, values } = check.report();
  expect(faults).toEqual([]);
  expect(values).toBeGreaterThan(15_000);
  for (const [type, count] of types) {
    expect(count.values, type).toBeGreaterThan(count.nulls + count.unencodable);
  }
});
