/** What `check` answers, and what the tests of it check. */
import { expect } from 'vitest';
import type { JsonObject } from '../src/airbyte/protocol.ts';
import { run } from './connector.ts';
import type { Database } from './database.ts';
import type { Roles } from './roles.ts';

export type Answer = {
  readonly succeeded: boolean;
  readonly failures: readonly string[];
  readonly warnings: readonly string[];
  readonly text: string;
};

/** Runs `check` as the platform does. */
export async function checked(db: Database, overrides: JsonObject = {}): Promise<Answer> {
  const result = await run('check', { config: db.config(overrides) });
  const { status, message } = result.connectionStatus();
  expect(result.exitCode).toBe(0);
  return {
    succeeded: status === 'SUCCEEDED',
    failures: message?.split('\n') ?? [],
    warnings: result.logs().filter((line) => line.startsWith('WARN ')),
    text: result.lines.join('\n'),
  };
}

/** The one line that says it. */
export function lineAbout(lines: readonly string[], pattern: RegExp): string {
  const found = lines.filter((line) => pattern.test(line));
  expect(found, `${pattern} in\n${lines.join('\n')}`).toHaveLength(1);
  return found[0] ?? '';
}

/** The SQL that a line offers: from its first statement to its last semicolon. */
export function sqlIn(line: string): string {
  const sql = /(?:ALTER (?:TABLE|ROLE|PUBLICATION)|CREATE|SELECT|DROP) [^]*;/.exec(line)?.[0];
  expect(sql, line).toBeDefined();
  return sql ?? '';
}

/** A hypertable of four chunks and a table, both with keys. */
export async function fill(db: Database, owner = 'postgres'): Promise<void> {
  await db.query(`
    CREATE TABLE metrics (time timestamptz NOT NULL, device int NOT NULL, value float8,
                          PRIMARY KEY (time, device));
    SELECT create_hypertable('metrics', 'time', chunk_time_interval => interval '1 day');
    INSERT INTO metrics SELECT '2026-01-01Z'::timestamptz + day * interval '1 day', 1, day
                          FROM generate_series(0, 3) day;
    CREATE TABLE devices (id int PRIMARY KEY, name text);
    ALTER TABLE metrics OWNER TO ${owner};
    ALTER TABLE devices OWNER TO ${owner}`);
}

/** @returns a role that may read every table and use slots, and owns nothing. */
export async function reader(roles: Roles, db: Database): Promise<string> {
  const role = await roles.create('LOGIN REPLICATION');
  await db.query(`GRANT SELECT ON ALL TABLES IN SCHEMA public TO ${role}`);
  return role;
}
