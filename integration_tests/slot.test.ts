/** The slot as PostgreSQL makes it under load: its decoder must know every table that later transactions write to. */
import { setTimeout as delay } from 'node:timers/promises';
import type pg from 'pg';
import { expect, test } from 'vitest';
import {
  confirmSlot,
  createSlot,
  dropSlot,
  outliveItsCreation,
  targetLsn,
} from '../src/postgres/slot.ts';
import { createDatabase, type Database } from './database.ts';
import { DAY_ZERO } from './scenario.ts';
import { Random } from './writers.ts';

const SLOTS = 12;

/** Sessions that make chunks, and others that write to the newest of these in transactions of a moment's length. */
class ChunkMakers {
  readonly #db: Database;
  readonly #running: readonly Promise<void>[];
  #newest = 0;
  #stopping = false;

  constructor(db: Database) {
    this.#db = db;
    this.#running = [1, 2, 3, 4, 5, 6].map((seed) => this.#work(new Random(seed)));
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    await Promise.all(this.#running);
  }

  async #work(random: Random): Promise<void> {
    const client = await this.#db.client();
    const row = (hour: number): Promise<unknown> =>
      client.query(
        `INSERT INTO metrics VALUES ('${DAY_ZERO}'::timestamptz + $1 * interval '1 hour', $2) ON CONFLICT DO NOTHING`,
        [hour, random.below(1_000_000)],
      );
    let hour = 0;
    while (!this.#stopping) {
      await client.query('BEGIN; INSERT INTO others VALUES (1)');
      if (random.below(5) < 2) {
        hour = this.#newest + 1 + random.below(3);
        await row(hour);
        await delay(random.below(100));
      } else {
        for (let rows = 0; rows < 6; rows += 1) {
          await delay(random.below(50));
          await row(this.#newest);
        }
      }
      await client.query('COMMIT');
      this.#newest = Math.max(this.#newest, hour);
    }
    await client.end();
  }
}

/** As a fresh start takes over a slot that somebody made by hand. */
async function takeOver(client: pg.Client, slot: string): Promise<void> {
  await client.query(`SELECT pg_create_logical_replication_slot($1, 'pgoutput')`, [slot]);
  expect(await outliveItsCreation(client, 60)).toBe(true);
  await confirmSlot(client, slot, await targetLsn(client));
}

test.each([
  ['made by us', createSlot],
  ['made by hand a moment before', takeOver],
])(
  'a slot that is %s while chunks are made can decode what is written to them',
  async (_, make) => {
    await using db = await createDatabase();
    await db.query(`
    CREATE TABLE others (i int);
    CREATE TABLE metrics (time timestamptz NOT NULL, id int, PRIMARY KEY (time, id));
    SELECT create_hypertable('metrics', 'time', chunk_time_interval => interval '1 hour');
    CREATE PUBLICATION slot_test FOR TABLE others`);
    const makers = new ChunkMakers(db);
    const client = await db.client();
    try {
      for (let number = 1; number <= SLOTS; number += 1) {
        await make(client, db.slot, 60);
        await delay(300);
        const changes = await db.value<number>(
          `SELECT count(*)::int FROM pg_logical_slot_get_binary_changes('${db.slot}', NULL, NULL,
           'proto_version', '1', 'publication_names', 'slot_test')`,
        );
        expect(changes).toBeGreaterThan(0);
        await dropSlot(client, db.slot);
      }
    } finally {
      await makers.stop();
      await client.end();
    }
  },
);
