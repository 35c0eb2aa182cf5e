/** Ten thousand chunks: what grows with them, and what must not. */
import { expect, it } from 'vitest';
import { loadSpec, parseConfig } from '../src/config.ts';
import { discover } from '../src/discover.ts';
import { configuredCatalog, run } from './connector.ts';
import { createDatabase, type Database } from './database.ts';

const CHUNKS = 10_000;
const MAX_STATE_BYTES = 10_000;
/** Enough of a first sync to have been through many rounds of reading and streaming. */
const STATES = 1200;

async function createHypertable(db: Database, chunks: number): Promise<void> {
  await db.query(`
    CREATE TABLE h (t bigint NOT NULL, v int, PRIMARY KEY (t));
    SELECT create_hypertable('h', 't', chunk_time_interval => 1);
    INSERT INTO h SELECT i, i FROM generate_series(1, ${chunks}) i`);
}

/** How many queries a discover sends. */
async function queriesOfDiscover(db: Database): Promise<number> {
  const client = await db.client();
  let queries = 0;
  const counted = new Proxy(client, {
    get(target, property) {
      if (property === 'query') queries += 1;
      const value: unknown = Reflect.get(target, property);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
  try {
    const { catalog } = await discover(counted, parseConfig(db.config(), await loadSpec()));
    expect(catalog.streams.map((stream) => stream.name)).toEqual(['h']);
    return queries;
  } finally {
    await client.end();
  }
}

it('discover asks as much of ten thousand chunks as of ten', async () => {
  await using small = await createDatabase();
  await createHypertable(small, 10);
  await using large = await createDatabase();
  await createHypertable(large, CHUNKS);
  const few = await queriesOfDiscover(small);
  expect(few).toBeGreaterThan(0);
  expect(await queriesOfDiscover(large)).toBe(few);
});

it('the state stays small while ten thousand chunks are read', async () => {
  await using db = await createDatabase();
  await createHypertable(db, CHUNKS);
  const config = db.config();
  const discovered = (await run('discover', { config })).succeeded().catalog();
  const result = await run('read', {
    config,
    catalog: configuredCatalog(discovered, { syncMode: 'incremental' }),
    killAfterStates: STATES,
  });
  const sizes = result.lines.filter((line) => line.startsWith('{"type":"STATE"'));
  expect(sizes.length).toBeGreaterThanOrEqual(STATES);
  expect(Math.max(...sizes.map((line) => Buffer.byteLength(line)))).toBeLessThan(MAX_STATE_BYTES);
});
