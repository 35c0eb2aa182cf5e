/** A table of random values of every type, made by the server, and what the server says that their json is. */
import type pg from 'pg';
import type { Database } from './database.ts';
import { DEFINITIONS, FUNCTIONS } from './types-definitions.ts';
import { type Generator, generators } from './types-generators.ts';

/** Each type has a column of single values, one of arrays and one of arrays of two dimensions. */
type Shape = 'value' | 'array' | 'matrix';

export type SampleColumn = {
  readonly name: string;
  readonly type: string;
  readonly shape: Shape;
  /** SQL of the value's json; NULL where the value is NULL. */
  readonly json: string;
};

export type Samples = {
  readonly db: Database;
  readonly columns: readonly SampleColumn[];
  /** Column definitions, as CREATE TABLE wants them. */
  readonly definitions: string;
};

const DIMENSIONS: Readonly<Record<Shape, string>> = { value: '', array: '[]', matrix: '[][]' };

/** Makes types, functions and an empty table `samples` with a column `id`. */
export async function createSamples(db: Database): Promise<Samples> {
  const release = await db.value<number>(
    `SELECT current_setting('server_version_num')::int / 10000`,
  );
  await db.query(`${DEFINITIONS} ${FUNCTIONS}`);
  const all = generators(release);
  await db.query(all.map(makers).join('\n'));
  const columns = all.flatMap(columnsOf);
  const definitions = columns
    .map(({ name, type, shape }) => `${name} ${type}${DIMENSIONS[shape]}`)
    .join(', ');
  await db.query(`CREATE TABLE samples (id int PRIMARY KEY, ${definitions})`);
  return { db, columns, definitions };
}

/** Fills `samples` with other rows. @param seed between 0 and 1; the same one makes the same rows on the same release. */
export async function fillSamples(samples: Samples, rows: number, seed: number): Promise<void> {
  const made = samples.columns.map(({ name }) => `make_${name}()`);
  await inSession(samples.db, async (client) => {
    await client.query('TRUNCATE samples');
    await client.query('SELECT setseed($1)', [seed]);
    await client.query(
      `INSERT INTO samples SELECT i, ${made.join(', ')} FROM generate_series(1, ${rows}) i`,
    );
  });
}

/** The json of each value as the server sees it, by id, in the order of the columns; null of NULL. */
export async function expectedJson(
  samples: Samples,
): Promise<ReadonlyMap<number, readonly (string | null)[]>> {
  const texts = samples.columns.map(({ json }) => `(${json})::text`);
  return inSession(samples.db, async (client) => {
    const { rows } = await client.query<(number | string | null)[]>({
      text: `SELECT id, ${texts.join(', ')} FROM samples`,
      rowMode: 'array',
    });
    return new Map(rows.map(([id, ...json]) => [Number(id), json as (string | null)[]]));
  });
}

function columnsOf(generator: Generator, index: number): SampleColumn[] {
  const { type, json = (value) => `to_json(${value})`, elementJson = json } = generator;
  const element = (value: string): string => nullOr(value, elementJson(value));
  const [v, a, m] = [`v${index}`, `a${index}`, `m${index}`];
  const array = (items: string): string => `coalesce((${items}), '[]')`;
  return [
    { name: v, type, shape: 'value', json: nullOr(v, json(v)) },
    {
      name: a,
      type,
      shape: 'array',
      json: nullOr(
        a,
        array(
          `SELECT json_agg(${element(`${a}[i]`)} ORDER BY i) FROM generate_subscripts(${a}, 1) i`,
        ),
      ),
    },
    {
      name: m,
      type,
      shape: 'matrix',
      json: nullOr(
        m,
        array(`SELECT json_agg((SELECT json_agg(${element(`${m}[i][j]`)} ORDER BY j)
                 FROM generate_subscripts(${m}, 2) j) ORDER BY i) FROM generate_subscripts(${m}, 1) i`),
      ),
    },
  ];
}

/** A composite value with nothing but NULLs IS NULL as well, yet it is a value. */
function nullOr(value: string, json: string): string {
  return `CASE WHEN ${value} IS NOT DISTINCT FROM NULL THEN NULL ELSE ${json} END`;
}

/** Functions that make a value for each column of a type. */
function makers({ type, edges, random }: Generator, index: number): string {
  const edge = edges.map((sql, n) => `WHEN ${n} THEN CAST(${sql} AS ${type})`).join(' ');
  const fill = (dimensions: string, bounds: string): string =>
    `array_fill(NULL::${type}, ${dimensions}, ${bounds})`;
  return `
    CREATE FUNCTION make_v${index}() RETURNS ${type} LANGUAGE plpgsql VOLATILE AS $make$ BEGIN
      IF r(12) = 0 THEN RETURN NULL; END IF;
      IF r(3) = 0 THEN RETURN CASE r(${edges.length}) ${edge} END; END IF;
      RETURN CAST(${random} AS ${type});
    END $make$;
    CREATE FUNCTION make_a${index}() RETURNS ${type}[] LANGUAGE plpgsql VOLATILE AS $make$
    DECLARE made ${type}[]; low int := CASE WHEN r(5) = 0 THEN r(9) - 5 ELSE 1 END; BEGIN
      IF r(12) = 0 THEN RETURN NULL; END IF;
      made := ${fill('ARRAY[r(5)::int]', 'ARRAY[low]')};
      FOR i IN low..coalesce(array_upper(made, 1), low - 1) LOOP made[i] := make_v${index}(); END LOOP;
      RETURN made;
    END $make$;
    CREATE FUNCTION make_m${index}() RETURNS ${type}[][] LANGUAGE plpgsql VOLATILE AS $make$
    DECLARE made ${type}[]; BEGIN
      IF r(12) = 0 THEN RETURN NULL; END IF;
      made := ${fill('ARRAY[r(3)::int, (1 + r(3))::int]', 'ARRAY[1, r(2)::int]')};
      FOR i IN 1..coalesce(array_upper(made, 1), 0) LOOP
        FOR j IN array_lower(made, 2)..array_upper(made, 2) LOOP made[i][j] := make_v${index}(); END LOOP;
      END LOOP;
      RETURN made;
    END $make$;`;
}

async function inSession<T>(db: Database, work: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = await db.client();
  try {
    await client.query('SET jit = off');
    return await work(client);
  } finally {
    await client.end();
  }
}
