"""Requests and changes of the API, counted where they are answered."""

import threading
from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate
from typing import NamedTuple

from amphora_agent.metrics.exposition import Sample, family

#: Upper bounds of a change's duration, in seconds; the controller gives one 60.
_BOUNDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0)


class _Request(NamedTuple):
    method: str
    route: str
    status: int


class _Change(NamedTuple):
    kind: str
    result: str


class _Durations:
    def __init__(self) -> None:
        self.counts = [0] * (len(_BOUNDS) + 1)
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(_BOUNDS, seconds)] += 1
        self.sum += seconds


class RequestCounts:
    """Counts since the process began. Labels must come from the agent, not from the request, so
    that they are few."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: dict[_Request, int] = {}
        self._changes: dict[_Change, _Durations] = {}

    def request(self, method: str, route: str, status: int) -> None:
        """`route` with its parameters' names, not their values."""
        key = _Request(method, route, status)
        with self._lock:
            self._requests[key] = self._requests.get(key, 0) + 1

    def change(self, kind: str, status: int, seconds: float) -> None:
        """A request that was to change something; `status` is that of its answer."""
        result = "done" if status < 400 else "refused" if status < 500 else "failed"
        with self._lock:
            self._changes.setdefault(_Change(kind, result), _Durations()).add(seconds)

    def families(self) -> Iterator[str]:
        with self._lock:
            requests = [
                Sample({"method": key.method, "route": key.route, "status": str(key.status)}, count)
                for key, count in sorted(self._requests.items())
            ]
            changes = [
                sample
                for key, durations in sorted(self._changes.items())
                for sample in _histogram(key, durations)
            ]
        yield family(
            "amphora_agent_requests_total", "counter", "Requests that were answered.", requests
        )
        yield family(
            "amphora_agent_change_duration_seconds",
            "histogram",
            "Changes, by what they change and how they ended, and the time that they took.",
            changes,
        )


def _histogram(key: _Change, durations: _Durations) -> Iterator[Sample]:
    labels = key._asdict()
    bounds = (*(f"{bound:g}" for bound in _BOUNDS), "+Inf")
    for bound, count in zip(bounds, accumulate(durations.counts), strict=True):
        yield Sample({**labels, "le": bound}, count, "_bucket")
    yield Sample(labels, durations.sum, "_sum")
    yield Sample(labels, sum(durations.counts), "_count")
