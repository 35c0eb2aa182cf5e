import { describe, expect, it } from 'vitest';
import {
  qualifiedName,
  type RelationFacts,
  type Route,
  route,
  type RouterKnowledge,
} from '../src/timescaledb/chunk-router.ts';

const METRICS = 1000;
const CUSTOM = 1100;
const UNSELECTED = 1200;
const PLAIN = 2000;
const ELSEWHERE = 9999;

const known: RouterKnowledge = {
  streams: new Set([METRICS, CUSTOM, PLAIN]),
  streamNames: new Map([
    [qualifiedName('public', 'metrics'), METRICS],
    [qualifiedName('public', 'plain'), PLAIN],
    [qualifiedName('a.b', 'say "hi"'), PLAIN],
  ]),
  hypertables: [
    naming(1, METRICS, '_timescaledb_internal', '_hyper_1'),
    naming(7, CUSTOM, 'own schema', 'pre_fix'),
    naming(8, UNSELECTED, '_timescaledb_internal', '_hyper_8'),
    naming(9, UNSELECTED, 'own schema', 'pre'),
    // The state remembers the same hypertable as the system catalog does.
    naming(1, METRICS, '_timescaledb_internal', '_hyper_1'),
  ],
  publishesEverything: false,
};

function naming(hypertableId: number, root: number, chunkSchema: string, chunkPrefix: string) {
  return { hypertableId, root, chunkSchema, chunkPrefix };
}

function there(schema: string, name: string, ...ancestors: readonly number[]): RelationFacts {
  return { oid: 5000, schema, name, exists: true, ancestors: [5000, ...ancestors] };
}

function gone(schema: string, name: string): RelationFacts {
  return { oid: 5000, schema, name, exists: false, ancestors: [5000] };
}

const INTERNAL = '_timescaledb_internal';
const to = (root: number, droppedChunk = false): Route => ({ kind: 'stream', root, droppedChunk });
const ignored = (why: 'not selected' | 'internal' | 'dropped'): Route => ({ kind: 'ignored', why });
const UNKNOWN: Route = { kind: 'unknown' };

describe('a relation that exists', () => {
  it.each<[string, RelationFacts, Route]>([
    ['chunk', there(INTERNAL, '_hyper_1_5_chunk', METRICS), to(METRICS)],
    ['attached table of any name', there('x', 'old_table', METRICS), to(METRICS)],
    [
      'chunk renamed like that of another',
      there(INTERNAL, '_hyper_8_5_chunk', METRICS),
      to(METRICS),
    ],
    ['leaf, two levels down', there('public', 'leaf', 3000, PLAIN), to(PLAIN)],
    ['stream itself', { ...there('public', 'plain'), ancestors: [PLAIN] }, to(PLAIN)],
    [
      'chunk of what is not selected',
      there(INTERNAL, '_hyper_8_5_chunk', UNSELECTED),
      ignored('not selected'),
    ],
    ['table that nobody selected', there('public', 'other'), ignored('not selected')],
    ['detached chunk', there(INTERNAL, '_hyper_1_5_chunk'), ignored('not selected')],
    ['another table under the name of a stream', there('public', 'plain'), ignored('not selected')],
    ['chunk catalog', there('_timescaledb_catalog', 'chunk'), ignored('internal')],
  ])('is placed by its ancestors: %s', (_, facts, expected) => {
    expect(route(facts, known)).toEqual(expected);
  });
});

describe('a relation that was dropped', () => {
  it.each<[string, RelationFacts, Route]>([
    ['chunk', gone(INTERNAL, '_hyper_1_5_chunk'), to(METRICS, true)],
    ['chunk of a greater id', gone(INTERNAL, '_hyper_1_123456_chunk'), to(METRICS, true)],
    ['chunk in a schema of its own', gone('own schema', 'pre_fix_12_chunk'), to(CUSTOM, true)],
    ['chunk of what is not selected', gone(INTERNAL, '_hyper_8_5_chunk'), ignored('not selected')],
    [
      'chunk whose prefix begins another',
      gone('own schema', 'pre_12_chunk'),
      ignored('not selected'),
    ],
    ['table that was made again', gone('public', 'plain'), to(PLAIN)],
    ['table with a name to be quoted', gone('a.b', 'say "hi"'), to(PLAIN)],
    ['hypertable that was made again', gone('public', 'metrics'), to(METRICS)],
    ['chunk catalog before an upgrade', gone('_timescaledb_catalog', 'chunk'), ignored('internal')],
  ])('is placed by its name: %s', (_, facts, expected) => {
    expect(route(facts, known)).toEqual(expected);
  });

  it.each<[string, RelationFacts]>([
    ['hypertable 11, not 1', gone(INTERNAL, '_hyper_11_5_chunk')],
    ['prefix in another schema', gone('public', '_hyper_1_5_chunk')],
    ['no number', gone(INTERNAL, '_hyper_1__chunk')],
    ['number and more', gone(INTERNAL, '_hyper_1_5_chunk_old')],
    ['two numbers', gone(INTERNAL, '_hyper_1_5_6_chunk')],
    ['prefix in another case', gone(INTERNAL, '_HYPER_1_5_chunk')],
    ['prefix inside the name', gone(INTERNAL, 'x_hyper_1_5_chunk')],
    ['compressed relation of no hypertable', gone(INTERNAL, '_other_1_5_chunk_compressed')],
    ['compressed relation in another schema', gone('public', 'compress_hyper_2_5_chunk')],
    ['table', gone('public', 'other')],
    ['dots that are no separators', gone('public.plain', '')],
  ])('and cannot be placed is unknown: %s', (_, facts) => {
    expect(route(facts, known)).toEqual(UNKNOWN);
  });

  it.each<[string, RelationFacts]>([
    ['up to 2.28', gone(INTERNAL, 'compress_hyper_2_5_chunk')],
    ['since', gone(INTERNAL, '_hyper_1_5_chunk_compressed')],
  ])('is ignored when it held rows in compressed form, as they were named %s', (_, facts) => {
    expect(route(facts, known)).toEqual({ kind: 'ignored', why: 'internal' });
  });

  it('is unknown where two hypertables share schema and prefix', () => {
    const shared = [naming(1, METRICS, 's', 'p'), naming(7, CUSTOM, 's', 'p')];
    expect(route(gone('s', 'p_5_chunk'), { ...known, hypertables: shared })).toEqual(UNKNOWN);
    const oneSelected = [naming(8, UNSELECTED, 's', 'p'), naming(1, METRICS, 's', 'p')];
    expect(route(gone('s', 'p_5_chunk'), { ...known, hypertables: oneSelected })).toEqual(UNKNOWN);
    const noneSelected = [naming(8, UNSELECTED, 's', 'p'), naming(9, ELSEWHERE, 's', 'p')];
    expect(route(gone('s', 'p_5_chunk'), { ...known, hypertables: noneSelected })).toEqual(
      ignored('not selected'),
    );
  });
});

describe('a publication of all tables', () => {
  const everything = { ...known, publishesEverything: true };

  it.each<[string, RelationFacts, Route]>([
    ['a dropped table that nobody chose is ignored', gone('public', 'other'), ignored('dropped')],
    ['a dropped table that was made again is placed', gone('public', 'plain'), to(PLAIN)],
    ['a dropped chunk is placed', gone(INTERNAL, '_hyper_1_5_chunk'), to(METRICS, true)],
    ['a dropped chunk of nobody is unknown', gone(INTERNAL, '_hyper_11_5_chunk'), UNKNOWN],
    ['what looks like a chunk elsewhere is unknown', gone('own schema', 'p_5_chunk'), UNKNOWN],
    ['a chunk that exists is placed', there(INTERNAL, '_hyper_1_5_chunk', METRICS), to(METRICS)],
    ['a table that exists is ignored', there('public', 'x', ELSEWHERE), ignored('not selected')],
  ])('%s', (_, facts, expected) => {
    expect(route(facts, everything)).toEqual(expected);
  });
});

describe('a qualified name', () => {
  it('keeps schema and name apart', () => {
    expect(qualifiedName('a"."b', 'c')).not.toBe(qualifiedName('a', 'b"."c'));
    expect(qualifiedName('a.b', 'say "hi"')).toBe('"a.b"."say ""hi"""');
  });
});
