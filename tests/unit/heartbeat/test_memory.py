"""No increase is told twice, whatever ends when; what waits is told when it can be written down."""

import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from amphora_agent.events.alarms import Alarms
from amphora_agent.heartbeat.memory import CounterMemory
from amphora_agent.model.events import AlarmKind
from amphora_agent.model.status import Counters, InstanceReading, ListenerReading, WorkerReading
from amphora_agent.slots import Slot, SlotFile
from lab.waiting import until


def reading(connections: int, *, complete: bool = True) -> dict[str, InstanceReading]:
    listener = ListenerReading("OPEN", 0, Counters(0, 0, connections, 0))
    current = WorkerReading("w", {"l": listener}, {})
    return {"lb": InstanceReading(("l",), current, (), complete=complete)}


class FaultyFile(SlotFile):
    """A file whose disk the test lets fail, or stall. It is here because a disk that fails at the
    very write that the test means is not to be had; tests/integration/test_heartbeat_disks.py has
    real ones."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, sync=False)
        self.fails = False
        self.writing = threading.Lock()
        self.goes_on = threading.Event()
        self.goes_on.set()

    def write(self, number: int, payload: bytes) -> None:
        assert self.goes_on.wait(30)
        with self.writing:
            if self.fails:
                raise OSError("No space left on device")
            super().write(number, payload)


class Agent:
    """What one life of the heartbeat's process does, and both files."""

    def __init__(self, directory: Path, boot: str = "boot") -> None:
        self.disk, self.run = FaultyFile(directory / "disk"), FaultyFile(directory / "run")
        self.alarms = Alarms(directory / "alarms")
        self.memory = CounterMemory([self.disk, self.run], boot, self.alarms)
        self.memory.start()

    def account(self, readings: Mapping[str, InstanceReading]) -> int:
        numbers: list[int] = []

        def accounted() -> bool:
            number = self.memory.account(readings)
            numbers.extend([] if number is None else [number])
            return bool(numbers)

        until(accounted, "the memory is read")
        return numbers[0]

    def settle(self, number: int) -> None:
        until(lambda: self.memory.written >= number, "it is written down")

    def tell(self) -> int:
        return self.memory.take().get("l", Counters(0, 0, 0, 0)).totconns


def count(agent: Agent, connections: int) -> int:
    agent.settle(agent.account(reading(connections)))
    return agent.tell()


def test_drops_counts_from_before_there_was_a_memory(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    assert [count(agent, number) for number in (5, 8)] == [0, 3]


def test_drops_counts_from_before_the_first_answer_of_an_instance(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    agent.account({"lb": InstanceReading(("l",), None, ())})
    assert [count(agent, number) for number in (5, 8)] == [0, 3]


def test_releases_increases_while_one_of_two_files_can_be_written(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    count(agent, 1)
    agent.disk.fails = True
    assert [count(agent, number) for number in (3, 4)] == [2, 1]
    again = Agent(tmp_path)
    assert count(again, 6) == 2


def test_holds_increases_while_no_file_can_be_written_and_loses_none(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    count(agent, 1)
    agent.disk.fails = agent.run.fails = True
    told = []
    for connections in range(2, 30):
        agent.account(reading(connections))
        told.append(agent.tell())
    assert set(told) == {0}
    until(lambda: len(agent.alarms.current()) == 2, "both are reported")
    agent.disk.fails = False
    assert count(agent, 31) == 30


def test_a_restart_while_no_file_can_be_written_reports_nothing_twice(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    assert [count(agent, number) for number in (1, 5)] == [0, 4]
    for connections in (6, 7):
        again = Agent(tmp_path)
        again.disk.fails = again.run.fails = True
        again.account(reading(connections))
        assert again.tell() == 0
    assert count(Agent(tmp_path), 9) == 4


def test_reports_a_disk_that_stalls_and_waits_for_none(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    count(agent, 1)
    agent.disk.goes_on.clear()
    assert count(agent, 4) == 3
    agent.memory.review(patience=60)
    assert agent.alarms.current() == ()

    def review() -> bool:
        agent.memory.review(patience=-1)
        return bool(agent.alarms.current())

    until(review, "the write has begun, and is reported")
    (alarm,) = agent.alarms.current()
    assert (alarm.kind, alarm.subject) == (
        AlarmKind.COUNTERS_NOT_SAVED,
        str(tmp_path / "disk"),
    )
    agent.disk.goes_on.set()
    until(lambda: not agent.alarms.current(), "it is written, and the alarm is over")


def test_a_disk_that_is_always_late_delays_increases_and_keeps_none(tmp_path: Path) -> None:
    """Each write ends when the next one has been asked for."""
    agent = Agent(tmp_path)
    agent.run.fails = True
    count(agent, 0)
    told = 0
    for connections in range(1, 40):
        agent.disk.goes_on.clear()
        agent.account(reading(connections))
        agent.disk.goes_on.set()
        told += agent.tell()
    agent.settle(agent.account(reading(40)))
    assert told + agent.tell() == 40


def test_after_a_boot_workers_begin_anew_and_names_mean_nothing(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    count(agent, 1)
    assert count(agent, 9) == 8
    booted = Agent(tmp_path, boot="another")
    assert count(booted, 12) == 12
    assert booted.memory.totals()["l"].totconns == 21


@pytest.mark.parametrize("content", [b"", b"not JSON", b"[]", b'{"boot": "boot", "reported": 1}'])
def test_a_memory_that_makes_no_sense_is_as_none(tmp_path: Path, content: bytes) -> None:
    file = SlotFile(tmp_path / "disk", sync=False)
    file.write(7, content)
    agent = Agent(tmp_path)
    assert [count(agent, number) for number in (5, 8)] == [0, 3]

    def is_written() -> bool:
        """Either file is enough for what is told; each is written by a thread of its own."""
        written = SlotFile(tmp_path / "run", sync=False).read()
        return isinstance(written, Slot) and written.number > 7

    until(is_written, "the other file is written, too")
