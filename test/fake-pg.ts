/** `pg` played by a few lines, and the server by bytes. */
import { Duplex } from 'node:stream';
import type { Client, Submittable } from 'pg';
import type { RowHandler } from '../src/postgres/exchange.ts';
import { executePortal } from '../src/postgres/hot-reader.ts';

type Exchange = Submittable & {
  handleError(error: unknown): void;
  handleReadyForQuery(): void;
};

export function message(tag: string, body: Buffer | string = ''): Buffer {
  const length = Buffer.alloc(4);
  const bytes = Buffer.from(body as string);
  length.writeUInt32BE(bytes.length + 4);
  return Buffer.concat([Buffer.from(tag), length, bytes]);
}

export const dataRow = (body: Buffer | string): Buffer => message('D', body);
export const COMPLETE = message('C', 'SELECT 3\0');
export const READY = message('Z', 'T');
export const ERROR = message('E', 'SERROR\0C57014\0Mcancelled\0\0');
export const NOTICE = message('N', 'SNOTICE\0Mhello\0\0');

/** `pg`, as far as the reader touches it: one query at a time, and a listener that understands E and Z. */
export class FakePg {
  readonly writes: Buffer[] = [];
  readonly stream = new Duplex({
    read: () => undefined,
    write: (_chunk, _encoding, done) => done(),
  });
  /** Everything that came through to `pg`. */
  passed = Buffer.alloc(0);
  #exchange: Exchange | null = null;

  constructor() {
    this.stream.on('error', () => undefined);
    this.stream.on('data', this.listener);
    const write = this.stream.write.bind(this.stream);
    this.stream.write = ((bytes: Buffer) => {
      this.writes.push(bytes);
      return write(bytes);
    }) as Duplex['write'];
  }

  readonly listener = (bytes: Buffer): void => {
    this.passed = Buffer.concat([this.passed, bytes]);
    for (let at = 0; at + 5 <= bytes.length; at += 1 + bytes.readUInt32BE(at + 1)) {
      const tag = String.fromCharCode(bytes[at] ?? 0);
      if (tag === 'E') this.fail(Object.assign(new Error('cancelled'), { code: '57014' }));
      if (tag === 'Z') this.#exchange?.handleReadyForQuery();
    }
  };

  readonly client = this.#makeClient();

  #makeClient(): Client {
    const connection = { stream: this.stream };
    const query = (exchange: Exchange): void => {
      this.#exchange = exchange;
      exchange.submit(connection as never);
    };
    return { query } as unknown as Client;
  }

  fail(error: Error): void {
    this.#exchange?.handleError(error);
  }

  /** What the server sends, in pieces of these lengths. */
  send(bytes: Buffer, cuts: readonly number[] = []): void {
    let at = 0;
    for (const cut of cuts) {
      if (at + cut >= bytes.length) break;
      this.stream.push(bytes.subarray(at, at + cut));
      at += cut;
    }
    this.stream.push(bytes.subarray(at));
  }
}

/** Runs a portal whose server sends these messages. */
export async function run(
  pg: FakePg,
  messages: readonly Buffer[],
  onRow: RowHandler,
  cuts: readonly number[] = [],
): Promise<number> {
  const done = executePortal(pg.client, 'rows', onRow);
  pg.send(Buffer.concat(messages), cuts);
  return done;
}

export const nothing: RowHandler = () => undefined;

export function collect(rows: string[]): RowHandler {
  return (src, start, end) => {
    rows.push(src.toString('latin1', start, end));
    return undefined;
  };
}

export const turn = async (): Promise<void> => {
  await new Promise<void>((resolve) => {
    setImmediate(resolve);
  });
};
