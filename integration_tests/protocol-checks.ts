/**
 * Everything that Airbyte's platform, its acceptance tests and its clients demand of what a source prints,
 * checked in one pass over the lines of a run.
 */
import { catalogFaults } from './catalog-checks.ts';
import { messageFault } from './message-schemas.ts';
import type { Command, ConfiguredCatalog, Message } from './messages.ts';
import { RecordChecker } from './record-checks.ts';
import type { RunResult } from './run-result.ts';
import { SequenceChecker } from './sequence-checks.ts';
import { specFaults } from './spec-checks.ts';

/** Where Python's `str.splitlines()` breaks besides at a line's end: some readers use it. */
// oxlint-disable-next-line no-control-regex -- these are what it looks for
const PYTHON_LINE_ENDS = /[\r\u000b\u000c\u001c\u001d\u001e\u0085\u2028\u2029]/;

/** Violations beyond these are only counted. */
const REPORTED = 20;

/** Records are many: past the first ones only a sample is held against Airbyte's own schema. */
const THOROUGH_RECORDS = 500;
const THOROUGH_EVERY = 53;

/** The one message that each command must print, once. */
const ANSWERS = { spec: 'SPEC', check: 'CONNECTION_STATUS', discover: 'CATALOG' } as const;

const ALLOWED: Readonly<Record<Command, readonly Message['type'][]>> = {
  spec: ['SPEC'],
  check: ['CONNECTION_STATUS', 'LOG', 'TRACE'],
  discover: ['CATALOG', 'LOG', 'TRACE'],
  read: ['RECORD', 'STATE', 'LOG', 'TRACE'],
};

export class RunChecker {
  readonly #command: Command;
  readonly #sequence: SequenceChecker;
  readonly #records: RecordChecker | null;
  readonly #violations: string[] = [];
  #violationCount = 0;
  #recordCount = 0;
  #answers = 0;
  #errors = 0;

  /** @param catalog of a read; null when it is not one that can be checked against. */
  constructor(command: Command, catalog: ConfiguredCatalog | null) {
    this.#command = command;
    const report = (violation: string): void => {
      this.#report(violation);
    };
    this.#sequence = new SequenceChecker(catalog, report);
    this.#records = catalog === null ? null : new RecordChecker(catalog, report);
  }

  /** @param message the line, parsed; null when it is no JSON. */
  see(line: string, message: Message | null): void {
    if (message === null) {
      this.#report(`not JSON: ${line.slice(0, 300)}`);
      return;
    }
    if (this.#command !== 'read' && message.type === ANSWERS[this.#command]) this.#answers += 1;
    if (PYTHON_LINE_ENDS.test(line)) this.#report(`line end within a line: ${line.slice(0, 300)}`);
    const fault = messageFault(message, this.#isThorough(message));
    if (fault !== null) {
      this.#report(`${fault}: ${line.slice(0, 300)}`);
      return; // the rest relies on the form
    }
    if (!ALLOWED[this.#command].includes(message.type)) {
      this.#report(`${message.type} in ${this.#command}`);
    }
    if (message.type === 'TRACE' && message.trace.type === 'ERROR') this.#errors += 1;
    for (const content of contentFaults(message)) this.#report(content);
    this.#sequence.see(message);
    if (message.type === 'RECORD') this.#records?.see(line, message);
  }

  /** @throws Error that lists all violations. */
  finish(result: RunResult): void {
    const killed = result.signal !== null;
    if (this.#command === 'read') this.#sequence.finish(result.exitCode, killed);
    else if (!killed) this.#finishAnswer(result.exitCode, ANSWERS[this.#command]);
    if (this.#violationCount === 0) return;
    const more = this.#violationCount - this.#violations.length;
    const list = this.#violations.map((violation) => `- ${violation}`);
    if (more > 0) list.push(`- and ${more} more`);
    const what = `${this.#command} violates the protocol:`;
    throw new Error([what, ...list, result.describe()].join('\n'));
  }

  #finishAnswer(exitCode: number | null, answer: string): void {
    if (this.#answers > 1) this.#report(`${this.#answers} messages ${answer}`);
    if (this.#answers === 1) {
      if (exitCode !== 0) this.#report(`exit code ${exitCode} in spite of ${answer}`);
    } else if (this.#errors === 0 || exitCode === 0) {
      this.#report(`no ${answer}, exit code ${exitCode}, ${this.#errors} ERROR traces`);
    }
  }

  #isThorough(message: Message): boolean {
    if (message.type !== 'RECORD') return true;
    this.#recordCount += 1;
    return this.#recordCount <= THOROUGH_RECORDS || this.#recordCount % THOROUGH_EVERY === 0;
  }

  #report(violation: string): void {
    this.#violationCount += 1;
    if (this.#violations.length < REPORTED) this.#violations.push(violation);
  }
}

/** What Airbyte's acceptance tests find in a specification or a catalog. */
function contentFaults(message: Message): readonly string[] {
  if (message.type === 'CATALOG') return catalogFaults(message.catalog);
  if (message.type !== 'SPEC') return [];
  return specFaults(message.spec['connectionSpecification'] ?? null);
}
