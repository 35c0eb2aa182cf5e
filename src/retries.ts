/**
 * What is tried again within a sync: failures of the server and the network that pass by themselves (`errors.ts` has the
 * table). A new attempt is what the next sync would be, so nothing can be right in one and wrong in the other.
 */
import { ExponentialBackoff, handleWhen, retry } from 'cockatiel';
import type { Output } from './airbyte/output.ts';
import { asConnectorError, passesByItself } from './errors.ts';

/** Failures one after the other without a STATE between them: about two minutes. */
const ATTEMPTS = 8;
const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 30_000;

/**
 * Runs attempts until one succeeds. Each STATE that was written in between begins the count anew.
 * @param connected whether the server was there in this run: where it never was, the address may be wrong.
 * @throws the last failure, or the first one that does not pass by itself.
 */
export async function withRetries<T>(
  output: Output,
  connected: () => boolean,
  attempt: () => Promise<T>,
): Promise<T> {
  let written = output.statesWritten;
  const policy = retry(
    handleWhen((error) => passesByItself(error, connected())),
    {
      maxAttempts: ATTEMPTS,
      backoff: new ExponentialBackoff({
        initialDelay: FIRST_PAUSE_MS,
        maxDelay: LONGEST_PAUSE_MS,
      }),
    },
  );
  policy.onRetry((event) => {
    output.watcher.retried();
    const failure = 'error' in event ? asConnectorError(event.error, 'reading').message : '';
    const seconds = (event.delay / 1000).toFixed(1);
    output.log('WARN', `${failure} Trying again in ${seconds} s, from the last STATE on.`);
  });
  for (;;) {
    const outcome = await policy.execute(async () => {
      try {
        return { result: await attempt() };
      } catch (error) {
        const progress = output.statesWritten > written;
        written = output.statesWritten;
        if (!progress || !passesByItself(error, connected())) throw error;
        const { message } = asConnectorError(error, 'reading');
        output.watcher.retried();
        output.log('WARN', `${message} Going on from the last STATE.`);
        return null;
      }
    });
    if (outcome !== null) return outcome.result;
    await new Promise((resolve) => setTimeout(resolve, FIRST_PAUSE_MS));
  }
}
