"""Alarms are said once, survive their process, and need no disk."""

import errno
import logging
from pathlib import Path

import pytest

from amphora_agent import files
from amphora_agent.events.alarms import Alarms
from amphora_agent.model.events import AlarmKind

KIND = AlarmKind.EXPIRY


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "alarms"


def test_another_process_sees_an_alarm_with_its_start(directory: Path) -> None:
    Alarms(directory, clock=lambda: 5.0).set_alarm(KIND, "lb", "it expires", logging.WARNING)
    (alarm,) = Alarms(directory).current()
    assert (alarm.kind, alarm.subject, alarm.text) == (KIND, "lb", "it expires")
    assert (alarm.level, alarm.since) == ("WARNING", 5.0)


def test_an_alarm_is_logged_when_it_changes_and_keeps_its_start(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    times = iter((1.0, 2.0))
    alarms = Alarms(directory, clock=lambda: next(times))
    for text in ("30 days", "30 days", "7 days", "7 days"):
        alarms.set_alarm(KIND, "lb", text)
    assert [record.getMessage() for record in caplog.records] == ["lb: 30 days", "lb: 7 days"]
    (alarm,) = alarms.current()
    assert (alarm.text, alarm.since) == ("7 days", 1.0)


def test_alarms_end_one_by_one_or_with_their_subject(directory: Path) -> None:
    alarms = Alarms(directory)
    for subject in ("one", "two", "/a/path"):
        alarms.set_alarm(KIND, subject, "x")
    alarms.clear_alarm(KIND, "one")
    alarms.clear_alarm(KIND, "one")
    alarms.clear_subject("/a/path")
    assert [alarm.subject for alarm in alarms.current()] == ["two"]
    assert alarms.current("one") == ()


def test_a_full_disk_hides_no_alarm_from_its_process(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(destination: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    # The one writer of files is made to fail: a full disk would need a mount, and root.
    monkeypatch.setattr(files, "replace_unsynced", refuse)
    alarms = Alarms(directory)
    alarms.set_alarm(KIND, "lb", "x")
    assert [alarm.subject for alarm in alarms.current()] == ["lb"]
    alarms.clear_alarm(KIND, "lb")
    assert alarms.current() == ()


def test_writes_with_the_next_alarm_what_a_disk_has_refused(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alarms = Alarms(directory)
    alarms.set_alarm(KIND, "ends", "x")

    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as refusing:
        refusing.setattr(files, "replace_unsynced", refuse)
        refusing.setattr(Path, "unlink", refuse)
        alarms.set_alarm(KIND, "begins", "x")
        alarms.clear_alarm(KIND, "ends")
        assert [alarm.subject for alarm in alarms.current()] == ["begins"]
        assert [alarm.subject for alarm in Alarms(directory).current()] == ["ends"]
    alarms.set_alarm(KIND, "begins", "x")
    assert [alarm.subject for alarm in Alarms(directory).current()] == ["begins"]


def test_a_damaged_file_is_no_alarm(directory: Path) -> None:
    alarms = Alarms(directory)
    alarms.set_alarm(KIND, "lb", "x")
    (file,) = directory.iterdir()
    file.write_bytes(b"{")
    assert alarms.current() == ()
    alarms.set_alarm(KIND, "lb", "x")
    assert len(alarms.current()) == 1
