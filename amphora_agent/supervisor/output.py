"""Log the serious lines of the output of haproxy and keepalived.

Those lines have no priority that a log would know: the agent logs again what an operator must see,
with its level.
"""

import json
import logging
import os
import re
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

logger = logging.getLogger(__name__)

#: Levels of the words with which haproxy begins its lines.
_LEVELS = {
    "EMERG": logging.ERROR,
    "ALERT": logging.ERROR,
    "CRIT": logging.ERROR,
    "ERROR": logging.ERROR,
    "WARNING": logging.WARNING,
    "NOTICE": logging.INFO,
    "DIAG": logging.DEBUG,
}
_HAPROXY = re.compile(r"\[(\w+)\]")
#: Lines of haproxy at every stop and every first start, whose level is too high.
_ORDINARY = re.compile(
    r"exited with code (?:0|130|143) |Exiting Master process|Former worker"
    r"|All workers exited\. Exiting\.\.\. \(0\)"
    r"|Can't open global server state file .*No such file"
)
#: keepalived's lines have no level. The first pattern matches those about its end, the second
#: those about failures.
_KEEPALIVED_ENDS = re.compile(r"permanent error|\bdied\b|out of memory", re.IGNORECASE)
_KEEPALIVED_FAILS = re.compile(
    r"\b(?:error|fail(?:ed|ure)?|unable|cannot|can't|not permitted|denied|no such)\b",
    re.IGNORECASE,
)
_KEEPALIVED, _PROBE = "octavia-keepalived", "octavia-vrrp-check"

#: Lines that are logged at one look, and characters of one.
_MOST_LINES, _LONGEST = 50, 500
#: Bytes of one file that are read at one look: the newest.
_MOST_READ = 1 << 16


def find_level(process: str, line: str) -> int:
    """Return the level of a line that a process of this name has written."""
    if matched := _HAPROXY.match(line):
        ordinary = _ORDINARY.search(line)
        return logging.INFO if ordinary else _LEVELS.get(matched[1], logging.INFO)
    if process.startswith(_KEEPALIVED):
        if _KEEPALIVED_ENDS.search(line):
            return logging.ERROR
        if _KEEPALIVED_FAILS.search(line):
            return logging.WARNING
    if process == _PROBE and line.startswith("does not answer"):
        return logging.WARNING
    return logging.DEBUG


def log_serious(lines: Iterable[tuple[str, str]]) -> None:
    """Log the lines, each with the name of its process, that an operator must see."""
    graded = [(find_level(process, line), process, line) for process, line in lines]
    serious = [each for each in graded if each[0] >= logging.WARNING]
    for level, process, line in serious[:_MOST_LINES]:
        printable = "".join(c if c.isprintable() else "?" for c in line[:_LONGEST])
        logger.log(level, "%s: %s", process, printable)
    if len(serious) > _MOST_LINES:
        logger.warning("and %d more lines like these", len(serious) - _MOST_LINES)


def parse_journal(output: str) -> tuple[list[tuple[str, str]], str]:
    """Return the lines in the output of `journalctl --output=json`, each with the name of its unit,
    and the cursor of the last entry; "" if there is none."""
    lines, cursor = [], ""
    for line in output.splitlines():
        try:
            entry = json.loads(line)
            cursor = entry["__CURSOR"]
        except (ValueError, TypeError, KeyError):  # a message of journalctl, or an entry cut off
            continue
        unit, message = entry.get("_SYSTEMD_UNIT"), entry.get("MESSAGE")
        # A binary message is a list of numbers, one that is too long null.
        if isinstance(unit, str) and isinstance(message, str):
            lines.append((unit.removesuffix(".service"), message))
    return lines, cursor


class OutputFiles:
    """Reads new lines in output files of processes, `path_of(name)`. Many threads may use it."""

    def __init__(self, path_of: Callable[[str], Path]) -> None:
        self._path_of = path_of
        self._lock = threading.Lock()
        #: The offset up to which each file has been read.
        self._read: dict[str, int] = {}

    def follow(self, name: str) -> None:
        """Read what a process writes from now on. Repeating changes nothing."""
        try:
            size = self._path_of(name).stat().st_size
        except OSError:
            size = 0
        with self._lock:
            self._read.setdefault(name, size)

    def forget(self, name: str) -> None:
        with self._lock:
            self._read.pop(name, None)

    def read(self) -> list[tuple[str, str]]:
        """Return the new complete lines, each with the name of its process."""
        new_lines = []
        with self._lock:
            for name, begin in self._read.items():
                lines, self._read[name] = _read_lines(self._path_of(name), begin)
                new_lines += [(name, line) for line in lines]
        return new_lines


def _read_lines(path: Path, begin: int) -> tuple[list[str], int]:
    """Return the complete lines after an offset, and the offset after them."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            # A file that became smaller was cut at its beginning.
            begin = size if begin > size else max(begin, size - _MOST_READ)
            file.seek(begin)
            content = file.read(_MOST_READ)
    except OSError:
        return [], begin
    end = content.rfind(b"\n") + 1
    return content[:end].decode(errors="replace").splitlines(), begin + end
