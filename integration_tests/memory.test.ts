/** The bound of `timescaledb_max_memory_mb`, where it is tightest; `npm run memory` measures more. */
import { expect, it } from 'vitest';
import { run } from './connector.ts';
import { createDatabase } from './database.ts';
import { connectTo } from './scenario.ts';

const LIMIT_MB = 160;
/** What the image starts node with under this limit (see docker/source-timescaledb). */
const NODE_OPTIONS = '--max-semi-space-size=5 --max-old-space-size=120';
const CHUNKS = 6;

it.skipIf(process.platform !== 'linux')(
  'rows of 18 MB, read from several chunks and from the log, stay under 160 MB',
  async () => {
    await using db = await createDatabase();
    await db.query(`
      CREATE TABLE wide (time timestamptz PRIMARY KEY, note text);
      SELECT create_hypertable('wide', 'time', chunk_time_interval => interval '1 day');
      INSERT INTO wide SELECT timestamptz '2026-01-01' + i * interval '1 day', repeat('0123456789abcdef', 18 * 65536)
        FROM generate_series(1, ${CHUNKS}) i`);
    const settings = { timescaledb_max_memory_mb: LIMIT_MB, timescaledb_max_concurrent_chunks: 6 };
    const { config, catalog } = await connectTo(db, {}, settings);
    const options = { config, catalog, keepMessages: false, env: { NODE_OPTIONS } };
    let state: unknown[] = [];
    let records = 0;
    let widest = 0;
    const sync = (): ReturnType<typeof run> => {
      records = 0;
      return run('read', {
        ...options,
        state,
        onMessage: (message) => {
          if (message.type === 'STATE') state = [message.state];
          if (message.type !== 'RECORD') return;
          records += 1;
          widest = Math.max(widest, String(message.record.data['note']).length);
        },
      });
    };
    const load = (await sync()).succeeded();
    expect([records, widest]).toEqual([CHUNKS, 18 * 1024 * 1024]);
    expect((load.maxRssKb ?? Infinity) / 1024).toBeLessThan(LIMIT_MB);
    await db.query(`UPDATE wide SET note = 'x' || note`);
    const changes = (await sync()).succeeded();
    expect([records, widest]).toEqual([CHUNKS, 18 * 1024 * 1024 + 1]);
    expect((changes.maxRssKb ?? Infinity) / 1024).toBeLessThan(LIMIT_MB);
  },
);
