/** One round trip: rows out of the socket, everything else to `pg`. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { RowHandler } from '../src/postgres/exchange.ts';
import {
  collect,
  COMPLETE,
  dataRow,
  ERROR,
  FakePg,
  message,
  nothing,
  NOTICE,
  READY,
  run,
  turn,
} from './fake-pg.ts';

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
        expect(pg.passed).toEqual(Buffer.concat([...others, READY]));
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
    expect(pg.passed).toEqual(Buffer.concat([READY, NOTICE]));
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
    expect(pg.passed).toEqual(Buffer.concat([NOTICE, READY, after]));
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
