/**
 * How much WAL the server decodes at a time. It puts together all that a window brings before the first row of it comes,
 * in memory and then in temporary files, so windows are moderate; and decoding begins again at the slot's restart
 * position in each of them, so they grow where that would be read over and over.
 */

/** Small enough for the first record to come soon, and for most results to need no temporary file. */
export const WINDOW_BYTES = 64 * 1024 * 1024;
/** What a window is to bring at most, going by what the last one brought. */
const RESULT_BYTES = WINDOW_BYTES;
/** A window that brought next to nothing says little about the next one. */
const MAX_GROWTH = 32;
/** And temporary files must have room for what it may bring. */
const MAX_WINDOW_BYTES = 2 * 1024 * 1024 * 1024;

/** How the last window went; bytes but for the time. */
export type WindowRead = {
  /** The WAL between its ends. */
  readonly wal: number;
  /** What came out of it. */
  readonly result: number;
  /** From the first row of it to the last; 0 without any. */
  readonly milliseconds: number;
  /** The WAL before its end that the next one has to decode again: a transaction has been open for so long. */
  readonly again: number;
  /** temp_file_limit of the session; null: none. */
  readonly tempLimit: number | null;
};

/**
 * Where a large transaction is open, what it has written so far is decoded in each window, and spooled to disk, which
 * takes a third of the time that its rows take in the end. Windows that bring little therefore grow, up to 2 GB, and all
 * of them with the distance, half of it: either way all of it together stays a fixed factor.
 * @returns the WAL of the next window, in bytes.
 */
export function nextWindow({
  wal,
  result,
  again,
  tempLimit,
}: Omit<WindowRead, 'milliseconds'>): number {
  const density = Math.max(result, 1) / wal;
  const wanted = Math.min(RESULT_BYTES / density, MAX_GROWTH * wal, MAX_WINDOW_BYTES);
  // About as many bytes come out as there were in the WAL.
  const most = tempLimit === null ? Number.POSITIVE_INFINITY : tempLimit / 2;
  return Math.trunc(Math.max(WINDOW_BYTES, Math.min(most, Math.max(wanted, again / 2))));
}

const SLOW_MS = 20_000;

/** Whether rows are taken so slowly that a window which is decoded meanwhile only waits, while its snapshot gets old. */
export function isTakenSlowly({ result, milliseconds }: WindowRead): boolean {
  return milliseconds > SLOW_MS && result / milliseconds < RESULT_BYTES / SLOW_MS;
}
