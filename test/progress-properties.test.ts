/** Progress against a model that remembers, for each chunk, whether every row in it was read or streamed. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  chunkDone,
  chunkUndone,
  type HypertableProgress,
  isDone,
  pendingChunks,
  rebased,
  startHypertable,
  unreadChunks,
} from '../src/progress.ts';
import type { ChunkRange } from '../src/unread-chunks.ts';
import { chunkDoneAmong } from './progress-steps.ts';
import { resumed } from './state-document.ts';

const HYPERTABLE = { id: 3, chunkSchema: 's', chunkPrefix: 'p' };
const SLOTS = 30;

/** Slots [from, to) of time in one space partition. */
type ModelChunk = {
  readonly id: number;
  readonly partition: number;
  readonly from: number;
  readonly to: number;
  /** For each slot whether every row in it was read, or streamed. */
  readonly known: readonly boolean[];
  /** Read with this very range, and not undone since. */
  readonly settled: boolean;
};

type Step = { readonly what: string; readonly which: number; readonly where: number };

function rangeOf({ id, from, to }: ModelChunk): ChunkRange & { readonly oid: number } {
  return { id, oid: id, rangeStart: BigInt(from * 10 - 100), rangeEnd: BigInt(to * 10 - 100) };
}

function freshChunk(id: number, partition: number, from: number, to: number): ModelChunk {
  const known = Array.from({ length: to - from }, () => false);
  return { id, partition, from, to, known, settled: false };
}

class Model {
  readonly #partitions: number;
  chunks: readonly ModelChunk[];
  progress: HypertableProgress;
  #lastId: number;
  /** Slots in which anything was ever done: what a merge may not hide in, see progress.test.ts. */
  #touched = new Set<number>();
  /** Chunks as they were listed last: what the connector believes to exist. */
  #listed: readonly ModelChunk[];

  constructor(partitions: number, chunks: readonly ModelChunk[]) {
    this.#partitions = partitions;
    this.chunks = chunks;
    this.#listed = chunks;
    this.#lastId = chunks.reduce((max, { id }) => Math.max(max, id), 0);
    this.progress = startHypertable(HYPERTABLE, chunks.map(rangeOf));
  }

  run({ what, which, where }: Step): void {
    const pending = this.pending();
    const any = at(this.chunks, which);
    if (what === 'oldest') this.#read(pending[0]);
    else if (what === 'newest') this.#read(pending.at(-1));
    else if (what === 'some') this.#read(at(pending, which));
    else if (what === 'born') this.#born(which, where, false);
    else if (what === 'streamed') this.#born(which, where, true);
    else if (what === 'drop') this.#replace(any, []);
    else if (what === 'split') this.#split(any, where);
    else if (what === 'merge') this.#merge(any, where);
    else if (what === 'undone') this.#undone(any);
    else if (what === 'rebase') this.#rebase();
    else if (what === 'passed over') this.#undone(at(pending, which));
    else throw new Error(what);
    this.progress = resumed(this.progress);
  }

  pending(): readonly ModelChunk[] {
    const left = new Set(
      pendingChunks(this.progress, this.chunks.map(rangeOf)).map(({ id }) => id),
    );
    return this.chunks.filter(({ id }) => left.has(id));
  }

  /** The list of chunks is read anew now and then; new ones are missing in between. */
  #existing(fresh: boolean): (ChunkRange & { readonly oid: number })[] {
    if (fresh) this.#listed = this.chunks;
    const listed = new Set(this.#listed.map(({ id }) => id));
    return this.chunks.filter(({ id }) => listed.has(id)).map(rangeOf);
  }

  #done(chunk: ModelChunk, fresh: boolean): void {
    this.progress = chunkDoneAmong(this.progress, rangeOf(chunk), null, this.#existing(fresh));
    this.#replace(chunk, [{ ...chunk, known: chunk.known.map(() => true), settled: true }]);
    for (let slot = chunk.from; slot < chunk.to; slot += 1) this.#touched.add(slot);
  }

  #read(chunk: ModelChunk | undefined): void {
    if (chunk === undefined) return;
    const listed = this.#listed.some(({ id }) => id === chunk.id);
    this.#done(chunk, !listed || chunk.id % 3 === 0);
  }

  #born(which: number, where: number, streamed: boolean): void {
    const from = where % SLOTS;
    const to = from + 1 + (which % 2);
    const partition = which % this.#partitions;
    const free = this.chunks.every(
      (other) => other.partition !== partition || other.to <= from || to <= other.from,
    );
    if (!free) return;
    this.#lastId += 1;
    const chunk = freshChunk(this.#lastId, partition, from, to);
    this.chunks = [...this.chunks, chunk].toSorted((a, b) => a.from - b.from || a.id - b.id);
    if (streamed) this.#done(chunk, true);
  }

  #replace(chunk: ModelChunk | undefined, by: readonly ModelChunk[]): void {
    this.chunks = this.chunks.flatMap((other) => (other.id === chunk?.id ? by : [other]));
  }

  /** The old id keeps one half; the rows were moved, not read anew. */
  #split(chunk: ModelChunk | undefined, where: number): void {
    if (chunk === undefined || chunk.to - chunk.from < 2) return;
    this.#lastId += 1;
    const parts = [
      { ...chunk, to: chunk.from + 1, known: chunk.known.slice(0, 1) },
      { ...chunk, from: chunk.from + 1, known: chunk.known.slice(1) },
    ];
    const renamed = where % 2;
    this.#replace(
      chunk,
      parts.map((part, index) =>
        index === renamed ? { ...part, id: this.#lastId, settled: false } : part,
      ),
    );
  }

  #merge(chunk: ModelChunk | undefined, where: number): void {
    const next = this.chunks.find(
      (other) => other.from === chunk?.to && other.partition === chunk.partition,
    );
    if (chunk === undefined || next === undefined) return;
    if ([chunk, next].some((part) => this.#hides(part))) return;
    const known = [...chunk.known, ...next.known];
    const id = where % 2 === 0 ? chunk.id : next.id;
    this.#replace(next, []);
    this.#replace(chunk, [{ ...chunk, id, to: next.to, known, settled: false }]);
  }

  #hides({ from, known }: ModelChunk): boolean {
    return known.some((is, offset) => !is && this.#touched.has(from + offset));
  }

  /** Told anew by what exists: nothing may become done or undone by it. */
  #rebase(): void {
    const before = this.pending();
    this.progress = rebased(this.progress, this.#existing(true));
    expect(this.pending()).toEqual(before);
    const done = this.chunks.filter((chunk) => !before.includes(chunk));
    this.#touched = new Set(
      done.flatMap(({ from, known }) => known.map((_, offset) => from + offset)),
    );
  }

  /** Rows of it have changed unseen. */
  #undone(chunk: ModelChunk | undefined): void {
    if (chunk === undefined) return;
    this.progress = chunkUndone(this.progress, rangeOf(chunk));
    for (let slot = chunk.from; slot < chunk.to; slot += 1) this.#touched.delete(slot);
    this.chunks = this.chunks.map((other) => {
      if (other.id === chunk.id)
        return { ...other, known: other.known.map(() => false), settled: false };
      return other.from < chunk.to && chunk.from < other.to ? { ...other, settled: false } : other;
    });
  }

  check(): void {
    for (const chunk of this.chunks) {
      const done = isDone(this.progress, rangeOf(chunk));
      if (chunk.known.includes(false)) expect(done, `${chunk.id} was never read`).toBe(false);
      if (chunk.settled) expect(done, `${chunk.id} was read`).toBe(true);
    }
  }
}

function at<T>(list: readonly T[], index: number): T | undefined {
  return list[index % Math.max(1, list.length)];
}

/** Chunks in a row or with gaps; ids in the order of time, against it, or mixed. */
function anyChunks(partitions: number): fc.Arbitrary<readonly ModelChunk[]> {
  const slot = fc.record({ width: fc.integer({ min: 0, max: 2 }), order: fc.nat() });
  return fc.array(slot, { maxLength: 12 }).chain((slots) =>
    fc.constantFrom('time', 'reverse', 'mixed').map((ids) => {
      const placed = slots.flatMap(({ width, order }, index) =>
        Array.from({ length: width === 0 ? 0 : partitions }, (_, partition) => ({
          partition,
          from: index * 2,
          to: index * 2 + width,
          order: ids === 'mixed' ? (order * 31 + partition * 17) % 97 : index,
        })),
      );
      const ranked = placed.toSorted((a, b) => a.order - b.order);
      if (ids === 'reverse') ranked.reverse();
      return placed.map(({ partition, from, to }, index) => {
        const id = ranked.indexOf(placed[index] as (typeof placed)[number]) + 1;
        return freshChunk(id, partition, from, to);
      });
    }),
  );
}

function anySteps(whats: readonly string[]): fc.Arbitrary<readonly Step[]> {
  const step = fc.record({
    what: fc.constantFrom(...whats),
    which: fc.nat({ max: 1000 }),
    where: fc.nat({ max: 1000 }),
  });
  return fc.array(step, { maxLength: 50, size: 'max' });
}

const READS = ['oldest', 'newest', 'some'];
const CHANGES = ['born', 'streamed', 'drop', 'split', 'undone', 'passed over', 'rebase'];

describe('whatever happens to the chunks, an unread one is not done and a read one stays so', () => {
  it.each([
    ['in one dimension, merges too', 1, [...READS, ...READS, ...CHANGES, 'merge', 'merge']],
    ['in several space partitions', 3, [...READS, ...READS, ...CHANGES]],
    ['oldest first', 2, ['oldest', 'born', 'streamed', 'split', 'rebase']],
    ['newest first', 2, ['newest', 'born', 'streamed', 'split', 'rebase']],
  ])('%s', (_, partitions, whats) => {
    fc.assert(
      fc.property(anyChunks(partitions), anySteps(whats), (chunks, steps) => {
        const model = new Model(partitions, chunks);
        for (const step of steps) {
          model.run(step);
          model.check();
        }
      }),
      { numRuns: 150 },
    );
  });

  it('and reading what is left ends with every row known', () => {
    const whats = [...READS, ...CHANGES, 'merge'];
    fc.assert(
      fc.property(anyChunks(1), anySteps(whats), (chunks, steps) => {
        const model = new Model(1, chunks);
        for (const step of steps) model.run(step);
        for (let left = model.pending().length; left > 0; left -= 1) {
          model.run({ what: 'some', which: left, where: 0 });
        }
        expect(model.pending()).toEqual([]);
        expect(model.chunks.filter(({ known }) => known.includes(false))).toEqual([]);
      }),
      { numRuns: 150 },
    );
  });
});

describe('a load that is broken off after any chunk', () => {
  it.each([1, 4])('goes on with exactly the unread ones (%d partitions)', (partitions) => {
    fc.assert(
      fc.property(anyChunks(partitions), fc.infiniteStream(fc.nat()), (chunks, choices) => {
        const all = chunks.map(rangeOf);
        const unread = new Set(all);
        let progress = startHypertable(HYPERTABLE, all);
        for (const choice of choices) {
          expect(pendingChunks(progress, all)).toEqual(all.filter((chunk) => unread.has(chunk)));
          const next = at([...unread], choice);
          if (next === undefined) break;
          unread.delete(next);
          progress = resumed(chunkDoneAmong(progress, next, null, all));
        }
        expect(progress.read).toEqual([]);
      }),
      { numRuns: 150 },
    );
  });
});

describe('what is left to read, kept up to date', () => {
  it.each([1, 4])('says after each chunk what it would say anew (%d partitions)', (partitions) => {
    const somewhere = fc.infiniteStream(fc.nat());
    const late = fc.array(fc.nat({ max: 25 }), { maxLength: 4 });
    fc.assert(
      fc.property(anyChunks(partitions), late, somewhere, (first, places, choices) => {
        const known = first.map(rangeOf);
        // Made after the load had begun, also where something is covered already.
        const made = places.map((from, index) =>
          rangeOf(freshChunk(known.length + 1 + index, 0, from, from + 2)),
        );
        const all = [...known, ...made];
        let progress = startHypertable(HYPERTABLE, known);
        const unread = unreadChunks(progress, all);
        for (const choice of choices) {
          const next = at(pendingChunks(progress, all), choice);
          if (next === undefined) break;
          const anew = chunkDoneAmong(progress, next, null, all);
          progress = chunkDone(progress, next, null, unread);
          expect(progress).toEqual(anew);
        }
        expect(pendingChunks(progress, all)).toEqual([]);
        expect(unread.newest).toBe(0);
      }),
      { numRuns: 150 },
    );
  });
});
