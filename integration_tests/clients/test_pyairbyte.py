"""PyAirbyte reads through the executable into DuckDB, and DuckDB holds what the source holds."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import unittest
from typing import Any

WORK = tempfile.mkdtemp(prefix="pyairbyte-")
atexit.register(shutil.rmtree, WORK, ignore_errors=True)
# Before the import, which looks at them: no registry, no telemetry, nothing outside of this folder.
os.environ.update(
    AIRBYTE_OFFLINE_MODE="1",
    DO_NOT_TRACK="1",
    NO_LIVE_PROGRESS="1",
    AIRBYTE_PROJECT_DIR=WORK,
    AIRBYTE_CACHE_ROOT=f"{WORK}/cache",
    AIRBYTE_TEMP_DIR=f"{WORK}/tmp",
    AIRBYTE_LOGGING_ROOT=f"{WORK}/log",
)
for folder in ("cache", "tmp", "log"):
    os.makedirs(f"{WORK}/{folder}")

import airbyte as ab  # noqa: E402
from source import CONNECTOR, STANDARD, Source  # noqa: E402

METRICS = "time, device, value, exact, good, note, since"


class PyAirbyte(unittest.TestCase):
    """Two reads each, with changes between them."""

    def setUp(self) -> None:
        self.source = Source()
        self.addCleanup(self.source.close)
        self.cache = ab.new_local_cache(
            self.source.name, cache_dir=f"{WORK}/cache/{self.source.name}"
        )

    def connect(self, method: dict[str, str] | None, streams: list[str] | str = "*") -> Any:
        return ab.get_source(
            "source-timescaledb",
            config=self.source.config(method),
            local_executable=CONNECTOR,
            streams=streams,
        )

    def duckdb(self, sql: str) -> list[tuple[Any, ...]]:
        with self.cache.get_sql_engine().connect() as connection:
            return [tuple(row) for row in connection.exec_driver_sql(sql).all()]

    def assert_equal(self) -> None:
        """The hypertable and the table, value by value."""
        here = self.duckdb(f"SELECT {METRICS}, extra->>'hour' FROM main.metrics ORDER BY time, device")
        there = self.source.rows(
            # DuckDB's timestamps have no zone: PyAirbyte stores UTC.
            f"SELECT {METRICS.replace('time', 'time::timestamp', 1)}, extra->>'hour' FROM metrics ORDER BY time, device"
        )
        self.assertGreater(len(there), 100)
        self.assertEqual(here, there)
        devices = "SELECT id, name FROM {} ORDER BY id"
        self.assertEqual(
            self.duckdb(devices.format("main.devices")), self.source.rows(devices.format("devices"))
        )

    def test_check_and_discover(self) -> None:
        for method in (None, STANDARD):
            with self.subTest(method=method):
                source = self.connect(method)
                source.check()
                self.assertEqual(
                    sorted(source.get_available_streams()), ["devices", "metrics", "summary"]
                )

    def test_a_wrong_configuration_fails_its_check(self) -> None:
        source = ab.get_source(
            "source-timescaledb",
            config={**self.source.config(), "database": "nowhere"},
            local_executable=CONNECTOR,
        )
        with self.assertRaisesRegex(ab.exceptions.AirbyteConnectorCheckFailedError, "does not exist"):
            source.check()

    def test_by_cursor_the_second_read_brings_what_is_new(self) -> None:
        first = self.connect(STANDARD, ["metrics", "devices"]).read(cache=self.cache)
        self.assertEqual(first.processed_records, 300 + 10)
        self.assert_equal()
        self.source.execute(
            """
            INSERT INTO metrics VALUES ('2026-01-05 03:30Z', 7, 0.5, 1.5, true, 'behind all others', NULL, NULL);
            INSERT INTO metrics SELECT '2026-02-01Z'::timestamptz + i * interval '1 hour', 1, i
                                  FROM generate_series(0, 9) i;
            UPDATE devices SET name = 'renamed' WHERE id = 3;
            INSERT INTO devices VALUES (11, 'new');
            """
        )
        second = self.connect(STANDARD, ["metrics", "devices"]).read(cache=self.cache)
        # Of the hypertable what is new and the three at the bound; the table has no cursor and is read in full.
        self.assertEqual(second.processed_records, 11 + 3 + 11)
        self.assert_equal()

    def test_full_refresh_replaces_everything(self) -> None:
        self.read_twice_in_full(STANDARD)

    def test_changes_read_anew_replace_everything(self) -> None:
        self.read_twice_in_full(None)
        (slot,) = self.source.rows(
            "SELECT slot_name, active FROM pg_replication_slots WHERE database = current_database()"
        )
        self.assertEqual(slot, (f"slot_{self.source.name}", False))

    def read_twice_in_full(self, method: dict[str, str] | None) -> None:
        """PyAirbyte keeps no GLOBAL state: each read of a CDC connection is a first one."""
        first = self.connect(method).read(
            cache=self.cache, write_strategy="replace", force_full_refresh=method is not None
        )
        self.assertEqual(first.processed_records, 300 + 10 + 3)
        self.assert_equal()
        self.source.execute(
            """
            UPDATE metrics SET note = 'changed', value = -1.5 WHERE device = 2;
            DELETE FROM metrics WHERE device = 3;
            INSERT INTO metrics VALUES ('2026-02-01Z', 9, 1, 1, false, 'new chunk', '2026-02-01', '{"hour": 0}');
            DELETE FROM devices WHERE id > 5;
            """
        )
        second = self.connect(method).read(
            cache=self.cache, write_strategy="replace", force_full_refresh=method is not None
        )
        self.assertEqual(second.processed_records, 201 + 5 + 3)
        self.assert_equal()
        self.assertEqual(
            self.duckdb("SELECT device, readings FROM main.summary ORDER BY device"),
            self.source.rows("SELECT device, readings FROM summary ORDER BY device"),
        )
