/** The reader of rows, with `pg` played by a few lines and the server by bytes. */
import { Duplex } from 'node:stream';
import fc from 'fast-check';
import type { Client, Submittable } from 'pg';
import { describe, expect, it } from 'vitest';
import type { RowHandler } from '../src/postgres/exchange.ts';
import { bindPortal, executePortal } from '../src/postgres/hot-reader.ts';

type Exchange = Submittable & {
  handleError(error: unknown): void;
  handleReadyForQuery(): void;
};

function message(tag: string, body: Buffer | string = ''): Buffer {
  const length = Buffer.alloc(4);
  const bytes = Buffer.from(body as string);
  length.writeUInt32BE(bytes.length + 4);
  return Buffer.concat([Buffer.from(tag), length, bytes]);
}

const dataRow = (body: Buffer | string): Buffer => message('D', body);
const COMPLETE = message('C', 'SELECT 3\0');
const READY = message('Z', 'T');
const ERROR = message('E', 'SERROR\0C57014\0Mcancelled\0\0');
const NOTICE = message('N', 'SNOTICE\0Mhello\0\0');

/** `pg`, as far as the reader touches it: one query at a time, and a listener that understands E and Z. */
class FakePg {
  readonly calls: string[] = [];
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
    for (const name of ['cork', 'uncork'] as const) {
      const original = this.stream[name].bind(this.stream);
      this.stream[name] = () => {
        this.calls.push(name);
        original();
      };
    }
    const write = this.stream.write.bind(this.stream);
    this.stream.write = ((bytes: Buffer) => {
      this.calls.push(`write ${bytes.toString('latin1')}`);
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

  get client(): Client {
    const note =
      (name: string) =>
      (...args: readonly unknown[]): void => {
        this.calls.push([name, ...args.map((arg) => JSON.stringify(arg))].join(' '));
      };
    const connection = {
      stream: this.stream,
      parse: note('parse'),
      execute: note('execute'),
      sync: note('sync'),
    };
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
async function run(
  pg: FakePg,
  messages: readonly Buffer[],
  onRow: RowHandler,
  cuts: readonly number[] = [],
): Promise<number> {
  const done = executePortal(pg.client, 'rows', onRow);
  pg.send(Buffer.concat(messages), cuts);
  return done;
}

const nothing: RowHandler = () => undefined;

function collect(rows: string[]): RowHandler {
  return (src, start, end) => {
    rows.push(src.toString('latin1', start, end));
    return undefined;
  };
}

const turn = async (): Promise<void> => {
  await new Promise<void>((resolve) => {
    setImmediate(resolve);
  });
};

describe('rows', () => {
  it('arrive whole and in order, however the bytes are cut and however long each takes', async () => {
    const rowsAndNotices = fc.array(
      fc.oneof(
        {
          weight: 5,
          arbitrary: fc.uint8Array({ maxLength: 40 }).map((body) => dataRow(Buffer.from(body))),
        },
        { weight: 1, arbitrary: fc.constant(NOTICE) },
      ),
      { maxLength: 12 },
    );
    const cuts = fc.array(fc.integer({ min: 1, max: 60 }), { maxLength: 8 });
    const slow = fc.func(fc.boolean());
    await fc.assert(
      fc.asyncProperty(rowsAndNotices, cuts, slow, async (messages, pieces, isSlow) => {
        const pg = new FakePg();
        const rows: string[] = [];
        let busy = false;
        const count = await run(
          pg,
          [...messages, COMPLETE, READY],
          (src, start, end) => {
            expect(busy).toBe(false);
            const text = src.toString('latin1', start, end);
            rows.push(text);
            if (!isSlow(rows.length)) return undefined;
            busy = true;
            return turn().then(() => {
              // Valid until the promise settles.
              expect(src.toString('latin1', start, end)).toBe(text);
              busy = false;
            });
          },
          pieces,
        );
        const sent = messages.filter((each) => each[0] === 0x44);
        expect(rows).toEqual(sent.map((each) => each.toString('latin1', 5)));
        expect(count).toBe(sent.length);
        const others = messages.filter((each) => each[0] !== 0x44);
        expect(pg.passed).toEqual(Buffer.concat([...others, COMPLETE, READY]));
        expect(pg.stream.listeners('data')).toEqual([pg.listener]);
      }),
      { numRuns: 80 },
    );
  });

  it('may be larger than any buffer', async () => {
    const large = 'x'.repeat(3_000_000);
    const rows: string[] = [];
    const cuts = Array.from({ length: 40 }, () => 70_000);
    await run(
      new FakePg(),
      ['a', large, 'b'].map(dataRow).concat(COMPLETE, READY),
      collect(rows),
      cuts,
    );
    expect(rows.map((row) => row.length)).toEqual([1, large.length, 1]);
    expect(rows[1] === large).toBe(true);
  });

  it('may be none', async () => {
    expect(await run(new FakePg(), [COMPLETE, READY], nothing)).toBe(0);
  });

  it('are read again with the same session', async () => {
    const pg = new FakePg();
    for (const text of ['a', 'b']) {
      const rows: string[] = [];
      expect(await run(pg, [dataRow(text), COMPLETE, READY], collect(rows))).toBe(1);
      expect(rows).toEqual([text]);
    }
  });
});

describe('while a handler is busy', () => {
  it('nothing is read, and then everything', async () => {
    const pg = new FakePg();
    let release = (): void => undefined;
    const rows: string[] = [];
    const done = run(
      pg,
      ['a', 'b', 'c'].map(dataRow).concat(COMPLETE, READY),
      (src, start, end) => {
        rows.push(src.toString('latin1', start, end));
        if (rows.length > 1) return undefined;
        return new Promise((resolve) => {
          release = resolve;
        });
      },
    );
    await turn();
    expect([rows, pg.stream.isPaused()]).toEqual([['a'], true]);
    pg.send(NOTICE);
    await turn();
    expect([rows, pg.passed.length]).toEqual([['a'], 0]);
    release();
    await done;
    expect(rows).toEqual(['a', 'b', 'c']);
    await turn();
    expect(pg.passed).toEqual(Buffer.concat([COMPLETE, READY, NOTICE]));
    expect(pg.stream.isPaused()).toBe(false);
  });

  it('bytes that a socket delivers all the same wait for their turn', async () => {
    const pg = new FakePg();
    const rows: string[] = [];
    let busy = 0;
    const done = run(pg, [dataRow('a')], async (src, start, end) => {
      busy += 1;
      rows.push(`${src.toString('latin1', start, end)} ${busy}`);
      await turn();
      busy -= 1;
    });
    await turn();
    pg.stream.emit('data', Buffer.concat([dataRow('b'), dataRow('c')]));
    pg.stream.emit('data', Buffer.concat([COMPLETE, READY]));
    await done;
    expect(rows).toEqual(['a 1', 'b 1', 'c 1']);
  });
});

describe('what is no row belongs to pg', () => {
  it('also what comes behind the end in one piece', async () => {
    const pg = new FakePg();
    const after = message('A', 'notification');
    await run(pg, [NOTICE, dataRow('a'), COMPLETE, READY, after], nothing);
    expect(pg.passed).toEqual(Buffer.concat([NOTICE, COMPLETE, READY, after]));
  });

  it('and after the end even what looks like a row', async () => {
    const pg = new FakePg();
    const rows: string[] = [];
    await run(pg, [dataRow('ours'), COMPLETE, READY, dataRow('theirs')], collect(rows));
    pg.send(dataRow('theirs, too'));
    await turn();
    expect(rows).toEqual(['ours']);
    expect(pg.passed.toString('latin1')).toContain('theirs, too');
  });

  it('with all of its listeners, in their order', async () => {
    const pg = new FakePg();
    const second = (): void => undefined;
    pg.stream.on('data', second);
    await run(pg, [dataRow('a'), COMPLETE, READY], nothing);
    expect(pg.stream.listeners('data')).toEqual([pg.listener, second]);
  });
});

describe("the server's error", () => {
  it('ends the read with itself, after the rows before it', async () => {
    const pg = new FakePg();
    const rows: string[] = [];
    const done = run(pg, [dataRow('a'), dataRow('b'), ERROR, READY], collect(rows));
    await expect(done).rejects.toMatchObject({ message: 'cancelled', code: '57014' });
    expect(rows).toEqual(['a', 'b']);
    expect(pg.passed).toEqual(Buffer.concat([ERROR, READY]));
    expect(pg.stream.listeners('data')).toEqual([pg.listener]);
    expect(pg.stream.destroyed).toBe(false);
  });
});

describe('a handler that fails', () => {
  const failing: readonly (readonly [string, RowHandler])[] = [
    [
      'by throwing',
      () => {
        throw new Error('stdout is closed');
      },
    ],
    ['by its promise', () => turn().then(() => Promise.reject(new Error('stdout is closed')))],
  ];

  it.each(failing)('breaks the session off: %s', async (_, handler) => {
    const pg = new FakePg();
    let calls = 0;
    const done = run(pg, ['a', 'b'].map(dataRow).concat(COMPLETE, READY), (...args) => {
      calls += 1;
      return handler(...args);
    });
    await expect(done).rejects.toThrow('stdout is closed');
    await turn();
    expect(calls).toBe(1);
    expect(pg.stream.destroyed).toBe(true);
    // What follows may begin within a message.
    expect(pg.stream.listeners('data')).toEqual([]);
  });
});

describe('a connection that breaks', () => {
  const broken = new Error('Connection terminated unexpectedly');

  it('ends the read, and hands nothing that is left to `pg`', async () => {
    const pg = new FakePg();
    const done = run(pg, [dataRow('a'), dataRow('half').subarray(0, 6)], nothing);
    await turn();
    pg.stream.destroy();
    pg.fail(broken);
    await expect(done).rejects.toBe(broken);
    // What follows may begin within a message.
    expect(pg.stream.listeners('data')).toEqual([]);
  });

  it('while a handler is busy: the rows behind it are not handed out any more', async () => {
    const pg = new FakePg();
    let release = (): void => undefined;
    let calls = 0;
    const done = run(pg, ['a', 'b', 'c'].map(dataRow), () => {
      calls += 1;
      return new Promise((resolve) => {
        release = resolve;
      });
    });
    await turn();
    pg.stream.destroy();
    pg.fail(broken);
    await expect(done).rejects.toBe(broken);
    release();
    await turn();
    expect(calls).toBe(1);
  });
});

describe('on the wire', () => {
  it('Parse, Bind and Sync leave in one write', async () => {
    const pg = new FakePg();
    const done = bindPortal(pg.client, 'rows', 'SELECT $1', ['1', null], ['text', 'binary']);
    const formats = '\0\x02\0\0\0\x01';
    const values = '\0\x02\0\0\0\x011\xff\xff\xff\xff';
    const bind = Buffer.from(`rows\0\0\0\0${values}${formats}`, 'latin1');
    expect(pg.calls).toEqual([
      'cork',
      'parse {"name":"","text":"SELECT $1","types":[]}',
      `write ${message('B', bind).toString('latin1')}`,
      'sync',
      'uncork',
    ]);
    pg.send(Buffer.concat([message('1'), message('2'), READY]));
    await done;
    expect(pg.stream.listeners('data')).toEqual([pg.listener]);
  });

  it('a refused statement is told by Bind', async () => {
    const pg = new FakePg();
    const done = bindPortal(pg.client, 'rows', 'SELEKT');
    pg.send(Buffer.concat([ERROR, READY]));
    await expect(done).rejects.toMatchObject({ code: '57014' });
  });

  it('Execute asks for all rows at once', async () => {
    const pg = new FakePg();
    await run(pg, [COMPLETE, READY], nothing);
    expect(pg.calls).toEqual(['cork', 'execute {"portal":"rows","rows":0}', 'sync', 'uncork']);
  });
});
