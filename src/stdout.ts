/** Bytes to stdout, blocking. */
import { writeSync } from 'node:fs';
import { errorCode } from './errors.ts';

/** Who reads our output has gone: nothing can be said any more, and nothing needs to be. */
export class OutputClosed extends Error {
  override readonly name = 'OutputClosed';
}

export const STDOUT = 1;
const nap = new Int32Array(new SharedArrayBuffer(4));
const MAX_NAP_MS = 5;

/**
 * Writes synchronously: a slow reader then stops everything up to the server, without a queue that could grow.
 * @throws OutputClosed when the reader has gone.
 */
export function writeOut(bytes: Uint8Array): void {
  let at = 0;
  let napMs = 0.05;
  while (at < bytes.length) {
    try {
      at += writeSync(STDOUT, bytes, at);
    } catch (error) {
      const code = errorCode(error);
      // A pipe that somebody else made non-blocking: wait until it has room. A fast reader makes some within microseconds.
      if (code === 'EAGAIN') {
        Atomics.wait(nap, 0, 0, napMs);
        napMs = Math.min(MAX_NAP_MS, napMs * 2);
      } else if (code === 'EPIPE') throw new OutputClosed('the reader of the output has gone');
      else throw error;
    }
  }
}
