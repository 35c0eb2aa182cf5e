/** The end of a round: is the destination what the tables are, and is nothing of the connector left on the server? */
import type { Delivery } from './chaos-delivery.ts';
import { RoundFailure } from './chaos-report.ts';
import type { Floors } from './chaos-statements.ts';
import { type ChaosTable, chaosTables, moment } from './chaos-tables.ts';
import { compareWithTable, type Comparison } from './comparison.ts';
import { type Database, until } from './database.ts';
import { sessions } from './scenario.ts';

/** Records of one row that a failure shows. */
const SHOWN_RECORDS = 30;

type Compared = { readonly rows: number; readonly retained: number };

/**
 * @param exact nothing interrupted a sync, so that streams without a key are equal as multisets.
 * @throws RoundFailure with rows and their records.
 */
export async function compareAll(
  db: Database,
  delivery: Delivery,
  floors: Floors,
  exact: boolean,
): Promise<Compared> {
  const faults: string[] = [];
  const story: string[] = [];
  let [rows, retained] = [0, 0];
  for (const table of await chaosTables(db)) {
    const found = await compare(db, delivery, table, floors, exact);
    rows += found.tableRows;
    retained += found.retained;
    // Without a key, rows deleted while a read was interrupted may stay: then only their existence is asked for.
    const mayStay = !table.keyed && table.changes && !exact;
    const extra = mayStay ? 0 : found.extra;
    const unknown = table.changes && !table.keyed ? await neverExisted(db, delivery, table) : [];
    if (found.missing + extra + found.different + unknown.length === 0) continue;
    const { samples, sampleKeys, ...counts } = found;
    faults.push(`${table.name} differs: ${JSON.stringify(counts)}`);
    if (unknown.length > 0) {
      faults.push(
        `${table.name} never held: ${unknown.slice(0, 5).join(', ')} (${unknown.length})`,
      );
    }
    for (const [index, sample] of samples.entries()) {
      story.push('', `${table.name} ${sample}`);
      story.push(...(await rowStory(db, delivery, table, sampleKeys[index] ?? [])));
    }
  }
  if (faults.length > 0) throw new RoundFailure(faults.join('\n'), story);
  return { rows, retained };
}

function compare(
  db: Database,
  delivery: Delivery,
  table: ChaosTable,
  floors: Floors,
  exact: boolean,
): Promise<Comparison> {
  const stream = delivery.destination.stream(table.name);
  const at = (stream.primaryKey ?? stream.columns).indexOf('ts');
  const oldest = moment(floors.get(table.name) ?? 0);
  return compareWithTable(db, delivery.destination, table.name, {
    duplicates: !exact,
    retained: (values) => table.hypertable && (values[at] ?? '') < oldest,
  });
}

/** Notes that arrived though no committed row ever had them. */
async function neverExisted(
  db: Database,
  delivery: Delivery,
  { name }: ChaosTable,
): Promise<string[]> {
  const lines = await db.query<{ line: string }>('SELECT line FROM history WHERE line LIKE $1', [
    `${name} %`,
  ]);
  const existed = new Set(lines.map(({ line }) => line.slice(name.length + 1)));
  return [...(delivery.notes.get(name) ?? [])].filter((note) => !existed.has(note));
}

/** What the table holds of a row, and all records of it. */
async function rowStory(
  db: Database,
  delivery: Delivery,
  table: ChaosTable,
  values: readonly string[],
): Promise<string[]> {
  const stream = delivery.destination.stream(table.name);
  const columns = stream.primaryKey ?? stream.columns;
  const identity = new Map(
    table.identity.map((column) => [column, values[columns.indexOf(column)] ?? '']),
  );
  const where = [...identity.keys()]
    .map((column, at) =>
      column === 'ts' ? `ts = $${at + 1}::timestamptz` : `${column}::text = $${at + 1}`,
    )
    .join(' AND ');
  const held = await db
    .query(
      `SELECT xmin::text, tableoid::regclass::text AS relation, it.*
         FROM ${table.name} it WHERE ${where}`,
      [...identity.values()],
    )
    .catch((error: unknown) => [{ error: String(error) }]);
  const records = await delivery.history(table.name, identity);
  return [
    `  the table: ${held.map((row) => JSON.stringify(row).slice(0, 400)).join('; ')}`,
    ...records
      .slice(-SHOWN_RECORDS)
      .map(({ sync, line, data }) => `  sync ${sync}, line ${line}: ${data.slice(0, 400)}`),
  ];
}

/** @throws RoundFailure when a slot or a session of the connector is left. */
export async function expectNothingLeft(db: Database): Promise<void> {
  await untilNoSession(db);
  const left = await db.slots();
  const [slot] = left;
  if (left.length !== 1 || slot?.name !== db.slot || slot.temporary || slot.active) {
    throw new RoundFailure(`these slots are left: ${JSON.stringify(left)}`);
  }
}

/** Sessions of a killed process end as soon as the server notices. */
export async function untilNoSession(db: Database): Promise<void> {
  await until('no session of the connector is left', async () => (await sessions(db)).length === 0);
}
