"""The record of what happened: what an entry says, what it never says, how much is kept."""

import fcntl
import itertools
import os
import signal
import subprocess
import sys
import threading
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from amphora_agent.errors import (
    Conflict,
    InvalidRequest,
    NotFound,
    OperationFailed,
    PreconditionFailed,
)
from amphora_agent.events.alarms import Alarms
from amphora_agent.events.journal import ChangeRecord, Journal
from amphora_agent.model.events import (
    AGENT,
    AlarmKind,
    Caller,
    Difference,
    Entry,
    EntryResult,
    Operation,
    Part,
    compare,
    operator,
)
from lab.waiting import until

LB = "lb1"
CONTROLLER = Caller("octavia-controller", "4C0FFEE")
NOON = datetime(2026, 3, 1, 12, 0, 0, 123456, UTC)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def make(directory: Path, **options: Any) -> Journal:
    return Journal(directory, Alarms(directory.parent / "alarms"), **options)


@pytest.fixture
def journal(directory: Path) -> Journal:
    """With a clock that goes on 1.5 s at each look."""
    ticks = itertools.count(step=1.5)
    return make(directory, now=lambda: NOON, clock=lambda: next(ticks))


def change(
    journal: Journal, by: Caller = CONTROLLER, operation: Operation = Operation.RELOAD
) -> AbstractContextManager[ChangeRecord]:
    return journal.change(Part.INSTANCE, LB, by, operation)


def add(journal: Journal, *words: str, by: Caller = CONTROLLER) -> Entry:
    """Write an entry and read it back."""
    with change(journal, by) as record:
        record.words = list(words)
    return journal.entries()[0]


def present(directory: Path) -> Path:
    return directory / "record.jsonl"


def before(directory: Path) -> Path:
    return directory / "record.jsonl.1"


# What is written


def test_a_change_that_was_made(journal: Journal, directory: Path) -> None:
    with change(journal, CONTROLLER, Operation.RELOAD) as record:
        record.words = ["pool web: member a added"]
        record.plan, record.reasons = "reload", ["frontend f is new"]
        record.generation = 7
    assert journal.entries() == [
        Entry(
            id=1,
            part=Part.INSTANCE,
            subject=LB,
            at="2026-03-01T12:00:00.123Z",
            who=CONTROLLER,
            operation=Operation.RELOAD,
            result=EntryResult.DONE,
            milliseconds=1500.0,
            words=("pool web: member a added",),
            plan="reload",
            reasons=("frontend f is new",),
            generation=7,
        )
    ]


def test_the_time_is_utc_wherever_the_machine_is(directory: Path) -> None:
    there = timezone(timedelta(hours=5, minutes=30))
    journal = make(directory, now=lambda: NOON.astimezone(there))
    assert add(journal).at == "2026-03-01T12:00:00.123Z"


@pytest.mark.parametrize(
    ("error", "result", "because"),
    [
        (InvalidRequest("Invalid request", "line 3: no"), EntryResult.REFUSED, "line 3: no"),
        (InvalidRequest("not an id"), EntryResult.REFUSED, "not an id"),
        (
            OperationFailed("Error reloading", "in use"),
            EntryResult.FAILED,
            "Error reloading: in use",
        ),
        (Conflict("In use"), EntryResult.REFUSED, "In use"),
        (
            PreconditionFailed("It has changed", "ETag x"),
            EntryResult.REFUSED,
            "It has changed: ETag x",
        ),
        (OSError(28, "No space left"), EntryResult.FAILED, "OSError: [Errno 28] No space left"),
    ],
)
def test_a_change_that_was_not_made(
    journal: Journal, directory: Path, error: Exception, result: EntryResult, because: str
) -> None:
    def fail() -> None:
        with change(journal, CONTROLLER, Operation.UPLOAD) as record:
            record.words = ["as far as it came"]
            raise error

    with pytest.raises(type(error)) as raised:
        fail()
    assert raised.value is error
    (entry,) = journal.entries()
    assert (entry.result, entry.because) == (result, because)
    assert entry.words == ("as far as it came",)


def test_a_change_that_took_another_way(journal: Journal, directory: Path) -> None:
    with change(journal, CONTROLLER, Operation.RELOAD) as record:
        record.plan, record.fell_back = "runtime", "set server: no such server"
    (entry,) = journal.entries()
    assert (entry.plan, entry.result) == ("runtime", EntryResult.FELL_BACK)
    assert entry.because == "set server: no such server"


def test_a_change_of_what_does_not_exist_is_not_recorded(journal: Journal) -> None:
    with pytest.raises(NotFound), change(journal):
        raise NotFound("Loadbalancer Not Found")
    with change(journal, CONTROLLER, Operation.CERTIFICATE_DELETE) as record:
        record.kept = False
    assert journal.entries() == []


def test_a_deletion_that_failed_is_written_down(journal: Journal, directory: Path) -> None:
    with (
        pytest.raises(OperationFailed),
        change(journal, CONTROLLER, Operation.DELETE),
    ):
        raise OperationFailed("it does not end")
    assert [entry.operation for entry in journal.entries()] == [Operation.DELETE]


def test_records_the_caller(journal: Journal, directory: Path) -> None:
    for caller, told in (
        (CONTROLLER, "octavia-controller (4C0FFEE)"),
        (Caller("c", "A1", "192.0.2.1"), "c (A1) at 192.0.2.1"),
        (operator(0), "operator (uid 0)"),
        (operator(1000, "alice"), "operator alice (uid 1000)"),
        (AGENT, "agent"),
    ):
        assert str(add(journal, by=caller).who) == told


def test_nothing_in_it_moves_a_terminal(journal: Journal, directory: Path) -> None:
    entry = add(journal, "pool \x1b[2Jx\r\udcff\u202e", by=Caller("con\x07troller"))
    assert entry.words == ("pool ?[2Jx???",)
    assert entry.who.name == "con?troller"


def test_the_words_of_an_entry_are_bounded(journal: Journal, directory: Path) -> None:
    def fail() -> None:
        with change(journal, Caller("c" * 10_000), Operation.UPLOAD) as record:
            record.words = ["w" * 10_000] * 1000
            record.reasons = ["r" * 10_000] * 21
            raise InvalidRequest("Invalid request", "\x00" * 1_000_000)

    with pytest.raises(InvalidRequest):
        fail()
    (entry,) = journal.entries()
    assert len(entry.words) == len(entry.reasons) == 21
    assert (entry.words[-1], entry.reasons[-1]) == ("and 980 more", "and 1 more")
    assert {len(text) for text in entry.words[:-1]} == {200}
    assert len(entry.who.name) == 200
    assert len(entry.because) == 2000
    assert present(directory).stat().st_size < 20_000


def test_journal_is_for_the_agent_alone(journal: Journal, directory: Path) -> None:
    old = os.umask(0)
    try:
        add(journal)
    finally:
        os.umask(old)
    assert present(directory).stat().st_mode & 0o777 == 0o600


def test_records_bounded_old_and_new_values(journal: Journal) -> None:
    with journal.change(Part.AGENT, "", CONTROLLER, Operation.CONFIGURATION) as record:
        record.differences = compare({"a": "1", "b": "x"}, {"a": "2", "b": "x", "c": "3\x1b"})
        record.differences += [Difference("n" * 999, "o" * 999, None)] * 30
    (entry,) = journal.entries()
    assert entry.differences[:2] == (Difference("a", "1", "2"), Difference("c", None, "3?"))
    assert [str(each) for each in entry.differences[:2]] == ["a: 1 -> 2", "c: none -> 3?"]
    assert len(entry.differences) == 20
    assert {len(each.name) for each in entry.differences[2:]} == {200}


def test_records_events_by_a_thread(journal: Journal) -> None:
    journal.report_death("haproxy-lb", "died with status -9")
    until(lambda: len(journal.entries()) == 1, "it is written")
    (entry,) = journal.entries()
    assert (entry.operation, entry.result) == (Operation.DEATH, EntryResult.HAPPENED)
    assert (entry.part, entry.subject, entry.who) == (Part.PROCESS, "haproxy-lb", AGENT)


def test_entries_that_cannot_be_written_stop_no_change_and_wait(
    journal: Journal, directory: Path
) -> None:
    directory.write_text("a file where the directory should be")
    alarms = Alarms(directory.parent / "alarms")
    for number in range(3):
        with change(journal) as record:
            record.words = [str(number)]
    (alarm,) = alarms.current("agent")
    assert alarm.kind == AlarmKind.RECORD_UNWRITTEN
    assert "make room" in alarm.text
    directory.unlink()
    add(journal, "3")
    assert [entry.words for entry in journal.entries()] == [("3",), ("2",), ("1",), ("0",)]
    assert alarms.current() == ()


def test_a_writer_that_hangs_stops_no_change(journal: Journal, directory: Path) -> None:
    add(journal, "first")
    with present(directory).open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with change(journal):
            pass
        assert Alarms(directory.parent / "alarms").current("agent")
    add(journal, "third")
    assert [entry.id for entry in journal.entries()] == [3, 2, 1]


def test_ids_rise_over_restarts_and_rotations_of_many_writers(directory: Path) -> None:
    words = ["x" * 200] * 20
    threads = [
        threading.Thread(target=_write_many, args=(make(directory), words)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert before(directory).exists()
    ids = [entry.id for entry in make(directory).entries()]
    assert ids == list(range(4 * 150, 4 * 150 - len(ids), -1))


def _write_many(journal: Journal, words: list[str]) -> None:
    for _ in range(150):
        with change(journal) as record:
            record.words = words


# What is read


def test_the_newest_come_first_and_no_more_than_asked_for(
    journal: Journal, directory: Path
) -> None:
    for number in range(5):
        add(journal, str(number))
    assert [entry.words for entry in journal.entries(most=2)] == [("4",), ("3",)]
    assert len(journal.entries()) == 5


def test_keeps_the_newest_entries_in_two_bounded_files(journal: Journal, directory: Path) -> None:
    for number in range(1200):
        with change(journal) as record:
            record.words = [f"{number}", *["x" * 200] * 19]
    total = 0
    for path in (present(directory), before(directory)):
        assert path.stat().st_size <= 2 << 20
        total += path.stat().st_size
    assert total > 2 << 20
    numbers = [int(entry.words[0]) for entry in journal.entries()]
    assert numbers == list(range(1199, 1199 - len(numbers), -1))
    assert len(numbers) > 500


def test_the_entries_of_one_subject_are_its_own_and_its_processes(
    journal: Journal, tmp_path: Path
) -> None:
    old = tmp_path / "journal.jsonl"
    line = b'{"at":"2025-01-01T00:00:00.000Z","who":{"name":"c","serial":"1"},'
    old.write_bytes(line + b'"operation":"upload","result":"done","milliseconds":1.0}\n')
    for subject in (LB, "lb2", "other"):
        with journal.change(Part.INSTANCE, subject, CONTROLLER, Operation.UPLOAD):
            pass
    journal.report_death(f"haproxy-{LB}", "died")
    until(lambda: len(journal.entries()) == 4, "it is written")
    found = [(entry.id, entry.subject) for entry in journal.entries(LB, older=[old])]
    assert found == [(4, f"haproxy-{LB}"), (1, LB), (0, "")]


def test_a_torn_line_is_left_out_and_nothing_is_lost_after_it(
    journal: Journal, directory: Path
) -> None:
    add(journal, "whole")
    whole = present(directory).read_bytes()
    for torn in (whole[:-1][: len(whole) // 2], b"\xff\xfe", b"[]", b'{"at":1}'):
        present(directory).write_bytes(whole + torn)
        assert [entry.words for entry in journal.entries()] == [("whole",)]
        add(journal, "after")
        found = [entry.words for entry in journal.entries()]
        assert found == [("after",), ("whole",)]


def test_ignores_fields_of_a_newer_agent(journal: Journal, directory: Path) -> None:
    add(journal, "known")
    line = present(directory).read_bytes()
    present(directory).write_bytes(line.replace(b',"at"', b',"mood":"good","at"'))
    assert journal.entries()[0].words == ("known",)


_MORTAL = """
import os, sys
from pathlib import Path
from tests.unit.events.test_journal import change, make

journal = make(Path(sys.argv[1]))
print(flush=True)
while True:
    with change(journal) as record:
        record.words = ["x" * 200] * 20
"""


def test_a_reader_beside_the_writer_and_its_kill_sees_whole_entries(
    journal: Journal, directory: Path
) -> None:
    arguments = [sys.executable, "-c", _MORTAL, str(directory)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as writer:
        try:
            assert writer.stdout is not None
            writer.stdout.readline()
            seen = 0
            while not before(directory).exists():
                entries = journal.entries()
                assert len(entries) >= seen
                seen = len(entries)
        finally:
            writer.send_signal(signal.SIGKILL)
    assert add(journal, "after").words == ("after",)
    lines = present(directory).read_bytes().splitlines()
    lines += before(directory).read_bytes().splitlines()
    assert len(journal.entries()) >= min(1000, len(lines) - 1)
