/** How the demonstration looks on a terminal, or in a file. */

const MARGIN = '  ';
const WIDTH = 92;

const CODES = { bold: 1, dim: 2, red: 31, green: 32, cyan: 36 } as const;

export type Style = keyof typeof CODES;

export type Cell = string | number;

export class Printer {
  readonly #out: NodeJS.WriteStream;
  readonly #colours: boolean;
  #section = 0;
  #failures = 0;

  constructor(out: NodeJS.WriteStream) {
    this.#out = out;
    this.#colours = out.isTTY && (process.env['NO_COLOR'] ?? '') === '';
  }

  /** Of the results that were not as they should be. */
  get failures(): number {
    return this.#failures;
  }

  title(title: string, subtitle: string): void {
    this.#write(`\n${MARGIN}${this.style('bold', title)}\n${MARGIN}${this.style('dim', subtitle)}`);
  }

  /** A numbered heading, and what the step shows. */
  section(heading: string, what: string): void {
    this.#section += 1;
    const text = `${this.#section}  ${heading} `;
    const rule = '─'.repeat(Math.max(3, WIDTH - text.length));
    this.#write(`\n${MARGIN}${this.style('cyan', text)}${this.style('dim', rule)}`);
    this.#write(`${MARGIN}   ${this.style('dim', what)}\n`);
  }

  line(text: string): void {
    this.#write(`${MARGIN}     ${text}`);
  }

  /** A line with a mark: whether what it says came out right. */
  result(ok: boolean, text: string): void {
    if (!ok) this.#failures += 1;
    const mark = ok ? this.style('green', '✓') : this.style('red', '✗');
    this.#write(`${MARGIN}   ${mark} ${ok ? text : this.style('red', text)}`);
  }

  /** Rows in columns: numbers to the right, texts to the left; the first row is a heading. */
  table(heading: readonly string[], rows: readonly (readonly Cell[])[]): void {
    const texts = [heading, ...rows.map((row) => row.map((cell) => shown(cell)))];
    const widths = heading.map((_, at) => Math.max(...texts.map((row) => row[at]?.length ?? 0)));
    const right = heading.map((_, at) => rows.every((row) => typeof row[at] === 'number'));
    texts.forEach((row, index) => {
      const cells = row.map((cell, at) =>
        right[at] === true ? cell.padStart(widths[at] ?? 0) : cell.padEnd(widths[at] ?? 0),
      );
      const text = cells.join('   ').trimEnd();
      this.line(index === 0 ? this.style('dim', text) : text);
    });
  }

  /** Replaces itself; shown to people only. */
  progress(text: string): void {
    if (this.#out.isTTY) this.#out.write(`\r\u001b[K${MARGIN}     ${this.style('dim', text)}`);
  }

  endProgress(): void {
    if (this.#out.isTTY) this.#out.write('\r\u001b[K');
  }

  end(text: string): void {
    this.#write(`\n${MARGIN}${this.style(this.#failures === 0 ? 'green' : 'red', text)}\n`);
  }

  style(style: Style, text: string): string {
    return this.#colours ? `\u001b[${CODES[style]}m${text}\u001b[0m` : text;
  }

  #write(text: string): void {
    this.#out.write(`${text}\n`);
  }
}

function shown(cell: Cell): string {
  return typeof cell === 'number' ? count(cell) : cell;
}

/** 1,028,880 */
export function count(value: number): string {
  return Math.round(value).toLocaleString('en-US');
}

export function duration(seconds: number): string {
  return seconds < 10 ? `${seconds.toFixed(1)} s` : `${Math.round(seconds)} s`;
}
