/** Hypertables by what identifies their rows in the WAL, and what becomes of their owner's own statements. */
import { expect, test } from 'vitest';
import { run } from './connector.ts';
import { createDatabase, type Database } from './database.ts';
import { connectTo, DAY_ZERO } from './scenario.ts';
import { expectFirstSync, follow, type TableName } from './shapes.ts';

const STREAM: TableName = ['public', 'metrics'];
const DIMENSIONS = [{ column: 'time', type: 'timestamp with time zone', interval: '1 day' }];

function day(n: number): string {
  return `('${DAY_ZERO}'::timestamptz + interval '${n} days')`;
}

/** Ten rows a day for three days. */
function metrics(identity: string): string {
  return `
    CREATE TABLE metrics (note text, device int NOT NULL, region text NOT NULL, time timestamptz NOT NULL);
    SELECT create_hypertable('metrics', 'time', chunk_time_interval => interval '1 day');
    ${identity};
    INSERT INTO metrics SELECT 'initial', i, 'north', ${day(0)} + d * interval '1 day'
      FROM generate_series(0, 2) d, generate_series(1, 10) i;`;
}

/** One row in an old chunk and one in a new one. */
const INSERTS = `INSERT INTO metrics VALUES ('new', 100, 'north', ${day(0)}), ('new chunk', 1, 'north', ${day(9)});`;

/** In each of three chunks: one update, one change of what may be the key, two deletions. */
const CHANGES = `${INSERTS}
  UPDATE metrics SET note = 'changed' WHERE device = 2;
  UPDATE metrics SET region = 'south' WHERE device = 3;
  DELETE FROM metrics WHERE device IN (4, 5)`;

const WHOLE = [
  {
    what: 'a primary key of several columns, in another order than the table’s',
    identity: 'ALTER TABLE metrics ADD PRIMARY KEY (time, region, device)',
    key: ['time', 'region', 'device'],
    records: 2 + 3 + 3 * 2 + 6,
  },
  {
    what: 'the whole row',
    identity: 'ALTER TABLE metrics REPLICA IDENTITY FULL',
    key: [],
    records: 2 + 3 * 2 + 3 * 2 + 6,
  },
  {
    what: 'the whole row, beside a primary key',
    identity:
      'ALTER TABLE metrics ADD PRIMARY KEY (device, time); ALTER TABLE metrics REPLICA IDENTITY FULL',
    key: ['device', 'time'],
    records: 2 + 3 + 3 + 6,
  },
  {
    what: 'the whole row, beside a primary key that is deferrable',
    identity:
      'ALTER TABLE metrics ADD PRIMARY KEY (device, time) DEFERRABLE; ALTER TABLE metrics REPLICA IDENTITY FULL',
    key: ['device', 'time'],
    records: 2 + 3 + 3 + 6,
  },
  {
    what: 'a unique index, beside another primary key',
    identity: `ALTER TABLE metrics ADD PRIMARY KEY (device, time);
      CREATE UNIQUE INDEX "The identity" ON metrics (region, time, device);
      ALTER TABLE metrics REPLICA IDENTITY USING INDEX "The identity"`,
    key: ['region', 'time', 'device'],
    records: 2 + 3 + 3 * 2 + 6,
  },
  {
    what: 'a unique index, without a primary key',
    identity: `CREATE UNIQUE INDEX by_device ON metrics (device, time) INCLUDE (note);
      ALTER TABLE metrics REPLICA IDENTITY USING INDEX by_device`,
    key: ['device', 'time'],
    records: 2 + 3 + 3 + 6,
  },
];

test.for(WHOLE)('rows identified by $what', async ({ identity, key, records }) => {
  await using db = await createDatabase();
  const connection = await follow(db, {
    table: metrics(identity),
    stream: STREAM,
    dimensions: DIMENSIONS,
    changes: CHANGES,
    records,
  });
  const found = connection.catalog.streams[0]?.stream.source_defined_primary_key;
  expect(found).toEqual(key.map((column) => [column]));
});

const INSERTS_ONLY = [
  { what: 'without a key', identity: 'ALTER TABLE metrics REPLICA IDENTITY DEFAULT', key: [] },
  {
    what: 'with a unique index that nobody has declared the identity',
    identity: 'CREATE UNIQUE INDEX ON metrics (device, time)',
    key: [],
  },
  {
    what: 'with a primary key that is deferrable',
    identity: 'ALTER TABLE metrics ADD PRIMARY KEY (device, time) DEFERRABLE',
    key: [['device'], ['time']],
  },
  {
    what: 'with a primary key, and NOTHING',
    identity:
      'ALTER TABLE metrics ADD PRIMARY KEY (device, time); ALTER TABLE metrics REPLICA IDENTITY NOTHING',
    key: [['device'], ['time']],
  },
];

test.for(INSERTS_ONLY)('rows $what: inserts alone are seen, and check says so', async (it) => {
  await using db = await createDatabase();
  const connection = await follow(db, {
    table: metrics(it.identity),
    stream: STREAM,
    dimensions: DIMENSIONS,
    changes: INSERTS,
    records: 2,
  });
  expect(connection.catalog.streams[0]?.stream.source_defined_primary_key).toEqual(it.key);
  const check = await run('check', { config: connection.config });
  expect(check.connectionStatus().status).toBe('SUCCEEDED');
  expect(check.logs().join('\n')).toContain('Updates and deletes of public.metrics are not seen');
  // The owner's statements go through, in the new chunk too.
  await db.query(
    `UPDATE metrics SET note = 'changed' WHERE device IN (1, 2); DELETE FROM metrics WHERE device = 3`,
  );
  expect((await connection.sync()).succeeded().records()).toEqual([]);
});

const LOST = [
  {
    what: 'the identity’s index is dropped',
    identity: `CREATE UNIQUE INDEX by_device ON metrics (device, time);
      ALTER TABLE metrics REPLICA IDENTITY USING INDEX by_device`,
    loss: 'DROP INDEX by_device',
  },
  {
    what: 'the primary key is dropped',
    identity: 'ALTER TABLE metrics ADD CONSTRAINT by_device PRIMARY KEY (device, time)',
    loss: 'ALTER TABLE metrics DROP CONSTRAINT by_device',
  },
  {
    what: 'the identity is set to NOTHING',
    identity: 'ALTER TABLE metrics ADD PRIMARY KEY (device, time)',
    loss: 'ALTER TABLE metrics REPLICA IDENTITY NOTHING',
  },
];

test.for(LOST)(
  '$what between two syncs: refused, until the SQL of the message is run',
  async (it) => {
    await using db = await createDatabase();
    await db.query(metrics(it.identity));
    const connection = await connectTo(db);
    await expectFirstSync(connection, STREAM);
    await db.query(CHANGES.replaceAll('100', '50').replace(day(9), day(8)));
    await db.query(it.loss);
    // A chunk without an identity.
    await db.query(INSERTS);
    const refused = await connection.sync();
    expect(refused.exitCode).toBe(1);
    expect(refused.records()).toEqual([]);
    const [error] = refused.errors();
    expect(error).toMatchObject({ failure_type: 'config_error' });
    const remedy = /ALTER TABLE \S+ REPLICA IDENTITY FULL/.exec(error?.message ?? '')?.[0];
    await db.query(remedy ?? 'no remedy');
    (await connection.sync()).succeeded();
    await connection.expectEqual('metrics');
    await db.query(
      `UPDATE metrics SET note = 'again' WHERE device IN (1, 100); DELETE FROM metrics WHERE device = 7`,
    );
    (await connection.sync()).succeeded();
    await connection.expectEqual('metrics');
    expect(await identities(db)).toEqual(['f']);
  },
);

/** Those of the hypertable and its chunks. */
async function identities(db: Database): Promise<string[]> {
  const rows = await db.query<{ identity: string }>(
    `SELECT DISTINCT relreplident::text AS identity FROM pg_class
      WHERE oid = 'metrics'::regclass OR oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'metrics'::regclass)`,
  );
  return rows.map(({ identity }) => identity);
}
