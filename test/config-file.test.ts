/** Files that the platform hands over, and what may be said of them when they cannot be read. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { readJsonFile } from '../src/config.ts';
import { ConnectorError } from '../src/errors.ts';

async function failure(path: string): Promise<ConnectorError | undefined> {
  try {
    await readJsonFile(path, 'config');
  } catch (error) {
    if (error instanceof ConnectorError) return error;
    throw error;
  }
  return undefined;
}

describe('a file', () => {
  const folder = mkdtempSync(join(tmpdir(), 'config-test-'));
  afterAll(() => rmSync(folder, { recursive: true }));
  it('is read', async () => {
    const path = join(folder, 'good.json');
    writeFileSync(path, '{"a": [1]}');
    expect(await readJsonFile(path, 'config')).toEqual({ a: [1] });
  });

  it('that is missing is named', async () => {
    expect(await failure(join(folder, 'none.json'))).toMatchObject({
      kind: 'config_error',
      message: expect.stringMatching(/^The config file cannot be read: ENOENT.*none\.json'\.$/),
    });
  });

  it('that is not JSON is not quoted, not even by the cause', async () => {
    const path = join(folder, 'bad.json');
    writeFileSync(path, '{"password": "hunter2}');
    const error = await failure(path);
    expect([error?.kind, error?.message, error?.cause]).toEqual([
      'config_error',
      'The config file is not valid JSON.',
      undefined,
    ]);
  });
});
