/** What the generators of values need to exist in a database. */

/**
 * Types of one's own: `shape` is a text by another name; `trio` has elements and yet is no array, as
 * `point` is none.
 */
export const DEFINITIONS = `
  CREATE EXTENSION hstore; CREATE EXTENSION citext; CREATE EXTENSION ltree; CREATE EXTENSION cube;
  CREATE TYPE mood AS ENUM ('fine', 'so so', 'NULL', '"', 'a,b', '櫻');
  CREATE TYPE pair AS (number int, note text, times timestamp[]);
  CREATE TYPE words AS RANGE (subtype = text, collation = "C", multirange_type_name = words_multirange);
  CREATE DOMAIN amount AS numeric(10,0);
  CREATE DOMAIN small_amount AS amount CHECK (VALUE < 1000000);
  CREATE DOMAIN labels AS text[];
  CREATE DOMAIN few_labels AS labels CHECK (cardinality(VALUE) < 4);
  CREATE DOMAIN grid AS numeric(9,0)[][];
  CREATE DOMAIN digest AS bytea;
  CREATE DOMAIN flag AS bit(1);
  CREATE DOMAIN couple AS pair;
  CREATE TYPE trio;
  CREATE FUNCTION trio_in(cstring) RETURNS trio AS 'line_in' LANGUAGE internal IMMUTABLE STRICT;
  CREATE FUNCTION trio_out(trio) RETURNS cstring AS 'line_out' LANGUAGE internal IMMUTABLE STRICT;
  CREATE TYPE trio (INPUT = trio_in, OUTPUT = trio_out, LIKE = line, ELEMENT = float8);
  CREATE TYPE shape;
  CREATE FUNCTION shape_in(cstring) RETURNS shape AS 'textin' LANGUAGE internal IMMUTABLE STRICT;
  CREATE FUNCTION shape_out(shape) RETURNS cstring AS 'textout' LANGUAGE internal IMMUTABLE STRICT;
  CREATE TYPE shape (INPUT = shape_in, OUTPUT = shape_out, LIKE = text, DELIMITER = ':');
  CREATE CAST (text AS shape) WITHOUT FUNCTION AS ASSIGNMENT;
  CREATE CAST (shape AS text) WITHOUT FUNCTION AS ASSIGNMENT;`;

/** Functions that the expressions use. `r(n)` is a random integer below n. */
export const FUNCTIONS = `
  CREATE FUNCTION r(n float8) RETURNS bigint LANGUAGE sql VOLATILE AS $$ SELECT floor(random() * n)::bigint $$;

  /* Half of the characters are those that some syntax or some reader of lines treats specially. */
  CREATE FUNCTION random_text(most int) RETURNS text LANGUAGE plpgsql VOLATILE AS $$
  DECLARE
    made text := '';
    special int[] := ARRAY[34, 92, 123, 125, 44, 59, 58, 32, 39, 40, 41, 91, 93, 61, 62, 9, 10, 11, 12, 13, 1, 8, 31, 127,
                           128, 133, 160, 8232, 8233, 8231, 65279, 65533, 65535, 55295, 57344, 128512, 1114111];
  BEGIN
    FOR i IN 1..r(most + 1) LOOP
      made := made || chr((CASE r(4)
        WHEN 0 THEN special[1 + r(37)] WHEN 1 THEN special[1 + r(14)] WHEN 2 THEN 97 + r(26) ELSE 161 + r(50000) END)::int);
    END LOOP;
    RETURN made;
  END $$;

  CREATE FUNCTION random_word() RETURNS text LANGUAGE sql VOLATILE AS $$ SELECT left(md5(random()::text), 1 + r(8)::int) $$;

  CREATE FUNCTION random_bits(most int) RETURNS text LANGUAGE sql VOLATILE AS $$
    SELECT coalesce(string_agg(r(2)::text, ''), '') FROM generate_series(1, r(most + 1)) $$;

  CREATE FUNCTION random_double() RETURNS float8 LANGUAGE sql VOLATILE AS $$
    SELECT CASE r(4) WHEN 0 THEN r(100000)::float8 WHEN 1 THEN (random() - 0.5) * 1000
      ELSE (random() - 0.5) * 10 ^ (random() * 600 - 300) END $$;

  CREATE FUNCTION random_point() RETURNS point LANGUAGE sql VOLATILE AS $$ SELECT point(random_double(), random_double()) $$;

  /* Three of four are near the present; the fractions have all lengths. */
  CREATE FUNCTION random_moment() RETURNS timestamp LANGUAGE sql VOLATILE AS $$
    SELECT (CASE r(4) WHEN 0 THEN timestamp '4713-01-01 BC' + r(298900) * interval '1 year'
              ELSE timestamp '1970-01-01' + r(36500) * interval '1 day' END)
           + r(86400) * interval '1 second' + round(random()::numeric, r(7)::int)::float8 * interval '1 second' $$;

  CREATE FUNCTION random_time() RETURNS time LANGUAGE sql VOLATILE AS $$ SELECT random_moment()::time $$;

  /* The server's own rules for text of times are not those of Java: a clock with six digits, shortened. */
  CREATE FUNCTION java_clock(clock text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN clock LIKE '%:00.000000' THEN clock WHEN clock LIKE '%.000000' THEN left(clock, 8)
                WHEN clock LIKE '%000' THEN left(clock, 12) ELSE clock END $$;

  CREATE FUNCTION java_time(value time) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN value = '24:00' THEN '23:59:59.999999999'
                ELSE java_clock(to_char(value::interval, 'HH24:MI:SS.US')) END $$;

  CREATE FUNCTION zone(seconds int) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN seconds = 0 THEN 'Z'
                ELSE CASE WHEN seconds < 0 THEN '-' ELSE '+' END
                     || to_char(abs(seconds) / 3600, 'FM00') || ':' || to_char(abs(seconds) / 60 % 60, 'FM00') END $$;

  CREATE FUNCTION iso_moment(value timestamp, clock text, zone text) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT split_part(day, ' ', 1) || 'T' || clock || zone || CASE WHEN day LIKE '% BC' THEN ' BC' ELSE '' END
      FROM (SELECT to_json(value::date) #>> '{}' AS day) AS date $$;`;
