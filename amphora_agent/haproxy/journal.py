"""The journal of an instance: a bounded file of JSON lines, one for each change.

It tells people what happened; the truth about the configuration is elsewhere, so an entry is not
synced, and one that cannot be written costs a warning and not the change. Who writes holds the
instance's lock; who reads needs none.
"""

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime

import msgspec

from amphora_agent import files
from amphora_agent.errors import (
    AgentError,
    Conflict,
    InvalidRequest,
    NotFound,
    PreconditionFailed,
)
from amphora_agent.layout import InstanceLayout
from amphora_agent.model.changes import Caller, Entry, Operation, Result

logger = logging.getLogger(__name__)

#: Bytes of a file; there are two, the present one and the one before.
_FILE_LIMIT = 256 << 10
#: Entries that are ever given out.
MOST_ENTRIES = 1000
#: Strings of a kind in an entry, characters in one of them, and in why something went wrong.
_MOST_STRINGS, _LONGEST_STRING, _LONGEST_REASON = 20, 200, 2000


class Record:
    """What is known of a change while it is made."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.plan = ""
        self.reasons: list[str] = []
        #: Why a reload took the place of changes at runtime.
        self.fell_back: str | None = None
        self.generation: int | None = None
        #: False when it turns out that there is nothing to write down.
        self.kept = True


class Journal:
    """The journals of all instances."""

    def __init__(
        self,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._now = now
        self._clock = clock

    @contextlib.contextmanager
    def change(
        self, instance: InstanceLayout, by: Caller, operation: Operation
    ) -> Iterator[Record]:
        """Write down a change when the block that makes it ends, whatever its end.

        An instance that does not exist, or no more, has no journal.
        """
        record = Record()
        began = self._clock()
        result, because = Result.DONE, ""
        try:
            yield record
        except NotFound:
            record.kept = False
            raise
        except InvalidRequest as error:
            result, because = Result.REFUSED, error.details or error.message
            raise
        except (Conflict, PreconditionFailed) as error:
            result, because = Result.REFUSED, str(error)
            raise
        except AgentError as error:
            result, because = Result.FAILED, str(error)
            raise
        except BaseException as error:  # a defect, a full disk, an end by force: all are told
            result, because = Result.FAILED, f"{type(error).__name__}: {error}"
            raise
        else:
            if record.fell_back is not None:
                result, because = Result.FELL_BACK, record.fell_back
            if operation is Operation.DELETE:
                record.kept = False
        finally:
            milliseconds = (self._clock() - began) * 1000
            logger.info(
                "instance=%s change=%s by=%r plan=%s result=%s generation=%s ms=%.1f",
                instance.id,
                operation.value,
                str(by),
                record.plan or "-",
                result.value,
                record.generation,
                milliseconds,
            )
            if record.kept:
                self._append(
                    instance,
                    Entry(
                        at=_rfc3339(self._now()),
                        who=Caller(_clean(by.name), _clean(by.serial)),
                        operation=operation,
                        result=result,
                        milliseconds=round(milliseconds, 1),
                        words=_some(record.words),
                        plan=record.plan,
                        reasons=_some(record.reasons),
                        because=_clean(because, _LONGEST_REASON),
                        generation=record.generation,
                    ),
                )

    def entries(self, instance: InstanceLayout, most: int = MOST_ENTRIES) -> list[Entry]:
        """The newest entries, at most so many, the newest first. Lines that make no sense (torn
        by a kill or a full disk, or of another agent) are left out."""
        found: list[Entry] = []
        for line in _lines_backwards(instance):
            if len(found) >= min(most, MOST_ENTRIES):
                break
            with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):
                found.append(msgspec.json.decode(line, type=Entry))
        return found

    def _append(self, instance: InstanceLayout, entry: Entry) -> None:
        try:
            files.make_directory(instance.directory)
            files.append(
                instance.journal,
                msgspec.json.encode(entry) + b"\n",
                limit=_FILE_LIMIT,
                before=instance.journal_before,
            )
        except OSError as error:
            logger.warning("instance=%s nothing written to its journal: %s", instance.id, error)


def _lines_backwards(instance: InstanceLayout) -> Iterator[bytes]:
    read = None
    for path in (instance.journal, instance.journal_before):
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            inode = os.fstat(file.fileno()).st_ino
            if inode != read:  # as the second file is when it has been the first one until now
                read = inode
                yield from reversed(file.read().splitlines())


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _some(strings: Iterable[str]) -> tuple[str, ...]:
    """As many as an entry may have, and how many there are besides."""
    all_ = tuple(strings)
    shown = tuple(_clean(text) for text in all_[:_MOST_STRINGS])
    return shown if len(all_) <= _MOST_STRINGS else (*shown, f"and {len(all_) - len(shown)} more")


def _clean(text: str, most: int = _LONGEST_STRING) -> str:
    """Bounded, and with nothing in it that a terminal would obey."""
    text = text.strip()
    if len(text) > most:
        text = f"{text[: most - 1]}…"
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)
