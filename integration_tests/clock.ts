/** A connector whose clock can be put forward, for waits of minutes and hours. */
import type { ChildProcess } from 'node:child_process';

/** @returns what its process is started with; `putForward` is heard by then. */
export function movableClock(seconds: number): {
  readonly env: NodeJS.ProcessEnv;
  readonly putForward: (child: ChildProcess) => void;
} {
  const code = `const now = Date.now; let ahead = 0; Date.now = () => now() + ahead;
    process.on('SIGUSR2', () => { ahead += ${seconds * 1000}; });`;
  return {
    env: { NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(code)}` },
    putForward: (child) => {
      child.kill('SIGUSR2');
    },
  };
}
