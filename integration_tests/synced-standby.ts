/** A standby that has copies of the slots for failover, for the tests of taking over. */
import pg from 'pg';
import { Database, until } from './database.ts';
import type { Connection } from './scenario.ts';
import type { Standby, TimescaleServer } from './server.ts';

/** A standby that keeps copies of slots for failover, as the docs say it is set up. */
export class SyncedStandby implements AsyncDisposable {
  readonly #standby: Standby;
  readonly #primary: pg.Client;
  /** In a database that is there from the beginning: those of the tests come with its recovery. */
  readonly #recovery: pg.Client;
  #connInfo = '';

  private constructor(standby: Standby, primary: pg.Client, recovery: pg.Client) {
    this.#standby = standby;
    this.#primary = primary;
    this.#recovery = recovery;
  }

  /** @param awaited its slot is in synchronized_standby_slots of the primary. */
  static async of(server: TimescaleServer | undefined, awaited = true): Promise<SyncedStandby> {
    const standby = await server?.standby?.();
    if (server === undefined || standby === undefined) throw new Error('no standby');
    const primary = new pg.Client({ connectionString: server.url });
    const recovery = new pg.Client({ connectionString: standby.url });
    await primary.connect();
    await recovery.connect();
    const it = new SyncedStandby(standby, primary, recovery);
    const info = await it.#setting('primary_conninfo');
    const rest = info.replaceAll(/\b(channel_binding|gssencmode|dbname)=\S+ ?/g, '');
    it.#connInfo = `${rest} dbname=postgres`;
    // In this order: without a dbname the worker ends, and is started again after a minute.
    await it.attach();
    await it.#set(recovery, 'sync_replication_slots', 'on');
    if (awaited) {
      const slot = await it.#setting('primary_slot_name');
      await it.#set(primary, 'synchronized_standby_slots', slot);
    }
    return it;
  }

  /** The copy of the slot can serve the connection: the slot has moved since the standby began to copy it. */
  async ready(connection: Connection): Promise<void> {
    await until('the standby has a whole copy of the slot', async () => {
      await this.#primary.query('SELECT pg_log_standby_snapshot()');
      (await connection.sync()).succeeded();
      const { rows } = await this.#recovery.query<{ ready: boolean }>(
        `SELECT synced AND NOT temporary AND invalidation_reason IS NULL AS ready
           FROM pg_replication_slots WHERE slot_name = $1`,
        [connection.db.slot],
      );
      return rows[0]?.ready === true;
    });
  }

  async caughtUp(db: Database): Promise<void> {
    const lsn = await db.value<string>('SELECT pg_current_wal_insert_lsn()::text');
    await until('the standby has caught up', async () => {
      const { rows } = await this.#recovery.query<{ enough: boolean }>(
        'SELECT pg_last_wal_replay_lsn() >= $1::pg_lsn AS enough',
        [lsn],
      );
      return rows[0]?.enough === true;
    });
  }

  /** It hears nothing of the primary any more. */
  async detach(): Promise<void> {
    await this.#set(this.#recovery, 'primary_conninfo', '');
    const slot = await this.#setting('primary_slot_name');
    await until('the standby is on its own', async () => {
      const { rows } = await this.#primary.query<{ active: boolean }>(
        'SELECT active FROM pg_replication_slots WHERE slot_name = $1',
        [slot],
      );
      return rows[0]?.active === false;
    });
  }

  async attach(): Promise<void> {
    await this.#set(this.#recovery, 'primary_conninfo', this.#connInfo);
  }

  promote(): Promise<void> {
    return this.#standby.promote();
  }

  /** The same database on the standby; dropping it is left to the primary. */
  database(db: Database): Database {
    return new Database(this.#standby.url, db.name);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#set(this.#primary, 'synchronized_standby_slots', '');
    await this.#recovery.end();
    await this.#standby.stop();
    await this.#primary.query(
      `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_type = 'physical' AND NOT active`,
    );
    await this.#primary.end();
  }

  async #setting(name: string): Promise<string> {
    const { rows } = await this.#recovery.query<{ setting: string }>(
      'SELECT setting FROM pg_settings WHERE name = $1',
      [name],
    );
    return rows[0]?.setting ?? '';
  }

  async #set(client: pg.Client, name: string, value: string): Promise<void> {
    await client.query(`ALTER SYSTEM SET ${name} = ${pg.escapeLiteral(value)}`);
    await client.query('SELECT pg_reload_conf()');
    await until(`${name} is set`, async () => {
      const { rows } = await client.query<{ setting: string }>(
        'SELECT setting FROM pg_settings WHERE name = $1',
        [name],
      );
      return rows[0]?.setting === value;
    });
  }
}
