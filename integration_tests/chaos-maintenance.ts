/** What administrators and policies do to the tables of the chaos harness, as far as this build of TimescaleDB can. */
import { setTimeout as delay } from 'node:timers/promises';
import type { Journal } from './chaos-report.ts';
import { ChaosSession, Counts } from './chaos-session.ts';
import { type Floors, pickWeighted } from './chaos-statements.ts';
import {
  CHAOS_TABLES,
  type ChaosTable,
  DAYS,
  moment,
  ORDERS,
  PARTITION,
  partition,
} from './chaos-tables.ts';
import { type Database, hasCompression } from './database.ts';
import { Random } from './writers.ts';

/** Retention takes at most so many days of a table in a round. */
const DROPPED_DAYS = 3;

type Context = {
  readonly session: ChaosSession;
  readonly random: Random;
  readonly floors: Floors;
  readonly publication: string;
  /** Numbers what is made. */
  readonly serial: number;
};

type Task = {
  readonly kind: string;
  readonly weight: number;
  /** Procedures and functions that it needs. */
  readonly needs?: string;
  /** What it did, or null when there was nothing to do. */
  readonly run: (context: Context) => Promise<string | null>;
};

const HYPERTABLES = CHAOS_TABLES.filter(({ hypertable }) => hypertable);
const KEYED_HYPERTABLES = HYPERTABLES.filter(({ keyed }) => keyed);
/** Not the one that is read in slices and has no key. */
const WITH_KEY_OR_WHOLE = ['ledger', 'docs', 'orders_0', 'orders_1000', 'orders_2000'];
const INDEXED = ['plain', 'ledger', 'docs', 'metrics', 'traces', 'readings'];

async function chunks({ session }: Context, table: ChaosTable): Promise<string[]> {
  const rows = await session.query<{ name: string }>(
    `SELECT c::text AS name FROM show_chunks('${table.name}') c ORDER BY c`,
  );
  return rows.map(({ name }) => name);
}

/** A task on a chunk at random. */
function onChunk(
  kind: string,
  weight: number,
  sql: (chunk: string, table: ChaosTable) => string,
  options: { readonly needs?: string; readonly tables?: readonly ChaosTable[] } = {},
): Task {
  return {
    kind,
    weight,
    ...(options.needs === undefined ? {} : { needs: options.needs }),
    run: async (context) => {
      const table = context.random.pick(options.tables ?? HYPERTABLES);
      const list = await chunks(context, table);
      if (list.length === 0) return null;
      const chunk = context.random.pick(list);
      await context.session.query(sql(chunk, table));
      return chunk;
    },
  };
}

function onTable(
  kind: string,
  weight: number,
  tables: readonly string[],
  sql: (table: string, serial: number) => string,
): Task {
  return {
    kind,
    weight,
    run: async ({ session, random, serial }) => {
      const table = random.pick(tables);
      await session.query(sql(table, serial));
      return table;
    },
  };
}

async function mergeNeighbours(context: Context): Promise<string | null> {
  const list = await chunks(context, context.random.pick(KEYED_HYPERTABLES));
  const at = context.random.below(list.length - 1);
  const [left, right] = [list[at], list[at + 1]];
  if (left === undefined || right === undefined) return null;
  await context.session.query(`CALL merge_chunks('${left}', '${right}')`);
  return `${left} and ${right}`;
}

async function refreshSome({ session, random }: Context): Promise<string> {
  const from = random.below(DAYS);
  const [start, end] =
    random.below(3) === 0
      ? ['NULL', 'NULL']
      : [`'${moment(from)}'::timestamptz`, `'${moment(from + 1 + random.below(3))}'::timestamptz`];
  await session.query(`CALL refresh_continuous_aggregate('hourly', ${start}, ${end})`);
  return `from ${start} to ${end}`;
}

async function compressAggregate({ session, random }: Context): Promise<string | null> {
  const list = await session.query<{ name: string }>(
    `SELECT format('%I.%I', chunk_schema, chunk_name) AS name FROM timescaledb_information.chunks c
       JOIN timescaledb_information.continuous_aggregates a
         ON (a.materialization_hypertable_schema, a.materialization_hypertable_name) = (c.hypertable_schema, c.hypertable_name)`,
  );
  if (list.length === 0) return null;
  const { name } = random.pick(list);
  await session.query(`SELECT compress_chunk('${name}')`);
  return name;
}

/**
 * The new chunk is published with its birth, as an event trigger would do it: what is deleted in one that is not yet
 * published shows nowhere.
 */
async function splitAndPublish(context: Context): Promise<string | null> {
  const { session, random, publication } = context;
  const table = random.pick(KEYED_HYPERTABLES);
  const known = await session.query(
    `SELECT FROM pg_publication_tables WHERE pubname = '${publication}' AND tablename = '${table.name}'`,
  );
  // The lock keeps writers from making chunks meanwhile.
  await session.query(`BEGIN; LOCK TABLE ${table.name} IN SHARE UPDATE EXCLUSIVE MODE`);
  const before = await chunks(context, table);
  const chunk = random.pick(before);
  await session.query(`CALL split_chunk('${chunk}')`);
  const made = (await chunks(context, table)).filter((name) => !before.includes(name));
  if (known.length > 0) {
    await session.query(`ALTER PUBLICATION ${publication} ADD TABLE ${made.join(', ')}`);
  }
  await session.query('COMMIT');
  return `${chunk}, and ${made.join(', ')} ${known.length > 0 ? 'is published' : 'is new'}`;
}

/** Nobody writes to the oldest day any more when its chunk goes, but for transactions that are at it. */
async function dropOldest({ session, random, floors }: Context): Promise<string | null> {
  const { name } = random.pick(HYPERTABLES);
  const floor = (floors.get(name) ?? 0) + 1;
  if (floor > DROPPED_DAYS) return null;
  floors.set(name, floor);
  const dropped = await session.query(
    `SELECT drop_chunks('${name}', older_than => '${moment(floor)}'::timestamptz)`,
  );
  return `${name} before day ${floor}: ${dropped.length} chunks`;
}

const TASKS: readonly Task[] = [
  onChunk('compress', 12, (chunk) => `SELECT compress_chunk('${chunk}')`, {
    needs: 'compress_chunk',
  }),
  onChunk('recompress', 4, (chunk) => `SELECT compress_chunk('${chunk}', recompress => true)`, {
    needs: 'compress_chunk',
  }),
  onChunk('decompress', 5, (chunk) => `SELECT decompress_chunk('${chunk}', true)`, {
    needs: 'decompress_chunk',
  }),
  onChunk(
    'reorder',
    2,
    (chunk, table) => `SELECT reorder_chunk('${chunk}', '${table.name}_pkey')`,
    {
      needs: 'reorder_chunk',
      tables: HYPERTABLES.filter(({ name }) => name === 'metrics' || name === 'spaced'),
    },
  ),
  { kind: 'refresh', weight: 5, needs: 'refresh_continuous_aggregate', run: refreshSome },
  { kind: 'compress aggregate', weight: 1, needs: 'compress_chunk', run: compressAggregate },
  { kind: 'merge chunks', weight: 1, needs: 'merge_chunks', run: mergeNeighbours },
  { kind: 'split chunk', weight: 1, needs: 'split_chunk', run: splitAndPublish },
  { kind: 'drop chunks', weight: 0.5, run: dropOldest },
  onTable(
    'vacuum',
    2,
    CHAOS_TABLES.map(({ name }) => name),
    (table) => `VACUUM ${table}`,
  ),
  onTable('vacuum full', 2, WITH_KEY_OR_WHOLE, (table) => `VACUUM FULL ${table}`),
  onTable('vacuum full without a key', 0.4, ['plain'], (table) => `VACUUM FULL ${table}`),
  onChunk('vacuum full of a chunk', 1, (chunk) => `VACUUM FULL ${chunk}`),
  onTable(
    'analyze',
    1,
    CHAOS_TABLES.map(({ name }) => name),
    (table) => `ANALYZE ${table}`,
  ),
  onTable('create index', 0.7, INDEXED, (table, serial) => {
    const column = ['metrics', 'traces', 'readings'].includes(table) ? 'ts' : 'id';
    return `CREATE INDEX chaos_${serial} ON ${table} (${column})`;
  }),
  onTable(
    'add column',
    0.2,
    CHAOS_TABLES.map(({ name }) => name),
    (table, serial) => `ALTER TABLE ${table} ADD COLUMN extra_${serial} text`,
  ),
  {
    kind: 'new partition',
    weight: 0.3,
    run: async ({ session, random }) => {
      const first = ORDERS + random.below(2) * PARTITION;
      await session.query(partition(first));
      return `orders_${first}`;
    },
  },
  onTable('checkpoint', 0.5, ['the server'], () => 'CHECKPOINT'),
  onTable('WAL switch', 0.2, ['the server'], () => 'SELECT pg_switch_wal()'),
];

export type MaintenanceOptions = {
  readonly seed: number;
  readonly floors: Floors;
  readonly journal: Journal;
  /** Leaves out what may double rows of tables without a key. */
  readonly exact: boolean;
};

/** One session that does one thing after the other until `stop`. */
export class Maintenance {
  readonly counts = new Counts();
  readonly #running: Promise<void>;
  #stopping = false;

  constructor(db: Database, options: MaintenanceOptions) {
    this.#running = this.#work(db, options);
    this.#running.catch(() => undefined);
  }

  /** Ends after the task at hand. @throws what was not expected. */
  async stop(): Promise<void> {
    this.#stopping = true;
    await this.#running;
  }

  async #work(db: Database, options: MaintenanceOptions): Promise<void> {
    const random = new Random(options.seed * 17 + 5);
    const tasks = await possibleTasks(db, options.exact);
    const session = new ChaosSession(db, `SET lock_timeout = '2s'`);
    const { floors, journal } = options;
    try {
      for (let serial = 0; !this.#stopping; serial += 1) {
        const task = pickWeighted(random, tasks);
        const begun = journal.now();
        let done: string | null = null;
        const refusal = await session.attempt(async () => {
          done = await task.run({
            session,
            random,
            floors,
            publication: db.publication,
            serial,
          });
        });
        if (refusal !== null) {
          this.counts.refuse(`${task.kind} ${refusal.code}`);
          journal.note(`${task.kind}, begun at ${begun}: ${refusal.code} ${refusal.text}`);
        } else if (done !== null) {
          this.counts.add(task.kind);
          journal.note(`${task.kind}, begun at ${begun}: ${String(done)}`);
        }
        await delay(random.below(300));
      }
    } finally {
      await session.end();
    }
  }
}

async function possibleTasks(db: Database, exact: boolean): Promise<Task[]> {
  const full = await hasCompression(db);
  const known = await db.query<{ name: string }>(
    `SELECT DISTINCT proname AS name FROM pg_proc WHERE pronamespace = 'public'::regnamespace`,
  );
  const names = new Set(known.map(({ name }) => name));
  return TASKS.filter(({ kind, needs }) => {
    // A rewrite between two slices begins the table again: its rows come twice.
    if (exact && kind === 'vacuum full without a key') return false;
    return needs === undefined || (full && names.has(needs));
  });
}
