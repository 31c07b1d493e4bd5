"""The record of what happened: one bounded file of JSON lines for the whole amphora.

The record is for people; the state of the configuration is elsewhere. So entries are not synced,
and an entry that cannot be written sets an alarm and stops nothing: the newest of such entries wait
in memory for the next write.

Every process of the agent and every command writes to the same file, one at a time; reading needs
no lock. Ids rise from entry to entry: a writer takes the id after the last one in the file.
"""

import contextlib
import logging
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from amphora_agent import files
from amphora_agent.errors import AgentError, Conflict, InvalidRequest, NotFound, PreconditionFailed
from amphora_agent.events.alarms import Alarms
from amphora_agent.model.events import (
    AGENT,
    AlarmKind,
    Caller,
    Difference,
    Entry,
    EntryResult,
    Operation,
    Part,
)

logger = logging.getLogger(__name__)

#: Bytes of a file. There are two: the present one and the one before.
_FILE_LIMIT = 2 << 20
#: The most entries that are returned.
MOST_ENTRIES = 1000
#: Entries that wait in memory while the disk refuses them.
_MOST_WAITING = 200
#: Seconds between two attempts to write these.
_RETRY = 5.0
#: Strings of a kind in an entry, characters in one of them, and in why something went wrong.
_MOST_STRINGS, _LONGEST_STRING, _LONGEST_REASON = 20, 200, 2000

#: The begin of an entry with an id; a torn line may still have its id.
_ID = re.compile(rb'\{"id":([0-9]{1,18}),')


class ChangeRecord:
    """The data of a change while it is made."""

    def __init__(self, subject: str) -> None:
        #: May become more exact while the change is made.
        self.subject = subject
        self.words: list[str] = []
        self.differences: list[Difference] = []
        self.plan = ""
        self.reasons: list[str] = []
        #: Why a reload took the place of changes at runtime.
        self.fell_back: str | None = None
        self.generation: int | None = None
        #: False if there is nothing to record.
        self.kept = True


class Journal:
    """The record in `directory`. One object may be used by many threads.

    An alarm is set while entries cannot be written.
    """

    def __init__(
        self,
        directory: Path,
        alarms: Alarms,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._present = directory / "record.jsonl"
        self._before = directory / "record.jsonl.1"
        self._alarms = alarms
        self._now = now
        self._clock = clock
        self._writing = threading.Lock()
        self._waiting: deque[Entry] = deque(maxlen=_MOST_WAITING)
        self._retrying: threading.Thread | None = None
        self._reporting = threading.Lock()
        self._reports: deque[Entry] = deque(maxlen=_MOST_WAITING)
        self._reporter: threading.Thread | None = None

    @contextlib.contextmanager
    def change(
        self, part: Part, subject: str, by: Caller, operation: Operation
    ) -> Iterator[ChangeRecord]:
        """Record a change when the block that makes it ends, with or without an error. A
        change of an object that does not exist (NotFound) is not recorded."""
        record = ChangeRecord(subject)
        began = self._clock()
        result, because = EntryResult.DONE, ""
        try:
            yield record
        except NotFound:
            record.kept = False
            raise
        except BaseException as error:  # a defect, a full disk, an end by force: all are recorded
            result, because = _judge_error(error)
            raise
        else:
            if record.fell_back is not None:
                result, because = EntryResult.FELL_BACK, record.fell_back
        finally:
            milliseconds = (self._clock() - began) * 1000
            logger.info(
                "%s=%s change=%s by=%r plan=%s result=%s generation=%s ms=%.1f",
                part.value,
                record.subject,
                operation.value,
                str(by),
                record.plan or "-",
                result.value,
                record.generation,
                milliseconds,
            )
            if record.kept:
                self._write(
                    self._make_entry(part, by, operation, result, because, record, milliseconds)
                )

    def report(
        self,
        part: Part,
        subject: str,
        operation: Operation,
        words: Sequence[str] = (),
        differences: Sequence[Difference] = (),
    ) -> None:
        """Record an event that nobody has requested. Returns at once: a thread writes."""
        record = ChangeRecord(subject)
        record.words, record.differences = list(words), list(differences)
        entry = self._make_entry(part, AGENT, operation, EntryResult.HAPPENED, "", record, 0.0)
        with self._reporting:
            self._reports.append(entry)
            if self._reporter is None:
                self._reporter = threading.Thread(
                    target=self._write_reports, name="record", daemon=True
                )
                self._reporter.start()

    def report_death(self, process: str, words: str) -> None:
        """Record the end of a process that should run."""
        self.report(Part.PROCESS, process, Operation.DEATH, [words])

    def entries(
        self, subject: str | None = None, most: int = MOST_ENTRIES, older: Iterable[Path] = ()
    ) -> list[Entry]:
        """Return the newest entries, at most `most`, the newest first: all, or those of one subject
        and its processes. `older` are files of an agent that kept a record for each instance.

        Unreadable lines (torn by a kill or a full disk, or of another agent) are left out.
        """
        most = min(most, MOST_ENTRIES)
        entries: list[Entry] = []
        sources = [(path, True) for path in (self._present, self._before)]
        sources += [(path, False) for path in older]
        last_id: int | None = None
        for path, of_all in sources:
            for line in files.lines_backwards(path):
                if len(entries) >= most:
                    return entries
                if of_all and subject is not None and subject.encode() not in line:
                    continue  # a cheap check: most entries are of others
                with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):
                    entry = msgspec.json.decode(line, type=Entry)
                    if of_all and not (subject is None or _concerns(entry, subject)):
                        continue
                    if of_all and last_id is not None and entry.id >= last_id:
                        continue  # the files were renamed meanwhile
                    last_id = entry.id if of_all else last_id
                    entries.append(entry)
        return entries

    # Writing

    def _make_entry(
        self,
        part: Part,
        by: Caller,
        operation: Operation,
        result: EntryResult,
        because: str,
        record: ChangeRecord,
        milliseconds: float,
    ) -> Entry:
        moment = self._now().astimezone(UTC).isoformat(timespec="milliseconds")
        return Entry(
            at=moment.replace("+00:00", "Z"),
            who=Caller(_clean(by.name), _clean(by.serial), _clean(by.address)),
            part=part,
            subject=_clean(record.subject),
            operation=operation,
            result=result,
            milliseconds=round(milliseconds, 1),
            words=_shorten(record.words),
            differences=tuple(map(_clean_difference, record.differences[:_MOST_STRINGS])),
            plan=record.plan,
            reasons=_shorten(record.reasons),
            because=_clean(because, _LONGEST_REASON),
            generation=record.generation,
        )

    def _write_reports(self) -> None:
        while True:
            with self._reporting:
                if not self._reports:
                    self._reporter = None
                    return
                entry = self._reports.popleft()
            self._write(entry)

    def _write(self, entry: Entry) -> None:
        with self._writing:
            self._waiting.append(entry)
            if not self._write_waiting() and self._retrying is None:
                retrying = threading.Thread(target=self._retry, name="record-retry", daemon=True)
                # If no thread can be started, the next entry retries.
                with contextlib.suppress(RuntimeError):
                    retrying.start()
                    self._retrying = retrying

    def _write_waiting(self) -> bool:
        """Write all waiting entries; return whether that was possible, and set an alarm if not."""
        try:
            files.make_private_directory(self._present.parent)
            while self._waiting:
                self._append(self._waiting[0])
                self._waiting.popleft()
        except OSError as error:
            self._alarms.set_alarm(
                AlarmKind.RECORD_UNWRITTEN,
                "agent",
                f"cannot write the record of changes: {error}; the newest {_MOST_WAITING} "
                "entries wait in memory; make room on the disk",
            )
            return False
        self._alarms.clear_alarm(AlarmKind.RECORD_UNWRITTEN, "agent")
        return True

    def _retry(self) -> None:
        """Write the waiting entries as soon as the disk takes them."""
        while True:
            time.sleep(_RETRY)
            with self._writing:
                if self._write_waiting():
                    self._retrying = None
                    return

    def _append(self, entry: Entry) -> None:
        def make_line(end: bytes) -> bytes:
            line = msgspec.structs.replace(entry, id=_find_last_id(end) + 1)
            return msgspec.json.encode(line) + b"\n"

        files.append(self._present, make_line, limit=_FILE_LIMIT, before=self._before)


def _judge_error(error: BaseException) -> tuple[EntryResult, str]:
    """Return what a change became that an error has ended, and the reason."""
    match error:
        case InvalidRequest():
            return EntryResult.REFUSED, error.details or error.message
        case Conflict() | PreconditionFailed():
            return EntryResult.REFUSED, str(error)
        case AgentError():
            return EntryResult.FAILED, str(error)
        case _:
            return EntryResult.FAILED, f"{type(error).__name__}: {error}"


def _find_last_id(end: bytes) -> int:
    for line in reversed(end.splitlines()):
        if beginning := _ID.match(line):
            return int(beginning[1])
    return 0


def _concerns(entry: Entry, subject: str) -> bool:
    """Return whether an entry is about a subject, or about a process named after it."""
    if entry.part is Part.PROCESS:
        return entry.subject == subject or entry.subject.endswith(f"-{subject}")
    return entry.subject == subject


def _shorten(strings: Iterable[str]) -> tuple[str, ...]:
    """Return as many strings as an entry may have, and the number of the others."""
    all_ = tuple(strings)
    shown = tuple(_clean(text) for text in all_[:_MOST_STRINGS])
    return shown if len(all_) <= _MOST_STRINGS else (*shown, f"and {len(all_) - len(shown)} more")


def _clean_difference(difference: Difference) -> Difference:
    old, new = (None if v is None else _clean(v) for v in (difference.old, difference.new))
    return Difference(_clean(difference.name), old, new, difference.line)


def _clean(text: str, most: int = _LONGEST_STRING) -> str:
    """Return a bounded text without control characters of a terminal."""
    text = text.strip()
    if len(text) > most:
        text = f"{text[: most - 1]}…"
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)
