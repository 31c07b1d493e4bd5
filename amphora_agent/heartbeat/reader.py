"""Read all instances shortly before each beat, in threads that may wait so that the beat does not.

One thread asks haproxy, until a deadline. A second reads files, a third IPVS, a fourth reports: if
a disk stalls they wait, and their last results stay in force.
"""

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Protocol

from amphora_agent.events.alarms import Alarms
from amphora_agent.heartbeat.memory import CounterMemory
from amphora_agent.heartbeat.message import MOST_LISTENERS
from amphora_agent.heartbeat.sender import OLDEST, Facts
from amphora_agent.model.events import AlarmKind
from amphora_agent.model.status import InstanceReading

logger = logging.getLogger(__name__)

Readings = Mapping[str, InstanceReading]

#: Seconds that an instance may take to answer, and at most this share of the interval.
_ANSWER, _ANSWER_SHARE = 3.0, 0.4
#: Seconds to wait for files in each round.
_FILES = 0.25
#: Seconds between two reads of the facts.
_FACTS = 1.0
#: Seconds that a round begins before its beat, at least: what is written down and not yet told
#: would be lost in a crash meanwhile.
_LEAD = 0.1
#: The subject of alarms that concern no instance.
_AGENT = "agent"


class ReadingSource(Protocol):
    """Where readings come from. Methods that read files are apart from the one that asks
    haproxy."""

    def look(self) -> None:
        """Find the instances to ask, in files."""

    def ask(
        self, *, timeout: float, publish: Callable[[str, InstanceReading], None]
    ) -> dict[str, InstanceReading]:
        """Ask each instance; publish each reading as soon as it is complete."""

    def add_last_words(self, readings: Readings) -> dict[str, InstanceReading]:
        """Add the counters that ended workers have left in files."""

    def forget(self, readings: Readings) -> None:
        """Remove the last words in these readings, if these are complete: they are accounted
        for."""


class SideThread:
    """Runs one job at a time in a thread of its own."""

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[tuple[Callable[[], None], threading.Event]] = (
            queue.SimpleQueue()
        )
        self._free = threading.Event()
        self._free.set()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def run(self, job: Callable[[], None], timeout: float) -> bool:
        """Run a job unless the one before still runs; return whether it is done within `timeout`
        seconds."""
        if not self._free.is_set():
            return False
        self._free.clear()
        done = threading.Event()
        self._jobs.put((job, done))
        return done.wait(timeout)

    def _run(self) -> None:
        while True:
            job, done = self._jobs.get()
            try:
                job()
            except Exception:  # the next job must run, whatever this one met
                logger.exception("a part of a reading failed")
                self._free.set()
            else:
                self._free.set()  # first: the caller may send the next job at once
                done.set()


class Reader:
    """Keeps `facts` and `readings` up to date. `find_facts` reads files, `lvs` UDP and SCTP
    listeners; both may block."""

    def __init__(
        self,
        source: ReadingSource,
        lvs: Callable[[], dict[str, InstanceReading]],
        find_facts: Callable[[], Facts],
        first: Facts,
        memory: CounterMemory,
        alarms: Alarms,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._read_lvs = lvs
        self._find_facts = find_facts
        self._facts = first
        self._memory = memory
        self._alarms = alarms
        self._clock = clock
        self._readings: Readings = {}
        self._lvs_readings: Readings = {}
        self._forgettable: deque[tuple[int, Readings]] = deque(maxlen=16)
        self._accounted: deque[Readings] = deque(maxlen=16)
        self._duration = 0.0
        #: Whether the instances of haproxy, and UDP and SCTP listeners, have been listed once.
        #: Before, one that is not read is not gone: its reported counters must be kept.
        self._looked = self._looked_at_lvs = False
        #: Alarms of this class that are set.
        self._set: dict[tuple[AlarmKind, str], str] | None = None
        self._began = threading.Event()

    def facts(self) -> Facts:
        return self._facts

    def readings(self) -> Readings:
        return self._readings

    def start(self, next_beat: Callable[[], float]) -> None:
        """Read from now on, before each `next_beat` (on the clock)."""
        self._memory.start()
        threading.Thread(target=self._run, args=(next_beat,), name="reader", daemon=True).start()

    def await_first(self, timeout: float) -> bool:
        """Wait until everything has been read once; return whether it has."""
        return self._began.wait(timeout)

    def _run(self, next_beat: Callable[[], float]) -> None:
        self._files, self._ipvs = SideThread("files"), SideThread("ipvs")
        self._reports = SideThread("reports")
        read_for = None
        while True:
            try:
                self._files.run(self._take_facts, _FILES)
                due = next_beat()
                if due != read_for and self._clock() >= due - self._lead():
                    read_for = due
                    self._read()
            except Exception:  # the next round must come, whatever this one met
                logger.exception("the instances were not read")
            now = self._clock()
            due = next_beat() - self._lead()
            time.sleep(min(_FACTS, max(0.02, due - now)))

    def _lead(self) -> float:
        most = _ANSWER_SHARE * self._facts.settings.heartbeat_interval
        return min(most, max(_LEAD, 2 * self._duration))

    def _take_facts(self) -> None:
        self._facts = self._find_facts()

    def _read(self) -> None:
        began, interval = self._clock(), self._facts.settings.heartbeat_interval
        timeout = min(_ANSWER, interval * _ANSWER_SHARE)
        self._ipvs.run(self._take_lvs, _FILES)
        self._files.run(self._look, _FILES)
        answers = self._source.ask(timeout=timeout, publish=self._publish)
        self._readings = {**answers, **self._lvs_readings}
        self._began.set()
        self._account(answers)
        self._duration = self._clock() - began
        oldest = self._clock() - OLDEST * interval
        readings = self._readings
        self._reports.run(lambda: self._report(readings, oldest, OLDEST * interval), 0)

    def _look(self) -> None:
        self._source.look()
        self._looked = True

    def _take_lvs(self) -> None:
        try:
            self._lvs_readings = self._read_lvs()
        finally:  # listeners that can never be read are not remembered for ever
            self._looked_at_lvs = True

    def _publish(self, instance_id: str, reading: InstanceReading) -> None:
        self._readings = {**self._readings, instance_id: reading}

    def _account(self, answers: Readings) -> None:
        """Account for the counters. Last words are read after the workers have answered: a worker
        that a reload has replaced meanwhile has written them before it ended."""
        result: list[Readings] = []
        if not self._files.run(lambda: result.append(self._source.add_last_words(answers)), _FILES):
            result = [{name: answer._replace(complete=False) for name, answer in answers.items()}]
        complete = self._looked and self._looked_at_lvs
        number = self._memory.account({**result[0], **self._lvs_readings}, complete=complete)
        if number is None:
            return
        self._forgettable.append((number, result[0]))
        while self._forgettable and self._forgettable[0][0] <= self._memory.written:
            self._accounted.append(self._forgettable.popleft()[1])
        self._files.run(self._forget, _FILES)

    def _forget(self) -> None:
        while self._accounted:
            self._source.forget(self._accounted.popleft())

    def _report(self, readings: Readings, oldest: float, patience: float) -> None:
        """Set the alarms whose conditions hold, and clear the others."""
        self._memory.review(patience)
        wrong: dict[tuple[AlarmKind, str], str] = {}
        for name, reading in readings.items():
            if reading.silence is not None and reading.told(oldest) is None:
                wrong[AlarmKind.SILENT, name] = (
                    f"haproxy does not answer: {reading.silence.reason}. Heartbeats say DOWN; a "
                    "reload starts a new worker"
                )
            if reading.master_silence is not None:
                wrong[AlarmKind.MASTER_SILENT, name] = (
                    f"haproxy's master does not answer: {reading.master_silence.reason}. No change "
                    "is possible until it answers or is restarted (systemctl restart "
                    f"'haproxy-{name}*'), which interrupts traffic"
                )
        listeners = sum(len(reading.listeners) for reading in readings.values())
        if listeners > MOST_LISTENERS:
            wrong[AlarmKind.TOO_MANY_LISTENERS, _AGENT] = (
                f"{listeners} listeners: a heartbeat can tell of {MOST_LISTENERS}. Controllers may "
                "take this amphora for dead; delete listeners, or move load balancers"
            )
        if self._set is None:
            ours = {AlarmKind.SILENT, AlarmKind.MASTER_SILENT, AlarmKind.TOO_MANY_LISTENERS}
            self._set = {
                (AlarmKind(alarm.kind), alarm.subject): alarm.text
                for alarm in self._alarms.current()
                if alarm.kind in ours
            }
        for (kind, subject), text in wrong.items():
            if self._set.get((kind, subject)) != text:
                self._alarms.set_alarm(kind, subject, text)
        for kind, subject in self._set.keys() - wrong.keys():
            self._alarms.clear_alarm(kind, subject)
        self._set = wrong
