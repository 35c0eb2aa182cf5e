/**
 * TimescaleDB writes logical messages around the row changes by which compression and decompression move rows:
 * between a start and its end, INSERT and DELETE on chunks are moves, not changes. Pairs nest (a full recompression
 * decompresses inside), so depth is counted, per top-level transaction.
 * Prefixes: TimescaleDB 2.16 and later, `timescaledb.enable_compression_wal_markers`.
 */
export class MarkerDepth {
  #depth = 0;

  /** A new top-level transaction begins. */
  reset(): void {
    this.#depth = 0;
  }

  /** Counts a logical message; messages of others change nothing. */
  message(prefix: string): void {
    if (STARTS.has(prefix)) this.#depth += 1;
    // An end without a start is possible when another session took the batch first.
    else if (ENDS.has(prefix)) this.#depth = Math.max(0, this.#depth - 1);
  }

  /** Whether inserts and deletes on chunks are moves at this point of the transaction. */
  get moving(): boolean {
    return this.#depth > 0;
  }
}

const STARTS = new Set(['::timescaledb-compression-start', '::timescaledb-decompression-start']);
const ENDS = new Set(['::timescaledb-compression-end', '::timescaledb-decompression-end']);
