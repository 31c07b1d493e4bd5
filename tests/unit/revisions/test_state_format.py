"""The number of the format of the state on disk: written, known, unknown."""

from pathlib import Path

import pytest

from amphora_agent.errors import Conflict
from amphora_agent.events.alarms import Alarms
from amphora_agent.model.events import AlarmKind
from amphora_agent.revisions import state_format

UNKNOWN = [
    *(b"0\n", b"3\n", b"9\n", b"-1\n", b"", b"\n", b"two\n", b"2 2\n", b"1.5\n", b"\xff\n"),
    *("\u0662\n".encode(), b"2" * 40, b" " * 40, b"0" * 31 + b"2"),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "format"


@pytest.fixture
def alarms(tmp_path: Path) -> Alarms:
    return Alarms(tmp_path / "alarms")


@pytest.mark.parametrize("text", [None, b"1\n", b"2\n", b"2", b" 2\n\n"])
def test_marks_a_known_state_with_the_current_number(
    path: Path, alarms: Alarms, text: bytes | None
) -> None:
    if text is not None:
        path.write_bytes(text)
    state_format.require_known(path)

    assert state_format.take_over(path, alarms) is None

    assert path.read_bytes() == b"2\n"
    assert not alarms.current()


@pytest.mark.parametrize("text", UNKNOWN)
def test_leaves_an_unknown_state_alone_and_reports_it(
    path: Path, alarms: Alarms, text: bytes
) -> None:
    path.write_bytes(text)

    refusal = state_format.take_over(path, alarms)

    assert refusal is not None
    assert str(path) in refusal.details
    assert path.read_bytes() == text
    (alarm,) = alarms.current()
    assert (alarm.kind, alarm.subject, alarm.level) == (
        AlarmKind.UNKNOWN_FORMAT,
        str(path),
        "ERROR",
    )
    with pytest.raises(Conflict):
        state_format.require_known(path)


def test_takes_a_number_that_cannot_be_read_for_unknown(path: Path, alarms: Alarms) -> None:
    path.mkdir()

    assert state_format.take_over(path, alarms) is not None


def test_ends_the_alarm_when_the_state_is_known_again(path: Path, alarms: Alarms) -> None:
    path.write_bytes(b"9\n")
    state_format.take_over(path, alarms)
    path.write_bytes(b"1\n")

    assert state_format.take_over(path, alarms) is None

    assert not alarms.current()


def test_goes_on_when_the_number_cannot_be_written(tmp_path: Path, alarms: Alarms) -> None:
    nowhere = tmp_path / "file" / "format"
    nowhere.parent.write_text("not a directory")
    nowhere = nowhere.parent.parent / "missing" / "format"

    assert state_format.take_over(nowhere, alarms) is None
