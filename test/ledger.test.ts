import { describe, expect, it } from 'vitest';
import { Output } from '../src/airbyte/output.ts';
import { Ledger } from '../src/ledger.ts';
import { type Lsn, parseLsn } from '../src/postgres/lsn.ts';
import { completed, type Seen, startHypertable, startTable } from '../src/progress.ts';
import { chunkDoneAmong } from './progress-steps.ts';
import { RecordClock } from '../src/record.ts';
import { parseState, type SharedState, type StreamProgress } from '../src/state.ts';
import { configured, HYPERTABLE, METRICS, NOTES, planned, SOURCE, CDC } from './source-model.ts';
import { planSync } from '../src/plan.ts';

const SHARED: SharedState = {
  lsn: parseLsn('0/10'),
  lsnSeen: '5:5:',
  emittedTo: null,
  cursorFloor: 7,
  slot: 'airbyte_slot',
  publication: 'airbyte_publication',
  publicationOid: 16_400,
  publicationsSeen: '5:5:',
  systemIdentifier: '7300000000000000001',
  timeline: 1,
  columns: null,
  settled: true,
};

const metrics = planned(METRICS);
const notes = planned(NOTES);
const [refreshed] = planSync(
  [configured(NOTES, { sync_mode: 'full_refresh', generation_id: 3, sync_id: 12 })],
  SOURCE,
  CDC,
).streams;
if (refreshed === undefined) throw new Error('no full refresh');

class Book {
  text = '';
  readonly output = new Output((bytes) => {
    this.text += Buffer.from(bytes).toString();
  }, false);
  readonly clock = new RecordClock(SHARED.cursorFloor);
  readonly ledger: Ledger;

  constructor(
    shared: SharedState | null,
    streams = [metrics, notes],
    known: ReadonlyMap<string, StreamProgress> = new Map(),
  ) {
    const kind = shared === null ? 'STREAM' : 'GLOBAL';
    this.ledger = new Ledger(this.output, this.clock, streams, known, kind, shared);
  }

  emit(records: number): void {
    for (let i = 0; i < records; i += 1) {
      this.output.buffer.appendText('{"type":"RECORD"}\n');
      this.output.recordWritten({ records: 0, bytes: 0 });
    }
  }

  /** The states among the lines so far. */
  get states() {
    this.output.flush();
    const lines = this.text.split('\n').slice(0, -1);
    return lines
      .map((line) => JSON.parse(line))
      .filter(({ type }) => type === 'STATE')
      .map(({ state }) => state);
  }

  get last() {
    return this.states.at(-1);
  }
}

const seen: Seen = { visibility: '5:9:7', until: parseLsn('0/40') };
const chunk = { id: 1, oid: 5001, rangeStart: 0n, rangeEnd: 10n };
const read = chunkDoneAmong(startHypertable(HYPERTABLE, [chunk]), chunk, seen, [chunk]);

describe('a state of the whole connection', () => {
  it('holds the position and every stream that has begun', () => {
    const book = new Book(SHARED);
    book.ledger.setRows(metrics, read);
    book.ledger.checkpoint(notes);
    expect(book.last).toMatchObject({
      type: 'GLOBAL',
      global: {
        shared_state: { lsn: '0/10', slot: 'airbyte_slot', cursor_floor: 7 },
        stream_states: [
          {
            stream_descriptor: { name: 'metrics', namespace: 'public' },
            stream_state: { mode: 'cdc', progress: { kind: 'hypertable', complete: false } },
          },
        ],
      },
    });
    book.ledger.setRows(notes, completed(startTable()));
    book.ledger.checkpoint(notes);
    expect(book.last.global.stream_states).toHaveLength(2);
  });

  it('is what the next sync goes on from', () => {
    const book = new Book(SHARED);
    book.ledger.setRows(metrics, read);
    book.ledger.setRows(notes, completed(startTable()));
    book.clock.next();
    book.ledger.checkpoint(notes, true);
    const state = parseState([book.last], [metrics.name, notes.name]);
    expect(state.shared).toEqual({ ...SHARED, cursorFloor: 8 });
    const next = new Book(state.shared, [notes, metrics], state.streams);
    expect(next.ledger.get(metrics)).toEqual({ mode: 'cdc', progress: read });
    expect(next.ledger.rows(notes)).toEqual(completed(startTable()));
  });

  it('tells whether it is the last one of its sync', () => {
    const book = new Book(SHARED);
    book.ledger.checkpoint(notes);
    book.ledger.checkpoint(notes, true);
    book.ledger.checkpoint(notes);
    expect(book.states.map((state) => state.global.shared_state.settled)).toEqual([
      false,
      true,
      false,
    ]);
  });

  it('has the order token that was given out last', () => {
    const book = new Book(SHARED);
    const token = Array.from({ length: 3 }, () => book.clock.next()).at(-1);
    book.ledger.checkpoint(notes);
    expect(book.last.global.shared_state.cursor_floor).toBe(token);
  });

  it('counts the records of all streams since the state before', () => {
    const book = new Book(SHARED);
    for (const count of [3, 0, 2]) {
      book.emit(count);
      book.ledger.checkpoint(notes);
    }
    expect(book.states.map(({ sourceStats }) => sourceStats)).toEqual([
      { recordCount: 3 },
      { recordCount: 0 },
      { recordCount: 2 },
    ]);
  });

  it('comes after the records that it tells of', () => {
    const book = new Book(SHARED);
    book.emit(2);
    book.ledger.checkpoint(notes);
    expect(book.text.split('\n').map((line) => line.slice(0, 14))).toEqual([
      '{"type":"RECOR',
      '{"type":"RECOR',
      '{"type":"STATE',
      '',
    ]);
  });

  it('holds full refreshes too, with their ids', () => {
    const book = new Book(SHARED, [metrics, refreshed]);
    book.ledger.setRows(refreshed, startTable());
    book.ledger.checkpoint(refreshed);
    expect(book.last.global.stream_states[0].stream_state).toMatchObject({
      mode: 'full_refresh',
      refresh: '3/12',
    });
  });

  it('has no position where no stream has changes to follow', () => {
    const output = new Output(() => undefined, false);
    const written: unknown[] = [];
    output.message = (message) => written.push(message);
    const streams = [refreshed];
    const ledger = new Ledger(output, new RecordClock(0), streams, new Map(), 'GLOBAL', null);
    ledger.setRows(refreshed, startTable());
    ledger.checkpoint(refreshed);
    expect(written).toMatchObject([
      { type: 'STATE', state: { type: 'GLOBAL', global: { shared_state: {} } } },
    ]);
  });

  it('does not hold what was read of a stream in another sync mode', () => {
    const known = new Map([[refreshed.key, { mode: 'cdc', progress: startTable() } as const]]);
    expect(new Book(SHARED, [refreshed], known).ledger.get(refreshed)).toBeUndefined();
    expect(new Book(SHARED, [notes], known).ledger.get(notes)).toBeDefined();
  });

  it('does not hold streams that are not of this sync', () => {
    const orphan = new Map([['public\u0000old', { mode: 'cdc', progress: startTable() } as const]]);
    const book = new Book(SHARED, [notes], orphan);
    book.ledger.checkpoint(notes);
    expect(book.last.global.stream_states).toEqual([]);
  });
});

describe('a state of one stream', () => {
  it('holds that stream and counts its records', () => {
    const book = new Book(null);
    book.ledger.setRows(metrics, read);
    book.ledger.setRows(notes, startTable());
    book.emit(4);
    book.ledger.checkpoint(notes);
    expect(book.states).toEqual([
      {
        type: 'STREAM',
        stream: {
          stream_descriptor: { name: 'notes', namespace: 'public' },
          stream_state: expect.objectContaining({ mode: 'cdc' }),
        },
        sourceStats: { recordCount: 4 },
      },
    ]);
    book.ledger.checkpoint(metrics);
    expect(book.last.sourceStats).toEqual({ recordCount: 0 });
  });

  it('is not written before the stream has begun, and its records stay counted', () => {
    const book = new Book(null);
    book.emit(1);
    book.ledger.checkpoint(notes);
    expect(book.states).toEqual([]);
    expect(book.output.recordsSinceState).toBe(1);
  });

  it('has no position', () => {
    const { ledger } = new Book(null);
    expect(() => ledger.position).toThrow('without CDC');
    expect(() => ledger.passed(1n as Lsn)).toThrow('without CDC');
  });
});

describe('the progress of rows', () => {
  it('keeps the mode that it has', () => {
    const cursor: StreamProgress = {
      mode: 'cursor',
      cursorField: 'ts',
      cursorType: 'timestamptz',
      cursor: '7',
      upper: '9',
      progress: null,
    };
    const { ledger } = new Book(null);
    ledger.set(notes, cursor);
    expect(ledger.rows(notes)).toBeUndefined();
    ledger.setRows(notes, startTable());
    expect(ledger.get(notes)).toEqual({ ...cursor, progress: startTable() });
  });

  it('is unknown before the first step', () => {
    const { ledger } = new Book(SHARED);
    expect([ledger.get(notes), ledger.rows(notes)]).toEqual([undefined, undefined]);
  });
});

describe('a position that the stream has passed', () => {
  it('is the position of the next state', () => {
    const book = new Book(SHARED);
    expect(book.ledger.position).toBe(0x10n);
    book.ledger.passed(parseLsn('1/0'));
    expect(book.ledger.position).toBe(2n ** 32n);
    book.ledger.checkpoint(notes);
    expect(book.last.global.shared_state.lsn).toBe('1/0');
  });

  it.each([
    ['0/3F', 1],
    ['0/40', 0],
  ])('at %s leaves %d visibilities of reads', (position, left) => {
    const { ledger } = new Book(SHARED);
    ledger.setRows(metrics, read);
    ledger.passed(parseLsn(position));
    const rows = ledger.rows(metrics);
    expect(rows?.kind === 'hypertable' && rows.seen.size).toBe(left);
  });

  it('says nothing of a full refresh, which no stream follows', () => {
    const book = new Book(SHARED, [refreshed]);
    const rows = { ...completed(startTable()), seen };
    book.ledger.setRows(refreshed, rows);
    book.ledger.passed(parseLsn('1/0'));
    expect(book.ledger.rows(refreshed)).toBe(rows);
  });
});
