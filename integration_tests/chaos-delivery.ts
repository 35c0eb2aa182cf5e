/** What arrives of each sync: a destination that may lose what came after the last STATE, or store an older STATE. */
import { createWriteStream, type WriteStream } from 'node:fs';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { canonicalValue } from './canonical-values.ts';
import { Destination } from './destination.ts';
import {
  type ConfiguredCatalog,
  type Message,
  type RecordMessage,
  type StateMessage,
} from './messages.ts';
import type { Random } from './writers.ts';

export class Delivery {
  readonly destination: Destination;
  /** The notes that ever arrived, by stream: of streams without a key. */
  readonly notes = new Map<string, Set<string>>();
  records = 0;
  syncs = 0;
  readonly #folder: string;
  #file: WriteStream | null = null;
  #pending: Message[] = [];
  #states: StateMessage[] = [];

  constructor(catalog: ConfiguredCatalog, folder: string) {
    this.destination = new Destination(catalog);
    this.#folder = folder;
    for (const { stream } of catalog.streams) {
      if (stream.source_defined_primary_key.length === 0) this.notes.set(stream.name, new Set());
    }
  }

  begin(): void {
    this.syncs += 1;
    this.#file = createWriteStream(this.#path(this.syncs));
    this.#pending = [];
    this.#states = [];
  }

  async see(message: Message): Promise<void> {
    if (this.#file?.write(`${JSON.stringify(message)}\n`) === false) {
      await once(this.#file, 'drain');
    }
    if (message.type !== 'RECORD' && message.type !== 'STATE') return;
    this.#pending.push(message);
    if (message.type === 'RECORD') return;
    this.#states.push(message);
    this.#flush();
  }

  /** @returns what became of the end of the sync. */
  async end(random: Random, interrupted: boolean, exact: boolean): Promise<string> {
    const file = this.#file;
    if (file !== null) {
      file.end();
      await once(file, 'close');
    }
    const choice = exact ? 9 : random.below(interrupted ? 6 : 20);
    if (interrupted && choice < 2) {
      const lost = this.#pending.length;
      this.#pending = [];
      return `${lost} records behind the last state were lost`;
    }
    this.#flush();
    if (choice !== 2 || this.#states.length < 2) return 'all was kept';
    const stored = random.below(this.#states.length - 1);
    this.destination.state = [this.#states[stored]!.state];
    return `all was kept, but state ${stored + 1} of ${this.#states.length} is stored`;
  }

  /** Every record of a row, over all syncs. @param identity columns and the values that a row has in them. */
  async history(
    stream: string,
    identity: ReadonlyMap<string, string>,
  ): Promise<{ readonly sync: number; readonly line: number; readonly data: string }[]> {
    const found = [];
    for (let sync = 1; sync <= this.syncs; sync += 1) {
      const lines = (await readFile(this.#path(sync), 'utf8')).split('\n');
      for (const [index, line] of lines.entries()) {
        if (!line.startsWith(`{"type":"RECORD"`) || !line.includes(`"${stream}"`)) continue;
        const { record } = JSON.parse(line) as RecordMessage;
        if (record.stream !== stream) continue;
        const same = [...identity].every(
          ([column, value]) => canonicalValue(record.data[column]).replace(/^"/, '') === value,
        );
        if (same) found.push({ sync, line: index + 1, data: JSON.stringify(record.data) });
      }
    }
    return found;
  }

  #flush(): void {
    for (const message of this.#pending) {
      this.destination.applyMessage(message);
      if (message.type !== 'RECORD') continue;
      this.records += 1;
      const { note } = message.record.data;
      if (typeof note === 'string') this.notes.get(message.record.stream)?.add(note);
    }
    this.#pending = [];
  }

  #path(sync: number): string {
    return join(this.#folder, `sync-${String(sync).padStart(3, '0')}.jsonl`);
  }
}
