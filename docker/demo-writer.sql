-- Somebody who uses the database of compose.yaml: a day of history, then two seconds' work again and again.
CREATE EXTENSION IF NOT EXISTS timescaledb;

BEGIN;
DROP TABLE IF EXISTS metrics, devices;
CREATE TABLE devices (
  id int PRIMARY KEY,
  name text NOT NULL,
  seen timestamptz
);
CREATE TABLE metrics (
  time timestamptz NOT NULL,
  device_id int NOT NULL,
  cpu double precision,
  PRIMARY KEY (device_id, time)
);
SELECT create_hypertable('metrics', 'time', chunk_time_interval => interval '1 hour');
-- The connector asks for this trigger, which does nothing: see "Hypertables with the columnstore" in the README.
CREATE OR REPLACE FUNCTION source_timescaledb_guard() RETURNS trigger
  LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER source_timescaledb_guard AFTER DELETE ON metrics
  FOR EACH ROW EXECUTE FUNCTION source_timescaledb_guard();
ALTER TABLE metrics SET (
  timescaledb.compress, timescaledb.compress_segmentby = 'device_id', timescaledb.compress_orderby = 'time DESC'
);
SELECT add_compression_policy('metrics', interval '2 hours');

INSERT INTO devices SELECT i, 'device ' || i FROM generate_series(1, 20) i;
INSERT INTO metrics
  SELECT t, d, round((50 + 30 * sin(extract(epoch FROM t) / 3600 + d))::numeric, 2)
    FROM generate_series(now() - interval '1 day', now(), interval '30 seconds') t, generate_series(1, 20) d;
COMMIT;

WITH written AS (
  INSERT INTO metrics
    SELECT clock_timestamp(), d, round((100 * random())::numeric, 2) FROM generate_series(1, 20) d
    RETURNING device_id, time
), seen AS (
  UPDATE devices SET seen = written.time FROM written WHERE id = device_id AND random() < 0.3
)
-- A measurement that turns out wrong is taken back.
DELETE FROM metrics WHERE random() < 0.02 AND time BETWEEN now() - interval '1 minute' AND now()
\watch 2
