/**
 * An event store as a workload, in the manner of Message DB: messages of many streams in one hypertable, appended under
 * an advisory lock for each category. A global position is taken from a sequence when a message is written, and becomes
 * visible when its transaction commits: so positions appear out of order as soon as two categories are written at once.
 */
import { DatabaseError, type Client } from 'pg';
import type { Database } from './database.ts';
import { DAY_ZERO } from './scenario.ts';
import { Random } from './writers.ts';

/** Weeks that are full when the writers begin; a chunk each. */
const HISTORY_WEEKS = 4;

/** How rows are told apart in the changes: by a unique index, or not at all, so that only inserts are published. */
export type Identity = 'index' | 'none';

/** `account-1`, `order-1` and the like; `ledger` is for those who hold a transaction open. */
const CATEGORIES = ['account', 'order', 'shipment', 'ledger'];
const STREAMS_OF_EACH = 3;
const HISTORY_OF_EACH = 40;

// No primary key: it would have to hold the time, and so would not say what an application means by it.
const TABLES = `
  CREATE SEQUENCE messages_global_position;
  CREATE SEQUENCE messages_clock;
  CREATE TABLE messages (
    global_position bigint NOT NULL DEFAULT nextval('messages_global_position'),
    position bigint NOT NULL,
    time timestamptz NOT NULL,
    stream_name text NOT NULL,
    type text NOT NULL,
    data jsonb,
    metadata jsonb,
    id uuid NOT NULL DEFAULT gen_random_uuid()
  );
  SELECT create_hypertable('messages', 'time', chunk_time_interval => interval '7 days');
  CREATE UNIQUE INDEX messages_id ON messages (id, time);
  CREATE UNIQUE INDEX messages_stream ON messages (stream_name, position, time);
  CREATE UNIQUE INDEX messages_global ON messages (global_position, time);`;

/** The store's clock goes an hour a message, so that new chunks come; it begins within the last chunk there is. */
const CLOCK_START = `'${DAY_ZERO}'::timestamptz + interval '${HISTORY_WEEKS * 7 - 2} days'`;
const CLOCK_STEP = `interval '1 hour'`;

const FUNCTIONS = `
  CREATE FUNCTION store_time() RETURNS timestamptz LANGUAGE sql VOLATILE AS $$
    SELECT ${CLOCK_START} + nextval('messages_clock') * ${CLOCK_STEP} $$;
  CREATE FUNCTION write_message(_stream_name text, _type text, _data jsonb, _expected_version bigint,
                                _time timestamptz DEFAULT NULL) RETURNS bigint LANGUAGE plpgsql AS $$
  DECLARE
    _version bigint;
    _global_position bigint;
  BEGIN
    -- One writer per category at a time, until its transaction ends: so positions of a stream have no gaps.
    PERFORM pg_advisory_xact_lock(hashtextextended(split_part(_stream_name, '-', 1), 0));
    SELECT coalesce(max(position), -1) INTO _version FROM messages WHERE stream_name = _stream_name;
    IF _version <> _expected_version THEN
      RAISE EXCEPTION 'Wrong expected version: % (Stream: %, Stream Version: %)',
                      _expected_version, _stream_name, _version;
    END IF;
    INSERT INTO messages (position, time, stream_name, type, data, metadata)
      VALUES (_version + 1, coalesce(_time, store_time()), _stream_name, _type, _data,
              CASE WHEN _version % 2 = 0 THEN '{"schemaVersion": 1}'::jsonb END)
      RETURNING global_position INTO _global_position;
    RETURN _global_position;
  END $$;`;

/** Every stream has messages in every week of the past. */
const HISTORY = `
  INSERT INTO messages (position, time, stream_name, type, data, metadata)
    SELECT n, '${DAY_ZERO}'::timestamptz
              + n * interval '${HISTORY_WEEKS * 7} days' / ${HISTORY_OF_EACH} + s * interval '1 minute',
           category || '-' || s, CASE n WHEN 0 THEN 'Opened' ELSE 'Moved' END,
           jsonb_build_object('amount', n * 1.25, 'note', repeat('…', n)), '{"schemaVersion": 0}'
      FROM generate_series(0, ${HISTORY_OF_EACH - 1}) n, unnest($1::text[]) category,
           generate_series(1, ${STREAMS_OF_EACH}) s
     ORDER BY n`;

/** Table, functions and four weeks of messages. */
export async function createEventStore(db: Database, identity: Identity): Promise<void> {
  await db.query(TABLES);
  await db.query(FUNCTIONS);
  if (identity === 'index') {
    await db.query('ALTER TABLE messages REPLICA IDENTITY USING INDEX messages_id');
  }
  await db.query(HISTORY, [CATEGORIES]);
}

/**
 * Columnstore, and the job that compresses; the job runs when it is called, never by itself.
 * @returns what runs it once: chunks that ended a week before the store's clock are compressed, or compressed again.
 */
export async function addColumnstore(db: Database): Promise<() => Promise<void>> {
  await db.query(
    `ALTER TABLE messages SET (timescaledb.compress, timescaledb.compress_segmentby = 'stream_name',
                               timescaledb.compress_orderby = 'position, global_position, time')`,
  );
  // One transaction: the scheduler never sees a job that it may start.
  const job = await db.value<number>(
    `WITH policy AS (SELECT add_compression_policy('messages', compress_after => interval '7 days') AS id)
     SELECT (alter_job(id, scheduled => false)).job_id FROM policy`,
  );
  return async () => {
    // A week behind the clock: so that there are chunks to write to that are not compressed.
    await db.query(
      `SELECT alter_job(job_id, config => jsonb_set(config, '{compress_after}', to_jsonb(
                (now() - (${CLOCK_START} + (SELECT last_value FROM messages_clock) * ${CLOCK_STEP}
                          - interval '7 days'))::text)))
         FROM timescaledb_information.jobs WHERE job_id = $1`,
      [job],
    );
    await db.query(`CALL run_job(${job})`);
  };
}

/** Chunks that are compressed, but for rows that came later. */
export function partialChunks(db: Database): Promise<number> {
  return db.value<number>(
    `SELECT count(*)::int FROM _timescaledb_catalog.chunk 
      WHERE status & 8 > 0`,
  );
}

/** Writes one message behind the last of its stream. @returns its global position. */
async function append(
  client: Client,
  stream: string,
  expectedVersion: number,
  time: string | null = null,
): Promise<number> {
  const { rows } = await client.query<{ position: string }>(
    `SELECT write_message($1, 'Moved', jsonb_build_object('after', $2::int), $2, $3) AS position`,
    [stream, expectedVersion, time],
  );
  return Number(rows[0]?.position);
}

async function versionOf(client: Client, stream: string): Promise<number> {
  const { rows } = await client.query<{ version: string }>(
    'SELECT coalesce(max(position), -1) AS version FROM messages WHERE stream_name = $1',
    [stream],
  );
  return Number(rows[0]?.version);
}

/**
 * Whether the open transaction has made a chunk. Until it ends nobody else writes to that chunk, makes another or adds
 * the hypertable to a publication: TimescaleDB holds the lock that says so.
 */
async function madeChunk(client: Client): Promise<boolean> {
  const { rows } = await client.query<{ made: boolean }>(
    `SELECT EXISTS (SELECT FROM pg_locks WHERE pid = pg_backend_pid() AND relation = 'messages'::regclass
                       AND mode = 'ShareUpdateExclusiveLock') AS made`,
  );
  return rows[0]?.made === true;
}

/** A message whose transaction is open until `commit`; at the end of its scope it is rolled back otherwise. */
export class HeldMessage implements AsyncDisposable {
  readonly globalPosition: number;
  readonly #client: Client;

  private constructor(client: Client, globalPosition: number) {
    this.#client = client;
    this.globalPosition = globalPosition;
  }

  /** @param time puts it into a chunk of the past; by the store's clock unless given. */
  static async write(
    db: Database,
    stream: string,
    time: string | null = null,
  ): Promise<HeldMessage> {
    const client = await db.client();
    try {
      await client.query('BEGIN');
      return new HeldMessage(
        client,
        await append(client, stream, await versionOf(client, stream), time),
      );
    } catch (error) {
      await client.end();
      throw error;
    }
  }

  async commit(): Promise<void> {
    await this.#client.query('COMMIT');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#client.end();
  }
}

/** Writes one message and commits it. @returns its global position. */
export async function writeMessage(db: Database, stream: string): Promise<number> {
  await using message = await HeldMessage.write(db, stream);
  await message.commit();
  return message.globalPosition;
}

/** A rejected expected version: another writer was faster. */
const WRONG_VERSION = 'P0001';

/**
 * Writers until `stop`. The first has a category of its own and commits at once. The others share two categories, write
 * one to three messages in a transaction, and keep every second one open until the first writer has committed a higher
 * global position: so positions are committed out of order, without anybody's clock.
 */
export class Appenders {
  readonly #db: Database;
  readonly #running: Promise<void>;
  #stopping = false;
  #holding = true;
  /** The highest global position that the first writer has committed. */
  #highest = 0;
  #waiting: { readonly position: number; readonly go: () => void }[] = [];
  /** Transactions that committed behind a higher global position. */
  late = 0;
  /** Transactions that were refused, because another writer had appended to the stream meanwhile. */
  refused = 0;

  private constructor(db: Database, seed: number) {
    this.#db = db;
    const writers = [0, 1, 2].map((index) => this.#write(index, new Random(seed * 31 + index)));
    this.#running = Promise.all(writers).then(() => undefined);
    // Reported by `stop`; until then nobody must wait for a writer that has failed.
    this.#running.catch(() => {
      this.#end();
    });
  }

  static start(db: Database, seed: number): Appenders {
    return new Appenders(db, seed);
  }

  /** Ends after the transactions at hand. @throws what a writer did not expect. */
  async stop(): Promise<void> {
    this.#end();
    await this.#running;
  }

  /**
   * No transaction is held open while this work is done. Who compresses a chunk waits for everybody who has looked at
   * it, and to find the last message of a stream is to look at every chunk; new ones then wait behind the job.
   */
  async withoutHolding<T>(work: () => Promise<T>): Promise<T> {
    this.#holding = false;
    this.#release(Number.POSITIVE_INFINITY);
    try {
      return await work();
    } finally {
      this.#holding = true;
    }
  }

  /** Waits until a higher global position is committed. */
  overtaken(position: number): Promise<void> {
    if (this.#stopping || !this.#holding || this.#highest > position) return Promise.resolve();
    return new Promise((go) => this.#waiting.push({ position, go }));
  }

  #end(): void {
    this.#stopping = true;
    this.#release(Number.POSITIVE_INFINITY);
  }

  #release(highest: number): void {
    const free = this.#waiting.filter(({ position }) => position < highest);
    this.#waiting = this.#waiting.filter(({ position }) => position >= highest);
    for (const { go } of free) go();
  }

  async #write(index: number, random: Random): Promise<void> {
    const client = await this.#db.client();
    try {
      for (let turn = 0; !this.#stopping; turn += 1) {
        const category = index === 0 ? 'shipment' : random.pick(['account', 'order']);
        const stream = `${category}-${1 + random.below(STREAMS_OF_EACH)}`;
        await this.#transaction(client, stream, 1 + random.below(3), index > 0 && turn % 2 === 0);
        // The pace of an application, so that the chunks do not become too many.
        await client.query('SELECT pg_sleep(0.01)');
      }
    } finally {
      await client.end();
    }
  }

  async #transaction(
    client: Client,
    stream: string,
    messages: number,
    hold: boolean,
  ): Promise<void> {
    const version = await versionOf(client, stream);
    let position = 0;
    try {
      await client.query('BEGIN');
      for (let i = 0; i < messages; i += 1) {
        position = await append(client, stream, version + i);
      }
      if (hold && !(await madeChunk(client))) await this.overtaken(position);
      await client.query('COMMIT');
    } catch (error) {
      if (!(error instanceof DatabaseError) || error.code !== WRONG_VERSION) throw error;
      await client.query('ROLLBACK');
      this.refused += 1;
      return;
    }
    if (this.#highest > position) this.late += 1;
    if (!stream.startsWith('shipment')) return;
    this.#highest = position;
    this.#release(position);
  }
}
