/**
 * How `setup-sql` writes: comments that no name can break out of, and SQL with names in it as PostgreSQL quotes them.
 * Pure.
 */
import { createHash } from 'node:crypto';
import { escapeIdentifier, escapeLiteral } from 'pg';

/** Comment lines, folded; a line break within a name would end the comment, so there are none. */
export function note(text: string): string {
  const lines: string[] = [];
  let line = '';
  for (const word of oneLine(text).split(' ')) {
    if (line !== '' && line.length + word.length > WIDTH) {
      lines.push(line);
      line = '';
    }
    line = line === '' ? word : `${line} ${word}`;
  }
  return [...lines, line].map((it) => `-- ${it}`.trimEnd()).join('\n');
}

const WIDTH = 110;

/** A statement that is offered, not run: whoever wants it takes the dashes away. */
export function choice(sql: string): string {
  return sql
    .split(/[\r\n]+/)
    .map((line) => `-- ${line}`)
    .join('\n');
}

/** A block of the script: its number and name, what it buys and costs, and its statements. */
export function block(title: string, notes: readonly string[], sql: readonly string[]): string {
  const rule = `-- ${'-'.repeat(WIDTH)}`;
  return [rule, note(title), ...notes.map(note), '', ...sql].join('\n').trimEnd();
}

/** For comments: what would end the line becomes a space. */
export function oneLine(text: string): string {
  return text.replaceAll(/[\s\p{Cc}\u2028\u2029]+/gu, ' ');
}

/** A list for a comment; longer ones are cut. */
export function listedNames(names: readonly string[]): string {
  const shown = names.slice(0, LISTED).join(', ');
  return names.length > LISTED ? `${shown} and ${names.length - LISTED} more` : shown;
}

const LISTED = 8;

/** Names of tables and publications as SQL strings, on one line each. */
export function literals(values: readonly string[]): string {
  return values.map((value) => escapeLiteral(value).trim()).join(', ');
}

/** A body between dollar quotes that do not occur in it. */
export function dollarQuoted(body: string): string {
  let tag = '$setup$';
  for (let n = 1; body.includes(tag); n += 1) tag = `$setup${n}$`;
  return `${tag}\n${body}\n${tag}`;
}

/** A block that the server runs at once, committed even where the whole script is sent as one message. */
export function transaction(body: string): string {
  return `BEGIN;\n${doBlock(body)}\nCOMMIT;`;
}

/** A block that the server runs at once. */
export function doBlock(body: string): string {
  return `DO ${dollarQuoted(body)};`;
}

/** The longest name in bytes: https://www.postgresql.org/docs/current/sql-syntax-lexical.html#SQL-SYNTAX-IDENTIFIERS */
const NAME_BYTES = 63;

/**
 * The event trigger and its function: each connection has its own, so that several may read one database. Publications
 * whose names differ only in the part that is cut off differ in the hash.
 */
export function chunkTriggerName(publication: string): string {
  const whole = `source_timescaledb_chunks_${publication}`;
  if (Buffer.byteLength(whole) <= NAME_BYTES) return whole;
  const hash = createHash('sha256').update(publication).digest('hex').slice(0, 8);
  let head = whole;
  while (Buffer.byteLength(head) > NAME_BYTES - 9) head = Array.from(head).slice(0, -1).join('');
  return `${head}_${hash}`;
}

/** The function of the event trigger, with its schema. */
export function chunkFunction(publication: string): string {
  return `public.${escapeIdentifier(chunkTriggerName(publication))}`;
}

/** The exclusion constraint that makes TimescaleDB announce the chunks of a hypertable that has no other constraint. */
export const ANNOUNCE = 'source_timescaledb_announce';

/** In one transaction up to here: more relations at once could fill the server's lock table. */
export const LOCKS_AT_ONCE = 1000;
