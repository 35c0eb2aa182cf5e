/** What is written to the server, and what is made of its answer. */
import { describe, expect, it } from 'vitest';
import { bindPortal, executePortal, queryRow, readChecked } from '../src/postgres/hot-reader.ts';
import {
  collect,
  COMPLETE,
  dataRow,
  ERROR,
  FakePg,
  message,
  nothing,
  READY,
  run,
  turn,
} from './fake-pg.ts';

/** The messages of a write: tag and body. */
function sent(bytes: Buffer): [string, string][] {
  const messages: [string, string][] = [];
  for (let at = 0; at < bytes.length; at += 1 + bytes.readUInt32BE(at + 1)) {
    const end = at + 1 + bytes.readUInt32BE(at + 1);
    messages.push([bytes.toString('latin1', at, at + 1), bytes.toString('latin1', at + 5, end)]);
  }
  return messages;
}

const tags = (pg: FakePg): string[] =>
  pg.writes.map((bytes) =>
    sent(bytes)
      .map(([tag]) => tag)
      .join(''),
  );

describe('on the wire', () => {
  it('Parse, Bind and Sync leave in one write', async () => {
    const pg = new FakePg();
    const done = bindPortal(pg.client, 'rows', 'SELECT $1', ['1', null], ['text', 'binary']);
    const formats = '\0\x02\0\0\0\x01';
    const values = '\0\x02\0\0\0\x011\xff\xff\xff\xff';
    expect(pg.writes.map(sent)).toEqual([
      [
        ['P', '\0SELECT $1\0\0\0'],
        ['B', `rows\0\0\0\0${values}${formats}`],
        ['S', ''],
      ],
    ]);
    pg.send(Buffer.concat([message('1'), message('2'), READY]));
    await done;
    expect(pg.passed).toEqual(READY);
    expect(pg.stream.listeners('data')).toEqual([pg.listener]);
  });

  it('statements before it are in the same write, however long', async () => {
    const pg = new FakePg();
    const long = `LOCK TABLE "${'ß'.repeat(3000)}"`;
    const done = bindPortal(pg.client, 'rows', 'SELECT 1', [], [], ['BEGIN', long]);
    expect(tags(pg)).toEqual(['PBEPBEPBS']);
    expect(pg.writes.flatMap(sent)[3]?.[1]).toBe(Buffer.from(`\0${long}\0\0\0`).toString('latin1'));
    pg.send(READY);
    await done;
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
    expect(pg.writes.flatMap(sent)).toEqual([
      ['E', 'rows\0\0\0\0\0'],
      ['S', ''],
    ]);
  });
});

describe('rows that are not taken before a moment', () => {
  it('wait in the socket, and come whole then', async () => {
    const pg = new FakePg();
    let open = (): void => undefined;
    const ready = new Promise<void>((resolve) => {
      open = resolve;
    });
    const rows: string[] = [];
    const done = executePortal(pg.client, 'rows', collect(rows), [], ready);
    pg.send(Buffer.concat([dataRow('a'), dataRow('b'), COMPLETE, READY]), [9]);
    await turn();
    expect([rows, pg.stream.isPaused(), pg.writes.length]).toEqual([[], true, 1]);
    open();
    expect(await done).toBe(2);
    expect(rows).toEqual(['a', 'b']);
    await turn();
    expect(pg.stream.isPaused()).toBe(false);
  });

  it('a connection that breaks meanwhile ends it', async () => {
    const pg = new FakePg();
    const done = executePortal(pg.client, 'rows', nothing, [], new Promise(() => undefined));
    pg.stream.destroy();
    pg.fail(new Error('Connection terminated'));
    await expect(done).rejects.toThrow('Connection terminated');
  });
});

/** A row of these columns, as the body of a DataRow. */
function columns(...values: readonly (string | null)[]): Buffer {
  const count = Buffer.from([0, values.length]);
  const parts = values.map((value) => {
    const size = Buffer.alloc(4);
    size.writeInt32BE(value === null ? -1 : Buffer.byteLength(value));
    return Buffer.concat([size, Buffer.from(value ?? '')]);
  });
  return dataRow(Buffer.concat([count, ...parts]));
}

const CHECK = { name: 'check', sql: 'SELECT now', values: ['7'] };

describe('a query of one row', () => {
  it('is prepared once in each session', async () => {
    const pg = new FakePg();
    const { client } = pg;
    for (const value of ['ä', '']) {
      const row = queryRow(client, CHECK);
      pg.send(Buffer.concat([message('2'), columns(value, null), COMPLETE, READY]));
      expect(await row).toEqual([value, null]);
    }
    expect(tags(pg)).toEqual(['CPBES', 'BES']);
  });

  it('is prepared again when its exchange failed', async () => {
    const pg = new FakePg();
    const { client } = pg;
    const failed = queryRow(client, CHECK);
    pg.send(Buffer.concat([message('3'), message('1'), ERROR, READY]));
    await expect(failed).rejects.toMatchObject({ code: '57014' });
    const row = queryRow(client, CHECK);
    pg.send(Buffer.concat([columns('x'), COMPLETE, READY]));
    expect(await row).toEqual(['x']);
    expect(tags(pg)).toEqual(['CPBES', 'CPBES']);
  });

  it('may have none', async () => {
    const pg = new FakePg();
    const row = queryRow(pg.client, CHECK);
    pg.send(Buffer.concat([COMPLETE, READY]));
    expect(await row).toEqual([]);
  });
});

describe('a read behind a check', () => {
  const read = {
    before: ['BEGIN'],
    sql: 'SELECT * FROM t',
    values: [],
    formats: [],
    check: CHECK,
    after: ['COMMIT'],
  };
  const answer = Buffer.concat([columns('ok'), columns('a'), columns('b'), COMPLETE, READY]);

  it('is one write: the rows are bound before the check and sent behind it', async () => {
    const pg = new FakePg();
    const done = readChecked(pg.client, read, () => Promise.resolve(), nothing);
    // BEGIN; the rows; the check; the rows' Execute; COMMIT.
    expect(tags(pg)).toEqual([['PBE', 'PB', 'CPBE', 'E', 'PBE', 'S'].join('')]);
    pg.send(answer);
    expect(await done).toBe(2);
  });

  it('hands out no row before the check is judged', async () => {
    const pg = new FakePg();
    let pass = (): void => undefined;
    const checks: unknown[] = [];
    const rows: number[] = [];
    const admit = (row: unknown): Promise<void> => {
      checks.push(row);
      return new Promise((resolve) => {
        pass = resolve;
      });
    };
    const done = readChecked(pg.client, read, admit, (_, start, end) => {
      rows.push(end - start);
      return undefined;
    });
    pg.send(answer, [9, 30]);
    await turn();
    expect([checks, rows]).toEqual([[['ok']], []]);
    pass();
    expect(await done).toBe(2);
    expect([checks.length, rows.length]).toEqual([1, 2]);
  });

  it('hands out none, and gives the session up, when it is not let pass', async () => {
    const pg = new FakePg();
    let rows = 0;
    const refuse = (): Promise<void> => turn().then(() => Promise.reject(new Error('changed')));
    const done = readChecked(pg.client, read, refuse, () => {
      rows += 1;
      return undefined;
    });
    pg.send(answer);
    await expect(done).rejects.toThrow('changed');
    await turn();
    expect([rows, pg.stream.destroyed]).toEqual([0, true]);
  });
});
