"""The version of the API that the controller speaks is remembered."""

import logging
from pathlib import Path

import pytest

from amphora_agent.agent.settings_file import ControllerApi


def test_until_something_is_changed_the_default_is_believed(tmp_path: Path) -> None:
    assert ControllerApi(tmp_path / "api", "1.0").version() == "1.0"


def test_another_process_learns_it_and_a_later_life_too(tmp_path: Path) -> None:
    memory = tmp_path / "heartbeat" / "api"
    other = ControllerApi(memory, "1.0")
    ControllerApi(memory, "1.0").record("0.5")
    assert other.version() == "0.5"
    assert ControllerApi(memory, "1.0").version() == "0.5"


def test_records_the_version_only_when_it_changes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    memory = tmp_path / "api"
    api = ControllerApi(memory, "1.0")
    api.record("1.0")
    assert not memory.exists()
    api.record("0.5")
    written = memory.stat().st_ino
    api.record("0.5")
    assert memory.stat().st_ino == written
    api.record("1.0")
    assert api.version() == "1.0"
    assert [record.getMessage() for record in caplog.records] == [
        "the controller speaks API 0.5",
        "the controller speaks API 1.0",
    ]


def test_a_file_that_says_nothing_is_no_obstacle(tmp_path: Path) -> None:
    memory = tmp_path / "api"
    memory.write_bytes(b"")
    assert ControllerApi(memory, "1.0").version() == "1.0"
    memory.write_bytes(b"\xff")
    ControllerApi(memory, "1.0").version()


def test_a_version_that_cannot_be_written_fails_no_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    api = ControllerApi(tmp_path / "file" / "api", "1.0")
    api.record("0.5")
    assert api.version() == "1.0"
    assert "cannot be written" in caplog.text
