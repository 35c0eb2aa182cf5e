import { defineConfig } from 'vitest/config';

export default defineConfig({
  // Node 20 does not know `await using` yet.
  oxc: { target: 'node20' },
  test: {
    include: ['integration_tests/**/*.test.ts'],
    globalSetup: ['integration_tests/global-setup.ts'],
    testTimeout: 120_000,
    hookTimeout: 180_000,
    pool: 'forks',
    maxWorkers: 2,
    fileParallelism: true,
    retry: 0,
  },
});
