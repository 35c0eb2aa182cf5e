/** A real pgbouncer before the server. */
import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { run } from './connector.ts';
import { createDatabase, type Database } from './database.ts';
import { EMPTY, expectRefused } from './refusals.ts';
import { connectTo, DAY_ZERO } from './scenario.ts';
import { placeOf, type Service, startPooler } from './services.ts';

let db: Database;

beforeAll(async () => {
  db = await createDatabase();
  await db.query(`
    CREATE TABLE metrics (time timestamptz NOT NULL, spent interval, raw bytea, PRIMARY KEY (time));
    SELECT create_hypertable('metrics', 'time', chunk_time_interval => interval '1 day');
    INSERT INTO metrics SELECT '${DAY_ZERO}'::timestamptz + i * interval '1 hour', i * interval '25 hours', 'abc'
      FROM generate_series(0, 99) i;
    CREATE TABLE notes (time timestamp PRIMARY KEY, value float8);
    INSERT INTO notes SELECT '2027-01-01'::timestamp + i * interval '1.001 hours', i / 7.0 FROM generate_series(1, 500) i;
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

/** Each transaction gets the session that has rested longest, and nothing is cleaned up between two. */
const ROUND_ROBIN = ['server_round_robin = 1', 'max_prepared_statements = 0'];

/** Ended even if the work fails: the pooler does not stop while a client is left. */
async function through<T>(pooler: Service, work: (client: pg.Client) => Promise<T>): Promise<T> {
  const url = new URL(db.url);
  url.port = String(pooler.port);
  const client = new pg.Client({ connectionString: url.href });
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}

/** Opens sessions of the pool to the server, and leaves settings in each that make values look otherwise. */
async function spoil(pooler: Service, sessions: number): Promise<void> {
  if (sessions === 0) return;
  await through(pooler, async (client) => {
    await client.query(`BEGIN; SET extra_float_digits = -3; SET xmloption = document`);
    await spoil(pooler, sessions - 1);
    await client.query('COMMIT');
  });
}

test.for([{ method: 'Standard' }, { method: 'Xmin' }])(
  'in transaction mode reads work, and nothing of ours stays in the pool: %j',
  async (replication_method, context) => {
    const place = await placeOf('/usr/sbin/pgbouncer');
    if (typeof place === 'string') {
      context.skip(place);
      return;
    }
    const pooler = await startPooler(place, db.url, 'transaction', ROUND_ROBIN);
    try {
      await spoil(pooler, 3);
      const overrides = { host: '127.0.0.1', port: pooler.port, replication_method };
      const config = db.config(overrides);
      expect((await run('check', { config })).connectionStatus()).toEqual({ status: 'SUCCEEDED' });
      const cursor = replication_method.method === 'Standard' ? { cursorField: 'time' } : {};
      const connection = await connectTo(
        db,
        { streams: ['metrics', 'notes'], ...cursor },
        overrides,
      );
      (await connection.sync()).succeeded();
      await connection.expectEqual('metrics', 'notes');
      await db.query(`INSERT INTO metrics VALUES ('${DAY_ZERO}'::timestamptz + interval '200 days', '36 hours', 'x');
                      INSERT INTO notes VALUES ('2027-02-03 04:05:06.7', 0.1)`);
      const second = (await connection.sync()).succeeded();
      await connection.expectEqual('metrics', 'notes');
      expect(second.records().length).toBeLessThan(20);
      const found = await through(pooler, async (client) => {
        const settings = [];
        for (let each = 0; each < 3; each += 1) {
          const { rows } = await client.query<Record<string, string>>(
            `SELECT current_setting('statement_timeout') AS statements, current_setting('xmloption') AS xml,
                    current_setting('extra_float_digits') AS digits,
                    (SELECT count(*)::text FROM pg_prepared_statements WHERE name <> '') AS prepared`,
          );
          settings.push(rows[0]);
        }
        return settings;
      });
      const spoiled = { statements: '1h', xml: 'document', digits: '-3', prepared: '0' };
      expect(found).toEqual([spoiled, spoiled, spoiled]);
    } finally {
      await pooler.stop();
      await db.query(
        `DELETE FROM metrics WHERE spent = interval '36 hours'; DELETE FROM notes WHERE value = 0.1`,
      );
    }
  },
);

test.for(['transaction', 'statement'] as const)(
  'in %s mode changes are refused, and nothing of ours stays in the pool',
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
      const timeout = await through(pooler, async (client) => {
        const { rows } = await client.query<{ statement_timeout: string }>(
          'SHOW statement_timeout',
        );
        return rows[0]?.statement_timeout;
      });
      expect(timeout).toBe('1h');
    } finally {
      await pooler.stop();
    }
  },
);

test('in statement mode there is nothing to read with', async (context) => {
  const place = await placeOf('/usr/sbin/pgbouncer');
  if (typeof place === 'string') {
    context.skip(place);
    return;
  }
  const pooler = await startPooler(place, db.url, 'statement');
  try {
    const replication_method = { method: 'Standard' };
    const config = db.config({ host: '127.0.0.1', port: pooler.port, replication_method });
    const sentence = /pooler in statement mode, which allows no transactions\. .*pool_mode/;
    expect((await run('check', { config })).connectionStatus().message).toMatch(sentence);
    expectRefused(await run('read', { config, catalog: EMPTY }), 'config_error', sentence);
  } finally {
    await pooler.stop();
  }
});
