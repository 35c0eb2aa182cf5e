/** The script of `setup-sql` as text: what a server cannot show without many versions of it, and names that are SQL. */
import { describe, expect, test } from 'vitest';
import type { ServerFacts } from '../src/check-server.ts';
import { setupSql } from '../src/setup-sql.ts';
import type { Changes, PublishedTable, SetupFacts } from '../src/setup-sql-facts.ts';
import { removeSql } from '../src/setup-sql-remove.ts';
import { choice, chunkTriggerName, dollarQuoted, note } from '../src/setup-sql-text.ts';

const server: ServerFacts = {
  version: 170011,
  versionText: '17.11',
  timescaleVersion: '2.19.3',
  database: 'iot',
  role: 'airbyte',
  standby: false,
  standbyFeedback: false,
  standbyDelay: '30s',
  walLevel: 'logical',
  mayReplicate: false,
  mayCreate: false,
  slots: 10,
  slotsUsed: 0,
  awaitsStandbys: false,
};

const metrics: PublishedTable = {
  schema: 'public',
  name: 'metrics',
  kind: 'hypertable',
  label: 'public.metrics',
  identity: true,
  full: false,
  owned: false,
  chunks: 5,
  dimensions: ['time', 'the device'],
  announced: true,
};

const changes: Changes = {
  slot: 'slot',
  publication: 'pub',
  inserts: 'pub_inserts',
  waitSeconds: 1200,
  failover: false,
  alterSlot: null,
  failoverTooNew: null,
  managed: false,
  status: null,
  tables: [metrics],
  toGuard: [],
  autoPublication: 'absent',
  eventTriggers: 'absent',
  rowFilters: false,
};

function facts(of: Partial<Changes> = {}, others: Partial<SetupFacts> = {}): SetupFacts {
  return {
    server,
    superuser: false,
    replicationGroup: null,
    relations: [{ schema: 'public', name: 'metrics', selectable: false, owned: false }],
    owners: [{ schema: 'public', owner: 'dba' }],
    changes: { ...changes, ...of },
    ...others,
  };
}

/** What the server would run: the lines that are no comments. */
function statements(script: string): string {
  return script
    .split('\n')
    .filter((line) => !line.startsWith('--'))
    .join('\n');
}

/** What the dashes hide, and somebody may want. */
function choices(script: string): readonly string[] {
  return script.split('\n').filter((line) => line.startsWith('-- ALTER '));
}

describe('names', () => {
  const name = `x\n; DROP TABLE t; $setup$ $setup1$ '\\ "`;

  test('no name ends a comment', () => {
    expect(note(`The table ${name}.`).split('\n')).toEqual([
      expect.stringMatching(/^-- The table/),
    ]);
    expect(choice(`ALTER TABLE "${name}";`).split('\n')).toEqual([
      expect.stringMatching(/^-- ALTER/),
      expect.stringMatching(/^-- ; DROP/),
    ]);
  });

  test('a body holds any name between dollar quotes', () => {
    expect(dollarQuoted(name)).toBe(`$setup2$\n${name}\n$setup2$`);
  });

  test('of the event trigger: one for each publication, never too long', () => {
    expect(chunkTriggerName('pub')).toBe('source_timescaledb_chunks_pub');
    const long = [chunkTriggerName('é'.repeat(30)), chunkTriggerName(`${'é'.repeat(30)}x`)];
    expect(new Set(long).size).toBe(2);
    for (const each of long) expect(Buffer.byteLength(each)).toBeLessThanOrEqual(63);
  });

  test('the same name in both scripts', () => {
    const odd = facts({ publication: name });
    const quoted = `"${chunkTriggerName(name).replaceAll('"', '""')}"`;
    expect(setupSql(odd)).toContain(`CREATE EVENT TRIGGER ${quoted} ON`);
    expect(removeSql(odd)).toContain(`DROP EVENT TRIGGER IF EXISTS ${quoted};`);
  });
});

describe('what is printed', () => {
  test('without changes: what reading takes, and nothing else', () => {
    const standard = facts({}, { changes: null });
    expect(statements(setupSql(standard))).not.toMatch(/PUBLICATION|REPLICATION|slot|TRIGGER/);
    expect(setupSql(standard)).toContain('GRANT SELECT ON "public"."metrics" TO "airbyte";');
    expect(statements(removeSql(standard))).not.toMatch(/PUBLICATION|REPLICATION|slot|TRIGGER/);
    expect(removeSql(standard)).toContain('REVOKE SELECT ON "public"."metrics" FROM "airbyte";');
  });

  test('for a superuser no privileges, and none are taken away', () => {
    const superuser = facts({}, { superuser: true });
    expect(setupSql(superuser)).not.toContain('GRANT ');
    expect(removeSql(superuser)).not.toContain('REVOKE ');
    expect(setupSql(superuser)).not.toContain('ALTER ROLE');
  });

  test('the publications belong to a role that is to keep them up', () => {
    const owner = 'ALTER PUBLICATION "pub" OWNER TO "airbyte";';
    expect(statements(setupSql(facts({ managed: true })))).toContain(owner);
    expect(setupSql(facts())).not.toContain(owner);
  });

  test('the right to replicate, where it is handed out by membership', () => {
    const managed = facts({}, { replicationGroup: 'rds_replication' });
    expect(setupSql(managed)).toContain('GRANT "rds_replication" TO "airbyte";');
    expect(setupSql(managed)).not.toContain('ALTER ROLE');
    expect(removeSql(managed)).toContain('REVOKE "rds_replication" FROM "airbyte";');
  });

  test('a slot for failover, where the server knows such slots', () => {
    const create = /pg_create_logical_replication_slot\('slot', 'pgoutput'(.*?)\)/;
    expect(create.exec(statements(setupSql(facts())))?.[1]).toBe('');
    const script = setupSql(facts({ failover: true, alterSlot: 'do this' }));
    expect(create.exec(statements(script))?.[1]).toBe(', failover => true');
    expect(script.replaceAll('\n-- ', ' ')).toContain('In a shell: do this');
    const old = setupSql(facts({ failoverTooNew: 'too old for it' }));
    expect(old).toContain('-- too old for it');
  });

  test('first what is read from, last the slot', () => {
    const script = statements(setupSql(facts()));
    const places = ['CREATE PUBLICATION', 'CREATE EVENT TRIGGER', 'virtualtransaction'].map((it) =>
      script.indexOf(it),
    );
    const slot = script.indexOf('pg_create_logical_replication_slot');
    const moved = script.indexOf('pg_replication_slot_advance');
    expect([...places, slot, moved]).toEqual([...places, slot, moved].toSorted((a, b) => a - b));
    expect(places[0]).toBeGreaterThan(0);
  });

  test('no statement locks thousands of chunks until another ends', () => {
    const many = facts({ tables: [{ ...metrics, chunks: 10_000 }] });
    expect(setupSql(many)).toContain('    COMMIT;');
    expect(removeSql(many)).toContain('    COMMIT;');
    expect(setupSql(facts())).not.toContain('    COMMIT;');
  });
});

describe('hypertables whose chunks event triggers are not told of', () => {
  const silent = { tables: [{ ...metrics, announced: false }] };
  const constraint =
    '-- ALTER TABLE "public"."metrics" ADD CONSTRAINT source_timescaledb_announce EXCLUDE USING btree ("time" WITH =, "the device" WITH =) WHERE (false);';
  const own = 'ALTER DATABASE "iot" SET timescaledb.enable_chunk_auto_publication = on;';

  test('before 2.20 a constraint is offered', () => {
    expect(choices(setupSql(facts(silent)))).toEqual([constraint]);
  });

  test('from 2.20 on the setting is offered too, with its price', () => {
    const script = setupSql(facts({ ...silent, eventTriggers: 'off' }));
    expect(choices(script)).toEqual([
      '-- ALTER DATABASE "iot" SET timescaledb.enable_event_triggers = on;',
      constraint,
    ]);
    expect(script.replaceAll('\n-- ', ' ')).toContain('refreshes of continuous aggregates');
  });

  test('from 2.25 on the server publishes chunks by itself', () => {
    const script = setupSql(facts({ ...silent, eventTriggers: 'off', autoPublication: 'off' }));
    expect(statements(script)).toContain(own);
    expect(script).not.toContain('EXCLUDE');
  });

  test('but not where a row filter would be copied wrongly', () => {
    const script = setupSql(facts({ autoPublication: 'off', rowFilters: true }));
    expect(statements(script)).not.toContain(own);
    expect(choices(script)).toContain(`-- ${own}`);
  });

  test('nothing is offered where nothing is missing', () => {
    expect(choices(setupSql(facts()))).toEqual([]);
    expect(setupSql(facts({ ...silent, autoPublication: 'on' }))).not.toContain('ALTER DATABASE');
  });
});

test('the top says what follows from what the role can do', () => {
  const says = (of: Partial<Changes>, others: Partial<ServerFacts> = {}): string =>
    setupSql(facts(of, { server: { ...server, ...others } })).replaceAll('\n-- ', ' ');
  expect(says({})).toContain(
    'the role is to publish nothing (publication_management "verify only")',
  );
  expect(says({ managed: true })).toContain('the role may not publish them');
  const owner = { managed: true, tables: [{ ...metrics, owned: true }] };
  expect(says(owner)).toContain('the role may not publish them');
  expect(says(owner, { mayCreate: true })).toContain('each sync looks for them');
  expect(says({ autoPublication: 'on' })).toContain(
    'published by the server at their birth already',
  );
});
