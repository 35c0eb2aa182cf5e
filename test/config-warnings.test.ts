/** Settings that are valid, and not what they may be taken for. */
import { describe, expect, it } from 'vitest';
import type { JsonObject } from '../src/airbyte/protocol.ts';
import { parseConfig, settingWarnings } from '../src/config.ts';
import { connection, places, spec } from './spec-walk.ts';

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

describe('settings that do not do what may be expected', () => {
  const CASES: readonly (readonly [string, RegExp, JsonObject])[] = [
    ['jdbc_url_params', /have no effect: a\.$/, { jdbc_url_params: 'a=b' }],
    ['timescaledb_max_memory_mb', /96 is the lowest/, { timescaledb_max_memory_mb: 64 }],
  ];

  it.each(CASES)('%s', (property, sentence, changes) => {
    expect(settingWarnings(parse(changes))).toEqual([
      { property, sentence: expect.stringMatching(sentence) },
    ]);
  });

  it('the form promises nothing that is not there', () => {
    const said = places(connection).filter(({ node }) =>
      /in this version|no effect/.test(JSON.stringify(node['description'] ?? '')),
    );
    expect(said).toEqual([]);
  });
});
