"""Read haproxy's replies: `show stat`, `show info`, `show servers state`, `show proc`, its version.

Pure. The management manual describes them in 9.1, 9.3 and 9.4. Statistics have thousands of rows
and a hundred columns, nearly all of them empty: a row is split only as far as the last column that
is wanted.
"""

import csv
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from operator import itemgetter
from typing import NamedTuple

from amphora_agent.errors import OperationFailed
from amphora_agent.haproxy.config.queries import INTERNAL_PREFIX
from amphora_agent.model.status import (
    Counters,
    Figures,
    ListenerReading,
    PoolReading,
    Scope,
    Worker,
    WorkerReading,
)

#: Columns of `show servers state`, counted from 0.
BACKEND, SERVER, ADDRESS, ADMINISTRATIVE = 1, 3, 4, 6
WEIGHT, INITIAL_WEIGHT, CHECK, PORT = 7, 8, 13, 18


class Statistics(NamedTuple):
    """Columns of `show stat`: `pxname`, `svname`, and the wanted ones that haproxy has, in its
    order. `places` says where in a row their values are. Rows are read once, one after another."""

    columns: tuple[str, ...]
    places: tuple[int, ...]
    rows: Iterator[list[str]]

    def by_column(self) -> Iterator[dict[str, str]]:
        """Return each row as a dictionary."""
        pick = itemgetter(*self.places)
        return (dict(zip(self.columns, pick(row), strict=True)) for row in self.rows)


class ServersState(NamedTuple):
    """`rows` are lines of `show servers state` by backend and server, `head` those before them."""

    head: list[str]
    rows: dict[tuple[str, str], str]


class ServerRow(NamedTuple):
    """What the state of one server says. `administrative` and `check` are sets of bits."""

    address: str
    administrative: int
    weight: int
    check: int
    port: int


def read_statistics(
    reply: str, wanted: Collection[str], *, may_have_quotes: bool = True
) -> Statistics:
    """Read a reply to `show stat`. Names, numbers and states are never in quotes; a row is split
    faster when nothing else is wanted, and `may_have_quotes` says so.

    Raises:
        OperationFailed: the reply is something else, or it was cut off.
    """
    header, *lines = reply.split("\n")
    if not header.startswith("# pxname,svname,"):
        raise OperationFailed("Cannot read the statistics of haproxy", repr(reply[:80]))
    known = header.removeprefix("# ").split(",")
    while lines and not lines[-1]:
        lines.pop()
    if lines and len(_split(lines[-1])) != len(known):
        raise OperationFailed("The statistics of haproxy were cut off", repr(lines[-1][:80]))
    places = (0, 1, *(n for n, name in enumerate(known) if n > 1 and name in wanted))
    most = min(places[-1] + 1, len(known) - 1)
    split = _split_rows_with_quotes if may_have_quotes else _split_rows
    return Statistics(tuple(known[n] for n in places), places, split(lines, most))


def _split_rows(lines: Iterable[str], most: int) -> Iterator[list[str]]:
    """Split rows up to so many columns, none of which may be in quotes."""
    for line in lines:
        columns = line.split(",", most)
        if len(columns) <= most:
            raise OperationFailed("The statistics of haproxy were cut off", repr(line[:80]))
        yield columns


def _split_rows_with_quotes(lines: Sequence[str], most: int) -> Iterator[list[str]]:
    """Split rows up to so many columns; what a server answered to its check may hold anything."""
    for line, columns in zip(lines, _split_rows(lines, most), strict=True):
        yield _split(line) if '"' in line else columns


def _split(line: str) -> list[str]:
    return next(csv.reader([line]))


def read_information(reply: str) -> dict[str, str]:
    """Read a reply to `show info`.

    Raises:
        OperationFailed: the reply is something else.
    """
    if not reply.startswith("Name:"):
        raise OperationFailed("Cannot read the figures of haproxy", repr(reply[:80]))
    pairs = (line.partition(": ") for line in reply.split("\n"))
    return {name: value for name, _, value in pairs}


def read_servers_state(reply: str) -> ServersState:
    """Read a reply to `show servers state`, version 1. What is no row of a server is left out."""
    head: list[str] = []
    rows: dict[tuple[str, str], str] = {}
    for line in reply.split("\n"):
        if line == "1" or line.startswith("#"):
            head.append(line)
        elif line.count(" ") >= PORT:
            columns = line.split(" ", SERVER + 1)
            rows[columns[BACKEND], columns[SERVER]] = line
    return ServersState(head, rows)


def read_server_row(line: str) -> ServerRow:
    """Read one row of a servers' state."""
    columns = line.split(" ")
    return ServerRow(
        columns[ADDRESS],
        int(columns[ADMINISTRATIVE]),
        int(columns[WEIGHT]),
        int(columns[CHECK]),
        int(columns[PORT]),
    )


#: What a reading is made of, in haproxy's order.
_COLUMNS = (
    "pxname", "svname", "scur", "slim", "stot", "bin", "bout", "ereq", "status", "weight",
)  # fmt: skip
#: What says how many connections are being accepted.
_ACCEPTING = frozenset({"scur", "stot", "conn_tot", "dcon"})


def read_worker(csv: str, worker: str) -> WorkerReading:
    """Return the reading in a reply to `show stat`; `worker` names the process that gave it.

    Raises:
        OperationFailed: the reply is not statistics, or it was cut off.
    """
    table = read_statistics(csv, _COLUMNS, may_have_quotes=False)
    if table.columns != _COLUMNS:
        raise OperationFailed("Cannot read the statistics of haproxy", repr(csv[:80]))
    listeners: dict[str, ListenerReading] = {}
    pools: dict[str, PoolReading] = {}
    members: dict[str, dict[str, str]] = {}
    pool, of_pool = "", members.setdefault("", {})
    _, _, scur, slim, stot, received, sent, ereq, at_status, weight = table.places
    for row in table.rows:
        proxy, service, status = row[0], row[1], row[at_status]
        if service == "FRONTEND":
            if not proxy.startswith(INTERNAL_PREFIX):
                counters = Counters(
                    tx=int(row[sent] or 0),
                    rx=int(row[received] or 0),
                    totconns=int(row[stot] or 0),
                    ereq=int(row[ereq] or 0),
                )
                listeners[proxy] = _listener(
                    status, int(row[scur] or 0), int(row[slim] or 0), counters
                )
        elif service == "BACKEND":
            if not proxy.startswith(INTERNAL_PREFIX):
                pools[proxy] = PoolReading(status, members.get(proxy, {}))
        else:
            if status == "UP":
                if row[weight] == "0":
                    status = "DRAIN"  # as Octavia has it: weight 0 takes no new connections
            elif " (" in status:
                status = status.partition(" (")[0]  # "MAINT (via other/server)" is MAINT
            elif status == "NOLB":
                # A new member before its first check: the controller keeps what it knows of one
                # that is RESTARTING.
                status = "RESTARTING"
            if proxy != pool:  # the rows of a proxy follow one another
                pool, of_pool = proxy, members.setdefault(proxy, {})
            of_pool[service] = status
    return WorkerReading(worker, listeners, pools)


def count_unfinished(csv: str) -> int:
    """Return how many connections may still come to count in such a reply about frontends: those
    that have been accepted, and are no sessions yet. Their TLS handshake goes on, or has failed;
    where nobody is connected any more, all have failed.

    Raises:
        OperationFailed: the reply is not statistics, or it was cut off.
    """
    open_now = accepted = counted = 0
    for row in read_statistics(csv, _ACCEPTING).by_column():
        open_now += int(row.get("scur") or 0)
        accepted += int(row.get("conn_tot") or 0)
        counted += int(row.get("stot") or 0) + int(row.get("dcon") or 0)
    return min(open_now, accepted - counted)


def _listener(status: str, connections: int, limit: int, counters: Counters) -> ListenerReading:
    if status == "OPEN" and 0 < limit <= connections:
        status = "FULL"  # haproxy itself calls a frontend OPEN also at its limit
    return ListenerReading(status, connections, counters)


#: haproxy's types of statistics.
#: Partial: the other scopes come from `show info`.
_TYPES = {Scope.LISTENER: 1, Scope.POOL: 2, Scope.MEMBER: 4}
_SCOPE_OF_SERVICE = {"FRONTEND": Scope.LISTENER, "BACKEND": Scope.POOL}
_OF_PROCESS = frozenset({Scope.LOADBALANCER, Scope.MEMORY_POOL})


def choose_commands(scopes: Collection[Scope]) -> tuple[str | None, str | None]:
    """Return the commands for these scopes: of the process, and of its proxies; None is nothing."""
    types = sum(bit for scope, bit in _TYPES.items() if scope in scopes)
    return (
        "show info" if _OF_PROCESS.intersection(scopes) else None,
        f"show stat -1 {types} -1" if types else None,
    )


def read_figures(info: str, stat: str, wanted: Collection[str]) -> Figures:
    """Return the `wanted` columns of the replies. A reply that was not asked for is empty. haproxy
    has a hundred columns, and rows may be thousands.

    Raises:
        OperationFailed: a reply is something else, or it was cut off.
    """
    columns: tuple[str, ...] = ()
    rows: dict[Scope, list[Sequence[str]]] = {scope: [] for scope in _TYPES}
    if stat:
        table = read_statistics(stat, wanted)
        columns, pick = table.columns, itemgetter(*table.places)
        for row in table.rows:
            if not row[0].startswith(INTERNAL_PREFIX):
                rows[_SCOPE_OF_SERVICE.get(row[1], Scope.MEMBER)].append(pick(row))
    return Figures(read_information(info) if info else {}, columns, rows)


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


class Capabilities(NamedTuple):
    """What a version can do while it runs.

    `add_servers`: members can be added while it runs; `add_cookies`: with a persistence cookie.
    `delete_servers`: it is safe to; 2.6 may use a member's memory after it is gone.
    `pools_connections`: a member that was added reuses connections without being told to.
    """

    version: str
    add_servers: bool = False
    add_cookies: bool = False
    delete_servers: bool = False
    pools_connections: bool = False


def find_capabilities(version: str) -> Capabilities:
    """Return the capabilities of a version such as `2.6.12-1+deb12u4`."""
    match = re.match(r"(\d+)\.(\d+)", version)
    number = (int(match[1]), int(match[2])) if match else (0, 0)
    return Capabilities(
        version=version,
        add_servers=number >= (2, 6),
        add_cookies=number >= (2, 8),
        delete_servers=number >= (2, 8),
        pools_connections=number >= (2, 8),
    )
