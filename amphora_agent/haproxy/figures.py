"""Replies to `show info` and `show stat`, whole, as figures (management manual, 9.1 and 9.3)."""

import csv
from collections.abc import Collection, Sequence
from operator import itemgetter

from amphora_agent.errors import OperationFailed
from amphora_agent.haproxy.listeners import INTERNAL_PREFIX
from amphora_agent.model.figures import Figures, Scope

#: haproxy's types of statistics.
_TYPES = {Scope.LISTENER: 1, Scope.POOL: 2, Scope.MEMBER: 4}
_SCOPE_OF_SERVICE = {"FRONTEND": Scope.LISTENER, "BACKEND": Scope.POOL}
_OF_PROCESS = frozenset({Scope.LOADBALANCER, Scope.MEMORY_POOL})


def commands(scopes: Collection[Scope]) -> tuple[str | None, str | None]:
    """What to ask for these scopes: of the process, and of its proxies; None is nothing."""
    types = sum(bit for scope, bit in _TYPES.items() if scope in scopes)
    return (
        "show info" if _OF_PROCESS.intersection(scopes) else None,
        f"show stat -1 {types} -1" if types else None,
    )


def parse(info: str, stat: str, wanted: Collection[str]) -> Figures:
    """The figures in the replies, of which one that was not asked for is empty. Of the columns
    only those that are `wanted`: there are a hundred, and rows may be thousands.

    Raises:
        OperationFailed: a reply is something else, or it was cut off.
    """
    columns: tuple[str, ...] = ()
    rows: dict[Scope, list[Sequence[str]]] = {scope: [] for scope in _TYPES}
    if stat:
        header, *lines = stat.split("\n")
        if not header.startswith("# pxname,svname,"):
            raise OperationFailed("Cannot read the statistics of haproxy", repr(stat[:80]))
        all_columns = header.removeprefix("# ").split(",")
        places = [0, 1, *(n for n, name in enumerate(all_columns) if n > 1 and name in wanted)]
        columns = tuple(all_columns[place] for place in places)
        pick = itemgetter(*places)
        for line in lines:
            if line.startswith(INTERNAL_PREFIX) or not line:
                continue
            # What a server has answered to its check may hold anything, in quotes.
            row = next(csv.reader([line])) if '"' in line else line.split(",")
            if len(row) != len(all_columns):
                raise OperationFailed("The statistics of haproxy were cut off", repr(line[:80]))
            rows[_SCOPE_OF_SERVICE.get(row[1], Scope.MEMBER)].append(pick(row))
    return Figures(_process(info) if info else {}, columns, rows)


def _process(info: str) -> dict[str, str]:
    if not info.startswith("Name:"):
        raise OperationFailed("Cannot read the figures of haproxy", repr(info[:80]))
    pairs = (line.partition(": ") for line in info.split("\n"))
    return {name: value for name, _, value in pairs}
