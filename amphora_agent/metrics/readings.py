"""Readings as figures: of listeners that no haproxy serves, less is known."""

from collections.abc import Iterable, Sequence

from amphora_agent.model.figures import Figures, Scope
from amphora_agent.model.status import InstanceReading, WorkerReading

#: What a reading tells of.
SCOPES = frozenset({Scope.LISTENER, Scope.POOL, Scope.MEMBER})

#: By haproxy's names, as everything that is translated.
_COLUMNS = ("pxname", "svname", "status", "scur", "stot", "bin", "bout")


def figures(readings: Iterable[InstanceReading]) -> list[Figures | None]:
    """The figures of each; None of one that was not read."""
    return [None if reading.current is None else _figures(reading.current) for reading in readings]


def _figures(current: WorkerReading) -> Figures:
    listeners: list[Sequence[str]] = []
    for name, listener in current.listeners.items():
        counted = listener.counters
        numbers = (listener.conns, counted.totconns, counted.rx, counted.tx)
        listeners.append((name, "FRONTEND", listener.status, *map(str, numbers)))
    nothing = ("",) * 4
    pools: list[Sequence[str]] = []
    members: list[Sequence[str]] = []
    for name, pool in current.pools.items():
        pools.append((name, "BACKEND", pool.status, *nothing))
        members += [(name, member, status, *nothing) for member, status in pool.members.items()]
    rows = {Scope.LISTENER: listeners, Scope.POOL: pools, Scope.MEMBER: members}
    return Figures({}, _COLUMNS, rows)
