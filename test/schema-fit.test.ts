/** The short answer is never yes where the full validator says no, and is yes for configurations that are right. */
import { Ajv } from 'ajv';
import fc from 'fast-check';
import { expect, it } from 'vitest';
import type { JsonObject } from '../src/airbyte/protocol.ts';
import { surelyFits } from '../src/schema-fit.ts';

const SCHEMA: JsonObject = {
  type: 'object',
  title: 'a schema with every keyword of the spec',
  required: ['name'],
  additionalProperties: true,
  properties: {
    name: { type: 'string', minLength: 1, order: 0 },
    port: { type: 'integer', minimum: 0, maximum: 65_536, default: 5432 },
    mode: { type: 'string', enum: ['a', 'b'] },
    list: { type: 'array', minItems: 1, uniqueItems: true, items: { type: 'string' } },
    nested: { type: 'object', required: ['method'], properties: { method: { const: 'CDC' } } },
    flag: { type: 'boolean' },
  },
};

const anything = fc.jsonValue({ maxDepth: 1 });
const values = fc.record(
  {
    name: fc.oneof(fc.string(), anything),
    port: fc.oneof(fc.integer({ min: -1, max: 65_537 }), fc.double(), anything),
    mode: fc.oneof(fc.constantFrom('a', 'b', 'c'), anything),
    list: fc.oneof(fc.array(fc.constantFrom('x', 'y', 'z')), anything),
    nested: fc.oneof(fc.constant({ method: 'CDC' }), fc.constant({}), anything),
    flag: fc.oneof(fc.boolean(), anything),
    other: anything,
  },
  { requiredKeys: [] },
);

it('says what the full validator says', () => {
  const validate = new Ajv({ strict: false }).compile(SCHEMA);
  fc.assert(
    fc.property(values, (value) => {
      // A number without a fraction that JSON cannot hold is no value of a configuration file.
      const parsed: unknown = JSON.parse(JSON.stringify(value));
      expect(surelyFits(parsed, SCHEMA)).toBe(validate(parsed));
    }),
    { numRuns: 2000 },
  );
});

it('denies what it does not know', () => {
  expect(surelyFits('a', { pattern: 'a' })).toBe(false);
  expect(surelyFits([{}, {}], { uniqueItems: true })).toBe(false);
});
