/** Ways in, files and catalogs that cannot be right: one sentence, a way out, the right kind and exit code. */
import { describe, expect, test } from 'vitest';
import type { JsonObject } from '../src/airbyte/protocol.ts';
import { configuredCatalog, run } from './connector.ts';
import { createDatabase } from './database.ts';
import { connection, EMPTY, expectRefused, type Kind } from './refusals.ts';
import { createRoles } from './roles.ts';

const SECRET = 'geheim-4711';

describe('ways in that lead nowhere', () => {
  const cases: readonly (readonly [string, JsonObject, Kind, RegExp])[] = [
    ['database', { database: 'Nowhere' }, 'config_error', /database does not exist.*`database`/],
    ['port', { port: 1 }, 'transient_error', /Nothing accepts connections.*`host` and `port`/],
    ['TLS', { ssl_mode: { mode: 'require' } }, 'config_error', /not offer TLS.*`ssl_mode`/],
    ['role', { username: 'nobody_at_all' }, 'config_error', /not let this user in.*`username`/],
  ];

  test.each(cases)('%s', async (_, overrides, kind, sentence) => {
    await using db = await createDatabase();
    const config = db.config({ password: SECRET, ...overrides });
    const check = await run('check', { config });
    expect(check.exitCode).toBe(0);
    expect(check.connectionStatus().status).toBe('FAILED');
    expect(check.connectionStatus().message).toMatch(sentence);
    const read = await run('read', { config, catalog: EMPTY });
    expectRefused(read, kind, sentence);
    const discover = await run('discover', { config });
    expectRefused(discover, kind, sentence);
    const all = [...check.lines, ...read.lines, ...discover.lines].join('\n');
    expect(all + check.stderr + read.stderr).not.toContain(SECRET);
  });

  test('an unknown host', async () => {
    await using db = await createDatabase();
    const config = db.config({ host: 'nowhere.invalid', password: SECRET });
    const read = await run('read', { config, catalog: EMPTY });
    expect(read.exitCode).toBe(1);
    // Which of the two depends on the name server.
    expect(read.errors()[0]?.message).toMatch(/host name cannot be resolved/);
    expect(read.lines.join('\n')).not.toContain(SECRET);
    const check = await run('check', { config });
    expect(check.connectionStatus().message).toMatch(/nowhere\.invalid:\d+/);
  });

  test('a role that may not log in', async () => {
    await using roles = await createRoles();
    await using db = await createDatabase();
    const config = db.config({ username: await roles.create('NOLOGIN') });
    const check = await run('check', { config });
    expect(check.connectionStatus().message).toMatch(/not let this user in/);
    expectRefused(
      await run('read', { config, catalog: EMPTY }),
      'config_error',
      /permitted to log/,
    );
  });
});

describe('files', () => {
  test('that are not there', async () => {
    const missing = ['--config', 'nowhere.json'];
    const check = await run('check', { args: missing });
    expect(check.connectionStatus().message).toMatch(/config file cannot be read.*nowhere\.json/);
    const discover = await run('discover', { args: missing });
    expectRefused(discover, 'config_error', /config file cannot be read/);
    await using db = await createDatabase();
    const config = db.config();
    const catalog = await run('read', { config, args: ['--catalog', 'nowhere.json'] });
    expectRefused(catalog, 'config_error', /catalog file cannot be read/);
    const state = await run('read', { config, catalog: EMPTY, args: ['--state', 'nowhere.json'] });
    expectRefused(state, 'config_error', /state file cannot be read/);
  });

  test('that are not JSON, without a word of what is in them', async () => {
    const broken = `{"password": "${SECRET}"`;
    const check = await run('check', { config: broken });
    expect(check.connectionStatus().message).toMatch(/config file is not valid JSON/);
    expect(check.exitCode).toBe(0);
    expect(check.lines.join('\n') + check.stderr).not.toContain(SECRET);
    await using db = await createDatabase();
    const config = db.config();
    const catalog = await run('read', { config, catalog: '{' });
    expectRefused(catalog, 'config_error', /catalog file is not valid JSON/);
    const state = await run('read', { config, catalog: EMPTY, state: '{' });
    expectRefused(state, 'config_error', /state file is not valid JSON/);
  });

  test('a configuration with faults names all of them, and shows no value', async () => {
    await using db = await createDatabase();
    const config = db.config({ port: SECRET, host: '', ssl_mode: { mode: SECRET } });
    const check = await run('check', { config });
    const { message } = check.connectionStatus();
    expect(message).toMatch(/configuration is not valid/);
    for (const name of ['host', 'port', 'ssl_mode']) expect(message).toContain(name);
    expectRefused(await run('discover', { config }), 'config_error', /not valid/);
    expect(check.lines.join('\n')).not.toContain(SECRET);
  });

  test.each([
    ['{}', /has no `streams`/],
    ['null', /has no `streams`/],
    ['{"streams": [{"sync_mode": "incremental"}]}', /has no name/],
    [
      '{"streams": [{"stream": {"name": "devices"}, "sync_mode": "SOMETIMES"}]}',
      /sync_mode of "devices" must be "full_refresh" or "incremental"/,
    ],
  ])('no catalog: %s', async (catalog, sentence) => {
    await using db = await createDatabase();
    expectRefused(await run('read', { config: db.config(), catalog }), 'config_error', sentence);
  });

  test('a catalog that is refused leaves the state usable', async () => {
    await using it = await connection();
    await it.first();
    await it.change('a');
    const config = it.db.config();
    const refused = await run('read', { config, catalog: '{}', state: it.destination.state });
    expectRefused(refused, 'config_error', /has no `streams`/);
    await it.expectGoesOn(2);
  });
});

describe('streams and columns that are not there', () => {
  test('an unknown stream: the others are read', async () => {
    await using it = await connection();
    await it.first();
    await it.change('a');
    const [known] = it.catalog.streams;
    if (known === undefined) throw new Error('nothing was discovered');
    const ghost = { ...known, stream: { ...known.stream, name: 'ghost' } };
    const catalog = { streams: [ghost, ...it.catalog.streams] };
    const result = await it.read({}, { catalog });
    expect(result.exitCode).toBe(1);
    expect(result.errors()).toMatchObject([
      {
        failure_type: 'config_error',
        message: expect.stringMatching(
          /public\.ghost cannot be read.*refresh the schema/,
        ) as string,
        stream_descriptor: { name: 'ghost', namespace: 'public' },
      },
    ]);
    const statuses = result.messages.flatMap((message) =>
      message.type === 'TRACE' && message.trace.type === 'STREAM_STATUS'
        ? [[message.trace.stream_status.stream_descriptor.name, message.trace.stream_status.status]]
        : [],
    );
    const last = Object.fromEntries(statuses) as Record<string, string>;
    expect(last).toEqual({ devices: 'COMPLETE', metrics: 'COMPLETE', ghost: 'INCOMPLETE' });
    expect(result.records()).toHaveLength(2);
    it.destination.apply(result.messages);
    await it.expectGoesOn(0);
  });

  test('an unknown column is left out, and so is one that was not selected', async () => {
    await using it = await connection();
    await it.first();
    await it.change('a');
    const text = JSON.stringify(it.catalog);
    expect(text).toContain('"name":{"type":"string"}');
    const renamed = text.replace('"name":{"type":"string"}', '"gone":{"type":"string"}');
    const catalog = JSON.parse(renamed) as typeof it.catalog;
    const result = (await it.read({}, { catalog })).succeeded();
    const [record] = result.records('devices');
    expect(Object.keys(record?.data ?? {}).filter((name) => !name.startsWith('_ab_'))).toEqual([
      'id',
    ]);
    expect(result.records()).toHaveLength(2);
  });

  test('case E28: a column that was dropped is left out', async () => {
    await using it = await connection();
    await it.first();
    await it.db.query('ALTER TABLE devices DROP COLUMN name; INSERT INTO devices VALUES (3)');
    const result = (await it.read()).succeeded();
    expect(result.records('devices').map(({ data }) => data['id'])).toEqual([3]);
    expect(Object.keys(result.records('devices')[0]?.data ?? {})).not.toContain('name');
    it.destination.apply(result.messages);
    expect((await it.read()).succeeded().records()).toEqual([]);
  });

  test('a cursor that is no column', async () => {
    await using it = await connection();
    await it.first();
    const standard = { replication_method: { method: 'Standard' } };
    const catalog = configuredCatalog(
      (await run('discover', { config: it.db.config(standard) })).succeeded().catalog(),
      { streams: ['devices'], cursorField: 'gone' },
    );
    const refused = await it.read(standard, { catalog, state: [] });
    expectRefused(refused, 'config_error', /cursor gone of public\.devices is not one of its/);
  });
});
