/**
 * The slot's changes as result rows. The SQL interface of logical decoding runs the same plugin as a walsender, over an
 * ordinary connection and in a third of its time, and it ends where it is told to: a sync is a batch up to a target.
 * What is read here moves only a temporary copy of the slot.
 */
import { type Client, escapeIdentifier } from 'pg';
import { ConnectorError, errorCode } from '../errors.ts';
import { bindPortal, executePortal, type RowHandler } from './hot-reader.ts';
import { advanceLsn, formatLsn, type Lsn, minLsn, parseLsn } from './lsn.ts';
import { copySlot } from './slot.ts';

/** One window's WAL at least: small enough for the first record to come soon and for the server's temporary files. */
const WINDOW_BYTES = 64 * 1024 * 1024;
const MAX_WINDOW_BYTES = 1024 * 1024 * 1024;

/** For what a window has decoded to: most of them then need no temporary file, which saves a tenth of the time. */
const RESULT_MEMORY = '64MB';

export class ChangeReader {
  readonly #client: Client;
  readonly #copy: string;
  readonly #publications: string;
  #windowBytes = WINDOW_BYTES;

  private constructor(client: Client, copy: string, publications: readonly string[]) {
    this.#client = client;
    this.#copy = copy;
    this.#publications = publications.map((name) => escapeIdentifier(name)).join(',');
  }

  /** @param client a session of its own, which `close` ends; so does a failure. */
  static async open(
    client: Client,
    slot: string,
    publications: readonly string[],
  ): Promise<ChangeReader> {
    try {
      return new ChangeReader(client, await copySlot(client, slot), publications);
    } catch (error) {
      // A session that is left open would keep the process from ending.
      await client.end().catch(() => undefined);
      throw error;
    }
  }

  /**
   * Reads the transactions that committed between `from` and the end of the next window.
   * @param onMessage gets each pgoutput message, whole transactions in the order of their commits.
   * @returns the end of the window: every transaction that committed before it was delivered.
   */
  async readWindow(from: Lsn, target: Lsn, onMessage: RowHandler): Promise<Lsn> {
    const upto = minLsn(target, advanceLsn(from, this.#windowBytes));
    await this.#client.query(`BEGIN; SET LOCAL work_mem = '${RESULT_MEMORY}'`);
    await bindPortal(
      this.#client,
      'changes',
      `SELECT data FROM pg_catalog.pg_logical_slot_get_binary_changes(
         $1::name, $2::pg_lsn, NULL, 'proto_version', '1', 'publication_names', $3, 'messages', 'true')`,
      [this.#copy, formatLsn(upto), this.#publications],
      ['binary'],
    );
    // A row is one bytea: two bytes of column count and four of length come before it.
    try {
      await executePortal(this.#client, 'changes', (src, start, end) =>
        onMessage(src, start + 6, end),
      );
    } catch (error) {
      throw errorCode(error) === INTERNAL_ERROR ? undecodable(error) : error;
    }
    await this.#client.query('COMMIT');
    await this.#adapt(upto);
    return upto;
  }

  /**
   * Decoding begins again at the copy's restart position in each window. While a transaction stays open that position
   * stays behind, and each window reads it all again: windows grow with the distance, so that this stays a fixed factor.
   */
  async #adapt(position: Lsn): Promise<void> {
    const { rows } = await this.#client.query<{ restart: string }>(
      'SELECT restart_lsn::text AS restart FROM pg_catalog.pg_replication_slots WHERE slot_name = $1',
      [this.#copy],
    );
    const behind = Number(position - parseLsn(rows[0]?.restart ?? formatLsn(position)));
    this.#windowBytes = Math.min(MAX_WINDOW_BYTES, Math.max(WINDOW_BYTES, Math.trunc(behind / 2)));
  }

  async close(): Promise<void> {
    await this.#client.end();
  }
}

/** What the decoder reports when the system catalog of a moment in the WAL cannot be put together any more. */
const INTERNAL_ERROR = 'XX000';

function undecodable(error: unknown): ConnectorError {
  const text = error instanceof Error ? error.message : String(error);
  const upgraded = text.startsWith('could not find pg_class entry');
  return new ConnectorError(`The server cannot decode the WAL of the replication slot: ${text}.`, {
    kind: 'config_error',
    fix: upgraded ? UPGRADED : 'Drop the slot, clear the connection and sync again.',
    cause: error,
  });
}

/** Seen with a compressed chunk from 2.19, 2.26 and 2.28 to 2.29: the update writes to a catalog table and then drops it. */
const UPGRADED =
  'This is what an upgrade of the TimescaleDB extension to 2.29 or later leaves in the WAL where chunks are compressed. What was written since the last sync can only be read from the tables: drop the slot, clear the connection and sync again. For such an upgrade: stop the writers, upgrade, drop the slot and clear the connection; a sync reads everything again.';
