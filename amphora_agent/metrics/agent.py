"""The agent's own metrics: what its operator sees of it, and no tenant."""

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

from amphora_agent import __version__
from amphora_agent.metrics.translate.exposition import Kind, Sample, family
from amphora_agent.model.events import Alarm
from amphora_agent.model.status import Conntrack, HeartbeatFigures
from amphora_agent.x509.validity import FileExpiry

#: Upper bounds of a change's duration, in seconds; the controller gives one 60.
_BOUNDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0)


class _Durations:
    def __init__(self) -> None:
        self.counts = [0] * (len(_BOUNDS) + 1)
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(_BOUNDS, seconds)] += 1
        self.sum += seconds

    def samples(self, labels: dict[str, str]) -> Iterator[Sample]:
        bounds = (*(f"{bound:g}" for bound in _BOUNDS), "+Inf")
        for bound, count in zip(bounds, accumulate(self.counts), strict=True):
            yield Sample({**labels, "le": bound}, count, "_bucket")
        yield Sample(labels, self.sum, "_sum")
        yield Sample(labels, sum(self.counts), "_count")


class RequestCounts:
    """Counts since the process began. Labels must come from the agent, not from the request, so
    that they are few."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: By method, route and status.
        self._requests: Counter[tuple[str, str, int]] = Counter()
        #: By kind and result.
        self._changes: dict[tuple[str, str], _Durations] = {}
        self._handshakes: Counter[str] = Counter()

    def handshake_failed(self, reason: str) -> None:
        """Count a TLS handshake that failed; `reason` is OpenSSL's word for it."""
        with self._lock:
            self._handshakes[reason] += 1

    def request(self, method: str, route: str, status: int) -> None:
        """Count a request. `route` has its parameters' names, not their values."""
        with self._lock:
            self._requests[method, route, status] += 1

    def change(self, kind: str, status: int, seconds: float) -> None:
        """Count a request that was to change something; `status` is that of its answer."""
        result = "done" if status < 400 else "refused" if status < 500 else "failed"
        with self._lock:
            self._changes.setdefault((kind, result), _Durations()).add(seconds)

    def families(self) -> Iterator[str]:
        """Write the counts."""
        with self._lock:
            requests = [
                Sample({"method": method, "route": route, "status": str(status)}, count)
                for (method, route, status), count in sorted(self._requests.items())
            ]
            handshakes = [
                Sample({"reason": reason}, count)
                for reason, count in sorted(self._handshakes.items())
            ]
            changes = [
                sample
                for (kind, result), durations in sorted(self._changes.items())
                for sample in durations.samples({"kind": kind, "result": result})
            ]
        yield _family("requests_total", "Requests that were answered.", requests)
        yield _family(
            "tls_handshakes_failed_total",
            "TLS handshakes with the API that failed, by OpenSSL's reason.",
            handshakes,
        )
        yield family(
            "amphora_agent_change_duration_seconds",
            "histogram",
            "Changes, by what they change and how they ended, and the time that they took.",
            changes,
        )


#: Seconds for all instances to tell of their workers.
_PATIENCE = 2.0


class WorkersOf(NamedTuple):
    """The processes of an instance; `reloads` since its master began, `failed` those in a row that
    went wrong."""

    serving: int
    leaving: int
    reloads: int
    failed: int


@dataclass(frozen=True, kw_only=True)
class AgentMetrics:
    """Writes the agent's metrics. What it does not hold itself it asks for at each scrape:

    `workers(timeout)`, by the instance's id, None of one that does not answer;
    `certificate_expiry()` and `authority_expiry()`, times (UTC, seconds since 1970), None when they
    cannot be told;
    `expiries()`, the files of load balancers that expire first;
    `conntrack()`, None where the kernel tracks nothing;
    `alarms()`, the lasting conditions that an operator must know of;
    `deaths()`, of the agent's workers, by name and whether they hung.
    """

    heartbeat: Callable[[], HeartbeatFigures]
    workers: Callable[[float], Mapping[str, WorkersOf | None]]
    certificate_expiry: Callable[[], float | None]
    authority_expiry: Callable[[], float | None]
    expiries: Callable[[], Iterable[FileExpiry]]
    conntrack: Callable[[], Conntrack | None]
    alarms: Callable[[], Iterable[Alarm]]
    deaths: Callable[[], Mapping[tuple[str, bool], int]]
    clock: Callable[[], float]
    requests: RequestCounts = field(default_factory=RequestCounts)

    def text(self) -> str:
        """Write all metrics in the format of Prometheus."""
        return "".join(self._families())

    def _families(self) -> Iterator[str]:
        version = Sample({"version": __version__}, 1)
        yield _family("build_info", "The version of the agent.", [version])
        yield from self.requests.families()
        yield _family(
            "worker_deaths_total",
            "Workers of the agent that died, or hung and were killed, since the agent was started.",
            (
                Sample({"worker": name, "why": "hung" if hung else "died"}, count)
                for (name, hung), count in self.deaths().items()
            ),
        )
        figures = self.heartbeat()
        yield from _describe_workers(self.workers(_PATIENCE), figures)
        yield from _describe_heartbeats(figures, self.clock())
        yield from _describe_controllers(figures)
        conntrack = self.conntrack()
        for name, help_text, value in (
            (
                "certificate_expiry_timestamp_seconds",
                "When the agent's own certificate expires, in seconds since 1970.",
                self.certificate_expiry(),
            ),
            (
                "authority_expiry_timestamp_seconds",
                "When the first of the controllers' authorities expires, in seconds since 1970.",
                self.authority_expiry(),
            ),
            (
                "conntrack_entries",
                "Connections that the kernel tracks in the traffic's namespace.",
                conntrack and conntrack.used,
            ),
            (
                "conntrack_entries_limit",
                "Most connections that the kernel can track.",
                conntrack and conntrack.limit,
            ),
        ):
            yield _family(name, help_text, _if_known(value))
        yield _family(
            "loadbalancer_certificate_expiry_timestamp_seconds",
            "When a file of a load balancer expires, in seconds since 1970; the first 1000 files.",
            (
                Sample({"loadbalancer": e.loadbalancer, "file": e.file, "kind": e.what}, e.expires)
                for e in self.expiries()
            ),
        )
        yield _family(
            "alarm",
            "A lasting condition that an operator must know of; its start, in seconds since 1970.",
            (
                Sample({"kind": a.kind, "subject": a.subject, "level": a.level}, a.since)
                for a in self.alarms()
            ),
        )


def _family(name: str, help_text: str, samples: Iterable[Sample]) -> str:
    """Write a family of the agent: a counter if its name ends with `_total`, else a gauge."""
    kind: Kind = "counter" if name.endswith("_total") else "gauge"
    return family(f"amphora_agent_{name}", kind, help_text, samples)


def _if_known(value: float | None) -> Iterable[Sample]:
    return [] if value is None else [Sample({}, value)]


def _describe_workers(
    workers_of: Mapping[str, WorkersOf | None], figures: HeartbeatFigures
) -> Iterator[str]:
    def answers(name: str) -> bool:
        """Return whether the worker answers: it serves also while its master hangs."""
        if name in figures.silences:
            return False
        return workers_of[name] is not None or name in figures.masters_silent

    known = {instance: workers for instance, workers in workers_of.items() if workers is not None}
    yield _family(
        "haproxy_answers",
        "Whether the haproxy of a load balancer answers: 1 or 0.",
        (Sample({"loadbalancer": name}, answers(name)) for name in workers_of),
    )
    yield _family(
        "haproxy_workers",
        "Processes of a load balancer that serve; leaving: only connections from before a reload.",
        (
            Sample({"loadbalancer": name, "state": state}, count)
            for name, workers in known.items()
            for state, count in (("serving", workers.serving), ("leaving", workers.leaving))
        ),
    )
    yield _family(
        "haproxy_reloads_total",
        "Reloads of a load balancer since its haproxy was started.",
        (Sample({"loadbalancer": name}, workers.reloads) for name, workers in known.items()),
    )
    yield _family(
        "haproxy_failed_reloads",
        "Reloads of a load balancer that failed, one after another, until now.",
        (Sample({"loadbalancer": name}, workers.failed) for name, workers in known.items()),
    )


def _describe_heartbeats(figures: HeartbeatFigures, now: float) -> Iterator[str]:
    yield _family(
        "heartbeats_total",
        "Heartbeats, by whether a controller was sent them.",
        [Sample({"sent": "yes"}, figures.sent), Sample({"sent": "no"}, figures.failed)],
    )
    yield _family(
        "heartbeat_age_seconds",
        "Seconds since a controller was last sent a heartbeat.",
        _if_known(now - figures.at if figures.at else None),
    )
    for name, size, subject in (
        ("size_bytes", figures.size, "Bytes of"),
        ("listeners", figures.listeners, "Listeners in"),
        ("members_left_out", figures.members_left_out, "Members that did not fit into"),
        ("pools_left_out", figures.pools_left_out, "Pools that did not fit into"),
        (
            "statistics_left_out",
            figures.statistics_left_out,
            "Listeners whose statistics did not fit into",
        ),
    ):
        help_text = f"{subject} the last heartbeat that was sent."
        yield _family(f"heartbeat_{name}", help_text, _if_known(size if figures.at else None))


def _describe_controllers(figures: HeartbeatFigures) -> Iterator[str]:
    for name, field_name, help_text in (
        ("sent_total", "sent", "Heartbeats sent to a controller."),
        ("errors_total", "errors", "Heartbeats to a controller that met an error."),
        ("last_sent_timestamp_seconds", "last_sent", "When a controller was last sent one."),
        ("last_error_timestamp_seconds", "last_error", "When one last met an error."),
    ):
        yield _family(
            f"heartbeat_controller_{name}",
            help_text,
            [
                Sample({"controller": controller.address}, value)
                for controller in figures.controllers
                if (value := getattr(controller, field_name)) or name.endswith("_total")
            ],
        )
