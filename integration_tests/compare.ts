/**
 * The connector beside a reader with one long snapshot, while chunks are maintained: `npm run compare`.
 *
 * Takes the server at `TIMESCALEDB_URL`, or else Docker's image. Ends with exit code 0 when the connector has delivered
 * every row in every case, with 1 when it has not, and with 2 on a server without the columnstore.
 */
import { runCases } from './compare-cases.ts';
import { createDatabase, hasCompression } from './database.ts';
import { Printer } from './demo-print.ts';
import { startServer } from './server.ts';

const out = new Printer(process.stdout);

async function compare(url: string): Promise<number> {
  {
    await using db = await createDatabase(url);
    if (!(await hasCompression(db))) {
      console.error(
        'This comparison needs the full build of TimescaleDB: the server has the Apache-only one, without the columnstore.',
      );
      return 2;
    }
    const [versions] = await db.query<{ server: string; extension: string }>(
      `SELECT split_part(current_setting('server_version'), ' ', 1) AS server, extversion AS extension
         FROM pg_extension WHERE extname = 'timescaledb'`,
    );
    out.title(
      'One long snapshot, and the connector',
      `PostgreSQL ${versions?.server}, TimescaleDB ${versions?.extension}; a later chunk is maintained after the first was read`,
    );
  }
  const results = await runCases(url, ({ name }) => {
    out.progress(name);
  });
  out.endProgress();
  const heading = ['case', 'rows in the table', 'read in one snapshot', 'from the connector'];
  out.table(
    heading,
    results.map((row) => [row.name, row.tableRows, row.snapshotRows, row.connectorRows]),
  );
  const complete = results.filter(({ complete: all }) => all);
  out.result(
    complete.length === results.length,
    `the connector has delivered every row, once, in ${complete.length} of ${results.length} cases`,
  );
  out.end(`The server reported no error to either of them.`);
  return complete.length === results.length ? 0 : 1;
}

const server = await startServer({
  log: (line) => {
    console.error(line);
  },
});
try {
  process.exitCode = await compare(server.url);
} finally {
  await server.stop();
}
