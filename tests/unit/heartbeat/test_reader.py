"""What is not read yet is not gone."""

import threading
from collections.abc import Callable
from pathlib import Path

from amphora_agent.events.alarms import Alarms
from amphora_agent.heartbeat.memory import CounterMemory
from amphora_agent.heartbeat.reader import Reader, Readings
from amphora_agent.heartbeat.sender import Facts
from amphora_agent.model.status import InstanceReading
from amphora_agent.settings.reader import Settings
from amphora_agent.slots import SlotFile
from lab.waiting import until
from tests.unit.heartbeat.test_memory import reading


class SlowFiles:
    """Knows its instance once its files can be read. haproxy and its disk are not there: that the
    first look takes longer than a round waits for it is not to be had otherwise."""

    def __init__(self, connections: int) -> None:
        self._reading = reading(connections)
        self._known: dict[str, InstanceReading] = {}
        self.readable = threading.Event()
        self.asked = 0

    def look(self) -> None:
        assert self.readable.wait(30)
        self._known = self._reading

    def ask(
        self, *, timeout: float, publish: Callable[[str, InstanceReading], None]
    ) -> dict[str, InstanceReading]:
        self.asked += 1
        return dict(self._known)

    def add_last_words(self, readings: Readings) -> dict[str, InstanceReading]:
        return dict(readings)

    def forget(self, readings: Readings) -> None:
        """There are none."""


def start(directory: Path, source: SlowFiles) -> CounterMemory:
    alarms = Alarms(directory / "alarms")
    memory = CounterMemory([SlotFile(directory / "counters", sync=False)], "boot", alarms)
    facts = Facts(Settings(amphora_id="a", heartbeat_interval=1))
    reader = Reader(source, dict, lambda: facts, facts, memory, alarms)
    beats = iter(range(1_000_000))
    reader.start(lambda: float(next(beats)) * 1e-6)  # each round is for another beat, and due
    return memory


def test_reports_counters_once_when_files_are_slow_at_the_start(tmp_path: Path) -> None:
    first = SlowFiles(5)
    first.readable.set()
    memory = start(tmp_path, first)
    until(lambda: memory.written > 0, "what is told is written down")

    second = SlowFiles(7)
    memory = start(tmp_path, second)
    until(lambda: second.asked > 1, "it has been read more than once")
    second.readable.set()
    told: list[int] = []

    def counted() -> bool:
        told.extend(each.totconns for each in memory.take().values())
        return bool(told)

    until(counted, "the increase is told")
    assert told == [2]


def await_written(memory: CounterMemory, number: int | None) -> None:
    assert number is not None
    until(lambda: memory.written >= number, "it is written down")


def test_without_a_memory_reports_nothing_of_slow_instances(tmp_path: Path) -> None:
    """It may have been told by an agent whose memory is lost."""
    alarms = Alarms(tmp_path / "alarms")
    memory = CounterMemory([SlotFile(tmp_path / "counters", sync=False)], "boot", alarms)
    memory.start()
    until(lambda: memory.account({}, complete=False) is not None, "the memory is known to be lost")
    for connections in (5, 7):
        await_written(memory, memory.account(reading(connections)))
    assert {name: each.totconns for name, each in memory.take().items()} == {"l": 2}
