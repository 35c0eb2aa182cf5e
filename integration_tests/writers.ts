/**
 * What applications do to a database while it is read, at random but from a seed: three tables, and writers that insert,
 * update, delete, upsert, change keys, roll back, use savepoints and make new chunks.
 *
 * Every version of a row of `events` has a payload of its own, and `history` holds all that were ever committed: so of a
 * table without a key it can be told what never existed.
 */
import { DatabaseError, type Client } from 'pg';
import type { Database } from './database.ts';
import { DAY_ZERO } from './scenario.ts';

export const TABLES = ['metrics', 'events', 'orders'] as const;
export const DAYS = 12;

/** Tables, empty. */
export async function createTables(db: Database): Promise<void> {
  await db.query(`
    CREATE TABLE metrics (time timestamptz NOT NULL, device int NOT NULL, value float8, note text,
                          PRIMARY KEY (time, device));
    SELECT create_hypertable('metrics', 'time', chunk_time_interval => interval '1 day');
    CREATE TABLE events (time timestamptz NOT NULL, id int, version int, payload text);
    SELECT create_hypertable('events', 'time', chunk_time_interval => interval '1 day');
    ALTER TABLE events REPLICA IDENTITY FULL;
    CREATE TABLE orders (id int PRIMARY KEY, amount numeric, note text);
    CREATE SEQUENCE event_ids START 10001;
    CREATE TABLE history (payload text);
    CREATE FUNCTION remember() RETURNS trigger LANGUAGE plpgsql AS
      'BEGIN INSERT INTO history VALUES (NEW.payload); RETURN NULL; END';
    CREATE TRIGGER remember AFTER INSERT OR UPDATE ON events FOR EACH ROW EXECUTE FUNCTION remember();`);
}

/** The same rows as before every round: 12 chunks in each hypertable. */
export async function refill(db: Database): Promise<void> {
  await db.query('TRUNCATE metrics; TRUNCATE events; TRUNCATE orders; TRUNCATE history');
  await db.query(`
    INSERT INTO metrics
      SELECT '${DAY_ZERO}'::timestamptz + day * interval '1 day' + device * interval '1 hour',
             device, day * 100 + device, 'initial'
        FROM generate_series(0, ${DAYS - 1}) day, generate_series(1, 20) device`);
  await db.query(`
    INSERT INTO events
      SELECT '${DAY_ZERO}'::timestamptz + day * interval '1 day' + i * interval '1 minute',
             day * 100 + i, 1, 'event ' || day * 100 + i || '/1'
        FROM generate_series(0, ${DAYS - 1}) day, generate_series(1, 15) i`);
  await db.query(`INSERT INTO orders SELECT i, i * 1.25, 'initial' FROM generate_series(1, 60) i`);
}

/** A pseudo-random generator (mulberry32). */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = Math.trunc(seed) >>> 0;
  }

  /** From 0 up to, not with, 1. */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let mixed = this.#state;
    mixed = Math.imul(mixed ^ (mixed >>> 15), mixed | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  }

  below(limit: number): number {
    return Math.floor(this.next() * limit);
  }

  pick<T>(list: readonly T[]): T {
    const item = list[this.below(list.length)];
    if (item === undefined) throw new Error('nothing to pick from');
    return item;
  }
}

/** Writes until `stop`. */
export class Writers {
  readonly #db: Database;
  readonly #running: Promise<void>[];
  #stopping = false;
  transactions = 0;

  private constructor(db: Database, seed: number, count: number) {
    this.#db = db;
    this.#running = Array.from({ length: count }, (_, index) => this.#write(seed * 31 + index));
  }

  static start(db: Database, seed: number, count = 2): Writers {
    return new Writers(db, seed, count);
  }

  /** Ends after the transactions at hand. @throws what a writer did not expect. */
  async stop(): Promise<void> {
    this.#stopping = true;
    await Promise.all(this.#running);
  }

  async #write(seed: number): Promise<void> {
    const random = new Random(seed);
    const client = await this.#db.client();
    try {
      while (!this.#stopping) {
        await transaction(client, random);
        this.transactions += 1;
      }
    } finally {
      await client.end();
    }
  }
}

async function transaction(client: Client, random: Random): Promise<void> {
  try {
    await client.query('BEGIN');
    for (let steps = 1 + random.below(4); steps > 0; steps -= 1) await step(client, random);
    // Some stay open for a while, across a chunk's read.
    if (random.below(10) === 0) await client.query('SELECT pg_sleep(0.2)');
    await client.query(random.below(6) === 0 ? 'ROLLBACK' : 'COMMIT');
  } catch (error) {
    // A duplicate key or a deadlock among the writers: what applications see too.
    if (!(error instanceof DatabaseError) || !EXPECTED.has(error.code ?? '')) throw error;
    await client.query('ROLLBACK');
  }
  await client.query('SELECT pg_sleep(0.004)');
}

const EXPECTED = new Set(['23505', '40P01']);

async function step(client: Client, random: Random): Promise<void> {
  if (random.below(8) > 0) {
    await client.query(random.pick(STATEMENTS)(random));
    return;
  }
  await client.query('SAVEPOINT here');
  await client.query(random.pick(STATEMENTS)(random));
  await client.query(
    random.below(2) === 0 ? 'ROLLBACK TO SAVEPOINT here' : 'RELEASE SAVEPOINT here',
  );
  await client.query(random.pick(STATEMENTS)(random));
}

/** Now and then a day that has no chunk yet. */
function day(random: Random): string {
  const days = random.below(20) === 0 ? DAYS + random.below(2) : random.below(DAYS);
  return `('${DAY_ZERO}'::timestamptz + interval '${days} days')`;
}

function metric(random: Random): string {
  const device = 1 + random.below(40);
  return `(${day(random)} + interval '${device % 24} hours', ${device}, ${random.below(1000)}, 'live')`;
}

const STATEMENTS: readonly ((random: Random) => string)[] = [
  (random) =>
    `INSERT INTO metrics VALUES ${metric(random)}, ${metric(random)} ON CONFLICT DO NOTHING`,
  (random) =>
    `INSERT INTO metrics VALUES ${metric(random)}
       ON CONFLICT (time, device) DO UPDATE SET value = excluded.value, note = 'upserted'`,
  (random) =>
    `UPDATE metrics SET value = value + 1, note = 'updated'
      WHERE device = ${1 + random.below(20)} AND time < ${day(random)}`,
  (random) =>
    `DELETE FROM metrics WHERE device = ${1 + random.below(40)} AND time >= ${day(random)}`,
  (random) =>
    `UPDATE metrics SET device = device + 1000, note = 'another key'
      WHERE device = ${1 + random.below(40)} AND time >= ${day(random)} AND time < ${day(random)}`,
  (random) =>
    `INSERT INTO events SELECT ${day(random)} + i * interval '1 second', id, 1, 'event ' || id || '/1'
       FROM (SELECT i, nextval('event_ids') AS id FROM generate_series(1, ${1 + random.below(5)}) i) new`,
  (random) =>
    `UPDATE events SET version = version + 1, payload = 'event ' || id || '/' || version + 1
      WHERE id % 25 = ${random.below(25)} AND time < ${day(random)}`,
  (random) => `DELETE FROM events WHERE id % 40 = ${random.below(40)} AND time >= ${day(random)}`,
  (random) =>
    `INSERT INTO orders VALUES (${random.below(200)}, ${random.below(100)}, 'live')
       ON CONFLICT (id) DO UPDATE SET amount = excluded.amount`,
  (random) => `UPDATE orders SET amount = amount + 0.01 WHERE id % 20 = ${random.below(20)}`,
  (random) => `DELETE FROM orders WHERE id % 30 = ${random.below(30)}`,
  (random) => `UPDATE orders SET id = id + 100000 WHERE id = ${random.below(200)}`,
];
