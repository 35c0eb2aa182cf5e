/** SELECT on all that a stream consists of: what `check` and `read` say where a part is missing, or was taken away. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { checked, fill, lineAbout, reader } from './check-answer.ts';
import { createDatabase, type Database } from './database.ts';
import { createRoles, type Roles } from './roles.ts';
import { connectTo } from './scenario.ts';

let roles: Roles;
let db: Database;
beforeAll(async () => {
  roles = await createRoles();
  db = await createDatabase();
  await fill(db);
  await db.query(`
    CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY RANGE (id);
    CREATE TABLE parted_low PARTITION OF parted FOR VALUES FROM (0) TO (10);
    CREATE TABLE parted_high PARTITION OF parted FOR VALUES FROM (10) TO (20);
    INSERT INTO parted SELECT generate_series(1, 19);
    CREATE PUBLICATION ${db.publication} FOR TABLE metrics, devices, parted`);
  await db.query(`SELECT pg_create_logical_replication_slot('${db.slot}', 'pgoutput')`);
});
afterAll(async () => {
  await db[Symbol.asyncDispose]();
  await roles[Symbol.asyncDispose]();
});

test('on the parent alone: check and read name the partitions, and the SQL mends it', async () => {
  const role = await reader(roles, db);
  await db.query(`REVOKE SELECT ON parted_low, parted_high FROM ${role}`);
  const failure = lineAbout(
    (await checked(db, { username: role })).failures,
    /not from all of their partitions or chunks.*: public\.parted_low, public\.parted_high\./,
  );
  const syncs = await connectTo(db, { streams: ['public.parted'] }, { username: role });
  const [error] = (await syncs.attempt()).errors();
  expect(error?.failure_type).toBe('config_error');
  expect(error?.message).toMatch(/public\.parted cannot be read: .* 2 of its partitions/);
  await db.query(/GRANT SELECT [^;]*;/.exec(failure)?.[0] ?? '');
  expect((await checked(db, { username: role })).failures).toEqual([]);
  (await syncs.sync()).succeeded();
  await syncs.expectEqual('public.parted');
});

test('on the partitions alone: check says why the stream is not there', async () => {
  const role = await reader(roles, db);
  await db.query(`REVOKE SELECT ON parted FROM ${role}`);
  const standard = { username: role, replication_method: { method: 'Standard' } };
  for (const config of [standard, { username: role }]) {
    const line = lineAbout(
      (await checked(db, config)).failures,
      /may not select from public\.parted, though/,
    );
    expect(line).toContain(`GRANT SELECT ON "public"."parted" TO "${role}";`);
  }
});

test('taken away after a sync: neither check nor the next sync goes on in silence', async () => {
  const role = await reader(roles, db);
  for (const check_privileges of [true, false]) {
    const config = { username: role, check_privileges };
    await db.query(`GRANT SELECT ON metrics TO ${role}`);
    const syncs = await connectTo(db, { streams: ['public.metrics'] }, config);
    (await syncs.sync()).succeeded();
    await db.query(`REVOKE SELECT ON metrics FROM ${role}`);
    await db.query('UPDATE metrics SET value = value + 1');
    lineAbout((await checked(db, config)).failures, /may not select from public\.metrics, though/);
    const next = await syncs.attempt();
    expect(next.exitCode).toBe(1);
    expect(next.records('metrics')).toEqual([]);
    expect(next.errors()[0]?.message).toMatch(
      /public\.metrics cannot be read: .*GRANT SELECT|public\.metrics cannot be read: .*Grant SELECT/,
    );
  }
});

test('taken away from one chunk: the chunk is named', async () => {
  const role = await reader(roles, db);
  const chunk = await db.value<string>(`SELECT show_chunks('metrics')::text LIMIT 1`);
  const syncs = await connectTo(db, { streams: ['public.metrics'] }, { username: role });
  await db.query(`REVOKE SELECT ON ${chunk} FROM ${role}`);
  const [, name = ''] = chunk.split('.');
  expect(lineAbout((await checked(db, { username: role })).failures, /or chunks/)).toContain(name);
  const [error] = (await syncs.attempt()).errors();
  expect(error?.message).toContain(`1 of its chunks (_timescaledb_internal.${name})`);
});
