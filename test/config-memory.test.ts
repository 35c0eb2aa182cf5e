/** A memory limit that cannot hold. */
import { describe, expect, it } from 'vitest';
import type { JsonObject } from '../src/airbyte/protocol.ts';
import { parseConfig, settingWarnings } from '../src/config.ts';
import { spec } from './spec-walk.ts';

const MINIMAL = { host: 'db', port: 5432, database: 'metrics', username: 'reader' };
const parse = (changes: JsonObject) => parseConfig({ ...MINIMAL, ...changes }, spec);

describe('a memory limit below what the process takes up', () => {
  it.each([64, 95])('of %s MB is warned of, with the lowest that holds', (mb) => {
    const [found, ...others] = settingWarnings(parse({ timescaledb_max_memory_mb: mb }));
    expect(others).toEqual([]);
    expect(found).toMatchObject({ property: 'timescaledb_max_memory_mb' });
    expect(found?.sentence).toContain(`is ${mb}, `);
    expect(found?.sentence).toContain('96 is the lowest that holds');
  });

  it('is not: 96 and more', () => {
    expect(settingWarnings(parse({ timescaledb_max_memory_mb: 96 }))).toEqual([]);
  });
});
