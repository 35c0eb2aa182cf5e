/**
 * One hypertable, read by two readers at the same moments: by one that keeps a single snapshot for all of it, as tools do
 * that know nothing of chunks, and by the connector. After the first chunk both stand still, and a later chunk is
 * maintained as policies and administrators do it. The table's rows stay the same; what the readers get does not.
 */
import type { Client } from 'pg';
import { compareWithTable, isEqual } from './comparison.ts';
import { createDatabase, type Database } from './database.ts';
import { connectTo, DAY_ZERO, nthState, stopWhen } from './scenario.ts';

export type CaseResult = {
  readonly name: string;
  /** False: nothing is done to the table, and both readers must be complete. */
  readonly maintained: boolean;
  readonly tableRows: number;
  readonly snapshotRows: number;
  /** Records of the connector. */
  readonly connectorRows: number;
  /** Whether the connector has delivered every row of the table, with its values, and each once. */
  readonly complete: boolean;
};

type Case = {
  readonly name: string;
  /** Before anybody reads. */
  readonly prepare?: (db: Database, chunk: string) => Promise<unknown>;
  /** Between two chunks of both readers; null: nothing happens. */
  readonly maintain: ((db: Database, chunk: string) => Promise<unknown>) | null;
};

const CHUNKS = 6;
/** Their records are more than the pipes hold: a connector that stands still behind one chunk is not beyond the next. */
const CHUNK_ROWS = 1000;
/** The chunk that is maintained; the connector reads the second one by then, at most. */
const MAINTAINED = 4;
const FETCHED_AT_ONCE = 500;

const CASES: readonly Case[] = [
  { name: 'no maintenance', maintain: null },
  {
    name: 'a chunk is decompressed',
    maintain: (db, chunk) => db.query('SELECT decompress_chunk($1)', [chunk]),
  },
  {
    name: 'a chunk is compressed anew',
    maintain: (db, chunk) => db.query('SELECT compress_chunk($1, recompress => true)', [chunk]),
  },
  {
    name: 'a partial chunk is recompressed by its policy',
    prepare: addLateRows,
    maintain: runPolicy,
  },
];

/** All cases, one after the other, each in a database of its own. The server must have the columnstore. */
export async function runCases(
  serverUrl: string,
  onResult: (result: CaseResult) => void = () => undefined,
): Promise<readonly CaseResult[]> {
  const results: CaseResult[] = [];
  for (const one of CASES) {
    await using db = await createDatabase(serverUrl);
    const result = await runCase(db, one);
    onResult(result);
    results.push(result);
  }
  return results;
}

async function runCase(db: Database, one: Case): Promise<CaseResult> {
  await createReadings(db);
  const chunks = await chunkNames(db);
  const chunk = chunks[MAINTAINED - 1];
  if (chunk === undefined) throw new Error(`there are only ${chunks.length} chunks`);
  await one.prepare?.(db, chunk);
  const tableRows = await countRows(db);
  const snapshot = await SnapshotReader.begin(db, chunks);
  let snapshotRows: number;
  let read: ConnectorRead;
  try {
    await snapshot.readChunk();
    read = await readWithConnector(db, async () => {
      await one.maintain?.(db, chunk);
    });
    snapshotRows = await snapshot.readRest();
  } finally {
    await snapshot.end();
  }
  if ((await countRows(db)) !== tableRows) {
    throw new Error(`${one.name}: the maintenance has changed the rows of the table`);
  }
  return { name: one.name, maintained: one.maintain !== null, tableRows, snapshotRows, ...read };
}

/** A hypertable whose chunks are all compressed. */
async function createReadings(db: Database): Promise<void> {
  await db.query(`
    CREATE TABLE readings (time timestamptz NOT NULL, device int NOT NULL, value float8, note text,
                           PRIMARY KEY (time, device));
    SELECT create_hypertable('readings', 'time', chunk_time_interval => interval '1 day');
    ALTER TABLE readings SET (timescaledb.compress, timescaledb.compress_segmentby = 'device');
    INSERT INTO readings
      SELECT '${DAY_ZERO}'::timestamptz + day * interval '1 day' + i * interval '10 seconds', i % 20, i,
             repeat('x', 200)
        FROM generate_series(0, ${CHUNKS - 1}) day, generate_series(1, ${CHUNK_ROWS}) i`);
  await db.query(`SELECT compress_chunk(chunk) FROM show_chunks('readings') chunk`);
}

async function chunkNames(db: Database): Promise<string[]> {
  const rows = await db.query<{ name: string }>(
    `SELECT format('%I.%I', chunk_schema, chunk_name) AS name
       FROM timescaledb_information.chunks WHERE hypertable_name = 'readings' ORDER BY range_start`,
  );
  return rows.map(({ name }) => name);
}

function countRows(db: Database): Promise<number> {
  return db.value<number>('SELECT count(*)::int FROM readings');
}

/** Rows that come into a compressed chunk later: it is partial until the policy takes them in. */
async function addLateRows(db: Database): Promise<void> {
  await db.query(`
    INSERT INTO readings
      SELECT '${DAY_ZERO}'::timestamptz + interval '${MAINTAINED - 1} days' + i * interval '1 minute', 1000, i, 'late'
        FROM generate_series(1, 250) i`);
}

/** The job that an ordinary compression policy runs; the scheduler is kept from running it too. */
async function runPolicy(db: Database): Promise<void> {
  const job = await db.value<number>(
    `WITH policy AS (SELECT add_compression_policy('readings', compress_after => interval '1 day') AS id)
     SELECT (alter_job(id, scheduled => false)).job_id FROM policy`,
  );
  await db.query(`CALL run_job(${job})`);
}

/** One REPEATABLE READ transaction on an exported snapshot, a cursor on one chunk after the other. */
class SnapshotReader {
  readonly #exporter: Client;
  readonly #client: Client;
  readonly #chunks: string[];
  #rows = 0;

  private constructor(exporter: Client, client: Client, chunks: readonly string[]) {
    this.#exporter = exporter;
    this.#client = client;
    this.#chunks = [...chunks];
  }

  static async begin(db: Database, chunks: readonly string[]): Promise<SnapshotReader> {
    const [exporter, client] = [await db.client(), await db.client()];
    const begin = 'BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY';
    await exporter.query(begin);
    const { rows } = await exporter.query<{ id: string }>('SELECT pg_export_snapshot() AS id');
    await client.query(`${begin}; SET TRANSACTION SNAPSHOT '${rows[0]?.id}'`);
    return new SnapshotReader(exporter, client, chunks);
  }

  /** Reads the next chunk. */
  async readChunk(): Promise<void> {
    const chunk = this.#chunks.shift();
    if (chunk === undefined) throw new Error('there is no chunk left');
    await this.#client.query(`DECLARE rows NO SCROLL CURSOR FOR SELECT * FROM ${chunk}`);
    for (;;) {
      const { rows } = await this.#client.query(`FETCH ${FETCHED_AT_ONCE} FROM rows`);
      if (rows.length === 0) break;
      this.#rows += rows.length;
    }
    await this.#client.query('CLOSE rows');
  }

  /** Reads the chunks that are left. @returns the rows of all chunks. */
  async readRest(): Promise<number> {
    while (this.#chunks.length > 0) await this.readChunk();
    return this.#rows;
  }

  async end(): Promise<void> {
    await this.#client.end();
    await this.#exporter.end();
  }
}

type ConnectorRead = Pick<CaseResult, 'connectorRows' | 'complete'>;

/**
 * A first sync, which stands still behind its first chunk while the work is done.
 * @throws Error when it had read the maintained chunk by then: the case would show nothing.
 */
async function readWithConnector(db: Database, work: () => Promise<void>): Promise<ConnectorRead> {
  const connection = await connectTo(db, {}, { timescaledb_max_concurrent_chunks: 1 });
  let workedUntil = '';
  const result = await connection.sync(
    // The state at the beginning, and that of the first chunk.
    stopWhen(nthState(2), async () => {
      await work();
      workedUntil = new Date().toISOString();
    }),
  );
  const records = result.succeeded().records('readings');
  const day = `2026-01-0${MAINTAINED}`;
  // Of rows that are read it is when the read of their chunk began.
  const early = records.some(
    ({ data }) =>
      String(data['time']).startsWith(day) && String(data['_ab_cdc_updated_at']) < workedUntil,
  );
  if (early || workedUntil === '') throw new Error('the connector was not stopped in time');
  const found = await compareWithTable(db, connection.destination, 'readings');
  return {
    connectorRows: records.length,
    complete: isEqual(found) && records.length === found.tableRows,
  };
}
