/**
 * Chaos: writers and maintenance of every kind, syncs that are killed, cut off, paused, and lose their server; after each
 * round the destination must be what the tables are.
 *
 *   npm run chaos -- [--seed N] [--minutes M] [--kills on|off] [--release trixie|sid]
 *
 * Round k of seed N is round 1 of seed N + k - 1. The server is restarted only where it was started here, that is without
 * TIMESCALEDB_URL. Ends with exit code 1 and a story at the first difference.
 */
import { parseArgs } from 'node:util';
import { runChaos } from './chaos-run.ts';
import { startServer } from './server.ts';

async function main(): Promise<boolean> {
  const { values } = parseArgs({
    options: {
      seed: { type: 'string', default: '1' },
      minutes: { type: 'string', default: '10' },
      kills: { type: 'string', default: 'on' },
      release: { type: 'string', default: 'trixie' },
    },
  });
  const { kills, release } = values;
  const seed = Number(values.seed);
  const minutes = Number(values.minutes);
  if (!Number.isSafeInteger(seed) || seed < 0) throw new Error('--seed is a whole number');
  if (!(minutes > 0)) throw new Error('--minutes is a number above 0');
  if (kills !== 'on' && kills !== 'off') throw new Error('--kills is on or off');
  if (release !== 'trixie' && release !== 'sid') throw new Error('--release is trixie or sid');
  const stopping = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM'] as const) {
    process.once(name, () => {
      stopping.abort();
    });
  }
  const log = (line: string): void => {
    console.log(line);
  };
  const server = await startServer({ release, log });
  try {
    const { signal } = stopping;
    return await runChaos({ server, seed, minutes, kills: kills === 'on', log, signal });
  } finally {
    await server.stop();
  }
}

try {
  process.exitCode = (await main()) ? 0 : 1;
} catch (error) {
  console.error(error instanceof Error ? error.message : String(error));
  process.exitCode = 1;
}
