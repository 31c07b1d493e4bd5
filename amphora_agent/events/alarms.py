"""The alarms of the amphora, shared by all processes of the agent and its commands.

Each alarm is a small file in the run directory. A process that cannot write there keeps its alarms
in memory, so that a full disk hides no alarm from the process that raised it, and writes them with
the next one.
"""

import contextlib
import hashlib
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from amphora_agent import files
from amphora_agent.model.events import Alarm, AlarmKind

logger = logging.getLogger(__name__)


class Alarms:
    """Sets, clears and lists alarms. The code that sets an alarm clears it when the condition ends.
    An alarm survives a restart of the agent, and ends with a reboot.

    `directory` is made when it is first needed. No method raises OSError.
    """

    def __init__(self, directory: Path, clock: Callable[[], float] = time.time) -> None:
        self._directory = directory
        self._clock = clock
        self._lock = threading.Lock()
        #: Alarms that could not be written yet, and (None) those that could not be removed.
        self._unwritten: dict[str, Alarm | None] = {}

    def set_alarm(
        self, kind: AlarmKind, subject: str, text: str, level: int = logging.ERROR
    ) -> None:
        """Set an alarm. Log `text` if the alarm is new or its text or level has changed."""
        name, level_name = _make_file_name(kind, subject), logging.getLevelName(level)
        with self._lock:
            self._write_unwritten()
            before = self._load(name)
            if before is not None and (before.text, before.level) == (text, level_name):
                return
            since = self._clock() if before is None else before.since
            alarm = Alarm(kind=kind, subject=subject, text=text, level=level_name, since=since)
            # Before it is written: a disk that stalls is itself an alarm.
            logger.log(level, "%s: %s", subject, text)
            self._unwritten[name] = alarm
            self._write_unwritten()

    def clear_alarm(self, kind: str, subject: str) -> None:
        """Clear an alarm; do nothing if there is none."""
        name = _make_file_name(kind, subject)
        with self._lock:
            self._write_unwritten()
            before = self._load(name)
            if before is None:
                return
            self._unwritten[name] = None
            self._write_unwritten()
        logger.info("%s: no longer: %s", subject, before.text)

    def clear_subject(self, subject: str) -> None:
        """Clear all alarms of a subject that is removed."""
        for alarm in self.current(subject):
            self.clear_alarm(alarm.kind, subject)

    def current(self, subject: str | None = None) -> tuple[Alarm, ...]:
        """Return the alarms of a subject, or all, the oldest first."""
        with self._lock:
            try:
                names = {path.name for path in self._directory.glob("*.alarm")}
            except OSError:
                names = set()
            loaded = [self._load(name) for name in names | self._unwritten.keys()]
        alarms = [
            alarm
            for alarm in loaded
            if alarm is not None and (subject is None or alarm.subject == subject)
        ]
        return tuple(sorted(alarms, key=lambda alarm: (alarm.since, alarm.kind, alarm.subject)))

    def _write_unwritten(self) -> None:
        with contextlib.suppress(OSError):  # memory serves instead
            for name, alarm in [*self._unwritten.items()]:
                if alarm is None:
                    (self._directory / name).unlink(missing_ok=True)
                else:
                    files.make_private_directory(self._directory)
                    files.replace_unsynced(self._directory / name, msgspec.json.encode(alarm))
                del self._unwritten[name]

    def _load(self, name: str) -> Alarm | None:
        if name in self._unwritten:
            return self._unwritten[name]
        for _ in range(2):  # an alarm that cannot be read for a moment must not seem cleared
            try:
                return msgspec.json.decode((self._directory / name).read_bytes(), type=Alarm)
            except (FileNotFoundError, msgspec.MsgspecError):
                break
            except OSError:
                continue
        return None


def _make_file_name(kind: str, subject: str) -> str:
    digest = hashlib.sha256(subject.encode(errors="surrogateescape")).hexdigest()[:16]
    return f"{kind}-{digest}.alarm"
