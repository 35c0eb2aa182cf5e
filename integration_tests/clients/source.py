"""A database of the tests' own, and the connector that reads it."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

SERVER = os.environ["TIMESCALEDB_URL"]
CONNECTOR = os.environ["SOURCE_TIMESCALEDB"]

STANDARD = {"method": "Standard"}


class Source:
    """A database with a hypertable, a table and a view in it; dropped, with its slots, at the end."""

    def __init__(self) -> None:
        self.name = f"t{secrets.token_hex(5)}"
        with psycopg.connect(SERVER, autocommit=True) as server:
            server.execute(f"CREATE DATABASE {self.name}")
        # In UTC, as DuckDB's timestamps without a zone are.
        self.connection = psycopg.connect(
            make_conninfo(SERVER, dbname=self.name, options="-c TimeZone=UTC"), autocommit=True
        )
        self.execute(
            """
            CREATE EXTENSION timescaledb;
            CREATE TABLE metrics (
              time timestamptz NOT NULL, device int NOT NULL, value float8, exact numeric(20,4),
              good bool, note text, since date, extra jsonb, PRIMARY KEY (time, device));
            SELECT create_hypertable('metrics', 'time', chunk_time_interval => interval '1 day');
            INSERT INTO metrics
              SELECT '2026-01-01Z'::timestamptz + hour * interval '1 hour', device, hour / 8.0,
                     device * 1.25, hour % 2 = 0, CASE WHEN hour % 3 > 0 THEN 'line' || chr(8232) || hour END,
                     '2026-01-01'::date + device, jsonb_build_object('hour', hour)
                FROM generate_series(0, 99) hour, generate_series(1, 3) device;
            CREATE TABLE devices (id int PRIMARY KEY, name text);
            INSERT INTO devices SELECT i, 'device ' || i FROM generate_series(1, 10) i;
            CREATE VIEW summary AS SELECT device, count(*) AS readings FROM metrics GROUP BY device;
            """
        )

    def execute(self, sql: str) -> None:
        """Runs SQL; several statements may stand in one text."""
        self.connection.execute(sql)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        return self.connection.execute(sql).fetchall()

    def config(self, method: dict[str, str] | None = None) -> dict[str, Any]:
        """A configuration of the connector for this database: CDC unless another method is given."""
        server = conninfo_to_dict(SERVER)
        return {
            "host": server.get("host", "127.0.0.1"),
            "port": int(server.get("port", 5432)),
            "database": self.name,
            "username": server.get("user", "postgres"),
            "password": server.get("password", ""),
            "schemas": ["public"],
            "ssl_mode": {"mode": "disable"},
            "replication_method": method
            or {
                "method": "CDC",
                "replication_slot": f"slot_{self.name}",
                "publication": f"pub_{self.name}",
            },
        }

    def close(self) -> None:
        """Removes the database and what belongs to it on the server."""
        self.connection.close()
        with psycopg.connect(SERVER, autocommit=True) as server:
            server.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
                [self.name],
            )
            server.execute(
                """SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
                    WHERE database = %s AND NOT temporary AND NOT active""",
                [self.name],
            )
            server.execute(f"DROP DATABASE {self.name} WITH (FORCE)")


def run(command: str, **files: Any) -> tuple[int, list[str]]:
    """Runs the connector; returns its exit code and its output as Airbyte's Python tools split it."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = [CONNECTOR, command]
        for name, content in files.items():
            path = Path(folder, f"{name}.json")
            path.write_text(json.dumps(content))
            arguments += [f"--{name}", str(path)]
        done = subprocess.run(arguments, capture_output=True, check=False, cwd=folder)
        return done.returncode, done.stdout.decode().splitlines()


def configured(lines: list[str], sync_mode: str) -> dict[str, Any]:
    """The catalog in the output of discover, as the platform's acceptance tests hand it back: nulls and all."""
    (catalog,) = [m["catalog"] for m in map(json.loads, lines) if m["type"] == "CATALOG"]
    return {
        "streams": [
            {
                "stream": {**stream, "is_file_based": None},
                "sync_mode": sync_mode if sync_mode in stream["supported_sync_modes"] else "full_refresh",
                "destination_sync_mode": "append",
                "cursor_field": None,
                "primary_key": None,
                "generation_id": None,
                "minimum_generation_id": None,
                "sync_id": None,
                "include_files": None,
            }
            for stream in catalog["streams"]
        ]
    }
