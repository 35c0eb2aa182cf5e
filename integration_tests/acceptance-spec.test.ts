/**
 * Airbyte's acceptance tests of `spec` and of the image, made anew: titles begin with the name of the test there. Each rule
 * is also shown a specification that breaks it.
 */
import { existsSync, readFileSync } from 'node:fs';
import { Ajv } from 'ajv';
import { beforeAll, describe, expect, test } from 'vitest';
import type { JsonObject, JsonValue } from '../src/airbyte/protocol.ts';
import { run } from './connector.ts';
import { createDatabase } from './database.ts';
import type { RunResult } from './run-result.ts';
import { SPEC_RULES, specFaults } from './spec-checks.ts';

let result: RunResult;
let specification: JsonObject;

beforeAll(async () => {
  // The rules are tests of their own here.
  result = (await run('spec', { unchecked: true })).succeeded();
  specification = printed()['connectionSpecification'] as JsonObject;
});

function printed(): JsonObject {
  const specs = result.messages.flatMap((message) =>
    message.type === 'SPEC' ? [message.spec] : [],
  );
  expect(specs).toHaveLength(1);
  return specs[0] ?? {};
}

function projectFile(name: string): URL {
  return new URL(`../${name}`, import.meta.url);
}

const text = { type: 'string' };
const variant = (tag: JsonObject, more: JsonObject = {}): JsonObject => ({
  properties: { kind: tag, ...more },
});
const choice = (...oneOf: readonly JsonValue[]): JsonObject => ({ type: 'object', oneOf });
const TAGS = [
  { type: 'string', const: 'a' },
  { type: 'string', const: 'b' },
] as const;

/** Properties that break a rule; each is reported by that rule and by no other. */
const BROKEN: readonly (readonly [rule: string, what: string, property: JsonObject])[] = [
  ['test_enum_usage', 'a value twice', { type: 'string', enum: ['a', 'a'] }],
  ['test_oneof_usage', 'no object', { ...choice(variant(TAGS[0])), type: 'string' }],
  ['test_oneof_usage', 'no common constant', choice(variant(TAGS[0]), variant(text))],
  [
    'test_oneof_usage',
    'two common constants',
    choice(variant(TAGS[0], { other: TAGS[0] }), variant(TAGS[1], { other: TAGS[1] })),
  ],
  ['test_oneof_usage', 'an empty variant', choice(variant(TAGS[0]), { properties: {} })],
  ['test_oneof_usage', 'another default', choice(variant({ ...TAGS[0], default: 'b' }))],
  ['test_oneof_usage', 'a wider enum', choice(variant({ ...TAGS[0], enum: ['a', 'b'] }))],
  ['test_additional_properties_is_true', 'false', { ...text, additionalProperties: false }],
  ['test_forbidden_complex_types', 'anyOf', { ...text, anyOf: [text] }],
  ['test_defined_refs_exist_in_json_spec_file', 'a $ref', { $ref: '#/x' }],
  ['test_property_type_is_not_array', 'two types', { type: ['string', 'integer'] }],
  ['test_property_type_is_not_array', 'null first', { type: ['null', 'string'] }],
  ['test_object_not_empty', 'no properties', { type: 'object' }],
  ['test_array_type', 'lists of lists', { type: 'array', items: { type: 'array' } }],
  ['test_array_type', 'several items', { type: 'array', items: [text] }],
  ['test_secret_is_properly_marked', 'shown', choice(variant(TAGS[0], { password: text }))],
  [
    'test_secret_is_properly_marked',
    'hidden',
    choice(variant(TAGS[0], { key: { type: 'boolean', airbyte_secret: true } })),
  ],
  [
    'test_duplicate_order',
    'one place for two',
    choice(variant({ ...TAGS[0], order: 1 }, { more: { ...text, order: 1 } })),
  ],
  ['test_nested_group', 'a group in a choice', choice(variant({ ...TAGS[0], group: 'x' }))],
  ['test_display_type', 'without a choice', { ...text, display_type: 'radio' }],
  [
    'test_display_type',
    'of another kind',
    { ...choice(variant(TAGS[0])), display_type: 'checkbox' },
  ],
];

describe('the form of the specification', () => {
  test.each(Object.keys(SPEC_RULES))('%s', (name) => {
    expect(specFaults(specification, name)).toEqual([]);
  });

  test.each(BROKEN)('%s would see %s', (name, _, property) => {
    const properties = { ...(specification['properties'] as JsonObject), broken: property };
    const faults = specFaults({ ...specification, properties });
    expect(faults).toEqual([expect.stringContaining(`${name}: .properties.broken`)]);
  });

  test('every rule has been shown what breaks it', () => {
    expect(new Set(BROKEN.map(([name]) => name))).toEqual(new Set(Object.keys(SPEC_RULES)));
  });
});

test('test_config_match_spec: the configurations of all update methods', async () => {
  await using db = await createDatabase();
  const validate = new Ajv({ strict: false, logger: false }).compile(specification);
  const standard = { replication_method: { method: 'Standard' } };
  for (const config of [db.config(), db.config(standard)]) {
    expect(validate(config), JSON.stringify(validate.errors)).toBe(true);
    for (const name of specification['required'] as readonly string[]) {
      const { [name]: _, ...rest } = config;
      expect(validate(rest), `without ${name}`).toBe(false);
    }
  }
});

test('test_match_expected: what is printed is the file', () => {
  const names = ['integration_tests/expected_spec.json', 'spec.json'];
  for (const name of names.filter((one) => existsSync(projectFile(one)))) {
    const expected = JSON.parse(readFileSync(projectFile(name), 'utf8')) as JsonObject;
    expect(printed(), name).toEqual(expected);
  }
});

test('test_oauth_flow_parameters: there is no such flow', () => {
  expect(Object.keys(printed())).not.toContain('advanced_auth');
});

/** All values of an instruction such as `LABEL a=b` or `ENV a=b` in the last stage. */
function instructions(dockerfile: string, keyword: string): Map<string, string> {
  const last = dockerfile.slice(dockerfile.lastIndexOf('\nFROM '));
  const pattern = new RegExp(String.raw`^(?:${keyword}\s+|\s+)([\w.]+)="?([^"\n\\]*)"?`, 'gm');
  return new Map([...last.matchAll(pattern)].map(([, name = '', value = '']) => [name, value]));
}

describe('the image', () => {
  const dockerfile = readFileSync(projectFile('Dockerfile'), 'utf8');

  test('test_image_labels: name and version as in metadata.yaml', () => {
    const metadata = readFileSync(projectFile('metadata.yaml'), 'utf8');
    const field = (name: string): string =>
      new RegExp(String.raw`^\s*${name}:\s*'?([^\s']+)`, 'm').exec(metadata)?.[1] ?? 'absent';
    const labels = instructions(dockerfile, 'LABEL');
    expect(labels.get('io.airbyte.name')).toBe(field('dockerRepository'));
    expect(labels.get('io.airbyte.version')).toBe(field('dockerImageTag'));
  });

  test('test_image_environment_variables: AIRBYTE_ENTRYPOINT is the entry point', () => {
    const words = /^ENTRYPOINT (\[.*\])$/m.exec(dockerfile)?.[1] ?? '[]';
    const entrypoint = (JSON.parse(words) as readonly string[]).join(' ');
    expect(entrypoint).not.toBe('');
    expect(instructions(dockerfile, 'ENV').get('AIRBYTE_ENTRYPOINT')).toBe(entrypoint);
  });
});
