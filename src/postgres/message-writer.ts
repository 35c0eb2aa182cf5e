/**
 * The messages of the extended query protocol, several of them in one write: a round trip may hold a whole transaction.
 * `pg` writes one query at a time, and would ask for one format for all columns.
 * https://www.postgresql.org/docs/current/protocol-message-formats.html
 */

/** In which form the server sends a column's values. */
export type ColumnFormat = 'text' | 'binary';

const PARSE = 0x50;
const BIND = 0x42;
const EXECUTE = 0x45;
const CLOSE = 0x43;
const SYNC = 0x53;
const OF_STATEMENT = 0x53;

export class MessageWriter {
  #bytes = Buffer.allocUnsafe(2048);
  #length = 0;
  /** Where the length of the message at hand stands. */
  #start = 0;

  /** @param name of the statement; empty: one until the next Parse. */
  parse(name: string, sql: string): this {
    this.#begin(PARSE);
    this.#text(name);
    this.#text(sql);
    // No parameter's type is given: the server finds it.
    this.#int16(0);
    return this.#end();
  }

  /**
   * @param values parameters as text.
   * @param formats of the result columns, one for each; one for all of them; none: text.
   */
  bind(
    portal: string,
    statement: string,
    values: readonly (string | null)[] = [],
    formats: readonly ColumnFormat[] = [],
  ): this {
    this.#begin(BIND);
    this.#text(portal);
    this.#text(statement);
    // No format of a parameter is given: all are text.
    this.#int16(0);
    this.#int16(values.length);
    for (const value of values) this.#value(value);
    this.#int16(formats.length);
    for (const format of formats) this.#int16(format === 'binary' ? 1 : 0);
    return this.#end();
  }

  execute(portal: string): this {
    this.#begin(EXECUTE);
    this.#text(portal);
    // All rows.
    this.#int32(0);
    return this.#end();
  }

  /** Forgets a prepared statement; none of that name is no error. */
  closeStatement(name: string): this {
    this.#begin(CLOSE);
    this.#reserve(1);
    this.#bytes[this.#length++] = OF_STATEMENT;
    this.#text(name);
    return this.#end();
  }

  /** One statement without parameters. */
  statement(sql: string): this {
    return this.parse('', sql).bind('', '').execute('');
  }

  /** The end of a round trip: the server answers, and after an error goes on from here. @returns all of it. */
  sync(): Buffer {
    this.#begin(SYNC);
    this.#end();
    return this.#bytes.subarray(0, this.#length);
  }

  #begin(tag: number): void {
    this.#reserve(5);
    this.#bytes[this.#length] = tag;
    this.#start = this.#length + 1;
    this.#length += 5;
  }

  #end(): this {
    this.#bytes.writeInt32BE(this.#length - this.#start, this.#start);
    return this;
  }

  #value(value: string | null): void {
    if (value === null) {
      this.#int32(-1);
      return;
    }
    const size = Buffer.byteLength(value);
    this.#int32(size);
    this.#reserve(size);
    this.#length += this.#bytes.write(value, this.#length);
  }

  #text(value: string): void {
    this.#reserve(3 * value.length + 1);
    this.#length += this.#bytes.write(value, this.#length);
    this.#bytes[this.#length++] = 0;
  }

  #int16(value: number): void {
    this.#reserve(2);
    this.#length = this.#bytes.writeUInt16BE(value, this.#length);
  }

  #int32(value: number): void {
    this.#reserve(4);
    this.#length = this.#bytes.writeInt32BE(value, this.#length);
  }

  #reserve(more: number): void {
    if (this.#length + more <= this.#bytes.length) return;
    const grown = Buffer.allocUnsafe(Math.max(2 * this.#bytes.length, this.#length + more));
    this.#bytes.copy(grown, 0, 0, this.#length);
    this.#bytes = grown;
  }
}
