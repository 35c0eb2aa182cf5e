/** A real pgbouncer before the server. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { run } from './connector.ts';
import { createDatabase, type Database } from './database.ts';
import { EMPTY, expectRefused } from './refusals.ts';
import { connectTo, DAY_ZERO } from './scenario.ts';
import { placeOf, startPooler } from './services.ts';

let db: Database;

beforeAll(async () => {
  db = await createDatabase();
  await db.query(`
    CREATE TABLE metrics (time timestamptz NOT NULL, spent interval, raw bytea, PRIMARY KEY (time));
    SELECT create_hypertable('metrics', 'time', chunk_time_interval => interval '1 day');
    INSERT INTO metrics SELECT '${DAY_ZERO}'::timestamptz + i * interval '1 hour', i * interval '25 hours', 'abc'
      FROM generate_series(0, 99) i;
    ALTER DATABASE ${db.name} SET IntervalStyle = 'iso_8601';
    ALTER DATABASE ${db.name} SET bytea_output = 'escape';
    ALTER DATABASE ${db.name} SET statement_timeout = '1h'`);
});

afterAll(() => db[Symbol.asyncDispose]());

test('in session mode everything works, changes too', async (context) => {
  const place = await placeOf('/usr/sbin/pgbouncer');
  if (typeof place === 'string') {
    context.skip(place);
    return;
  }
  const pooler = await startPooler(place, db.url, 'session');
  try {
    const connection = await connectTo(db, {}, { host: '127.0.0.1', port: pooler.port });
    (await connection.sync()).succeeded();
    await connection.expectEqual('metrics');
    await db.query(`UPDATE metrics SET spent = interval '3 days 2 hours'`);
    (await connection.sync()).succeeded();
    await connection.expectEqual('metrics');
  } finally {
    await pooler.stop();
  }
});

test.for(['transaction', 'statement'] as const)(
  'in %s mode it is refused, and nothing of ours stays in the pool',
  async (mode, context) => {
    const place = await placeOf('/usr/sbin/pgbouncer');
    if (typeof place === 'string') {
      context.skip(place);
      return;
    }
    const pooler = await startPooler(place, db.url, mode);
    try {
      const config = db.config({ host: '127.0.0.1', port: pooler.port });
      const sentence = /pooler in transaction or statement mode.*pool_mode = session/;
      const check = await run('check', { config });
      expect(check.connectionStatus().message).toMatch(sentence);
      expectRefused(await run('read', { config, catalog: EMPTY }), 'config_error', sentence);
      const url = new URL(db.url);
      url.port = String(pooler.port);
      const pg = (await import('pg')).default;
      const other = new pg.Client({ connectionString: url.href });
      await other.connect();
      const { rows } = await other.query<{ statement_timeout: string }>('SHOW statement_timeout');
      expect(rows[0]?.statement_timeout).toBe('1h');
      await other.end();
    } finally {
      await pooler.stop();
    }
  },
);
