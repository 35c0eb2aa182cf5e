/** What `check` says: sentences, each with the SQL that mends it. */
import { escapeIdentifier } from 'pg';
import type { TableName } from './postgres/publication.ts';

export type Finding = {
  /** A failure keeps a sync from running or from being right; a warning costs something; a note is good to know. */
  readonly severity: 'failure' | 'warning' | 'note';
  readonly sentence: string;
};

export function failure(sentence: string, mend = ''): Finding {
  return { severity: 'failure', sentence: mend === '' ? sentence : `${sentence} ${mend}` };
}

export function warning(sentence: string, mend = ''): Finding {
  return { severity: 'warning', sentence: mend === '' ? sentence : `${sentence} ${mend}` };
}

export function note(sentence: string): Finding {
  return { severity: 'note', sentence };
}

/** Longer lists are cut: a person reads this. */
const LISTED = 20;

/** A list for a sentence, cut with a word on how much is missing. */
export function listed(items: readonly string[], separator = ', '): string {
  const shown = items.slice(0, LISTED).join(separator);
  const more = items.length - LISTED;
  return more > 0 ? `${shown} and ${more} more` : shown;
}

/** SQL with a list in it; a cut one ends in a comment that says so. */
export function listedSql(head: string, items: readonly string[], separator = ', '): string {
  const more = items.length - LISTED;
  const rest = more > 0 ? ` /* and ${more} more */` : '';
  return `${head}${items.slice(0, LISTED).join(separator)};${rest}`;
}

/** A table as a sentence names it. */
export function tableLabel({ schema, name }: Pick<TableName, 'schema' | 'name'>): string {
  return `${schema}.${name}`;
}

/** A table as SQL names it. */
export function tableSql({ schema, name }: Pick<TableName, 'schema' | 'name'>): string {
  return `${escapeIdentifier(schema)}.${escapeIdentifier(name)}`;
}
