"""The journal: what an entry says of a change, what it never says, how much of it is kept."""

import itertools
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from amphora_agent.errors import (
    Conflict,
    InvalidRequest,
    NotFound,
    OperationFailed,
    PreconditionFailed,
)
from amphora_agent.haproxy.journal import Journal
from amphora_agent.layout import InstanceLayout
from amphora_agent.model.changes import AGENT, Caller, Entry, Operation, Result, operator
from tests.unit.haproxy.instances import layout

CONTROLLER = Caller("octavia-controller", "4C0FFEE")
NOON = datetime(2026, 3, 1, 12, 0, 0, 123456, UTC)


@pytest.fixture
def instance(tmp_path: Path) -> InstanceLayout:
    return layout(tmp_path)


@pytest.fixture
def journal() -> Journal:
    """With a clock that goes on 1.5 s at each look."""
    ticks = itertools.count(step=1.5)
    return Journal(lambda: NOON, lambda: next(ticks))


def add(
    journal: Journal,
    instance: InstanceLayout,
    *words: str,
    by: Caller = CONTROLLER,
    operation: Operation = Operation.RELOAD,
) -> Entry:
    """Write an entry and read it back."""
    with journal.change(instance, by, operation) as record:
        record.words = list(words)
    return journal.entries(instance)[0]


# What is written


def test_a_change_that_was_made(journal: Journal, instance: InstanceLayout) -> None:
    with journal.change(instance, CONTROLLER, Operation.RELOAD) as record:
        record.words = ["pool web: member a added"]
        record.plan, record.reasons = "reload", ["frontend f is new"]
        record.generation = 7
    assert journal.entries(instance) == [
        Entry(
            at="2026-03-01T12:00:00.123Z",
            who=CONTROLLER,
            operation=Operation.RELOAD,
            result=Result.DONE,
            milliseconds=1500.0,
            words=("pool web: member a added",),
            plan="reload",
            reasons=("frontend f is new",),
            generation=7,
        )
    ]


def test_the_time_is_utc_wherever_the_machine_is(instance: InstanceLayout) -> None:
    there = timezone(timedelta(hours=5, minutes=30))
    journal = Journal(lambda: NOON.astimezone(there))
    assert add(journal, instance).at == "2026-03-01T12:00:00.123Z"


@pytest.mark.parametrize(
    ("error", "result", "because"),
    [
        (InvalidRequest("Invalid request", "line 3: no"), Result.REFUSED, "line 3: no"),
        (InvalidRequest("not an id"), Result.REFUSED, "not an id"),
        (OperationFailed("Error reloading", "in use"), Result.FAILED, "Error reloading: in use"),
        (Conflict("In use"), Result.REFUSED, "In use"),
        (PreconditionFailed("It has changed", "ETag x"), Result.REFUSED, "It has changed: ETag x"),
        (OSError(28, "No space left"), Result.FAILED, "OSError: [Errno 28] No space left"),
    ],
)
def test_a_change_that_was_not_made(
    journal: Journal, instance: InstanceLayout, error: Exception, result: Result, because: str
) -> None:
    def fail() -> None:
        with journal.change(instance, CONTROLLER, Operation.UPLOAD) as record:
            record.words = ["as far as it came"]
            raise error

    with pytest.raises(type(error)) as raised:
        fail()
    assert raised.value is error
    (entry,) = journal.entries(instance)
    assert (entry.result, entry.because) == (result, because)
    assert entry.words == ("as far as it came",)


def test_a_change_that_took_another_way(journal: Journal, instance: InstanceLayout) -> None:
    with journal.change(instance, CONTROLLER, Operation.RELOAD) as record:
        record.plan, record.fell_back = "runtime", "set server: no such server"
    (entry,) = journal.entries(instance)
    assert (entry.plan, entry.result) == ("runtime", Result.FELL_BACK)
    assert entry.because == "set server: no such server"


def test_what_does_not_exist_has_no_journal(journal: Journal, instance: InstanceLayout) -> None:
    with pytest.raises(NotFound), journal.change(instance, CONTROLLER, Operation.RELOAD):
        raise NotFound("Loadbalancer Not Found")
    with journal.change(instance, CONTROLLER, Operation.DELETE):
        pass
    with journal.change(instance, CONTROLLER, Operation.CERTIFICATE_DELETE) as record:
        record.kept = False
    assert journal.entries(instance) == []
    assert not instance.directory.exists()


def test_a_deletion_that_failed_is_written_down(journal: Journal, instance: InstanceLayout) -> None:
    with (
        pytest.raises(OperationFailed),
        journal.change(instance, CONTROLLER, Operation.DELETE),
    ):
        raise OperationFailed("it does not end")
    assert [entry.operation for entry in journal.entries(instance)] == [Operation.DELETE]


def test_who_it_was(journal: Journal, instance: InstanceLayout) -> None:
    for caller, told in (
        (CONTROLLER, "octavia-controller (4C0FFEE)"),
        (operator(0), "operator (uid 0)"),
        (AGENT, "agent"),
    ):
        assert str(add(journal, instance, by=caller).who) == told


def test_nothing_in_it_moves_a_terminal(journal: Journal, instance: InstanceLayout) -> None:
    entry = add(journal, instance, "pool \x1b[2Jx\r\udcff\u202e", by=Caller("con\x07troller"))
    assert entry.words == ("pool ?[2Jx???",)
    assert entry.who.name == "con?troller"


def test_the_words_of_an_entry_are_bounded(journal: Journal, instance: InstanceLayout) -> None:
    def fail() -> None:
        with journal.change(instance, Caller("c" * 10_000), Operation.UPLOAD) as record:
            record.words = ["w" * 10_000] * 1000
            record.reasons = ["r" * 10_000] * 21
            raise InvalidRequest("Invalid request", "\x00" * 1_000_000)

    with pytest.raises(InvalidRequest):
        fail()
    (entry,) = journal.entries(instance)
    assert len(entry.words) == len(entry.reasons) == 21
    assert (entry.words[-1], entry.reasons[-1]) == ("and 980 more", "and 1 more")
    assert {len(text) for text in entry.words[:-1]} == {200}
    assert len(entry.who.name) == 200
    assert len(entry.because) == 2000
    assert instance.journal.stat().st_size < 20_000


def test_it_is_for_the_agent_alone(journal: Journal, instance: InstanceLayout) -> None:
    old = os.umask(0)
    try:
        add(journal, instance)
    finally:
        os.umask(old)
    assert instance.journal.stat().st_mode & 0o777 == 0o600


def test_a_journal_that_cannot_be_written_does_not_stop_a_change(
    journal: Journal, instance: InstanceLayout, caplog: pytest.LogCaptureFixture
) -> None:
    instance.directory.parent.mkdir(exist_ok=True)
    instance.directory.write_text("a file where the directory should be")
    with journal.change(instance, CONTROLLER, Operation.UPLOAD):
        pass
    assert "nothing written to its journal" in caplog.text


# What is read


def test_the_newest_come_first_and_no_more_than_asked_for(
    journal: Journal, instance: InstanceLayout
) -> None:
    for number in range(5):
        add(journal, instance, str(number))
    assert [entry.words for entry in journal.entries(instance, 2)] == [("4",), ("3",)]
    assert len(journal.entries(instance)) == 5


def test_it_keeps_the_newest_in_two_bounded_files(
    journal: Journal, instance: InstanceLayout
) -> None:
    for number in range(300):
        with journal.change(instance, CONTROLLER, Operation.RELOAD) as record:
            record.words = [f"{number}", *["x" * 200] * 19]
    total = 0
    for path in (instance.journal, instance.journal_before):
        assert path.stat().st_size <= 256 << 10
        total += path.stat().st_size
    assert total > 256 << 10
    numbers = [int(entry.words[0]) for entry in journal.entries(instance)]
    assert numbers == list(range(299, 299 - len(numbers), -1))
    assert len(numbers) > 60


def test_a_torn_line_is_left_out_and_nothing_is_lost_after_it(
    journal: Journal, instance: InstanceLayout
) -> None:
    add(journal, instance, "whole")
    whole = instance.journal.read_bytes()
    for torn in (whole[:-1][: len(whole) // 2], b"\xff\xfe", b"[]", b'{"at":1}'):
        instance.journal.write_bytes(whole + torn)
        assert [entry.words for entry in journal.entries(instance)] == [("whole",)]
        add(journal, instance, "after")
        found = [entry.words for entry in journal.entries(instance)]
        assert found == [("after",), ("whole",)]


def test_what_a_newer_agent_says_besides_does_not_matter(
    journal: Journal, instance: InstanceLayout
) -> None:
    add(journal, instance, "known")
    line = instance.journal.read_bytes()
    instance.journal.write_bytes(line.replace(b'{"at"', b'{"mood":"good","at"'))
    assert journal.entries(instance)[0].words == ("known",)


_MORTAL = """
import os, sys
from pathlib import Path
from tests.unit.haproxy.test_journal import CONTROLLER
from tests.unit.haproxy.instances import layout
from amphora_agent.haproxy.journal import Journal
from amphora_agent.model.changes import Operation

journal, instance = Journal(), layout(Path(sys.argv[1]))
print(flush=True)
while True:
    with journal.change(instance, CONTROLLER, Operation.RELOAD) as record:
        record.words = ["x" * 200] * 20
"""


def test_a_reader_beside_the_writer_and_its_kill_sees_whole_entries(
    journal: Journal, instance: InstanceLayout
) -> None:
    arguments = [sys.executable, "-c", _MORTAL, str(instance.directory.parent)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as writer:
        try:
            assert writer.stdout is not None
            writer.stdout.readline()
            seen = 0
            while not instance.journal_before.exists():
                entries = journal.entries(instance)
                assert len(entries) >= seen
                seen = len(entries)
        finally:
            writer.send_signal(signal.SIGKILL)
    assert add(journal, instance, "after").words == ("after",)
    lines = instance.journal.read_bytes().splitlines()
    lines += instance.journal_before.read_bytes().splitlines()
    assert len(journal.entries(instance)) >= len(lines) - 1
