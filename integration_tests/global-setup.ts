import { startServer } from './server.ts';

/** One server for all test files, unless `TIMESCALEDB_URL` names a running one. */
export async function setup(): Promise<() => Promise<void>> {
  const server = await startServer({
    log: (line) => {
      process.stderr.write(`${line}\n`);
    },
  });
  // The workers start later and inherit it.
  process.env['TIMESCALEDB_URL'] = server.url;
  return () => server.stop();
}
