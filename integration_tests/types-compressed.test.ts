/** Values of every type in a compressed chunk: the columnstore keeps them in formats of its own. */
import { randomInt } from 'node:crypto';
import { expect, test } from 'vitest';
import { createDatabase, hasCompression } from './database.ts';
import { connectTo } from './scenario.ts';
import { TypesCheck } from './types-check.ts';
import { deliveredRows } from './types-delivery.ts';
import { createSamples, expectedJson, fillSamples } from './types-samples.ts';

/** Enough for runs of equal values, which are kept as such. */
const ROWS = 60;
/** Ids of the rows that are inserted into the compressed chunk. */
const LATER = 500;

test('a compressed chunk is read as it was before, value by value', async (context) => {
  await using db = await createDatabase();
  if (!(await hasCompression(db))) context.skip('this build has no compression');
  const seed = Number(process.env['TYPES_SEED'] ?? randomInt(1_000_000));
  console.log(`TYPES_SEED=${seed}`);
  const samples = await createSamples(db);
  await fillSamples(samples, ROWS, seed / 1_000_000);
  const columns = samples.columns.map(({ name }) => name).join(', ');
  const insert = (offset: number): string =>
    `INSERT INTO hyper (id, ${columns}) SELECT id + ${offset}, ${columns} FROM samples ORDER BY id`;
  await db.query(`
    CREATE TABLE hyper (id int PRIMARY KEY, ${samples.definitions});
    SELECT create_hypertable('hyper', 'id', chunk_time_interval => 1000);
    ALTER TABLE hyper SET (timescaledb.compress, timescaledb.compress_orderby = 'id');
    ${insert(0)}`);
  const connection = await connectTo(db, { streams: ['hyper'] });
  const plain = deliveredRows((await connection.sync()).succeeded(), 'hyper', 0);

  await db.query(`SELECT compress_chunk(chunk) FROM show_chunks('hyper') AS chunk`);
  expect(
    await db.value(
      `SELECT bool_and(is_compressed) FROM timescaledb_information.chunks WHERE hypertable_name = 'hyper'`,
    ),
  ).toBe(true);
  await connection.clear();
  const compressed = deliveredRows((await connection.sync()).succeeded(), 'hyper', 0);
  await db.query(insert(LATER));
  const changed = deliveredRows((await connection.sync()).succeeded(), 'hyper', LATER);

  for (const rows of [compressed, changed]) {
    expect(rows.size).toBe(ROWS);
    for (const [id, { text }] of rows) expect(text).toBe(plain.get(id)?.text);
  }
  const check = new TypesCheck();
  check.against(samples, await expectedJson(samples), compressed);
  expect(check.report().faults).toEqual([]);
});
