import { describe, expect, it } from 'vitest';
import { Output } from '../src/airbyte/output.ts';
import type { AirbyteMessage, LogLevel } from '../src/airbyte/protocol.ts';

class Sink {
  text = '';
  writes = 0;
  failure: Error | null = null;

  readonly write = (bytes: Uint8Array): void => {
    if (this.failure !== null) throw this.failure;
    this.writes += 1;
    this.text += Buffer.from(bytes).toString();
  };

  get lines(): readonly string[] {
    return this.text.split('\n').slice(0, -1);
  }
}

function start(debug = false): { readonly sink: Sink; readonly output: Output } {
  const sink = new Sink();
  return { sink, output: new Output(sink.write, debug) };
}

function record(output: Output, text: string): void {
  output.buffer.appendText(`${text}\n`);
  output.recordWritten({ records: 0, bytes: 0 });
}

const log = (message: string): AirbyteMessage => ({ type: 'LOG', log: { level: 'INFO', message } });

describe('the order of calls is the order of lines', () => {
  it('of records and messages alike', () => {
    const { sink, output } = start();
    record(output, 'one');
    output.message(log('two'));
    record(output, 'three');
    record(output, 'four');
    output.log('WARN', 'five');
    record(output, 'six');
    output.flush();
    expect(sink.lines).toEqual([
      'one',
      JSON.stringify(log('two')),
      'three',
      'four',
      '{"type":"LOG","log":{"level":"WARN","message":"five"}}',
      'six',
    ]);
  });

  it('however large a record is', () => {
    const { sink, output } = start();
    const large = 'x'.repeat(1_000_000);
    for (const text of ['a', large, 'b']) record(output, text);
    output.flush();
    expect(sink.lines).toEqual(['a', large, 'b']);
  });
});

describe('a message', () => {
  it('is written at once, with the records before it', () => {
    const { sink, output } = start();
    record(output, 'one');
    expect(sink.text).toBe('');
    output.message(log('two'));
    expect(sink.lines).toHaveLength(2);
    expect(output.buffer.length).toBe(0);
  });

  it('is one line for every reader, and says the same', () => {
    const { sink, output } = start();
    const message = log(
      'a\u0085b\u2028c\u2029d\ne\r\u000bf \u2027\u202a \u00e9 \ud83d\ude80 \ud800',
    );
    output.message(message);
    expect(sink.lines).toHaveLength(1);
    expect(sink.text.slice(0, -1)).not.toMatch(/[\u0085\u2028\u2029\n\r]/);
    expect(sink.text).toContain('a\\u0085b\\u2028c\\u2029d');
    expect(JSON.parse(sink.text)).toEqual(message);
  });
});

describe('records', () => {
  it('are written in large pieces, never half a line', () => {
    const { sink, output } = start();
    const lines = Array.from({ length: 10_000 }, (_, index) => `record ${index}`);
    for (const line of lines) {
      record(output, line);
      expect(sink.text === '' || sink.text.endsWith('\n')).toBe(true);
    }
    expect(sink.writes).toBe(1);
    output.flush();
    expect(sink.lines).toEqual(lines);
    expect(sink.writes).toBe(2);
  });

  it('are counted from one STATE to the next', () => {
    const { output } = start();
    expect(output.recordsSinceState).toBe(0);
    record(output, 'one');
    output.message(log('no record'));
    record(output, 'two');
    output.flush();
    expect(output.recordsSinceState).toBe(2);
    output.stateWritten();
    expect(output.recordsSinceState).toBe(0);
    record(output, 'three');
    expect(output.recordsSinceState).toBe(1);
  });
});

describe('logs', () => {
  it.each<[boolean, readonly LogLevel[]]>([
    [false, ['FATAL', 'ERROR', 'WARN', 'INFO']],
    [true, ['FATAL', 'ERROR', 'WARN', 'INFO', 'DEBUG']],
  ])('with debug %s are those of the levels %j', (debug, written) => {
    const { sink, output } = start(debug);
    const levels: readonly LogLevel[] = ['FATAL', 'ERROR', 'WARN', 'INFO', 'DEBUG', 'TRACE'];
    for (const level of levels) output.log(level, 'x');
    expect(sink.lines.map((line) => JSON.parse(line).log.level)).toEqual(written);
  });
});

describe('a reader that has gone', () => {
  const gone = new Error('EPIPE');

  it.each<[string, (output: Output) => void]>([
    ['a message', (output) => output.message(log('x'))],
    ['a log', (output) => output.log('ERROR', 'x')],
    ['a status', (output) => output.status({ name: 'a', namespace: 'b' }, 'STARTED')],
    ['flushing', (output) => output.flush()],
    ['a record that fills the buffer', (output) => record(output, 'x'.repeat(70_000))],
  ])('is told to the caller by %s', (_, call) => {
    const { sink, output } = start();
    record(output, 'one');
    sink.failure = gone;
    expect(() => call(output)).toThrow(gone);
  });

  it('does not get the same bytes twice', () => {
    const { sink, output } = start();
    record(output, 'one');
    sink.failure = gone;
    expect(() => output.flush()).toThrow(gone);
    sink.failure = null;
    output.message(log('two'));
    expect(sink.lines).toEqual([JSON.stringify(log('two'))]);
  });
});

describe('flushing', () => {
  it('writes nothing where there is nothing', () => {
    const { sink, output } = start();
    output.flush();
    record(output, 'one');
    output.flush();
    output.flush();
    expect([sink.writes, sink.lines]).toEqual([1, ['one']]);
  });
});
