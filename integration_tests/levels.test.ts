/**
 * From nothing to the third sync at each level of privilege, as the README tells it, with new chunks in between: what of
 * them is seen, what `check` says of it, and whether the connector has changed anything in the database.
 */
import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import type { JsonObject } from '../src/airbyte/protocol.ts';
import { checked, lineAbout, sqlIn } from './check-answer.ts';
import { compareWithTable, expectEqual } from './comparison.ts';
import { run } from './connector.ts';
import { createDatabase, type Database } from './database.ts';
import { createRoles, type Roles } from './roles.ts';
import type { RunResult } from './run-result.ts';
import { connectTo, type Connection } from './scenario.ts';

const MAIN = fileURLToPath(new URL('../dist/main.js', import.meta.url));

/** Five chunks, of a role that owns the table. */
async function createMetrics(db: Database, roles: Roles): Promise<string> {
  const owner = await roles.create('NOLOGIN');
  await db.query(`
    CREATE TABLE metrics (time timestamptz NOT NULL, device int NOT NULL, PRIMARY KEY (time, device));
    SELECT create_hypertable('metrics', 'time', chunk_time_interval => interval '1 day');
    ALTER TABLE metrics OWNER TO ${owner};
    ${insert('0, 4', '1, 20')}`);
  return owner;
}

function insert(days: string, devices: string): string {
  return `INSERT INTO metrics SELECT '2026-01-01Z'::timestamptz + day * interval '1 day', device
            FROM generate_series(${days}) day, generate_series(${devices}) device;`;
}

function remove(day: number, device: number): string {
  return `DELETE FROM metrics WHERE device = ${device}
             AND time = '2026-01-01Z'::timestamptz + ${day} * interval '1 day'`;
}

/** Everything that changes definitions, with who did it; but for temporary tables, one of which tells a slot that time has passed. */
async function logDdl(db: Database): Promise<void> {
  await db.query(`
    CREATE SCHEMA ddl;
    CREATE TABLE ddl.log (tag text, application text);
    CREATE FUNCTION ddl.note() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
      BEGIN
        INSERT INTO ddl.log SELECT command_tag, current_setting('application_name')
          FROM pg_event_trigger_ddl_commands() WHERE schema_name IS DISTINCT FROM 'pg_temp';
      END $$;
    CREATE EVENT TRIGGER note_ddl ON ddl_command_end EXECUTE FUNCTION ddl.note()`);
}

async function ddlOfConnector(db: Database): Promise<readonly string[]> {
  const rows = await db.query<{ tag: string }>(
    `SELECT tag FROM ddl.log WHERE application LIKE 'source-timescaledb%'`,
  );
  return rows.map(({ tag }) => tag);
}

/** Records of a day, as `device` or, deleted, `-device`, in the order of emission. */
function devicesOf(result: RunResult, day: string): number[] {
  return result
    .records('metrics')
    .filter(({ data }) => String(data['time']).startsWith(day))
    .map(({ data }) => Number(data['device']) * (data['_ab_cdc_deleted_at'] === null ? 1 : -1));
}

function numbers(from: number, to: number, without: readonly number[] = []): number[] {
  return Array.from({ length: to - from + 1 }, (_, index) => from + index).filter(
    (device) => !without.includes(device),
  );
}

const README = new URL('../README.md', import.meta.url);

/**
 * The role that a section of the README makes, and what it gives to it, with the names of this test in place of its own.
 * @returns the role's name, and the SQL behind its making.
 */
async function asTheReadmeSays(
  section: string,
  roles: Roles,
  names: Readonly<Record<string, string>> = {},
): Promise<{ readonly role: string; readonly sql: string }> {
  const text = (await readFile(README, 'utf8')).split(`### ${section}\n`)[1]?.split('\n### ')[0];
  const made = /CREATE ROLE airbyte ([^;`]*)/.exec(text ?? '');
  if (text === undefined || made === null) throw new Error(`no role in the section ${section}`);
  const role = await roles.create((made[1] ?? '').replace(`'...'`, `'secret'`));
  const block = /```sql\n([^]*?)```/.exec(text)?.[1] ?? '';
  const rest = block.slice(block.indexOf(';') + 1);
  const all = { ...names, airbyte: role };
  const sql = Object.entries(all).reduce((it, [name, own]) => it.replaceAll(name, own), rest);
  return { role, sql };
}

/** The same for every level: a new chunk before the second sync, another before the third, deletions in the first. */
async function threeSyncs(
  db: Database,
  config: JsonObject,
): Promise<{ readonly syncs: Connection; readonly second: RunResult; readonly third: RunResult }> {
  const syncs = await connectTo(db, { streams: ['public.metrics'] }, config);
  const first = (await syncs.sync()).succeeded();
  expect(first.records('metrics')).toHaveLength(100);
  await expectEqual(db, syncs.destination, 'metrics');
  await db.query(insert('10, 10', '1, 20'));
  await db.query(remove(10, 5));
  const second = (await syncs.sync()).succeeded();
  await expectEqual(db, syncs.destination, 'metrics');
  await db.query(remove(10, 6));
  await db.query(insert('11, 11', '1, 20'));
  const third = (await syncs.sync()).succeeded();
  return { syncs, second, third };
}

const FIRST_NEW = '2026-01-11';
const SECOND_NEW = '2026-01-12';

test('set up by a DBA: new chunks have no gap, and a role that may do nothing else changes nothing', async () => {
  await using roles = await createRoles();
  await using db = await createDatabase();
  await createMetrics(db, roles);
  const { role } = await asTheReadmeSays('A DBA does it', roles);
  const config = { username: role, publication_management: 'verify only' };
  const before = await checked(db, config);
  expect(before.succeeded).toBe(false);
  expect(before.failures.join('\n')).toContain('setup-sql');
  await db.query(await setupSql(db.config(config)));
  await logDdl(db);
  const after = await checked(db, config);
  expect(after.failures).toEqual([]);
  expect(after.warnings).toEqual([]);
  expect(after.text).toMatch(
    /"level":"INFO","message":"Set up by a DBA: new chunks are published by .+: without a gap\."/,
  );
  const { syncs, second, third } = await threeSyncs(db, config);
  // The row that lived between two syncs is there, with its end.
  expect(devicesOf(second, FIRST_NEW)).toEqual([...numbers(1, 20), -5]);
  expect(devicesOf(third, FIRST_NEW)).toEqual([-6]);
  expect(devicesOf(third, SECOND_NEW)).toEqual(numbers(1, 20));
  await expectEqual(db, syncs.destination, 'metrics');
  expect(await ddlOfConnector(db)).toEqual([]);
});

test.each(['owner', 'superuser'] as const)(
  '%s, automatic: new chunks are published and read',
  async (level) => {
    await using roles = await createRoles();
    await using db = await createDatabase();
    const owner = await createMetrics(db, roles);
    const given = { table_owner: owner, iot: db.name };
    const told = await asTheReadmeSays('The connector does it', roles, given);
    const role = level === 'owner' ? told.role : await roles.create('LOGIN SUPERUSER');
    if (level === 'owner') await db.query(told.sql);
    await logDdl(db);
    const config = { username: role };
    const answer = await checked(db, config);
    expect(answer.failures).toEqual([]);
    lineAbout(answer.warnings, /Owner: new chunks are looked for and published by this role: rows/);
    const { syncs, second, third } = await threeSyncs(db, config);
    expect(devicesOf(second, FIRST_NEW)).toEqual(numbers(1, 20, [5]));
    expect(devicesOf(third, FIRST_NEW)).toEqual([-6]);
    expect(devicesOf(third, SECOND_NEW)).toEqual(numbers(1, 20));
    await expectEqual(db, syncs.destination, 'metrics');
    expect(await ddlOfConnector(db)).toContain('ALTER PUBLICATION');
  },
);

test.each(['SELECT and REPLICATION alone', 'a superuser told to verify only'] as const)(
  '%s: new chunks are read again in each sync until somebody publishes them; nothing is changed',
  async (level) => {
    await using roles = await createRoles();
    await using db = await createDatabase();
    await createMetrics(db, roles);
    const bound = level === 'SELECT and REPLICATION alone';
    const role = await roles.create(bound ? 'LOGIN REPLICATION' : 'LOGIN SUPERUSER');
    if (bound) await db.query(`GRANT SELECT ON metrics TO ${role}`);
    const verify = { username: role, publication_management: 'verify only' };
    await logDdl(db);
    await mendAsTold(db, verify);
    const config = bound ? { username: role } : verify;
    const name = bound ? 'Read only' : 'Verify only';
    const answer = await checked(db, config);
    expect(answer.failures).toEqual([]);
    expect(
      lineAbout(answer.warnings, new RegExp(`${name}: new chunks .* reads them again`)),
    ).toContain('setup-sql');
    const { syncs, second, third } = await threeSyncs(db, config);
    expect(devicesOf(second, FIRST_NEW)).toEqual(numbers(1, 20, [5]));
    expect(devicesOf(third, FIRST_NEW)).toEqual(numbers(1, 20, [5, 6]));
    expect(third.logs().join('\n')).toMatch(/2 chunks are not in the publication .*setup-sql/);
    // The one deletion that nobody could see.
    const kept = { missing: 0, extra: 1, different: 0 };
    expect(await compareWithTable(db, syncs.destination, 'metrics')).toMatchObject(kept);
    expect(await ddlOfConnector(db)).toEqual([]);
    const lacking = lineAbout((await checked(db, config)).warnings, /lacks 2 chunks/);
    await db.query(sqlIn(lacking));
    await syncs.sync();
    await db.query(remove(10, 7));
    expect(devicesOf(await syncs.sync(), FIRST_NEW)).toEqual([-7]);
    expect(await compareWithTable(db, syncs.destination, 'metrics')).toMatchObject(kept);
    expect(await ddlOfConnector(db)).toEqual([]);
  },
);

/** What `check` says is missing is made by its SQL; each such sentence names `setup-sql`, or the SQL is all of it. */
async function mendAsTold(db: Database, config: JsonObject): Promise<void> {
  const { failures } = await checked(db, config);
  const publication = lineAbout(failures, /publication "pub_\w+" does not exist/);
  const slot = lineAbout(failures, /slot "slot_\w+" does not exist/);
  expect(failures).toEqual(
    [slot, publication].toSorted((a, b) => failures.indexOf(a) - failures.indexOf(b)),
  );
  const read = await run('read', {
    config: db.config(config),
    catalog: (await connectTo(db, {}, config)).catalog,
  });
  expect(read.exitCode).toBe(1);
  for (const text of [publication, slot, read.errors()[0]?.message ?? ''])
    expect(text).toContain('setup-sql');
  await db.query(sqlIn(publication));
  await db.query(/SELECT pg_create_logical_replication_slot\([^;]*;/.exec(slot)?.[0] ?? '');
}

async function setupSql(config: JsonObject): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'levels-'));
  try {
    const file = join(folder, 'config.json');
    await writeFile(file, JSON.stringify(config));
    const args = [MAIN, 'setup-sql', '--config', file];
    return (await promisify(execFile)(process.execPath, args)).stdout;
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
