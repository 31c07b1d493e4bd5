"""Read `show proc` of the master socket: which workers there are, and how reloads went."""

import re
from typing import NamedTuple

from amphora_agent.errors import OperationFailed
from amphora_agent.model.status import Worker


class Workers(NamedTuple):
    """The process tree as its master tells it.

    `reloads` counts attempts since the master began, `failed` those in a row that went wrong.
    `current` is the worker of the last successful load, `leaving` those it has replaced.
    """

    reloads: int
    failed: int
    current: int | None
    leaving: tuple[int, ...]


_MASTER = re.compile(r"(?P<pid>\d+)\s+master\s+(?P<reloads>\d+)(?: \[failed: (?P<failed>\d+)\])?")
_WORKER = re.compile(r"(?P<pid>\d+)\s+worker\s")
_LIFE = re.compile(
    r"(?P<pid>\d+)\s+worker\s+(?P<reloads>\d+)\s+"
    r"(?P<days>\d+)d(?P<hours>\d+)h(?P<minutes>\d+)m(?P<seconds>\d+)s"
)


def read_workers(reply: str) -> Workers:
    """Read a reply to `show proc`; haproxy 2.6 to 3.0.

    Raises:
        OperationFailed: it is something else.
    """
    master: re.Match[str] | None = None
    current: list[int] = []
    leaving: list[int] = []
    lists = {"workers": current, "old workers": leaving}
    into: list[int] = []
    for line in reply.splitlines():
        if line.startswith("#"):
            into = lists.get(line.strip("# "), [])  # programs are no workers, whatever their name
            continue
        if row := _MASTER.match(line):
            master = row
        elif row := _WORKER.match(line):
            into.append(int(row["pid"]))
    if master is None:
        raise OperationFailed("Cannot read the workers of haproxy", repr(reply[:80]))
    return Workers(
        reloads=int(master["reloads"]),
        failed=int(master["failed"] or 0),
        current=current[0] if current else None,
        leaving=tuple(leaving),
    )


def read_lives(reply: str) -> dict[int, Worker]:
    """Return all workers in a reply to `show proc`, by pid; those that leave, too."""
    lives = {}
    for row in _LIFE.finditer(reply):
        pid, reloads, days, hours, minutes, seconds = map(int, row.groups())
        uptime = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
        lives[pid] = Worker(pid=pid, reloads=reloads, uptime=uptime)
    return lives
