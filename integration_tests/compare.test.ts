/** What `npm run compare` shows. */
import { expect, test } from 'vitest';
import { runCases } from './compare-cases.ts';
import { createDatabase, requires } from './database.ts';
import { hasSetting } from './ways.ts';

test('while chunks are maintained one long snapshot loses rows, and the connector none', async (context) => {
  {
    await using db = await createDatabase();
    await requires(context, db);
    if (!(await hasSetting(db, 'timescaledb.enable_in_memory_recompression')))
      context.skip('before 2.20 chunks are compressed anew in another way');
  }
  const results = await runCases(process.env['TIMESCALEDB_URL'] ?? '');
  expect(results.filter(({ maintained }) => maintained)).toHaveLength(3);
  for (const { name, maintained, tableRows, snapshotRows, connectorRows, complete } of results) {
    expect(complete, name).toBe(true);
    expect(connectorRows, name).toBe(tableRows);
    // Without maintenance it reads everything: the reader itself is right.
    if (maintained) expect(snapshotRows, name).toBeLessThan(tableRows);
    else expect(snapshotRows, name).toBe(tableRows);
  }
}, 300_000);
