/**
 * A temporary copy of the replication slot, in a session of its own, and what the server decodes for it. The SQL
 * interface of logical decoding runs the same plugin as a walsender, over an ordinary connection and in a third of its
 * time, and it ends where it is told to: a sync is a batch up to a target.
 * https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-REPLICATION
 */
import { type Client, escapeIdentifier } from 'pg';
import { ConnectorError, errorCode } from '../errors.ts';
import type { RowHandler } from './exchange.ts';
import { bindPortal, executePortal } from './hot-reader.ts';
import { formatLsn, type Lsn, parseLsn } from './lsn.ts';
import { copySlot } from './slot.ts';
import type { WindowRead } from './window-size.ts';

/** For what a window has decoded to: most of them then need no temporary file, which saves a tenth of the time. */
const RESULT_MEMORY = '64MB';

/** A stretch of the WAL that is being decoded. */
export type Window = {
  /** Every transaction that committed before this, and not in an earlier window, is in it. */
  readonly upto: Lsn;
  /** Takes what was decoded: each pgoutput message, whole transactions in the order of their commits. Called once. */
  readonly read: (onMessage: RowHandler) => Promise<WindowRead>;
};

/** Nothing is taken from the socket before somebody asks for it. */
const UNASKED: RowHandler = () => {
  throw new Error('rows of a window that nobody reads');
};

export class SlotCopy {
  readonly #client: Client;
  readonly #name: string;
  readonly #publications: string;
  /** What committed before this does not come any more. */
  #position: Lsn;

  private constructor(
    client: Client,
    { name, position }: { readonly name: string; readonly position: Lsn },
    publications: readonly string[],
  ) {
    this.#client = client;
    this.#name = name;
    this.#position = position;
    this.#publications = publications.map((publication) => escapeIdentifier(publication)).join(',');
  }

  /** @param client a session of its own, which `close` ends; so does a failure. */
  static async open(
    client: Client,
    slot: string,
    publications: readonly string[],
  ): Promise<SlotCopy> {
    try {
      return new SlotCopy(client, await copySlot(client, slot), publications);
    } catch (error) {
      // A session that is left open would keep the process from ending.
      await client.end().catch(() => undefined);
      throw error;
    }
  }

  /**
   * Has the server begin to decode. It works ahead as far as its memory and files go, and what it has sent waits in the
   * socket: nothing is held here. What lies between the end of the copy's last window and `from` was delivered before, by
   * another copy or by an attempt that failed; to pass over it takes a twentieth of decoding it.
   */
  begin(from: Lsn, upto: Lsn): Window {
    let open: ((onMessage: RowHandler) => void) | null = null;
    const reader = new Promise<RowHandler>((resolve) => {
      open = resolve;
    });
    const decoded = this.#decode(from, upto, reader);
    // A failure is told to whoever reads the window; nobody may, if an earlier one fails.
    decoded.catch(() => undefined);
    return {
      upto,
      read: async (onMessage) => {
        open?.(onMessage);
        return decoded;
      },
    };
  }

  async #decode(from: Lsn, upto: Lsn, reader: Promise<RowHandler>): Promise<WindowRead> {
    let onMessage = UNASKED;
    let result = 0;
    let begun = 0;
    try {
      if (from > this.#position) await this.#moveTo(from);
      await bindPortal(
        this.#client,
        'changes',
        `SELECT data FROM pg_catalog.pg_logical_slot_get_binary_changes(
           $1::name, $2::pg_lsn, NULL, 'proto_version', '1', 'publication_names', $3, 'messages', 'true')`,
        [this.#name, formatLsn(upto), this.#publications],
        ['binary'],
        ['BEGIN', `SET LOCAL work_mem = '${RESULT_MEMORY}'`],
      );
      const ready = reader.then((handler) => {
        onMessage = handler;
      });
      // A row is one bytea: two bytes of column count and four of length come before it.
      const onRow: RowHandler = (src, start, end) => {
        if (result === 0) begun = Date.now();
        result += end - start;
        return onMessage(src, start + 6, end);
      };
      await executePortal(this.#client, 'changes', onRow, ['COMMIT'], ready);
      this.#position = upto;
    } catch (error) {
      throw errorCode(error) === INTERNAL_ERROR ? undecodable(error) : error;
    }
    const milliseconds = result === 0 ? 0 : Date.now() - begun;
    return { wal: Number(upto - from), result, milliseconds, ...(await this.#standing(upto)) };
  }

  async #moveTo(lsn: Lsn): Promise<void> {
    await this.#client.query(
      `SELECT pg_catalog.pg_replication_slot_advance(s.slot_name, $2::pg_lsn)
         FROM pg_catalog.pg_replication_slots s
        WHERE s.slot_name = $1 AND s.confirmed_flush_lsn < $2::pg_lsn`,
      [this.#name, formatLsn(lsn)],
    );
  }

  /** Decoding begins again at the copy's restart position, which stays behind while a transaction is open. */
  async #standing(upto: Lsn): Promise<Pick<WindowRead, 'again' | 'tempLimit'>> {
    const { rows } = await this.#client.query<{ restart: string; limit: string | null }>(
      `SELECT restart_lsn::text AS restart,
              pg_catalog.pg_size_bytes(nullif(pg_catalog.current_setting('temp_file_limit'), '-1'))::text AS limit
         FROM pg_catalog.pg_replication_slots WHERE slot_name = $1`,
      [this.#name],
    );
    const { restart = null, limit = null } = rows[0] ?? {};
    return {
      again: restart === null ? 0 : Number(upto - parseLsn(restart)),
      tempLimit: limit === null ? null : Number(limit),
    };
  }

  async close(): Promise<void> {
    await this.#client.end();
  }
}

/** How many replication slots can still be made. */
export async function freeSlots(client: Client): Promise<number> {
  const { rows } = await client.query<{ free: number }>(
    `SELECT current_setting('max_replication_slots')::int
            - (SELECT count(*)::int FROM pg_catalog.pg_replication_slots) AS free`,
  );
  return rows[0]?.free ?? 0;
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
