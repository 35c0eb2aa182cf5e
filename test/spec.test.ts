/** spec.json against the rules that Airbyte's acceptance tests set for a spec. */
import { existsSync, readFileSync } from 'node:fs';
import { Ajv } from 'ajv';
import { describe, expect, it } from 'vitest';
import type { JsonObject } from '../src/airbyte/protocol.ts';
import { at, branches, connection, objects, places, spec } from './spec-walk.ts';

/** Every schema of a property, list element or choice, as opposed to maps of them. */
const schemas = places(connection).filter(
  ({ path }) => !/(^|\.)(properties|groups\.\d+)$/.test(path),
);

describe('spec.json as Airbyte lints it', () => {
  it('has one discriminator per oneOf, a plain const in every variant', () => {
    for (const { path, node } of schemas.filter(({ node: { oneOf } }) => oneOf !== undefined)) {
      expect(node['type'], path).toBe('object');
      const variants = objects(node['oneOf']).map((each) => at(each, 'properties'));
      const constIn = (variant: JsonObject) =>
        Object.keys(variant).filter((key) => 'const' in at(variant, key));
      const common = constIn(variants[0] ?? {}).filter((key) =>
        variants.every((variant) => constIn(variant).includes(key)),
      );
      expect(common, path).toHaveLength(1);
      const [key = ''] = common;
      const tags = variants.map((variant) => at(variant, key));
      expect(new Set(tags.map((tag) => tag['const'])).size, path).toBe(variants.length);
      for (const tag of tags) expect(Object.keys(tag)).toEqual(['type', 'const', 'order']);
      for (const each of objects(node['oneOf'])) {
        expect(each['required'], path).toContain(key);
      }
    }
  });

  it('uses no forbidden keyword', () => {
    const forbidden =
      'not anyOf patternProperties prefixItems allOf if then else dependentSchemas dependentRequired $ref'.split(
        ' ',
      );
    for (const { path, node } of schemas) {
      expect(
        Object.keys(node).filter((key) => forbidden.includes(key)),
        path,
      ).toEqual([]);
      expect([undefined, true], path).toContain(node['additionalProperties']);
      const values = node['enum'];
      if (Array.isArray(values)) expect(new Set(values).size, path).toBe(values.length);
    }
  });
});

describe('each property of spec.json', () => {
  it('has a type, a title and a description', () => {
    for (const { path, node } of schemas.filter((each) => /\.properties\.\w+$/.test(each.path))) {
      expect(['string', 'integer', 'boolean', 'array', 'object'], path).toContain(node['type']);
      if (node['type'] === 'array') expect(at(node, 'items')['type'], path).toBe('string');
      if (node['type'] === 'object') expect(node['oneOf'], path).toBeDefined();
      if (node['const'] === undefined) {
        expect(node['title'], path).toBeTypeOf('string');
        expect(node['description'], path).toMatch(/^[A-Za-z].*\.$/);
      }
    }
  });

  it('is marked if it is secret', () => {
    const bySuffix = /(password|certificate|key|passphrase)$/;
    const found = schemas
      .filter(({ path }) => /\.properties\.\w+$/.test(path))
      .flatMap(({ path, node }) => {
        expect(node['airbyte_secret'] === true, path).toBe(bySuffix.test(path));
        return node['airbyte_secret'] === true ? [path.replace(/^.*\./, '')] : [];
      });
    expect([...new Set(found)].toSorted()).toEqual(
      'ca_certificate client_certificate client_key client_key_password password ssh_key ssh_key_passphrase tunnel_user_password'.split(
        ' ',
      ),
    );
  });

  it('has its place in the form', () => {
    const groups = objects(connection['groups']).map((group) => group['id']);
    for (const { path, node } of places(connection).filter((each) =>
      each.path.endsWith('properties'),
    )) {
      const orders = Object.values(node).map((property) => at(property)['order']);
      expect(new Set(orders).size, path).toBe(orders.length);
      expect(orders, path).not.toContain(undefined);
    }
    for (const { path, node } of schemas) {
      if (/^\.properties\.\w+$/.test(path)) expect(groups, path).toContain(node['group']);
      else expect(node['group'], path).toBeUndefined();
      if (node['display_type'] !== undefined) {
        expect(['dropdown', 'radio']).toContain(node['display_type']);
        expect(node['oneOf']).toBeDefined();
      }
    }
  });
});

describe('spec.json as a promise', () => {
  it('asks for nothing that an old configuration may lack', () => {
    expect(connection['required']).toEqual(['host', 'port', 'database', 'username']);
    expect(connection['additionalProperties']).toBe(true);
    expect([spec['supportsIncremental'], spec['supported_destination_sync_modes']]).toEqual([
      true,
      [],
    ]);
  });

  it('has defaults that fit their own property', () => {
    const ajv = new Ajv({ strict: false, logger: false });
    for (const { path, node } of schemas.filter((each) => 'default' in each.node)) {
      // Airbyte's form takes the default of a choice to be its discriminator's value, not an object.
      if (node['oneOf'] === undefined) expect(ajv.validate(node, node['default']), path).toBe(true);
      else expect(branches('ssl_mode').map(({ tag }) => tag)).toContain(node['default']);
    }
  });

  it('makes a SPEC message that the protocol accepts', (context) => {
    const folder = new URL('../../shared/oracle/', import.meta.url);
    context.skip(!existsSync(folder), "the protocol's schemas are not on this machine");
    const read = (name: string): JsonObject =>
      JSON.parse(readFileSync(new URL(name, folder), 'utf8'));
    const ajv = new Ajv({ strict: false, logger: false, validateFormats: false });
    ajv.addSchema(read('airbyte_protocol.schema.json'));
    const accepts = ajv.compile(read('airbyte_message_strict.schema.json'));
    expect(accepts({ type: 'SPEC', spec }), ajv.errorsText(accepts.errors)).toBe(true);
  });
});
