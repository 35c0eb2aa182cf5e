/** Airbyte's "speed mode" over unix sockets, which this connector does not have: refused, never half obeyed. */
import { expect, it } from 'vitest';
import { configuredCatalog, run } from './connector.ts';
import { createDatabase } from './database.ts';

const SOCKETS = {
  DATA_CHANNEL_MEDIUM: 'SOCKET',
  DATA_CHANNEL_FORMAT: 'PROTOBUF',
  DATA_CHANNEL_SOCKET_PATHS: '/var/run/sockets/airbyte_socket_1.sock',
};

it('a read over sockets is refused before it touches the server; the other commands answer', async () => {
  await using db = await createDatabase();
  await db.query('CREATE TABLE readings (id int PRIMARY KEY); INSERT INTO readings VALUES (1)');
  const config = db.config();
  const discovered = (await run('discover', { config, env: SOCKETS })).succeeded().catalog();
  expect((await run('check', { config, env: SOCKETS })).connectionStatus().status).toBe(
    'SUCCEEDED',
  );
  const catalog = configuredCatalog(discovered);
  const refused = await run('read', { config, catalog, env: SOCKETS });
  expect(refused.exitCode).toBe(1);
  expect(refused.messages.map(({ type }) => type)).toEqual(['TRACE']);
  expect(refused.errors()).toEqual([
    expect.objectContaining({
      failure_type: 'config_error',
      message: expect.stringMatching(/^DATA_CHANNEL_MEDIUM=SOCKET is not supported.*STDIO/),
    }),
  ]);
  expect(await db.slots()).toEqual([]);
});

it('what the platform sets for standard output is obeyed', async () => {
  await using db = await createDatabase();
  await db.query('CREATE TABLE readings (id int PRIMARY KEY); INSERT INTO readings VALUES (1)');
  const config = db.config();
  const catalog = configuredCatalog((await run('discover', { config })).succeeded().catalog());
  const env = {
    DATA_CHANNEL_MEDIUM: 'STDIO',
    DATA_CHANNEL_FORMAT: 'JSONL',
    DATA_CHANNEL_SOCKET_PATHS: '',
  };
  const read = (await run('read', { config, catalog, env })).succeeded();
  expect(read.records('readings')).toHaveLength(1);
});
