/**
 * What is done at intervals as long as a sync runs, on a session of its own: the user's heartbeat statement, and, where the
 * server gives up slots that nobody uses (PostgreSQL 18), a touch of the slot.
 *
 * Nothing of our own is written: a sync ends at a position of the WAL, whether or not anything was published up to there,
 * so the slot of a quiet database moves on without a heartbeat.
 */
import type { Client } from 'pg';
import type { Output } from './airbyte/output.ts';
import type { CdcConfig } from './cdc-setup.ts';
import type { Config } from './config.ts';
import { asConnectorError, errorCode } from './errors.ts';
import { connect } from './postgres/connection.ts';
import { touchSlot } from './postgres/slot.ts';

/** As often as Debezium, and with it Airbyte's Postgres source, does it. */
const INTERVAL_MS = 10_000;
/** A statement that waits for longer does not belong into a heartbeat. */
const LIMITS = `SET statement_timeout = '10s'; SET lock_timeout = '5s'`;

export class Heartbeat {
  readonly #config: Config;
  readonly #cdc: CdcConfig;
  readonly #output: Output;
  readonly #intervalMs: number;
  readonly #touches: boolean;
  #client: Client | null = null;
  #timer: NodeJS.Timeout | null = null;
  #beating: Promise<void> = Promise.resolve();
  #stopped = false;
  #failed = false;

  private constructor(config: Config, cdc: CdcConfig, output: Output, idleTimeout: number | null) {
    this.#config = config;
    this.#cdc = cdc;
    this.#output = output;
    this.#touches = idleTimeout !== null;
    this.#intervalMs = Math.min(INTERVAL_MS, ((idleTimeout ?? Infinity) * 1000) / 3);
  }

  /**
   * Begins, and has run the statement once when it returns. Where there is nothing to do no session is opened.
   * @param idleTimeout idle_replication_slot_timeout, in seconds; null where there is none.
   */
  static async start(
    config: Config,
    cdc: CdcConfig,
    idleTimeout: number | null,
    output: Output,
  ): Promise<Heartbeat> {
    const heartbeat = new Heartbeat(config, cdc, output, idleTimeout);
    if (cdc.heartbeatActionQuery !== '' || idleTimeout !== null) {
      heartbeat.#beating = heartbeat.#beat();
      await heartbeat.#beating;
    }
    return heartbeat;
  }

  /** Waits for the beat at hand, and ends the session. */
  async stop(): Promise<void> {
    this.#stopped = true;
    if (this.#timer !== null) clearTimeout(this.#timer);
    await this.#beating;
    await this.#client?.end().catch(() => undefined);
  }

  async #beat(): Promise<void> {
    try {
      const client = (this.#client ??= await this.#open());
      if (this.#cdc.heartbeatActionQuery !== '') await this.#run(client);
      if (this.#touches) await this.#touch(client);
    } catch (error) {
      this.#tell(error);
      const broken = this.#client;
      // In what state it is nobody knows: the next beat opens another one.
      this.#client = null;
      await broken?.end().catch(() => undefined);
    }
    if (this.#stopped) return;
    this.#timer = setTimeout(() => {
      this.#beating = this.#beat();
    }, this.#intervalMs);
  }

  async #open(): Promise<Client> {
    const client = await connect(this.#config, 'heartbeat');
    await client.query(LIMITS);
    return client;
  }

  /** The user's statement may leave a transaction open, for which others would wait. */
  async #run(client: Client): Promise<void> {
    await client.query(this.#cdc.heartbeatActionQuery);
    if (client.getTransactionStatus() !== 'I') await client.query('COMMIT');
  }

  async #touch(client: Client): Promise<void> {
    try {
      await touchSlot(client, this.#cdc.slot);
    } catch (error) {
      // Somebody uses it at this moment, which is all that is wanted.
      if (errorCode(error) !== OBJECT_IN_USE) throw error;
    }
  }

  /** Once: what the sync delivers does not depend on it. */
  #tell(error: unknown): void {
    const { message } = asConnectorError(error, 'running the heartbeat');
    const first = !this.#failed;
    this.#failed = true;
    this.#output.log(first ? 'WARN' : 'DEBUG', `The heartbeat failed: ${message}`);
  }
}

const OBJECT_IN_USE = '55006';
