/** metadata.yaml, the Dockerfile and acceptance-test-config.yml against what Airbyte's own checks demand of them. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';

const ROOT = fileURLToPath(new URL('..', import.meta.url));

type Tree = { readonly [key: string]: unknown };

function text(file: string): string {
  return readFileSync(join(ROOT, file), 'utf8');
}

const metadata = parse(text('metadata.yaml')) as Tree;
const data = metadata['data'] as Tree;
const { version, license } = JSON.parse(text('package.json')) as Record<string, string>;

/** What Airbyte's schema knows under `data`; it forbids everything else. */
const REQUIRED = [
  'name',
  'definitionId',
  'connectorType',
  'dockerRepository',
  'dockerImageTag',
  'license',
  'documentationUrl',
  'githubIssueLabel',
  'connectorSubtype',
  'releaseStage',
];
const OPTIONAL = [
  'supportLevel',
  'tags',
  'registryOverrides',
  'allowedHosts',
  'connectorBuildOptions',
  'icon',
  'connectorTestSuitesOptions',
  'releases',
  'ab_internal',
  'maxSecondsBetweenMessages',
  'supportsRefreshes',
  'supportsFileTransfer',
  'connectorIPCOptions',
  'suggestedStreams',
  'resourceRequirements',
  'erdUrl',
  'externalDocumentationUrls',
  'protocolVersion',
  'releaseDate',
  'remoteRegistries',
];

describe('metadata.yaml', () => {
  it('has every property that is required, and none that is unknown', () => {
    expect(Object.keys(metadata).toSorted()).toEqual(['data', 'metadataSpecVersion']);
    expect(metadata['metadataSpecVersion']).toBe('1.0');
    expect(Object.keys(data)).toEqual(expect.arrayContaining(REQUIRED));
    expect([...REQUIRED, ...OPTIONAL]).toEqual(expect.arrayContaining(Object.keys(data)));
  });

  it('describes a database source of this version and licence', () => {
    expect(data).toMatchObject({
      connectorType: 'source',
      connectorSubtype: 'database',
      dockerImageTag: version,
      license,
    });
    expect(data['definitionId']).toMatch(/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/);
    expect(data['dockerImageTag']).toMatch(/^\d+\.\d+\.\d+$/);
    expect(['alpha', 'beta', 'generally_available', 'custom']).toContain(data['releaseStage']);
    expect(['community', 'certified', 'archived']).toContain(data['supportLevel']);
    expect(data['documentationUrl']).toMatch(/^https:\/\//);
  });

  it('tells of breaking changes with every new major version', () => {
    const breaking = ((data['releases'] as Tree | undefined)?.['breakingChanges'] ?? {}) as Tree;
    const first = /^[1-9]\d*\.0\.0$/.test(version ?? '');
    expect(Object.keys(breaking).includes(version ?? '')).toBe(first);
  });

  it('has tags of the form that is asked for, one of them for the language', () => {
    const tags = data['tags'] as readonly string[];
    for (const tag of tags) expect(tag).toMatch(/^[a-z]+:[a-z0-9-]+$/);
    expect(tags.filter((tag) => tag.startsWith('language:'))).toEqual(['language:typescript']);
  });

  it('allows the hosts that the configuration names', () => {
    const { hosts } = data['allowedHosts'] as { readonly hosts: readonly string[] };
    const spec = text('spec.json');
    for (const host of hosts) {
      const path = /^\$\{([a-z_.]+)\}$/.exec(host)?.[1] ?? '';
      const property = path.split('.').at(-1) ?? '';
      expect(spec, host).toContain(`"${property}": {`);
    }
  });

  it('has a square icon of our own', () => {
    const svg = text(String(data['icon']));
    const box = /viewBox="0 0 (\d+) (\d+)"/.exec(svg);
    expect(box?.[1]).toBeDefined();
    expect(box?.[1]).toBe(box?.[2]);
  });
});

describe('the image', () => {
  const dockerfile = text('Dockerfile');

  it('has the labels of metadata.yaml', () => {
    expect(dockerfile).toContain(`LABEL io.airbyte.name="${String(data['dockerRepository'])}"`);
    expect(dockerfile).toContain(`LABEL io.airbyte.version="${String(data['dockerImageTag'])}"`);
  });

  it('has an AIRBYTE_ENTRYPOINT equal to its entry point, absolute', () => {
    const variable = /^ENV AIRBYTE_ENTRYPOINT="(.*)"$/m.exec(dockerfile)?.[1];
    const words = JSON.parse(/^ENTRYPOINT (.*)$/m.exec(dockerfile)?.[1] ?? '[]') as string[];
    expect(variable).toBe(words.join(' '));
    expect(words[0]).toMatch(/^\//);
  });

  it('is built from a base that can be exchanged', () => {
    expect(dockerfile).toMatch(/^ARG BASE_IMAGE=node:24-slim$/m);
    expect(dockerfile.match(/^FROM .*$/gm)?.every((line) => line.includes('${BASE_IMAGE}'))).toBe(
      true,
    );
  });
});

describe('acceptance-test-config.yml', () => {
  const config = parse(text('acceptance-test-config.yml')) as Tree;

  it('has only the properties that the runner knows', () => {
    const known = ['connector_image', 'acceptance_tests', 'base_path', 'test_strictness_level'];
    expect([...known, 'custom_environment_variables']).toEqual(
      expect.arrayContaining(Object.keys(config)),
    );
    const suites = config['acceptance_tests'] as Tree;
    expect(Object.keys(suites)).toEqual([
      'spec',
      'connection',
      'discovery',
      'basic_read',
      'full_refresh',
      'incremental',
    ]);
  });

  it('names files that are there, or that are nobody else’s business', () => {
    const files = [...JSON.stringify(config).matchAll(/"([\w./]+\.json)"/g)].map(
      ([, file = '']) => file,
    );
    expect(files.length).toBeGreaterThan(5);
    for (const file of files) {
      expect(file.startsWith('secrets/') || existsSync(join(ROOT, file)), file).toBe(true);
    }
  });
});

it('nothing in the connector’s folder leads to an unencrypted page', () => {
  const files = ['metadata.yaml', 'Dockerfile', 'README.md', 'acceptance-test-config.yml'];
  for (const file of [...files, 'docs/source-timescaledb.md', 'icon.svg', 'compose.yaml']) {
    const links = text(file).match(/http:\/\/(?!localhost|127\.0\.0\.1|json-schema\.org)\S+/g);
    expect((links ?? []).filter((link) => !link.startsWith('http://www.w3.org/2000/svg'))).toEqual(
      [],
    );
  }
});

describe('the documentation page', () => {
  const page = text('docs/source-timescaledb.md');

  it('has the headings of Airbyte’s pages, in their order', () => {
    const headings = page.match(/^#{1,3} .*$/gm) ?? [];
    const expected = [
      '# TimescaleDB',
      '## Prerequisites',
      '## Setup guide',
      '### Set up TimescaleDB',
      '### Set up the TimescaleDB connector in Airbyte',
      '## Supported sync modes',
      '## Supported Streams',
      '## Features',
      '## Performance considerations',
      '## Data type map',
      '## Limitations & Troubleshooting',
      "### Migrating from Airbyte's Postgres source",
      '## Tutorials',
      '## Changelog',
    ];
    expect(headings).toEqual(expected);
  });

  it('shows the form as spec.json makes it: every field, in its group and order', () => {
    const form = /```text\n([\s\S]*?)```/.exec(page)?.[1] ?? '';
    const lines = form.split('\n').map((line) => line.trim());
    const { connectionSpecification: spec } = JSON.parse(text('spec.json'));
    const fields = Object.values(spec.properties as Record<string, Tree>);
    let at = -1;
    for (const group of spec.groups as readonly { id: string; title: string }[]) {
      const own = fields
        .filter((field) => field['group'] === group.id)
        .toSorted((a, b) => Number(a['order']) - Number(b['order']));
      for (const title of [group.title, ...own.map((field) => String(field['title']))]) {
        const found = lines.findIndex(
          (line, index) => index > at && (line === title || line.startsWith(`${title} `)),
        );
        expect(found, title).toBeGreaterThan(at);
        at = found;
      }
    }
  });

  it('tells of this version', () => {
    expect(page).toContain(`| ${version} `);
  });
});
