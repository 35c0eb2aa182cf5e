/** A standby takes over: with the slot, before the state, beyond it; and standbys that a slot has to wait for. */
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { JsonObject } from '../src/airbyte/protocol.ts';
import { checked, lineAbout } from './check-answer.ts';
import { run } from './connector.ts';
import { createDatabase, type Database } from './database.ts';
import { expectRefused } from './refusals.ts';
import { Connection, connectTo, DAY_ZERO, nthState, recordWhere, stopWhen } from './scenario.ts';
import { type Release, startOwnServer, type TimescaleServer } from './server.ts';
import { SyncedStandby } from './synced-standby.ts';

const ROLE = 'replicating_owner';

describe.each<Release>(['trixie', 'sid'])('on %s', (release) => {
  let server: TimescaleServer | undefined;
  let reason = '';

  beforeAll(async () => {
    try {
      server = await startOwnServer(release);
      if (server.standby === undefined) reason = `no standby of a server by ${server.how}`;
      const admin = new pg.Client({ connectionString: server.url });
      await admin.connect();
      await admin.query(`CREATE ROLE ${ROLE} LOGIN REPLICATION`);
      await admin.end();
    } catch (error) {
      reason = `a standby needs a server of its own, and none can be started: ${String(error)}`;
    }
  });

  afterAll(() => server?.stop());

  test('a standby with the slot takes over: nothing is lost, nothing comes twice', async (context) => {
    if (reason !== '') context.skip(reason);
    await using db = await createDatabase(server?.url);
    await using standby = await SyncedStandby.of(server);
    await fill(db);
    const connection = await connectTo(db, {}, settings(db));
    const first = (await connection.sync()).succeeded();
    expect(first.logs().join('\n')).not.toMatch(/failover|takes? over/);
    await db.query(
      `UPDATE notes SET note = 'second' WHERE id = 7; DELETE FROM orders WHERE id = 5`,
    );
    expect((await connection.sync()).succeeded().records()).toHaveLength(3);
    await standby.ready(connection);
    // Of the old timeline, and not in the state yet: with chunks that are published by nobody so far.
    await db.query(`${change(1)}; UPDATE notes SET note = 'third' WHERE id = 8`);
    await standby.caughtUp(db);
    await standby.promote();
    const there = standby.database(db);
    await there.query(change(2));

    const moved = movedTo(connection, there);
    const next = (await moved.sync()).succeeded();
    expect(next.logs().join('\n')).toMatch(/timeline 2, the state on 1.*: the sync goes on/);
    expect(next.records('orders')).toHaveLength(2 * 11);
    expect(next.records('notes')).toHaveLength(2);
    expect(next.records('metrics')).toHaveLength(2 * 20);
    await moved.expectEqual('metrics', 'orders', 'notes');
    await there.query(change(3));
    const later = (await moved.sync()).succeeded();
    expect(later.records()).toHaveLength(31);
    expect(later.logs().join('\n')).not.toContain('timeline');
    await moved.expectEqual('metrics', 'orders', 'notes');
    // The server that was left is another one from now on.
    const { catalog, config, destination } = connection;
    const back = { config, catalog, state: destination.state };
    expectRefused(await run('read', back), 'config_error', /timeline 1, the state on 2/);
  });

  test('a state beyond the point where the standby took over is refused; anew if asked for', async (context) => {
    if (reason !== '') context.skip(reason);
    await using db = await createDatabase(server?.url);
    await using standby = await SyncedStandby.of(server, false);
    await fill(db);
    const connection = await connectTo(db, {}, settings(db));
    (await connection.sync()).succeeded();
    await standby.ready(connection);
    await standby.detach();
    // The standby never hears of it, the destination does.
    await db.query(`INSERT INTO orders VALUES (1000, 'lost')`);
    expect((await connection.sync()).succeeded().records('orders')).toHaveLength(1);
    await standby.promote();
    const there = standby.database(db);
    await there.query(change(1));
    const moved = movedTo(connection, there);
    const refused = /timeline 2, the state on 1.* may not be on it: the old timeline was left at/;
    expectRefused(await moved.attempt(), 'config_error', refused);
    const resync = movedTo(connection, there, {
      invalid_cdc_cursor_position_behavior: 'Re-sync data',
    });
    const anew = (await resync.sync()).succeeded();
    expect(anew.records('orders')).toHaveLength(109);
    expect(anew.records('notes')).toHaveLength(10);
  });

  test('a sync that was broken off: gone on with where its records are bound, refused in the midst of a load', async (context) => {
    if (reason !== '') context.skip(reason);
    await using db = await createDatabase(server?.url);
    await using other = await createDatabase(server?.url);
    await using standby = await SyncedStandby.of(server);
    await fill(db);
    await fill(other);
    const loading = await connectTo(other, {}, settings(other));
    await loading.sync(stopWhen(nthState(2), (child) => ended(child)));
    expect(lastShared(loading)).toMatchObject({ settled: false, emitted_to: null });

    const connection = await connectTo(db, {}, settings(db));
    (await connection.sync()).succeeded();
    await standby.ready(connection);
    await db.query(
      `INSERT INTO orders SELECT i, repeat('x', 2000) FROM generate_series(1001, 1300) i`,
    );
    const broken = await connection.sync(
      stopWhen(
        recordWhere(({ id }) => id === 1001),
        (child) => ended(child),
      ),
    );
    expect(broken.exitCode).not.toBe(0);
    expect(lastShared(connection)).toMatchObject({
      settled: false,
      emitted_to: expect.stringMatching(/\//) as string,
    });
    await standby.caughtUp(db);
    await standby.promote();
    const moved = movedTo(connection, standby.database(db));
    await standby.database(db).query(change(1));
    (await moved.sync()).succeeded();
    await moved.expectEqual('metrics', 'orders', 'notes');

    const halfway = movedTo(loading, standby.database(other));
    expectRefused(await halfway.attempt(), 'config_error', /in the middle of a sync.*is not known/);
  });

  test('several hosts: a sync that runs goes on with the one that takes over', async (context) => {
    if (reason !== '') context.skip(reason);
    await using db = await createDatabase(server?.url);
    await using standby = await SyncedStandby.of(server);
    await fill(db);
    const there = standby.database(db);
    const hosts = [there, db].map(({ url }) => new URL(url).host).join(',');
    const connection = await connectTo(db, {}, { ...settings(db), host: hosts });
    (await connection.sync()).succeeded();
    await standby.ready(connection);
    await db.query(
      `INSERT INTO orders SELECT i, repeat('x', 2000) FROM generate_series(1001, 1300) i`,
    );
    const takeOver = stopWhen(
      recordWhere(({ id }) => id === 1001),
      async () => {
        await standby.caughtUp(db);
        await standby.promote();
        await there.query(change(1));
        await db.query(
          `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND application_name LIKE 'source-timescaledb: %'`,
        );
      },
    );
    const result = (await connection.sync(takeOver)).succeeded();
    expect(result.logs().join('\n')).toMatch(/from the last STATE.*the sync goes on/s);
    const moved = movedTo(connection, there);
    await moved.expectEqual('metrics', 'orders', 'notes');
    expect((await moved.sync()).succeeded().records()).toEqual([]);
  });

  test('what leaves is on the standbys in synchronized_standby_slots; one that is gone is named', async (context) => {
    if (reason !== '') context.skip(reason);
    await using db = await createDatabase(server?.url);
    await using standby = await SyncedStandby.of(server);
    await fill(db);
    const connection = await connectTo(db, {}, settings(db));
    (await connection.sync()).succeeded();
    await standby.ready(connection);
    await standby.detach();
    await db.query(`INSERT INTO orders VALUES (1000, 'waits')`);
    const waited = await connection.attempt();
    const sentence =
      /has to wait for standbys .*, and the slot standby_\d+ of one of them is not in use/;
    expect(waited.errors()).toMatchObject([
      { failure_type: 'transient_error', message: expect.stringMatching(sentence) as string },
    ]);
    expect(waited.records()).toEqual([]);
    await standby.attach();
    expect((await connection.sync()).succeeded().records()).toHaveLength(1);
  });

  test('a slot that is there is made one for failover, or told of with what makes it one', async (context) => {
    if (reason !== '') context.skip(reason);
    await using db = await createDatabase(server?.url);
    await fill(db);
    const plain = await connectTo(db, {}, settings(db, { failover_slot: false }));
    (await plain.sync()).succeeded();
    expect(await failover(db)).toBe(false);
    const verify = settings(db);
    const told = new Connection(
      db,
      db.config({ ...verify, publication_management: 'verify only' }),
      plain.catalog,
    );
    told.destination = plain.destination;
    const command = /psql "(.*)" -c "(ALTER_REPLICATION_SLOT slot_\w+ \(FAILOVER true\))"/;
    expect((await told.sync()).succeeded().logs().join('\n')).toMatch(command);
    expect(await failover(db)).toBe(false);
    const { warnings } = await checked(db, { ...verify, publication_management: 'verify only' });
    const [, target, sql] = command.exec(lineAbout(warnings, command)) ?? [];
    expect(target).toBe(`dbname='${db.name}' replication=database`);

    const automatic = new Connection(db, db.config(verify), plain.catalog);
    automatic.destination = plain.destination;
    (await automatic.sync()).succeeded();
    expect(await failover(db)).toBe(true);
    // What a person is told to run does the same.
    await replicationCommand(db, sql?.replace('true', 'false') ?? '');
    expect(await failover(db)).toBe(false);
    await replicationCommand(db, sql ?? '');
    expect(await failover(db)).toBe(true);
    const quiet = await checked(db, { ...verify, publication_management: 'verify only' });
    expect(quiet.warnings.filter((line) => command.test(line))).toEqual([]);
    lineAbout(
      quiet.warnings,
      /No standby has to have what a sync reads: .*synchronized_standby_slots/,
    );
  });
});

/** A plain role that owns what it reads. */
function settings(db: Database, more: JsonObject = {}): JsonObject {
  return {
    username: ROLE,
    replication_method: {
      method: 'CDC',
      replication_slot: db.slot,
      publication: db.publication,
      failover_slot: true,
      ...more,
    },
  };
}

async function fill(db: Database): Promise<void> {
  await db.query(`
    CREATE TABLE metrics (time timestamptz NOT NULL, device int NOT NULL, PRIMARY KEY (time, device));
    SELECT create_hypertable('metrics', 'time', chunk_time_interval => interval '1 day');
    INSERT INTO metrics SELECT '${DAY_ZERO}'::timestamptz + i * interval '1 hour', i FROM generate_series(0, 71) i;
    CREATE TABLE orders (id int PRIMARY KEY, note text);
    INSERT INTO orders SELECT i, 'first' FROM generate_series(1, 100) i;
    CREATE TABLE notes (id int, note text);
    ALTER TABLE notes REPLICA IDENTITY FULL;
    INSERT INTO notes SELECT i, 'first' FROM generate_series(1, 10) i;
    ALTER TABLE metrics OWNER TO ${ROLE};
    ALTER TABLE orders OWNER TO ${ROLE};
    ALTER TABLE notes OWNER TO ${ROLE};
    GRANT CREATE ON DATABASE ${db.name} TO ${ROLE};
    GRANT CREATE ON SCHEMA public TO ${ROLE}`);
}

/** 10 orders and one less, 20 rows of a new chunk. */
function change(n: number): string {
  return `
    INSERT INTO orders SELECT i, 'of ${n}' FROM generate_series(${100 + n * 10}, ${109 + n * 10}) i;
    DELETE FROM orders WHERE id = ${n};
    INSERT INTO metrics SELECT '${DAY_ZERO}'::timestamptz + interval '${10 + n} days' + i * interval '1 hour', i
      FROM generate_series(1, 20) i`;
}

function movedTo(connection: Connection, there: Database, more: JsonObject = {}): Connection {
  const { hostname, port } = new URL(there.url);
  const { replication_method: method } = connection.config;
  const config: JsonObject = {
    ...connection.config,
    host: hostname,
    port: Number(port),
    replication_method: { ...(method as JsonObject), ...more },
  };
  const moved = new Connection(there, config, connection.catalog);
  moved.destination = connection.destination;
  return moved;
}

function lastShared(connection: Connection): unknown {
  const [message] = connection.destination.state as readonly {
    readonly global?: { readonly shared_state: unknown };
  }[];
  return message?.global?.shared_state;
}

async function ended(child: { kill: (signal: 'SIGKILL') => boolean }): Promise<void> {
  child.kill('SIGKILL');
  return Promise.resolve();
}

async function failover(db: Database): Promise<boolean> {
  return db.value<boolean>('SELECT failover FROM pg_replication_slots WHERE slot_name = $1', [
    db.slot,
  ]);
}

async function replicationCommand(db: Database, command: string): Promise<void> {
  const url = new URL(db.url);
  url.username = ROLE;
  const client: pg.ClientConfig & { replication: string } = {
    connectionString: url.href,
    replication: 'database',
  };
  const session = new pg.Client(client);
  await session.connect();
  try {
    await session.query(command);
  } finally {
    await session.end();
  }
}
