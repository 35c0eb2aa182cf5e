"""Every line, as Airbyte's own parsers in Python read it."""

from __future__ import annotations

import json
import unittest
from collections import Counter
from typing import Any

import airbyte_protocol.models as pdv2
from airbyte_cdk.test.entrypoint_wrapper import EntrypointOutput
from pydantic import BaseModel
from source import STANDARD, Source, configured, run


class Messages(unittest.TestCase):
    """spec, check, discover, and reads of both kinds of state."""

    runs: dict[str, list[str]]

    @classmethod
    def setUpClass(cls) -> None:
        source = Source()
        cls.addClassCleanup(source.close)
        cls.runs = {"spec": cls.lines("spec")}
        for method, settings in (("CDC", None), ("Standard", STANDARD)):
            config = source.config(settings)
            cls.runs[f"check, {method}"] = cls.lines("check", config=config)
            discovered = cls.lines("discover", config=config)
            cls.runs[f"discover, {method}"] = discovered
            for mode in ("full_refresh", "incremental"):
                catalog = configured(discovered, mode)
                cls.runs[f"read, {method}, {mode}"] = cls.lines("read", config=config, catalog=catalog)
        wrong = {**source.config(), "database": "nowhere"}
        cls.runs["check that fails"] = cls.lines("check", config=wrong)
        cls.runs["discover that fails"] = cls.lines("discover", 1, config=wrong)

    @staticmethod
    def lines(command: str, exit_code: int = 0, **files: Any) -> list[str]:
        code, lines = run(command, **files)
        if code != exit_code or not lines:
            raise AssertionError(f"{command}: exit code {code}\n" + "\n".join(lines[-5:]))
        return lines

    def each(self) -> list[tuple[str, list[str], Counter[str]]]:
        """Each run with its lines and how many there are of each type."""
        return [
            (name, lines, Counter(json.loads(line)["type"] for line in lines))
            for name, lines in self.runs.items()
        ]

    def test_pydantic_models_parse_every_line(self) -> None:
        for name, lines, _ in self.each():
            for line in lines:
                with self.subTest(run=name, line=line[:300]):
                    message = pdv2.AirbyteMessage.model_validate_json(line)
                    # Nothing was put aside as unknown, and nothing was changed.
                    again = json.loads(message.model_dump_json(by_alias=True, exclude_unset=True))
                    self.assertEqual(again, json.loads(line))
                    self.assertEqual(unknown_keys(message), [])

    def test_entrypoint_output_takes_every_line_for_what_it_is(self) -> None:
        for name, lines, types in self.each():
            with self.subTest(run=name):
                output = EntrypointOutput(messages=lines)
                # A line that does not fit becomes a log message in silence.
                self.assertEqual(len(output.logs), types["LOG"])
                self.assertEqual(len(output.records), types["RECORD"])
                self.assertEqual(len(output.state_messages), types["STATE"])
                self.assertEqual(len(output.trace_messages), types["TRACE"])
                self.assertEqual(len(output.spec_messages), types["SPEC"])
                self.assertEqual(len(output.connection_status_messages), types["CONNECTION_STATUS"])

    def test_entrypoint_output_sees_errors_only_where_something_failed(self) -> None:
        for name, lines, _ in self.each():
            with self.subTest(run=name):
                errors = EntrypointOutput(messages=lines).errors
                self.assertEqual(len(errors), 1 if name == "discover that fails" else 0)

    def test_streams_end_complete_and_have_records(self) -> None:
        for name, lines, types in self.each():
            if not name.startswith("read"):
                continue
            with self.subTest(run=name):
                output = EntrypointOutput(messages=lines)
                for stream in ("devices", "metrics", "summary"):
                    statuses = [status.value for status in output.get_stream_statuses(stream)]
                    self.assertEqual([statuses[0], statuses[-1]], ["STARTED", "COMPLETE"])
                self.assertEqual(types["RECORD"], 300 + 10 + 3)

    def test_catalogs_and_states_go_in_as_pydantic_writes_them(self) -> None:
        source = Source()
        self.addCleanup(source.close)
        for method in (None, STANDARD):
            with self.subTest(method=method):
                config = source.config(method)
                discovered = self.lines("discover", config=config)
                model = pdv2.ConfiguredAirbyteCatalog.model_validate(configured(discovered, "incremental"))
                catalog = json.loads(model.model_dump_json())
                output = [
                    pdv2.AirbyteMessage.model_validate_json(line)
                    for line in self.lines("read", config=config, catalog=catalog)
                ]
                states = [message.state for message in output if message.state is not None]
                last = {self.key(state): json.loads(state.model_dump_json()) for state in states}
                # The names of the model, not those of the protocol: `global_`, and nulls everywhere.
                self.assertTrue(all("global_" in state for state in last.values()))
                source.execute("INSERT INTO metrics VALUES (now(), 1)")
                lines = self.lines("read", config=config, catalog=catalog, state=list(last.values()))
                metrics = [r for r in EntrypointOutput(messages=lines).records if r.record.stream == "metrics"]
                # By a cursor, what is at the bound comes again.
                self.assertEqual(len(metrics), 1 if method is None else 1 + 3)
                source.execute("DELETE FROM metrics WHERE time > '2026-01-31'")

    @staticmethod
    def key(state: Any) -> str:
        return state.stream.stream_descriptor.name if state.stream else "global"


def unknown_keys(value: Any) -> list[str]:
    """Keys that no model has; what is free by the protocol, such as rows and states, are no models."""
    if isinstance(value, list):
        return [key for one in value for key in unknown_keys(one)]
    if not isinstance(value, BaseModel):
        return []
    if isinstance(value, pdv2.AirbyteStateBlob):
        return []
    inner = [key for name in type(value).model_fields for key in unknown_keys(getattr(value, name))]
    return [*(value.model_extra or {}), *inner]
