/** A short run of `npm run chaos`. */
import { expect, test } from 'vitest';
import { runChaos } from './chaos-run.ts';

/** Longer runs with other seeds are for the command. */
const SEED = 2;
const MINUTES = 0.25;

test('chaos: writers, maintenance, kills and cuts, and then equality', async () => {
  const lines: string[] = [];
  const ok = await runChaos({
    server: {
      url: process.env['TIMESCALEDB_URL'] ?? '',
      how: 'url',
      stop: () => Promise.resolve(),
    },
    seed: SEED,
    minutes: MINUTES,
    kills: true,
    log: (line) => lines.push(line),
  });
  expect(ok, lines.join('\n')).toBe(true);
});
