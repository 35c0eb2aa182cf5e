/** What is said about a table that is not as its catalog has it. */
import { describe, expect, it } from 'vitest';
import { schemaChanges } from '../src/schema-changes.ts';
import { column, INT4, relation, TEXT } from './source-model.ts';

const NOTES = relation(1, 'public', 'notes', {
  columns: [column('id', INT4), column('note', TEXT)],
});
const types = new Map();

function said(properties: Readonly<Record<string, unknown>>): readonly string[] {
  return schemaChanges('public.notes', properties, NOTES, { types });
}

describe('a table that is not as its catalog has it', () => {
  const id = { type: 'number', airbyte_type: 'integer' };

  it.each<[string, Readonly<Record<string, unknown>>]>([
    ['the same', { id, note: { type: 'string' } }],
    ['a column not selected', { id }],
    [
      'nullable types',
      { id: { ...id, type: ['null', 'number'] }, note: { type: ['string', 'null'] } },
    ],
    ['keywords of others', { id: { ...id, title: 'The id' } }],
    ['no type at all', { id: {} }],
    ['columns of ours', { id, _ab_cdc_lsn: { type: 'number' } }],
  ])('nothing about %s', (_, properties) => {
    expect(said(properties)).toEqual([]);
  });

  it('a column that is gone, or has another name', () => {
    expect(said({ id, old: { type: 'string' } })).toEqual([
      expect.stringContaining('public.notes has no column "old" any more'),
    ]);
  });

  it.each<[string, unknown]>([
    ['another type', { type: 'string' }],
    ['another number', { type: 'number' }],
    ['another format', { ...id, format: 'date' }],
  ])('a column of %s', (_, known) => {
    expect(said({ id: known })).toEqual([
      expect.stringContaining('The type of public.notes."id" has changed'),
    ]);
  });
});
