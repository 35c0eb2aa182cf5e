/** What a shared server cannot show: settings that need a restart, lost slots, old versions. */
import { describe, expect, test } from 'vitest';
import { listed, listedSql } from '../src/check-finding.ts';
import {
  failoverSlot,
  freeSlots,
  primary,
  replicationRole,
  type ServerFacts,
  slotHealth,
  standbyReads,
  supportedVersions,
  usableSlot,
  walLevel,
} from '../src/check-server.ts';
import { guards, markers, type TimescaleFacts } from '../src/check-timescale.ts';
import { type Config, loadSpec, parseConfig } from '../src/config.ts';
import type { CdcConfig } from '../src/cdc-setup.ts';
import { parseLsn } from '../src/postgres/lsn.ts';
import type { SlotUse } from '../src/slot-care.ts';
import { isAtLeast } from '../src/timescaledb/hypertables.ts';

const GIGABYTE = 1024 ** 3;

const server: ServerFacts = {
  version: 140000,
  versionText: '14.0',
  timescaleVersion: '2.13.0',
  database: 'db',
  role: 'Reader',
  standby: false,
  standbyFeedback: false,
  standbyDelay: '30s',
  walLevel: 'logical',
  mayReplicate: true,
  mayCreate: true,
  slots: 10,
  slotsUsed: 8,
  awaitsStandbys: false,
};

const slot: SlotUse = {
  plugin: 'pgoutput',
  database: 'db',
  active: false,
  temporary: false,
  failover: false,
  walStatus: 'reserved',
  invalidationReason: null,
  confirmed: parseLsn('0/200'),
  restart: parseLsn('0/100'),
  retained: GIGABYTE,
  lag: 0,
  safe: null,
  limit: null,
  walPerSecond: null,
  idleTimeout: null,
  idle: null,
  walEnd: parseLsn('0/200'),
};

const lost: SlotUse = {
  ...slot,
  walStatus: 'lost',
  invalidationReason: 'wal_removed',
  restart: null,
  retained: null,
};

async function configured(
  changes: object = {},
  replication: object = {},
): Promise<readonly [Config, CdcConfig]> {
  const config = parseConfig(
    {
      host: 'localhost',
      port: 5432,
      database: 'db',
      username: 'me',
      replication_method: {
        method: 'CDC',
        replication_slot: 'slot',
        publication: 'pub',
        ...replication,
      },
      ...changes,
    },
    await loadSpec(),
  );
  if (config.replication.method !== 'CDC') throw new Error('not CDC');
  return [config, config.replication];
}

test('a server with all that is needed gives no finding', () => {
  expect([
    ...supportedVersions(server),
    ...primary(server),
    ...walLevel(server),
    ...replicationRole(server),
    ...freeSlots(server, null),
  ]).toEqual([]);
});

test.each([
  [supportedVersions({ ...server, version: 130018, versionText: '13.18' }), /13\.18.*14 or later/],
  [supportedVersions({ ...server, timescaleVersion: '2.12.2' }), /ALTER EXTENSION/],
  [supportedVersions({ ...server, timescaleVersion: '1.99.0' }), /2\.13 or later/],
  [primary({ ...server, standby: true }), /standby/],
  [
    walLevel({ ...server, walLevel: 'replica' }),
    /"replica".*ALTER SYSTEM SET wal_level = logical;/,
  ],
  [replicationRole({ ...server, mayReplicate: false }), /ALTER ROLE "Reader" REPLICATION;/],
  [freeSlots({ ...server, slotsUsed: 9 }, null), /has 1 free replication slots, and 2 are needed/],
  [freeSlots({ ...server, slotsUsed: 10 }, slot), /has 0 free.*1 are needed/],
])('failure %#', (findings, sentence) => {
  expect(findings).toEqual([
    { severity: 'failure', sentence: expect.stringMatching(sentence) as string },
  ]);
});

test('without TimescaleDB its version does not matter, and an existing slot needs one more only', () => {
  expect(supportedVersions({ ...server, timescaleVersion: null })).toEqual([]);
  expect(freeSlots({ ...server, slotsUsed: 9 }, slot)).toEqual([]);
});

test.each([
  ['2.13.0', true],
  ['2.13', true],
  ['2.30-dev', true],
  ['3.0.0', true],
  ['2.9.1', false],
  ['1.20.0', false],
])('%s is at least 2.13: %s', (version, expected) => {
  expect(isAtLeast(version, 2, 13)).toBe(expected);
});

describe('a lost slot', () => {
  test('is a failure that says how to go on', async () => {
    const [finding, ...others] = usableSlot(...(await configured()), server, lost);
    expect(others).toEqual([]);
    expect(finding?.severity).toBe('failure');
    expect(finding?.sentence).toMatch(
      /is lost \(wal_removed\).*pg_drop_replication_slot\('slot'\)/,
    );
  });

  const resync = { invalid_cdc_cursor_position_behavior: 'Re-sync data' };

  test('is a warning where the sync makes it anew', async () => {
    const [finding] = usableSlot(...(await configured({}, resync)), server, lost);
    expect(finding?.severity).toBe('warning');
  });

  test('is a failure where nothing may be made', async () => {
    const settings = await configured({ publication_management: 'verify only' }, resync);
    const [finding] = usableSlot(...settings, server, lost);
    expect(finding?.severity).toBe('failure');
  });
});

test('a missing slot is a failure only where none may be made', async () => {
  expect(usableSlot(...(await configured()), server, null)).toEqual([]);
  const verify = await configured({ publication_management: 'verify only' });
  expect(usableSlot(...verify, server, null)).toHaveLength(1);
});

describe('the health of a slot', () => {
  const health = async (
    use: Partial<SlotUse>,
    holder: string | null = null,
  ): Promise<readonly string[]> => {
    const [, cdc] = await configured();
    const findings = slotHealth(cdc, { ...slot, ...use }, holder);
    expect(findings.every(({ severity }) => severity === 'warning')).toBe(true);
    return findings.map(({ sentence }) => sentence);
  };

  test('a gigabyte of WAL is fine, more is told', async () => {
    expect(await health({})).toEqual([]);
    expect(await health({ retained: 1.5 * GIGABYTE, lag: 0.25 * GIGABYTE })).toEqual([
      expect.stringMatching(/keeps 1\.50 GB.*256\.0 MB are not confirmed/),
    ]);
  });

  test('the limit is told when half of it is used up, and when it will be reached', async () => {
    const limit = 8 * GIGABYTE;
    expect(await health({ safe: 4.1 * GIGABYTE, limit })).toEqual([]);
    // At first more than the limit may be written: segments are counted whole.
    expect(await health({ safe: 8.1 * GIGABYTE, limit })).toEqual([]);
    expect(await health({ safe: GIGABYTE, limit })).toEqual([
      expect.stringMatching(/lost after another 1\.00 GB of WAL: 88 % of .* = '32768MB'/),
    ]);
    expect(await health({ safe: GIGABYTE, limit, walPerSecond: GIGABYTE / 3600 })).toEqual([
      expect.stringMatching(/1\.00 GB of WAL, which the server writes in 60 min on average: 88 %/),
    ]);
    expect(await health({ safe: -1, limit })).toEqual([
      expect.stringMatching(/another 0\.0 MB of WAL: 100 % of/),
    ]);
  });

  test('a slot that nobody has used for half of the time that it may is told', async () => {
    const idleTimeout = 86_400;
    expect(await health({ idle: 43_000, idleTimeout })).toEqual([]);
    expect(await health({ idle: 43_000, idleTimeout: null })).toEqual([]);
    expect(await health({ idle: 64_800, idleTimeout })).toEqual([
      expect.stringMatching(/not been used for 18 h: after 24 h .* = '345600s'/),
    ]);
  });

  test('another consumer is told', async () => {
    expect(await health({ active: true }, 'server process 4711')).toEqual([
      expect.stringMatching(/in use by server process 4711/),
    ]);
  });
});

describe('TimescaleDB', () => {
  const hypertable = {
    id: 1,
    oid: 100,
    schema: 'public',
    name: 'Metrics',
    chunkSchema: '_timescaledb_internal',
    chunkPrefix: '_hyper_1',
    dimensions: [],
    compression: true,
    continuousAggregate: null,
  };
  const facts: TimescaleFacts = {
    version: '2.29.0',
    apache: false,
    markers: 'on',
    hypertables: [hypertable],
    columnstores: [hypertable],
    guarded: new Set([100]),
  };

  test('marked and guarded there is nothing to say', () => {
    expect([...markers(facts), ...guards(facts)]).toEqual([]);
  });

  test.each([
    [{ ...facts, markers: 'off' as const }, /ALTER SYSTEM SET timescaledb\.enable_compression_wal/],
    [{ ...facts, markers: null, version: '2.15.3' }, /2\.15\.3 does not mark.*moves/],
    [{ ...facts, version: '2.18.2' }, /2\.18\.2 does not mark.*policies/],
  ])('markers %#', (changed, sentence) => {
    expect(markers(changed).map((finding) => finding.sentence)).toEqual([
      expect.stringMatching(sentence),
    ]);
    expect(markers({ ...changed, apache: true })).toEqual([]);
  });

  test('without a columnstore old policies do not matter', () => {
    expect(markers({ ...facts, version: '2.18.2', columnstores: [] })).toEqual([]);
  });

  test('direct deletes exist since 2.17', () => {
    const open = { ...facts, guarded: new Set<number>() };
    expect(guards(open)).toHaveLength(1);
    expect(guards({ ...open, version: '2.16.1' })).toEqual([]);
  });
});

test('lists are cut at 20, in sentences and in SQL', () => {
  const names = Array.from({ length: 21 }, (_, at) => `t${at}`);
  expect(listed(names.slice(1))).not.toContain('more');
  expect(listed(names)).toMatch(/t19 and 1 more$/);
  expect(listedSql('DROP TABLE ', names)).toMatch(/^DROP TABLE t0, .*t19; \/\* and 1 more \*\/$/);
  expect(listedSql('DROP TABLE ', ['a', 'b'])).toBe('DROP TABLE a, b;');
});

test('a standby without CDC will do, but one that may cancel reads is warned of', () => {
  expect(standbyReads(server)).toEqual([]);
  expect(standbyReads({ ...server, standby: true, standbyFeedback: true })).toEqual([]);
  const [found] = standbyReads({ ...server, standby: true });
  expect(found?.severity).toBe('warning');
  expect(found?.sentence).toContain('max_standby_streaming_delay (30s)');
  expect(found?.sentence).toContain('ALTER SYSTEM SET hot_standby_feedback = on');
});

describe('`failover_slot`', () => {
  const current = { ...server, version: 170004, versionText: '17.4', awaitsStandbys: true };

  test('is refused before PostgreSQL 17, and only if it is asked for', async () => {
    const old = { ...current, version: 160009, versionText: '16.9' };
    expect(failoverSlot(...(await configured()), old, null)).toEqual([]);
    const asked = await configured({}, { failover_slot: true });
    expect(failoverSlot(...asked, old, null)).toEqual([
      {
        severity: 'failure',
        sentence:
          '`failover_slot` needs PostgreSQL 17 or later, and the server is PostgreSQL 16.9. Switch `failover_slot` off; after a failover clear the connection.',
      },
    ]);
    expect(failoverSlot(...asked, current, null)).toEqual([]);
    expect(failoverSlot(...asked, current, { ...slot, failover: true })).toEqual([]);
  });

  test('a slot that is none is told of, with who makes it one', async () => {
    const asked = await configured({}, { failover_slot: true });
    const [found] = failoverSlot(...asked, current, slot);
    expect(found?.sentence).toMatch(/"slot" is not one .* The next sync makes it one\.$/);
    const verify = await configured(
      { publication_management: 'verify only' },
      { failover_slot: true },
    );
    const [told] = failoverSlot(
      ...verify,
      { ...current, database: `my "$db's` },
      {
        ...slot,
        database: `my "$db's`,
      },
    );
    expect(told?.sentence).toContain(
      `psql "dbname='my \\"\\$db\\\\'s' replication=database" -c "ALTER_REPLICATION_SLOT slot (FAILOVER true)"`,
    );
    // What is wrong with this one is told elsewhere.
    expect(failoverSlot(...asked, current, lost)).toEqual([]);
  });

  test('what nobody waits for is told', async () => {
    const asked = await configured({}, { failover_slot: true });
    const found = failoverSlot(...asked, { ...current, awaitsStandbys: false }, null);
    expect(found).toMatchObject([{ severity: 'warning' }]);
    expect(found[0]?.sentence).toContain('synchronized_standby_slots');
  });
});
