/** What publications leave out: where a stream can be narrowed to it, and where it must be refused. */
import { describe, expect, it } from 'vitest';
import { type PublicationLimit, withinLimits } from '../src/publication-limits.ts';
import { METRICS, NOTES, planned } from './source-model.ts';

const notes = planned(NOTES);
const metrics = planned(METRICS);

function limit(changes: Partial<PublicationLimit>): PublicationLimit {
  return {
    oid: NOTES.oid,
    schema: NOTES.schema,
    name: NOTES.name,
    publications: ['p'],
    ancestors: [],
    unpublished: [],
    filter: null,
    mixed: false,
    ...changes,
  };
}

const columns = notes.columns.map(({ name }) => name);

describe('a stream', () => {
  it('of which nothing is left out stays as it is, and nothing is told', () => {
    const told: string[] = [];
    const [same] = withinLimits([notes], [limit({ oid: 1 })], (text) => told.push(text));
    expect(same).toBe(notes);
    expect(told).toEqual([]);
  });

  it('is told of only where a column that is selected is left out', () => {
    const told: string[] = [];
    const own = limit({ unpublished: ['elsewhere'] });
    const [same] = withinLimits([notes], [own], (text) => told.push(text));
    expect(same?.columns.map(({ name }) => name)).toEqual(columns);
    expect(told).toEqual([]);
  });

  it('lacks what any of its chunks lacks', () => {
    const told: string[] = [];
    const left = metrics.columns.at(-1)?.name ?? '';
    const chunk = limit({ oid: 5, ancestors: [METRICS.oid], unpublished: [left] });
    const [narrowed] = withinLimits([metrics], [chunk], (text) => told.push(text));
    expect(narrowed?.columns).toHaveLength(metrics.columns.length - 1);
    expect(told).toEqual([expect.stringContaining(`without ${left} (a column list)`)]);
  });

  it.each([
    ['its key is not published', { unpublished: [...notes.identity] }, /its key \(.+\) is not/],
    ['it is published twice', { filter: '(id > 1)', mixed: true }, /and once more without/],
    [
      'a partition has a filter',
      { oid: 5, ancestors: [NOTES.oid], filter: '(id > 1)' },
      /partitions have/,
    ],
  ])('is refused where %s', (_, changes, reason) => {
    expect(() => withinLimits([notes], [limit(changes)], () => undefined)).toThrow(reason);
  });
});
