/**
 * The statements of applications in the chaos harness, at random but from a seed. Every version of a row has a text of
 * its own, so that what never existed can be told.
 */
import {
  DAYS,
  DEVICES,
  DOCS,
  moment,
  ORDERS,
  STEP_SECONDS,
  STEPS_A_DAY,
  type ChaosTable,
  type TableName,
} from './chaos-tables.ts';
import type { Random } from './writers.ts';

/** Days before this one are left to retention: nothing is written there any more. */
export type Floors = Map<ChaosTable['name'], number>;

type Choice = {
  readonly random: Random;
  readonly floors: Floors;
  /** A text that no other statement has. */
  readonly token: string;
};

export type Statement = {
  readonly kind: string;
  readonly table: TableName;
  readonly weight: number;
  readonly sql: (choice: Choice) => string;
};

function day({ random, floors }: Choice, table: TableName): number {
  const floor = floors.get(table) ?? 0;
  if (random.below(40) === 0) return DAYS + random.below(4);
  return floor + random.below(DAYS - floor);
}

/** On the grid of the first rows, or beside it. */
function time(choice: Choice, table: TableName, beside = false): string {
  const seconds = choice.random.below(STEPS_A_DAY) * STEP_SECONDS;
  const offset = beside ? 1 + choice.random.below(STEP_SECONDS - 1) : 0;
  return `'${moment(day(choice, table), seconds + offset)}'`;
}

/** A stretch of time within a day. */
function stretch(choice: Choice, table: TableName, minutes: number): string {
  const from = time(choice, table);
  return `ts >= ${from} AND ts < ${from}::timestamptz + interval '${1 + choice.random.below(minutes)} minutes'`;
}

function device({ random }: Choice): number {
  return 1 + random.below(DEVICES);
}

/** Several rows, each from `row`. */
function rows(choice: Choice, most: number, row: (index: number) => string): string {
  return Array.from({ length: 1 + choice.random.below(most) }, (_, i) => `(${row(i)})`).join(', ');
}

function payload({ random, token }: Choice): string {
  return random.below(4) === 0 ? `repeat('${token} ', ${50 + random.below(800)})` : 'NULL';
}

function keyedHypertable(table: 'metrics' | 'spaced', weight: number): readonly Statement[] {
  const wide = table === 'metrics';
  const row = (it: Choice, index: number, beside: boolean): string =>
    `${time(it, table, beside)}, ${device(it)}, ${it.random.below(1000)}, '${it.token}/${index}'` +
    (wide ? `, ${payload(it)}` : '');
  const kinds: readonly Omit<Statement, 'table'>[] = [
    {
      kind: 'insert',
      weight: 3,
      sql: (it) => `INSERT INTO ${table} VALUES (${row(it, 0, true)}) ON CONFLICT DO NOTHING`,
    },
    {
      kind: 'insert, multi-row',
      weight: 3,
      sql: (it) =>
        `INSERT INTO ${table} VALUES ${rows(it, 20, (i) => row(it, i, true))} ON CONFLICT DO NOTHING`,
    },
    {
      kind: 'upsert',
      weight: 4,
      sql: (it) => `INSERT INTO ${table} VALUES (${row(it, 0, false)})
        ON CONFLICT (ts, dev) DO UPDATE SET v = excluded.v, note = excluded.note`,
    },
    {
      kind: 'update',
      weight: 4,
      sql: (it) => `UPDATE ${table} SET v = v + 1, note = '${it.token}'
        WHERE ts = ${time(it, table)} AND dev = ${device(it)}`,
    },
    {
      kind: 'update of a range',
      weight: 2,
      sql: (it) => `UPDATE ${table} SET v = v + 1, note = '${it.token}/' || dev
        WHERE ${stretch(it, table, 60)}`,
    },
    {
      kind: 'key change',
      weight: 2,
      sql: (
        it,
      ) => `UPDATE ${table} SET dev = dev + ${1 + it.random.below(5)}, note = '${it.token}/' || dev
        WHERE ${stretch(it, table, 8)} AND dev = ${device(it)}`,
    },
    {
      kind: 'delete of a range',
      weight: 3,
      sql: (it) => `DELETE FROM ${table} WHERE ${stretch(it, table, 50)} AND dev = ${device(it)}`,
    },
    {
      kind: 'delete of a device for a day',
      weight: 0.1,
      sql: (it) => {
        const chosen = day(it, table);
        return `DELETE FROM ${table} WHERE dev = ${device(it)}
          AND ts >= '${moment(chosen)}' AND ts < '${moment(chosen + 1)}'`;
      },
    },
    {
      kind: 'many rows over many chunks',
      weight: 0.15,
      sql: (it) => {
        const first = it.floors.get(table) ?? 0;
        const count = it.random.below(8) === 0 ? 15_000 : 200 + it.random.below(2000);
        return `INSERT INTO ${table} SELECT ts, 1 + i % 7, i, '${it.token}/' || i
          FROM (SELECT '${moment(first)}'::timestamptz
                       + i * (interval '${DAYS - first + 1} days' / ${count}) AS ts, i
                  FROM generate_series(1, ${count}) i) new
          ON CONFLICT (ts, dev) DO UPDATE SET v = excluded.v, note = excluded.note`;
      },
    },
  ];
  return kinds.map((kind) => ({ ...kind, table, weight: kind.weight * weight }));
}

const OTHERS: readonly Statement[] = [
  {
    kind: 'insert, multi-row',
    table: 'readings',
    weight: 2,
    sql: (it) =>
      `INSERT INTO readings VALUES ${rows(
        it,
        10,
        (i) =>
          `${time(it, 'readings', true)}, 'tag${it.random.below(6)}', ${i}, '${it.token}/${i}'`,
      )} ON CONFLICT (tag, ts) DO UPDATE SET v = excluded.v, note = excluded.note`,
  },
  {
    kind: 'update of a range',
    table: 'readings',
    weight: 3,
    sql: (it) => `UPDATE readings SET v = v + 1, note = '${it.token}/' || tag
      WHERE ${stretch(it, 'readings', 30)}`,
  },
  {
    kind: 'key change',
    table: 'readings',
    weight: 1,
    sql: (it) => `UPDATE readings SET tag = '${it.token}', note = '${it.token}'
      WHERE ts = ${time(it, 'readings')}`,
  },
  {
    kind: 'delete of a range',
    table: 'readings',
    weight: 2,
    sql: (it) => `DELETE FROM readings WHERE ${stretch(it, 'readings', 20)}`,
  },
  {
    kind: 'insert, multi-row',
    table: 'events',
    weight: 3,
    sql: (it) =>
      `INSERT INTO events VALUES ${rows(
        it,
        5,
        (i) => `${time(it, 'events', true)}, nextval('ids'), '${it.token}/${i}'`,
      )}`,
  },
  {
    kind: 'update of a range',
    table: 'events',
    weight: 2,
    sql: (it) => `UPDATE events SET note = '${it.token}/' || id WHERE ${stretch(it, 'events', 30)}`,
  },
  {
    kind: 'delete of a range',
    table: 'events',
    weight: 1,
    sql: (it) => `DELETE FROM events WHERE ${stretch(it, 'events', 15)}`,
  },
  {
    kind: 'insert, multi-row',
    table: 'traces',
    weight: 4,
    sql: (it) =>
      `INSERT INTO traces VALUES ${rows(
        it,
        5,
        (i) => `${time(it, 'traces', true)}, nextval('ids'), '${it.token}/${i}'`,
      )}`,
  },
  {
    kind: 'insert',
    table: 'plain',
    weight: 2,
    sql: (it) => `INSERT INTO plain VALUES (nextval('ids'), '${it.token}')`,
  },
  {
    kind: 'insert, multi-row',
    table: 'ledger',
    weight: 2,
    sql: (it) =>
      `INSERT INTO ledger VALUES ${rows(it, 5, (i) => `nextval('ids'), 1, '${it.token}/${i}'`)}`,
  },
  {
    kind: 'update',
    table: 'ledger',
    weight: 2,
    sql: (it) => `UPDATE ledger SET v = v + 1, note = '${it.token}/' || id
      WHERE ctid IN ('(${it.random.below(190)},${1 + it.random.below(80)})', '(${it.random.below(190)},7)')`,
  },
  {
    kind: 'delete',
    table: 'ledger',
    weight: 2,
    sql: (it) =>
      `DELETE FROM ledger WHERE ctid = '(${it.random.below(190)},${1 + it.random.below(80)})'`,
  },
  {
    kind: 'update beside a large value',
    table: 'docs',
    weight: 4,
    sql: (it) =>
      `UPDATE docs SET v = v + 1 WHERE id IN (${it.random.below(DOCS)}, ${20 * it.random.below(DOCS / 20)})`,
  },
  {
    kind: 'upsert',
    table: 'docs',
    weight: 2,
    sql: (it) => `INSERT INTO docs
      VALUES (${it.random.below(DOCS * 1.5)}, 0, repeat('${it.token} ', ${1 + it.random.below(600)}))
      ON CONFLICT (id) DO UPDATE SET body = excluded.body`,
  },
  {
    kind: 'key change',
    table: 'docs',
    weight: 1,
    sql: (it) =>
      `UPDATE docs SET id = id + ${it.random.below(9)} * ${DOCS} WHERE id = ${20 * it.random.below(DOCS / 20)}`,
  },
  {
    kind: 'delete',
    table: 'docs',
    weight: 2,
    sql: (it) => {
      const id = it.random.below(DOCS);
      return `DELETE FROM docs WHERE id BETWEEN ${id} AND ${id + it.random.below(8)}`;
    },
  },
  {
    kind: 'upsert',
    table: 'orders',
    weight: 2,
    sql: (it) => `INSERT INTO orders VALUES (${it.random.below(ORDERS * 1.5)}, 1, '${it.token}')
      ON CONFLICT (id) DO UPDATE SET v = orders.v + 1, note = excluded.note`,
  },
  {
    kind: 'key change over partitions',
    table: 'orders',
    weight: 2,
    sql: (
      it,
    ) => `UPDATE orders SET id = (id + ${it.random.below(ORDERS)}) % ${ORDERS}, note = '${it.token}'
      WHERE id = ${it.random.below(ORDERS)}`,
  },
  {
    kind: 'delete',
    table: 'orders',
    weight: 1,
    sql: (it) => {
      const id = it.random.below(ORDERS);
      return `DELETE FROM orders WHERE id BETWEEN ${id} AND ${id + it.random.below(5)}`;
    },
  },
];

const STATEMENTS: readonly Statement[] = [
  ...keyedHypertable('metrics', 1),
  ...keyedHypertable('spaced', 0.4),
  ...OTHERS,
];

/** @param sparing leaves out the table that is read in slices without a key. */
export function chooseStatement(random: Random, sparing: boolean): Statement {
  return pickWeighted(
    random,
    sparing ? STATEMENTS.filter(({ table }) => table !== 'plain') : STATEMENTS,
  );
}

export function pickWeighted<T extends { readonly weight: number }>(
  random: Random,
  list: readonly T[],
): T {
  let at = random.next() * list.reduce((sum, { weight }) => sum + weight, 0);
  for (const item of list) {
    at -= item.weight;
    if (at < 0) return item;
  }
  return random.pick(list);
}
