/** A connection with a first sync behind it, and what it is to be refused. */
import { expect } from 'vitest';
import type { JsonObject } from '../src/airbyte/protocol.ts';
import { expectEqual } from './comparison.ts';
import { configuredCatalog, run } from './connector.ts';
import { createDatabase, type Database } from './database.ts';
import { Destination } from './destination.ts';
import type { ConfiguredCatalog } from './messages.ts';
import type { RunResult } from './run-result.ts';

export type Kind = 'config_error' | 'transient_error';

/** One ERROR trace with this kind and sentence, exit code 1, and neither records nor states. */
export function expectRefused(result: RunResult, kind: Kind, sentence: RegExp): string {
  expect(result.exitCode, result.describe()).toBe(1);
  const errors = result.errors();
  expect(errors, result.describe()).toHaveLength(1);
  expect(errors[0]).toMatchObject({
    failure_type: kind,
    message: expect.stringMatching(sentence) as string,
  });
  expect(result.records()).toEqual([]);
  expect(result.states()).toEqual([]);
  return errors[0]?.message ?? '';
}

export const EMPTY: ConfiguredCatalog = { streams: [] };

/** A table, a hypertable, and a first sync of both. */
export class Connection implements AsyncDisposable {
  readonly db: Database;
  catalog: ConfiguredCatalog = EMPTY;
  destination = new Destination(EMPTY);

  constructor(db: Database) {
    this.db = db;
  }

  async first(overrides: JsonObject = {}): Promise<RunResult> {
    await this.db.query(`
      CREATE TABLE devices (id int PRIMARY KEY, name text);
      INSERT INTO devices VALUES (1, 'one'), (2, 'two');
      CREATE TABLE metrics (time timestamptz NOT NULL, device int NOT NULL, value float8,
                            PRIMARY KEY (time, device));
      SELECT create_hypertable('metrics', 'time', chunk_time_interval => interval '1 day');
      INSERT INTO metrics VALUES ('2026-01-01Z', 1, 1), ('2026-01-02Z', 1, 2)`);
    this.catalog = await this.discover(overrides);
    this.destination = new Destination(this.catalog);
    const result = (await this.read(overrides)).succeeded();
    expect(result.records()).toHaveLength(4);
    this.destination.apply(result.messages);
    return result;
  }

  async discover(overrides: JsonObject = {}): Promise<ConfiguredCatalog> {
    const config = this.db.config(overrides);
    return configuredCatalog((await run('discover', { config })).succeeded().catalog());
  }

  read(
    overrides: JsonObject = {},
    files: {
      readonly catalog?: ConfiguredCatalog;
      readonly state?: readonly unknown[] | string;
    } = {},
  ): Promise<RunResult> {
    return run('read', {
      config: this.db.config(overrides),
      catalog: files.catalog ?? this.catalog,
      state: files.state ?? this.destination.state,
    });
  }

  /** Some changes; with each call others. */
  change(mark: string): Promise<unknown> {
    return this.db.query(`UPDATE devices SET name = '${mark}' WHERE id = 2;
                          UPDATE metrics SET value = value + 1 WHERE time = '2026-01-02Z'`);
  }

  /** The stored state goes on from where it was: exactly the changes come. */
  async expectGoesOn(records: number, overrides: JsonObject = {}): Promise<void> {
    const result = (await this.read(overrides)).succeeded();
    expect(result.records()).toHaveLength(records);
    this.destination.apply(result.messages);
    await expectEqual(this.db, this.destination, 'devices');
    await expectEqual(this.db, this.destination, 'metrics');
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.db[Symbol.asyncDispose]();
  }
}

export async function connection(): Promise<Connection> {
  return new Connection(await createDatabase());
}

/** The stored state with something else in it. */
export function edited(state: readonly unknown[], from: RegExp, to: string): readonly unknown[] {
  const text = JSON.stringify(state);
  expect(text).toMatch(from);
  return JSON.parse(text.replace(from, to)) as readonly unknown[];
}
