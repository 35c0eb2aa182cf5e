/**
 * The connector at work, for a person to watch: a real TimescaleDB, a million rows in over thirty chunks, a first
 * sync, changes of every kind, a second sync, and after each a comparison of the destination with the tables.
 *
 *   npm run demo
 */
import { constants } from 'node:os';
import { compareWithTable, type CompareOptions, isEqual } from './comparison.ts';
import { configuredCatalog, run } from './connector.ts';
import { createDatabase, type Database } from './database.ts';
import {
  changeTables,
  createTables,
  dropOldestChunk,
  RETENTION_CUT,
  tableFacts,
} from './demo-data.ts';
import { count, duration, Printer } from './demo-print.ts';
import { Destination } from './destination.ts';
import type { ConfiguredCatalog, Message } from './messages.ts';
import { startServer, type TimescaleServer } from './server.ts';

const out = new Printer(process.stdout);

type Read = {
  readonly records: number;
  readonly states: number;
  readonly byStream: ReadonlyMap<string, number>;
};

async function prepare(db: Database): Promise<void> {
  out.section('A database worth reading', 'Two hypertables beside an ordinary table.');
  const started = performance.now();
  await createTables(db, (what) => {
    out.progress(`filling ${what}`);
  });
  out.endProgress();
  const identities: Readonly<Record<string, string>> = {
    metrics: 'primary key (time, device_id)',
    messages: 'no primary key; unique index (id, time) is the replica identity',
    devices: 'primary key (device_id)',
  };
  const facts = await tableFacts(db);
  out.table(
    ['table', 'rows', 'chunks', 'identity'],
    facts.map(({ name, rows, chunks }) => [name, rows, chunks, identities[name] ?? '']),
  );
  const rows = facts.reduce((sum, table) => sum + table.rows, 0);
  const chunks = facts.reduce((sum, table) => sum + table.chunks, 0);
  const seconds = (performance.now() - started) / 1000;
  const what = `${count(rows)} rows in ${chunks} chunks, written in ${duration(seconds)}`;
  out.result(rows >= 1_000_000 && chunks >= 30, what);
}

async function introduce(db: Database): Promise<ConfiguredCatalog> {
  out.section('spec, check, discover', 'What Airbyte asks before the first sync.');
  const config = db.config();
  const spec = (await run('spec')).succeeded();
  out.result(true, `spec       the form of the configuration, ${duration(spec.seconds)}`);
  const check = await run('check', { config });
  const { status, message = '' } = check.connectionStatus();
  out.result(
    status === 'SUCCEEDED',
    `check      ${[status, duration(check.seconds), message].filter((part) => part !== '').join(', ')}`,
  );
  for (const warning of check.logs().filter((line) => line.startsWith('WARN'))) out.line(warning);
  const discover = (await run('discover', { config })).succeeded();
  const catalog = discover.catalog();
  const names = catalog.streams.map((stream) => stream.name).toSorted();
  const chunks = (await tableFacts(db)).reduce((sum, table) => sum + table.chunks, 0);
  out.result(
    names.join() === 'devices,messages,metrics',
    `discover   ${names.join(', ')}: each hypertable is one stream, none of its ${chunks} chunks is, ` +
      duration(discover.seconds),
  );
  return configuredCatalog(catalog);
}

/** Runs a read into the destination, as the platform would, and says how it went. */
async function read(
  db: Database,
  catalog: ConfiguredCatalog,
  destination: Destination,
): Promise<Read> {
  const byStream = new Map<string, number>();
  let [records, states] = [0, 0];
  const result = await run('read', {
    config: db.config(),
    catalog,
    state: destination.state,
    keepMessages: false,
    timeoutSeconds: 900,
    onMessage: (message: Message) => {
      destination.applyMessage(message);
      if (message.type === 'STATE') states += 1;
      if (message.type === 'TRACE' && message.trace.type === 'ERROR') {
        out.result(false, message.trace.error.message);
      }
      if (message.type !== 'RECORD') return;
      records += 1;
      const { stream } = message.record;
      byStream.set(stream, (byStream.get(stream) ?? 0) + 1);
      if (records % 10_000 === 0) out.progress(`${count(records)} records`);
    },
  });
  out.endProgress();
  result.succeeded();
  const rate =
    records < 100_000
      ? ''
      : `, ${count(records / result.seconds)} a second, each checked and applied`;
  const memory =
    result.maxRssKb === undefined ? '' : `, peak memory ${count(result.maxRssKb / 1024)} MB`;
  out.result(true, `${count(records)} records in ${duration(result.seconds)}${rate}${memory}`);
  out.result(
    true,
    `${count(states)} ${states === 1 ? 'state' : 'states'} to resume from; the last is ` +
      `${count(JSON.stringify(destination.state).length)} bytes long`,
  );
  return { records, states, byStream };
}

/** Compares every stream with its table, row by row. Returns the number of rows that retention took from the tables. */
async function compare(
  db: Database,
  destination: Destination,
  options: Readonly<Record<string, CompareOptions>>,
): Promise<number> {
  let kept = 0;
  const rows: (string | number)[][] = [];
  const verdicts: [boolean, string][] = [];
  for (const name of ['metrics', 'messages', 'devices']) {
    out.progress(`comparing ${name}`);
    const found = await compareWithTable(db, destination, name, options[name] ?? {});
    const { tableRows, destinationRows, missing, extra, different, retained } = found;
    rows.push([name, tableRows, destinationRows, missing, extra, different, retained]);
    kept += retained;
    const what = isEqual(found) ? 'equal, row by row' : ['differs:', ...found.samples].join('\n');
    verdicts.push([isEqual(found), `${name.padEnd(9)}  ${what}`]);
  }
  out.endProgress();
  const heading = ['stream', 'in the table', 'in the destination', 'missing', 'extra', 'different'];
  out.table([...heading, 'kept'], rows);
  for (const [ok, what] of verdicts) out.result(ok, what);
  return kept;
}

async function change(db: Database): Promise<{ readonly records: number; readonly kept: number }> {
  out.section(
    'Life goes on',
    'Between two syncs rows come, change and go, in old chunks and in new ones.',
  );
  const changes = await changeTables(db);
  const kept = await dropOldestChunk(db);
  out.table(
    ['table', 'records due', 'change'],
    [
      ...changes.map(({ table, what, records }) => [table, records, what]),
      [
        'metrics',
        0,
        `drop_chunks() of the oldest day: ${count(kept)} rows that the destination keeps`,
      ],
    ],
  );
  return { records: changes.reduce((sum, { records }) => sum + records, 0), kept };
}

async function story(server: TimescaleServer, db: Database): Promise<void> {
  const version = await db.value<string>(
    `SELECT split_part(current_setting('server_version'), ' ', 1)`,
  );
  const extension = await db.value<string>(
    `SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'`,
  );
  out.title(
    'source-timescaledb, a demonstration',
    `PostgreSQL ${version}, TimescaleDB ${extension} (${server.how}), Node ${process.versions.node}`,
  );
  await prepare(db);
  const catalog = await introduce(db);
  const destination = new Destination(catalog, { compact: true });

  out.section('The first sync', 'Every row once, chunk by chunk, with a state after each chunk.');
  const rows = (await tableFacts(db)).reduce((sum, table) => sum + table.rows, 0);
  const first = await read(db, catalog, destination);
  out.result(first.records === rows, `one record for each of the ${count(rows)} rows`);
  out.section('Compared with the tables', 'Every value of every row.');
  await compare(db, destination, {});

  const due = await change(db);
  out.section(
    'The second sync',
    'From the stored state: nothing but the changes, out of the write-ahead log.',
  );
  const second = await read(db, catalog, destination);
  out.result(
    second.records === due.records,
    `${count(due.records)} records were due: ` +
      [...second.byStream].map(([name, records]) => `${name} ${count(records)}`).join(', '),
  );
  out.section(
    'Compared with the tables again',
    'Retention is no deletion: rows of a dropped chunk stay in the destination.',
  );
  const retained = (key: readonly string[]): boolean => (key[0] ?? '') < RETENTION_CUT;
  const kept = await compare(db, destination, { metrics: { retained } });
  out.result(
    kept === due.kept,
    `${count(kept)} of ${count(due.kept)} rows of the dropped chunk kept`,
  );

  out.section('A third sync', 'Nothing happened since: it ends at once.');
  const third = await read(db, catalog, destination);
  out.result(third.records === 0, 'nothing to tell');
}

async function main(): Promise<void> {
  const started = performance.now();
  const server = await startServer({
    log: (line) => {
      out.line(line);
    },
  });
  const db = await createDatabase(server.url);
  const cleanUp = async (): Promise<void> => {
    await db[Symbol.asyncDispose]();
    await server.stop();
  };
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, () => {
      void cleanUp().finally(() => process.exit(128 + constants.signals[signal]));
    });
  }
  try {
    await story(server, db);
  } catch (error) {
    out.endProgress();
    out.result(false, error instanceof Error ? error.message : String(error));
  } finally {
    await cleanUp();
  }
  const seconds = (performance.now() - started) / 1000;
  if (out.failures === 0) {
    out.end(`All of it is in the destination, and nothing else. ${duration(seconds)} in all.`);
  } else {
    out.end(`${out.failures} results are not as they should be. ${duration(seconds)} in all.`);
    process.exitCode = 1;
  }
}

await main();
