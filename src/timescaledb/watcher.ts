/**
 * Tells a running sync that chunks were made, changed or have vanished, from four sources of different strength: rows of
 * TimescaleDB's own catalog in the change stream, where somebody has published it; chunks that the stream announces;
 * notifications; polling. All of them only say that a look at the system catalog is worth its while: what is there then
 * counts, so a source that is silent, late or wrong costs time and loses nothing. Nothing here keeps a read waiting.
 */
import type { Client } from 'pg';
import { asConnectorError } from '../errors.ts';
import type { Chunk } from './chunks.ts';
import { CatalogChanges } from './catalog-changes.ts';
import {
  type CatalogObject,
  digestOf,
  type Digests,
  type ObjectKind,
  parseNotification,
  pollCatalog,
} from './catalog-poll.ts';
import type { Hypertable, TimescaleCatalog } from './hypertables.ts';

export type NewsSource = 'published catalog' | 'change stream' | 'notification' | 'poll';

export type News = {
  readonly object: 'chunk' | ObjectKind;
  readonly what: 'new' | 'changed' | 'vanished';
  /** Of the object, or of a chunk's hypertable where the source says no more. */
  readonly name: string;
  readonly source: NewsSource;
};

/** The sources that can be switched off, for tests: what the change stream announces has to be judged in any case. */
export type WatchOptions = {
  readonly catalog: boolean;
  readonly notifications: boolean;
  readonly polling: boolean;
  /** Milliseconds until a session is opened: a short sync looks at its beginning and end, and needs none. */
  readonly sessionAfterMs: number;
};

export const ALL_SOURCES: WatchOptions = {
  catalog: true,
  notifications: true,
  polling: true,
  sessionAfterMs: 2000,
};

export type WatchSettings = {
  readonly catalog: TimescaleCatalog | null;
  /** The hypertables whose chunks matter. */
  readonly followed: readonly Hypertable[];
  /** Every hypertable and continuous aggregate that is known. */
  readonly objects: readonly CatalogObject[];
  /** Opens a session of the watcher's own; null where the limit of connections has no room for it. */
  readonly connect: (() => Promise<Client>) | null;
  /** The longest pause between two polls, and between two attempts to connect. */
  readonly intervalMs: number;
  /** Whether the list of chunks is kept until something is new, and how old it may get. */
  readonly caching: boolean;
  readonly maxAgeMs: number;
  readonly log: (level: 'INFO' | 'DEBUG', message: string) => void;
};

const CHANNEL = 'timescaledb_chunk_created';
const FIRST_PAUSE_MS = 1000;
/** Time for reading between two looks, however fast news comes in. */
const QUIET_MS = 500;
/** Sentences of a log line. */
const TOLD = 5;

export class ChunkWatcher {
  readonly #settings: WatchSettings;
  readonly #options: WatchOptions;
  /** By hypertable id. */
  readonly #followed: ReadonlyMap<number, Hypertable>;
  readonly #changes: CatalogChanges;
  readonly #objects = new Map<string, string>();
  /** The chunks as of the last look, by catalog id; and by hypertable id the greatest id that was ever judged. */
  #chunks: ReadonlyMap<number, Chunk> = new Map();
  #names: ReadonlySet<string> = new Set();
  readonly #judged = new Map<number, number>();
  #digests: Digests = new Map();
  #news = new Map<string, News>();
  #lookedAt = Date.now();
  #client: Client | null = null;
  #timer: NodeJS.Timeout | undefined;
  #work: Promise<void> = Promise.resolve();
  #closed = false;
  #pollPause = FIRST_PAUSE_MS;
  #connectPause = FIRST_PAUSE_MS;

  constructor(settings: WatchSettings, options: WatchOptions = ALL_SOURCES) {
    this.#settings = settings;
    this.#options = options;
    this.#followed = new Map(settings.followed.map((hypertable) => [hypertable.id, hypertable]));
    for (const { kind, id, name } of settings.objects) this.#objects.set(`${kind} ${id}`, name);
    this.#changes = new CatalogChanges();
  }

  /** Something is new since the last look, and there was time to read since: reading may be interrupted after the chunk at hand. */
  get hasNews(): boolean {
    return this.#news.size > 0 && Date.now() - this.#lookedAt >= QUIET_MS;
  }

  /** Whether the list of chunks is to be read anew at the next opportunity. */
  get isDue(): boolean {
    if (this.hasNews) return true;
    if (!this.#options.polling) return false;
    const age = Date.now() - this.#lookedAt;
    // A session of the watcher's own has asked meanwhile whether anything is new.
    const maxAge = this.#client === null ? this.#settings.intervalMs : Number.POSITIVE_INFINITY;
    return !this.#settings.caching || age >= Math.min(maxAge, this.#settings.maxAgeMs);
  }

  /** Whether a look that nobody has asked for, before the end of a sync, may find something. */
  get looksUnasked(): boolean {
    return this.#options.polling || this.#news.size > 0;
  }

  /** The list of chunks was read anew: what it holds is not news any more. What led to it is told. */
  looked(chunks: readonly Chunk[]): void {
    this.#chunks = new Map(chunks.map((chunk) => [chunk.id, chunk]));
    this.#names = new Set(chunks.map(({ schema, name }) => nameKey(schema, name)));
    this.#digests = digestOf(chunks);
    for (const { id, hypertableId } of chunks) this.judged(hypertableId, id);
    this.#lookedAt = Date.now();
    const told = [...this.#news.values()].map(
      ({ object, what, name, source }) => `${what} ${object} ${name} (${source})`,
    );
    this.#news = new Map();
    if (told.length === 0) return;
    const more = told.length > TOLD ? ` and ${told.length - TOLD} more` : '';
    this.#settings.log('INFO', `Seen: ${told.slice(0, TOLD).join(', ')}${more}.`);
  }

  /** Chunks up to this id have been judged, by this sync or by one before it: their creation is no news. */
  judged(hypertableId: number, chunkId: number): void {
    this.#judged.set(hypertableId, Math.max(chunkId, this.#judged.get(hypertableId) ?? 0));
  }

  /** The change stream has announced a chunk that is not in the list. */
  met(schema: string, name: string): void {
    this.#tell({
      object: 'chunk',
      what: 'new',
      name: `${schema}.${name}`,
      source: 'change stream',
    });
  }

  /** Sees each message of pgoutput before it is applied. Costs a comparison where the catalog is not published. */
  readonly see = (src: Buffer, start: number, end: number): void => {
    if (!this.#options.catalog) return;
    const change = this.#changes.see(src, start, end);
    if (change === null) return;
    if (change.object === 'chunk') {
      const hypertable = this.#followed.get(change.hypertableId ?? 0);
      const known = this.#chunks.get(change.id);
      const news =
        change.what === 'new'
          ? change.id > (this.#judged.get(change.hypertableId ?? 0) ?? 0)
          : known !== undefined && (change.what === 'vanished' || known.status !== change.status);
      if (change.what === 'new') this.judged(change.hypertableId ?? 0, change.id);
      const owner = hypertable ?? this.#followed.get(known?.hypertableId ?? 0);
      if (!news || owner === undefined) return;
      const name = known === undefined ? `${owner.schema}.${owner.name}` : qualified(known);
      this.#tell({ object: 'chunk', what: change.what, name, source: 'published catalog' });
    } else {
      this.#object(change, change.what === 'vanished', 'published catalog');
    }
  };

  /** Opens the session that listens and polls, in a moment. */
  start(): void {
    const { notifications, polling, sessionAfterMs } = this.#options;
    if (this.#followed.size === 0 || this.#settings.connect === null) return;
    if (notifications || polling) this.#later(sessionAfterMs, () => this.#open());
  }

  /** Ends the session; nothing is told any more. */
  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    const client = this.#client;
    this.#client = null;
    await client?.end().catch(() => undefined);
    await this.#work;
  }

  /** @param work does not throw. */
  #later(milliseconds: number, work: () => Promise<void>): void {
    if (this.#closed) return;
    this.#timer = setTimeout(() => {
      this.#work = work();
    }, milliseconds);
  }

  async #open(): Promise<void> {
    const { connect, log } = this.#settings;
    if (connect === null) return;
    try {
      const client = await connect();
      if (this.#closed) {
        await client.end();
        return;
      }
      this.#client = client;
      client.once('end', () => {
        this.#lost(client, null);
      });
      client.on('notification', ({ payload }) => {
        this.#notified(payload ?? '');
      });
      if (this.#options.notifications) await client.query(`LISTEN ${CHANNEL}`);
      log('DEBUG', 'Listening for new chunks.');
      // What was made while nobody listened.
      this.#pollPause = FIRST_PAUSE_MS;
      await this.#poll(client);
    } catch (error) {
      this.#lost(this.#client, error);
    }
  }

  /** @param client null: it was never there. */
  #lost(client: Client | null, error: unknown): void {
    if (this.#closed || this.#client !== client) return;
    this.#client = null;
    void client?.end().catch(() => undefined);
    const why = error === null ? '' : ` ${asConnectorError(error, 'listening').userMessage}`;
    const pause = this.#connectPause;
    this.#connectPause = Math.min(pause * 2, this.#settings.intervalMs);
    this.#settings.log(
      'INFO',
      `The session that listens for new chunks ended.${why} It is opened again in ${Math.round(pause / 1000)} s; chunks are looked for without it.`,
    );
    clearTimeout(this.#timer);
    this.#later(pause, () => this.#open());
  }

  async #poll(client: Client): Promise<void> {
    const { catalog, intervalMs } = this.#settings;
    if (catalog === null || !this.#options.polling) return;
    try {
      const before = this.#digests;
      const found = await pollCatalog(client, catalog, [...this.#followed.keys()]);
      this.#connectPause = FIRST_PAUSE_MS;
      // Where there was a look meanwhile, it saw more.
      const news = before === this.#digests && this.#polled(found.digests);
      for (const object of found.objects) this.#object(object, false, 'poll');
      this.#vanished(found.objects);
      this.#pollPause = news ? FIRST_PAUSE_MS : Math.min(this.#pollPause * 2, intervalMs);
      this.#later(this.#pollPause, () => this.#poll(client));
    } catch (error) {
      this.#lost(client, error);
    }
  }

  /** @returns whether any chunk is not as it was at the last look. */
  #polled(digests: Digests): boolean {
    let any = false;
    for (const [id, { schema, name }] of this.#followed) {
      const before = this.#digests.get(id) ?? { chunks: 0, newest: 0, mark: '' };
      const now = digests.get(id) ?? { chunks: 0, newest: 0, mark: '' };
      if (before.mark === now.mark) continue;
      const fewer = now.chunks < before.chunks ? 'vanished' : 'changed';
      const what = now.newest > before.newest ? 'new' : fewer;
      this.#tell({ object: 'chunk', what, name: `of ${schema}.${name}`, source: 'poll' });
      any = true;
    }
    return any;
  }

  /** A notification says less than the system catalog, and anybody may send one: it is looked up, never believed. */
  #notified(payload: string): void {
    const told = parseNotification(payload);
    if (told === null || this.#names.has(nameKey(told.chunkSchema, told.chunkName))) return;
    const followed = [...this.#followed.values()].some(
      ({ schema, name }) => schema === told.schema && name === told.name,
    );
    if (!followed) return;
    const name = `${told.chunkSchema}.${told.chunkName}`;
    this.#tell({ object: 'chunk', what: 'new', name, source: 'notification' });
  }

  /** Hypertables and continuous aggregates: a sync's streams are chosen before it, so a person is told. */
  #object({ kind, id, name }: CatalogObject, gone: boolean, source: NewsSource): void {
    const key = `${kind} ${id}`;
    const known = this.#objects.get(key);
    if (gone ? known === undefined : known === name) return;
    if (gone) this.#objects.delete(key);
    else this.#objects.set(key, name);
    const what = gone ? 'is gone' : known === undefined ? 'is new' : 'has got this name';
    this.#settings.log(
      'INFO',
      `The ${kind} ${gone ? known : name} ${what} (${source}): refresh the schema of the connection to choose its streams anew.`,
    );
  }

  #vanished(objects: readonly CatalogObject[]): void {
    const there = new Set(objects.map(({ kind, id }) => `${kind} ${id}`));
    for (const [key, name] of this.#objects) {
      if (there.has(key)) continue;
      const [, kind = '', id = ''] = /^(.*) (\d+)$/.exec(key) ?? [];
      this.#object({ kind: kind as ObjectKind, id: Number(id), name }, true, 'poll');
    }
  }

  #tell(news: News): void {
    if (this.#closed) return;
    const key = `${news.what} ${news.name}`;
    if (!this.#news.has(key)) this.#news.set(key, news);
  }
}

function nameKey(schema: string, name: string): string {
  return JSON.stringify([schema, name]);
}

function qualified({ schema, name }: { readonly schema: string; readonly name: string }): string {
  return `${schema}.${name}`;
}
