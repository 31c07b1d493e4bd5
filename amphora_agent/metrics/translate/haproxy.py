"""Translate haproxy's figures to Octavia's metrics, piece by piece.

The samples of a family stand together, so they are written column by column; and a few rows at a
time, so that not all of the text is in memory: that of 500 listeners with 10 members has 40 MB.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from amphora_agent.metrics.translate.exposition import (
    Sample,
    family,
    format_number,
    head,
    label_set,
)
from amphora_agent.metrics.translate.octavia import METRICS, STATES, STATUS_CLASSES, Form, Metric
from amphora_agent.model.status import Figures, InstanceReading, Scope, WorkerReading

#: What a reading tells of.
SCOPES = frozenset({Scope.LISTENER, Scope.POOL, Scope.MEMBER})

#: By haproxy's names, as everything that is translated.
_COLUMNS = ("pxname", "svname", "status", "scur", "stot", "bin", "bout")


def figures(readings: Iterable[InstanceReading]) -> list[Figures | None]:
    """Return the figures of each; None of one that was not read."""
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


_OF_PROCESS = frozenset({Scope.LOADBALANCER, Scope.MEMORY_POOL})

#: Of several processes, these do not add up: the highest is told.
_HIGHEST = frozenset({"SslFrontendSessionReuse_pct"})


class Machine(NamedTuple):
    """How busy the amphora is, in percent."""

    cpu: float
    memory: float


#: Rows that are written at a time.
_SLICE = 500


class _Proxies(NamedTuple):
    """Rows of one scope of one instance, and for each what stands between the braces."""

    columns: dict[str, int]
    labels: list[str]
    rows: list[Sequence[str]]


def families(
    machine: Machine, instances: Sequence[Figures], scopes: Collection[Scope]
) -> Iterator[str]:
    """Yield the text of every metric of these scopes, also of those that have no samples now."""
    if Scope.LOADBALANCER in scopes:
        yield _machine(
            "cpu", "Load of the last minute over the number of processors, percent.", machine.cpu
        )
        yield _machine("memory", "Memory in use, percent.", machine.memory)
    proxies = {
        scope: [each for figures in instances for each in _proxies(scope, figures)]
        for scope in scopes
        if scope not in _OF_PROCESS
    }
    for metric in METRICS:
        if metric.scope in proxies:
            yield head(metric.name, metric.kind, metric.help_text)
            for each in proxies[metric.scope]:
                yield _lines(metric, each)
        elif metric.scope in scopes:
            yield family(metric.name, metric.kind, metric.help_text, _of_process(metric, instances))


def _machine(name: str, help_text: str, value: float) -> str:
    return family(f"octavia_loadbalancer_{name}", "gauge", help_text, [Sample({}, round(value, 1))])


def _of_process(metric: Metric, instances: Sequence[Figures]) -> list[Sample]:
    values = [
        float(value) for figures in instances if (value := figures.process.get(metric.source))
    ]
    if not values:
        return []
    return [Sample({}, max(values) if metric.source in _HIGHEST else sum(values))]


def _proxies(scope: Scope, figures: Figures) -> Iterator[_Proxies]:
    all_rows = figures.rows.get(scope, [])
    columns = {name: place for place, name in enumerate(figures.columns)}
    for begin in range(0, len(all_rows), _SLICE):
        rows = all_rows[begin : begin + _SLICE]
        if scope is Scope.MEMBER:
            labels = [label_set({"pool": row[0], "member": row[1]}) for row in rows]
        else:
            labels = [label_set({scope.value: row[0]}) for row in rows]
        yield _Proxies(columns, labels, rows)


def _lines(metric: Metric, proxies: _Proxies) -> str:
    """Samples of a family. A figure that haproxy does not have (an older one, or of a proxy
    to which it does not apply) is no sample."""
    if metric.form is Form.STATUS_CLASSES:
        return "".join(
            _column(metric, proxies, f"{metric.source}{status}", f',code="{status}"')
            for status in STATUS_CLASSES
        )
    if metric.form is Form.STATES:
        return _states(metric, proxies)
    return _column(metric, proxies, metric.source, "")


def _column(metric: Metric, proxies: _Proxies, column: str, more: str) -> str:
    place = proxies.columns.get(column)
    if place is None:
        return ""
    name, pairs = metric.name, zip(proxies.labels, proxies.rows, strict=True)
    if metric.form is Form.SECONDS:
        return "".join(
            [
                f"{name}{{{labels}}} {format_number(int(row[place]) / 1000)}\n"
                for labels, row in pairs
                if row[place]
            ]
        )
    return "".join(
        [f"{name}{{{labels}{more}}} {row[place]}\n" for labels, row in pairs if row[place]]
    )


def _states(metric: Metric, proxies: _Proxies) -> str:
    place = proxies.columns.get(metric.source)
    if place is None:
        return ""
    name = metric.name
    lines = []
    for labels, row in zip(proxies.labels, proxies.rows, strict=True):
        word = row[place].partition(" ")[0].partition("(")[0]  # "UP 1/3", "MAINT (via a/b)"
        for state, words in STATES[metric.scope].items():
            lines.append(f'{name}{{{labels},state="{state}"}} {int(word in words)}\n')
    return "".join(lines)
