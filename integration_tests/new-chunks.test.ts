/**
 * New chunks at each level of privilege: published by the server itself, by us, or by nobody until their owner does it.
 * The hypertable has no key, so that a row that came twice would show.
 */
import { describe, expect, it } from 'vitest';
import { expectEqual } from './comparison.ts';
import { createDatabase, type Database } from './database.ts';
import { createRoles } from './roles.ts';
import { connectTo, stopWhen } from './scenario.ts';

async function createEvents(db: Database, constraint = ''): Promise<void> {
  await db.query(`
    CREATE TABLE events (at timestamptz NOT NULL, id bigint ${constraint});
    SELECT create_hypertable('events', 'at', chunk_time_interval => interval '1 day');`);
  await insert(db, 0, 5, 0);
}

/** Fifty rows a day, with ids that tell them apart. */
async function insert(db: Database, fromDay: number, toDay: number, base: number): Promise<void> {
  await db.query(`
    INSERT INTO events
    SELECT timestamptz '2026-01-01Z' + day * interval '1 day' + i * interval '1 minute', ${base} + day * 1000 + i
      FROM generate_series(${fromDay}, ${toDay}) day, generate_series(1, 50) i`);
}

describe('a new chunk', () => {
  it('way 1: that an event trigger publishes in the writer’s transaction is streamed, and never read', async () => {
    await using db = await createDatabase();
    // A chunk is announced to event triggers by its constraints; without any they do not see it.
    await createEvents(db, ', PRIMARY KEY (at, id)');
    const syncs = await connectTo(db);
    const first = await syncs.sync();
    expect(first.records('events')).toHaveLength(300);
    await db.query(`
      CREATE FUNCTION publish_chunk() RETURNS event_trigger LANGUAGE plpgsql AS $$
      DECLARE chunk record;
      BEGIN
        FOR chunk IN
          SELECT DISTINCT p.pubname, n.nspname, c.relname
            FROM pg_event_trigger_ddl_commands() e
            JOIN pg_inherits i ON i.inhrelid = e.objid
            JOIN pg_publication_rel m ON m.prrelid = i.inhparent
            JOIN pg_publication p ON p.oid = m.prpubid
            JOIN pg_class c ON c.oid = e.objid
            JOIN pg_namespace n ON n.oid = c.relnamespace
           WHERE e.classid = 'pg_class'::regclass
             AND NOT EXISTS (SELECT FROM pg_publication_rel x
                              WHERE x.prpubid = m.prpubid AND x.prrelid = e.objid)
        LOOP
          EXECUTE format('ALTER PUBLICATION %I ADD TABLE ONLY %I.%I',
                         chunk.pubname, chunk.nspname, chunk.relname);
        END LOOP;
      END $$;
      CREATE EVENT TRIGGER publish_chunk ON ddl_command_end WHEN TAG IN ('CREATE TABLE', 'ALTER TABLE')
        EXECUTE FUNCTION publish_chunk();`);
    await insert(db, 5, 9, 100_000);
    const second = await syncs.sync();
    expect(second.records('events')).toHaveLength(250);
    expect(second.logs().filter((line) => / read, /.test(line))).toEqual([]);
    await expectEqual(db, syncs.destination, 'events');
  });

  it('way 1: that the owner’s role finds is published, read once and streamed from then on', async () => {
    await using db = await createDatabase();
    await createEvents(db);
    const syncs = await connectTo(db);
    await syncs.sync();
    await insert(db, 5, 9, 100_000);
    const second = await syncs.sync();
    expect(second.records('events')).toHaveLength(250);
    await insert(db, 8, 9, 200_000);
    const third = await syncs.sync();
    expect(third.records('events')).toHaveLength(100);
    expect(third.logs().filter((line) => / read, /.test(line))).toEqual([]);
    await expectEqual(db, syncs.destination, 'events');
  });

  it('way 2: that nobody may publish is read again in each sync, until its owner publishes it', async () => {
    await using roles = await createRoles();
    await using db = await createDatabase();
    await createEvents(db);
    const reader = await roles.create('LOGIN REPLICATION');
    await db.query(`GRANT SELECT ON events TO ${reader};
      CREATE PUBLICATION ${db.publication} WITH (publish = 'insert');
      ALTER PUBLICATION ${db.publication} ADD TABLE events`);
    await db.query(`SELECT pg_create_logical_replication_slot('${db.slot}', 'pgoutput')`);
    const syncs = await connectTo(db, {}, { username: reader });
    expect((await syncs.sync()).records('events')).toHaveLength(300);
    await insert(db, 6, 6, 100_000);
    expect((await syncs.sync()).records('events')).toHaveLength(50);
    await insert(db, 6, 6, 200_000);
    // Not published, so the row can only come by reading the chunk again.
    expect((await syncs.sync()).records('events')).toHaveLength(100);
    await insert(db, 6, 6, 300_000);
    await db.query(`ALTER PUBLICATION ${db.publication} ADD TABLE ONLY ${await newestChunk(db)}`);
    expect((await syncs.sync()).records('events')).toHaveLength(150);
    await insert(db, 6, 6, 400_000);
    expect((await syncs.sync()).records('events')).toHaveLength(50);
    await expectEqual(db, syncs.destination, 'events', { duplicates: true });
  });

  it('that turns up while changes are read takes back what the states have said of where these end', async () => {
    await using db = await createDatabase();
    await createEvents(db);
    const syncs = await connectTo(db);
    (await syncs.sync()).succeeded();
    // What the reads have seen is forgotten once the changes have passed it, on a busy server by this one only.
    (await syncs.sync()).succeeded();
    // More than the pipes hold: it is stopped in the midst of them.
    await db.query(`INSERT INTO events
      SELECT timestamptz '2026-01-06Z' + i * interval '1 second', 100000 + i FROM generate_series(1, 20000) i`);
    const stop = stopWhen(
      ({ type }) => type === 'RECORD',
      () => insert(db, 20, 20, 200_000),
    );
    const second = (await syncs.sync(stop)).succeeded();
    const bounds: unknown[] = [];
    for (const message of second.messages) {
      if (message.type === 'STATE') bounds.push(emittedTo(message.state));
      const isNew = message.type === 'RECORD' && Number(message.record.data['id']) > 200_000;
      if (isNew) bounds.push('new rows');
    }
    const before = bounds.slice(0, bounds.indexOf('new rows'));
    // The changes are bound by a position, the rows that are read by none.
    expect(before[0]).toMatch(/\//);
    expect(before.at(-1)).toBeNull();
    await expectEqual(db, syncs.destination, 'events');
  });
});

function emittedTo(state: unknown): unknown {
  const { global } = state as {
    readonly global: { readonly shared_state: { readonly emitted_to: string | null } };
  };
  return global.shared_state.emitted_to;
}

async function newestChunk(db: Database): Promise<string> {
  const [row] = await db.query<{ chunk: string }>(
    `SELECT show_chunks('events')::text AS chunk ORDER BY 1 DESC LIMIT 1`,
  );
  if (row === undefined) throw new Error('events has no chunk');
  return row.chunk;
}
