"""Work beside the changes: hung workers ended, haproxy's program watched, leftovers removed.

What a change leaves behind, generations beyond the tenth and contents that nothing refers to, is
removed a moment after the last change.
"""

import contextlib
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping

from amphora_agent.events.alarms import Alarms
from amphora_agent.events.journal import Journal
from amphora_agent.haproxy.config import parser
from amphora_agent.haproxy.process import render
from amphora_agent.haproxy.process.binary import Haproxy
from amphora_agent.haproxy.runtime import loaded_state
from amphora_agent.haproxy.runtime.final_counters import worker_name
from amphora_agent.model.events import AlarmKind, Operation, Part
from amphora_agent.model.status import HungWorker
from amphora_agent.paths import InstanceLayout, Layout, ObjectId
from amphora_agent.supervisor.processes import kill, start_time

logger = logging.getLogger(__name__)

#: Seconds between two looks.
_PROGRAM_PERIOD = 2.0


class Presence:
    """Watches the program: an alarm lasts as long as it cannot be run."""

    def __init__(self, haproxy: Haproxy, alarms: Alarms, journal: Journal) -> None:
        self._haproxy = haproxy
        self._alarms = alarms
        self._journal = journal

    def watch(self) -> None:
        """Look until the process ends."""
        while True:
            try:
                self.look()
            except Exception:  # the last resort of a thread that nobody would start again
                logger.exception("haproxy was not looked for")
            time.sleep(_PROGRAM_PERIOD)

    def look(self) -> None:
        """Raise or end the alarm; record it once."""
        subject = str(self._haproxy.program)
        kind = AlarmKind.PROGRAM_MISSING
        known = any(alarm.kind == kind for alarm in self._alarms.current(subject))
        fault = self._haproxy.find_fault()
        if fault is not None:
            self._alarms.set_alarm(
                kind,
                subject,
                f"cannot run haproxy: {fault}; no load balancer can be changed or started:"
                " install haproxy, or correct haproxy_cmd",
            )
        else:
            self._alarms.clear_alarm(kind, subject)
        if known != (fault is not None):
            self._journal.report(
                Part.AGENT, subject, Operation.PROGRAM, [fault or "it can be run again"]
            )


_KEYWORD = "hard-stop-after"
#: haproxy's units of time in seconds; without one a number is of milliseconds.
_UNITS = {"us": 1e-6, "ms": 1e-3, "": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_TIME = re.compile(r"(\d+)(us|ms|s|m|h|d|)")
_WORKERS_PERIOD = 1.0


class HungWorkers:
    """`found` are the workers, by instance, that heartbeats have found hung."""

    def __init__(
        self,
        layout: Layout,
        found: Callable[[], Mapping[str, tuple[HungWorker, ...]]],
        journal: Journal,
    ) -> None:
        self._layout = layout
        self._found = found
        self._journal = journal

    def watch(self) -> None:
        """End them until the process ends."""
        while True:
            time.sleep(_WORKERS_PERIOD)
            try:
                self.end_overdue()
            except Exception:  # the last resort of a thread that nobody would start again
                logger.exception("hung workers were not looked for")

    def end_overdue(self) -> None:
        """End those that are overdue now."""
        for instance_id, workers in self._found().items():
            instance = self._layout.instance(ObjectId(instance_id))
            for worker in workers:
                if time.time() - worker.since > read_hard_stop_after(instance):
                    self._end(instance, worker)

    def _end(self, instance: InstanceLayout, worker: HungWorker) -> None:
        started = start_time(worker.pid)
        if started is None or worker_name(worker.pid) != worker.name:
            return
        if kill(worker.pid, started):
            message = (
                f"worker {worker.pid} hung after a reload, outlived {_KEYWORD}, and was killed"
            )
            logger.error("instance=%s %s", instance.id, message)
            self._journal.report(Part.PROCESS, instance.process, Operation.HUNG_WORKER, [message])


def read_hard_stop_after(instance: InstanceLayout) -> float:
    """Return how many seconds an instance gives its replaced workers."""
    last = render.HARD_STOP_AFTER
    with contextlib.suppress(FileNotFoundError):
        text = parser.join_texts(loaded_state.read_loaded(instance))
        for line in parser.parse_config(text, {_KEYWORD}).lines("global", _KEYWORD):
            last = line.words[1]
    return parse_seconds(last)


def parse_seconds(time_: str) -> float:
    """Return the seconds of a time as haproxy writes it; the agent's own for what it is not."""
    found = _TIME.fullmatch(time_)
    return int(found[1]) * _UNITS[found[2]] if found else parse_seconds(render.HARD_STOP_AFTER)


#: Seconds without another change.
_QUIET = 1.0


class Tidying:
    """Does work in a thread of its own; of the same work that was asked for twice, once."""

    def __init__(self, quiet: float = _QUIET) -> None:
        self._quiet = quiet
        self._asked = threading.Event()
        self._lock = threading.Lock()
        self._work: dict[str, Callable[[], None]] = {}
        self._thread: threading.Thread | None = None

    def later(self, name: str, work: Callable[[], None]) -> None:
        """Have work done; `name` tells it from other work."""
        with self._lock:
            self._work[name] = work
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="tidying", daemon=True)
                self._thread.start()
        self._asked.set()

    def _run(self) -> None:
        while True:
            self._asked.wait()
            while self._asked.is_set():
                self._asked.clear()
                self._asked.wait(self._quiet)
            with self._lock:
                all_work, self._work = self._work, {}
            for name, work in all_work.items():
                try:
                    work()
                except Exception:  # what stays is removed another time
                    logger.exception("%s: not tidied", name)
