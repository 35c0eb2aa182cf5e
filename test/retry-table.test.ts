/** The table "What is tried again" of the README, against the code that decides it. */
import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { passesByItself, retryRules } from '../src/errors.ts';
import { BUSY } from '../src/snapshot.ts';

const README = readFileSync(new URL('../README.md', import.meta.url), 'utf8');

/** Code to what the table says of it. A code may stand in two rows: of the read itself, and of the sync. */
function table(): readonly { readonly code: string; readonly said: string }[] {
  const [, section = ''] = README.split('### What is tried again');
  const [text = ''] = section.split('\n## ');
  const rows = text.split('\n').filter((line) => line.startsWith('| ') && !line.startsWith('| --'));
  return rows.slice(1).flatMap((row) => {
    const [, , codes = '', said = ''] = row.split('|').map((cell) => cell.trim());
    return [...codes.matchAll(/`(\w+)`/g)].map(([, code = '']) => ({ code, said }));
  });
}

const OWN = 'by the read itself, for minutes';
const sync = table().filter(({ said }) => said !== OWN);
const own = table().filter(({ said }) => said === OWN);

/** When the code is tried again, as the table puts it. */
function done(code: string): string {
  // A class stands for each of its codes that has no line of its own.
  const error = Object.assign(new Error('no'), { code: code.length === 2 ? `${code}X00` : code });
  const [always, once] = [passesByItself(error, false), passesByItself(error, true)];
  return always ? 'yes' : once ? 'once the server was reached' : 'no';
}

it.each(sync)('$code: $said', ({ code, said }) => {
  expect(said.split(':')[0]).toBe(done(code));
});

it('has every code that there is a rule for, once', () => {
  const codes = sync.map(({ code }) => code);
  // What waits for a lock is a read: it has the other row.
  const ruled = [...retryRules().keys()].filter((code) => code !== '55P03');
  expect(codes.toSorted()).toEqual(ruled.toSorted());
});

it('has what a read begins again by itself', () => {
  expect(own.map(({ code }) => code).toSorted()).toEqual([...BUSY.keys()].toSorted());
});
