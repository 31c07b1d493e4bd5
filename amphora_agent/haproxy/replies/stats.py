"""Replies to `show info` and `show stat`, whole, as figures (management manual, 9.1 and 9.3)."""

from collections.abc import Collection, Sequence
from operator import itemgetter

from amphora_agent.haproxy.config.queries import INTERNAL_PREFIX
from amphora_agent.haproxy.replies.statistics import read_information, read_statistics
from amphora_agent.model.status import Figures, Scope

#: haproxy's types of statistics.
#: Partial: the other scopes come from `show info`.
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
        found = read_statistics(stat, wanted)
        columns, pick = found.columns, itemgetter(*found.places)
        for row in found.rows:
            if not row[0].startswith(INTERNAL_PREFIX):
                rows[_SCOPE_OF_SERVICE.get(row[1], Scope.MEMBER)].append(pick(row))
    return Figures(read_information(info) if info else {}, columns, rows)
