"""What haproxy and keepalived say on their output, weighed: their lines have no priority that a log
would know, so those that an operator must see are said again by the agent, with theirs.
"""

import json
import logging
import os
import re
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

logger = logging.getLogger(__name__)

#: The levels of haproxy's words at the beginning of its lines.
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
#: What haproxy says louder than it is: at an end that was asked for, and at each first start.
_ORDINARY = re.compile(
    r"exited with code (?:0|130|143) |Exiting Master process|Former worker"
    r"|All workers exited\. Exiting\.\.\. \(0\)"
    r"|Can't open global server state file .*No such file"
)
#: keepalived's lines have no level. The first say that it ends, the others that it cannot do
#: something.
_KEEPALIVED_ENDS = re.compile(r"permanent error|\bdied\b|out of memory", re.IGNORECASE)
_KEEPALIVED_FAILS = re.compile(
    r"\b(?:error|fail(?:ed|ure)?|unable|cannot|can't|not permitted|denied|no such)\b",
    re.IGNORECASE,
)
_KEEPALIVED, _PROBE = "octavia-keepalived", "octavia-vrrp-check"

#: Lines of one look that are said again, and characters of one.
_MOST_LINES, _LONGEST = 50, 500
#: Bytes of one file that are read at one look: the newest.
_MOST_READ = 1 << 16


def level_of(process: str, line: str) -> int:
    """The level of a line of a process, by the process's name."""
    if found := _HAPROXY.match(line):
        ordinary = _ORDINARY.search(line)
        return logging.INFO if ordinary else _LEVELS.get(found[1], logging.INFO)
    if process.startswith(_KEEPALIVED):
        if _KEEPALIVED_ENDS.search(line):
            return logging.ERROR
        if _KEEPALIVED_FAILS.search(line):
            return logging.WARNING
    if process == _PROBE and line.startswith("does not answer"):
        return logging.WARNING
    return logging.DEBUG


def say_again(lines: Iterable[tuple[str, str]]) -> None:
    """Log the lines, of processes by name, that an operator must see."""
    weighed = [(level_of(*each), *each) for each in lines]
    serious = [each for each in weighed if each[0] >= logging.WARNING]
    for level, process, line in serious[:_MOST_LINES]:
        printable = "".join(c if c.isprintable() else "?" for c in line[:_LONGEST])
        logger.log(level, "%s: %s", process, printable)
    if len(serious) > _MOST_LINES:
        logger.warning("and %d more lines like these", len(serious) - _MOST_LINES)


def of_journal(output: str) -> tuple[list[tuple[str, str]], str]:
    """The lines of units, by the units' names, that `journalctl --output=json` has found; and the
    cursor of its last entry, empty when it has found none."""
    lines, cursor = [], ""
    for line in output.splitlines():
        try:
            entry = json.loads(line)
            cursor = entry["__CURSOR"]
        except (ValueError, TypeError, KeyError):  # words of journalctl, or cut off
            continue
        unit, message = entry.get("_SYSTEMD_UNIT"), entry.get("MESSAGE")
        # What is no text is a list of numbers, or null where it is too long.
        if isinstance(unit, str) and isinstance(message, str):
            lines.append((unit.removesuffix(".service"), message))
    return lines, cursor


class OutputFiles:
    """The output of processes in files, `path_of(name)`; tells what is new. May be used by many
    threads."""

    def __init__(self, path_of: Callable[[str], Path]) -> None:
        self._path_of = path_of
        self._lock = threading.Lock()
        #: Up to where each has been read.
        self._read: dict[str, int] = {}

    def follow(self, name: str) -> None:
        """Tell of what comes from now on; again changes nothing."""
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
        """The new lines, whole ones, with the names of the processes."""
        found = []
        with self._lock:
            for name, begin in self._read.items():
                lines, self._read[name] = _lines_from(self._path_of(name), begin)
                found += [(name, line) for line in lines]
        return found


def _lines_from(path: Path, begin: int) -> tuple[list[str], int]:
    """The whole lines from an offset on, and the offset behind them."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            # A file that became smaller was cut at its beginning.
            begin = size if begin > size else max(begin, size - _MOST_READ)
            file.seek(begin)
            said = file.read(_MOST_READ)
    except OSError:
        return [], begin
    end = said.rfind(b"\n") + 1
    return said[:end].decode(errors="replace").splitlines(), begin + end
