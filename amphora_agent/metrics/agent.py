"""The agent's own metrics: what its operator sees of it, and no tenant."""

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import NamedTuple

from amphora_agent import __version__
from amphora_agent.metrics.translate.exposition import Sample, family
from amphora_agent.model.events import Alarm
from amphora_agent.model.status import Conntrack, HeartbeatFigures
from amphora_agent.x509.validity import FileExpiry

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
        self._handshakes: dict[str, int] = {}

    def handshake_failed(self, reason: str) -> None:
        """Count a TLS handshake that failed; `reason` is OpenSSL's word for it."""
        with self._lock:
            self._handshakes[reason] = self._handshakes.get(reason, 0) + 1

    def request(self, method: str, route: str, status: int) -> None:
        """`route` with its parameters' names, not their values."""
        key = _Request(method, route, status)
        with self._lock:
            self._requests[key] = self._requests.get(key, 0) + 1

    def change(self, kind: str, status: int, seconds: float) -> None:
        """Count a request that was to change something; `status` is that of its answer."""
        result = "done" if status < 400 else "refused" if status < 500 else "failed"
        with self._lock:
            self._changes.setdefault(_Change(kind, result), _Durations()).add(seconds)

    def families(self) -> Iterator[str]:
        with self._lock:
            requests = [
                Sample({"method": key.method, "route": key.route, "status": str(key.status)}, count)
                for key, count in sorted(self._requests.items())
            ]
            handshakes = [
                Sample({"reason": reason}, count)
                for reason, count in sorted(self._handshakes.items())
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
            "amphora_agent_tls_handshakes_failed_total",
            "counter",
            "TLS handshakes with the API that failed, by OpenSSL's reason.",
            handshakes,
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


#: Seconds for all instances to tell of their workers.
_PATIENCE = 2.0


class WorkersOf(NamedTuple):
    """The processes of an instance; `reloads` since its master began, `failed` those in a row that
    went wrong."""

    serving: int
    leaving: int
    reloads: int
    failed: int


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

    def __init__(
        self,
        *,
        heartbeat: Callable[[], HeartbeatFigures],
        workers: Callable[[float], Mapping[str, WorkersOf | None]],
        certificate_expiry: Callable[[], float | None],
        authority_expiry: Callable[[], float | None],
        expiries: Callable[[], Iterable[FileExpiry]],
        conntrack: Callable[[], Conntrack | None],
        alarms: Callable[[], Iterable[Alarm]],
        deaths: Callable[[], Mapping[tuple[str, bool], int]],
        clock: Callable[[], float],
    ) -> None:
        self.requests = RequestCounts()
        self._heartbeat = heartbeat
        self._workers = workers
        self._certificate_expiry = certificate_expiry
        self._authority_expiry = authority_expiry
        self._expiries = expiries
        self._conntrack = conntrack
        self._alarms = alarms
        self._deaths = deaths
        self._clock = clock

    def text(self) -> str:
        """Write all metrics in the format of Prometheus."""
        return "".join(self._families())

    def _families(self) -> Iterator[str]:
        yield family(
            "amphora_agent_build_info",
            "gauge",
            "The version of the agent.",
            [Sample({"version": __version__}, 1)],
        )
        yield from self.requests.families()
        yield family(
            "amphora_agent_worker_deaths_total",
            "counter",
            "Workers of the agent that died, or hung and were killed, since the agent was started.",
            (
                Sample({"worker": name, "why": "hung" if hung else "died"}, count)
                for (name, hung), count in self._deaths().items()
            ),
        )
        figures = self._heartbeat()
        yield from _of_workers(self._workers(_PATIENCE), figures)
        yield from _of_heartbeats(figures, self._clock())
        yield from _of_controllers(figures)
        yield family(
            "amphora_agent_certificate_expiry_timestamp_seconds",
            "gauge",
            "When the agent's own certificate expires, in seconds since 1970.",
            _if_known(self._certificate_expiry()),
        )
        yield family(
            "amphora_agent_authority_expiry_timestamp_seconds",
            "gauge",
            "When the first of the controllers' authorities expires, in seconds since 1970.",
            _if_known(self._authority_expiry()),
        )
        yield family(
            "amphora_agent_loadbalancer_certificate_expiry_timestamp_seconds",
            "gauge",
            "When a file of a load balancer expires, in seconds since 1970; the first 1000 files.",
            (
                Sample(
                    {"loadbalancer": each.loadbalancer, "file": each.file, "kind": each.what},
                    each.expires,
                )
                for each in self._expiries()
            ),
        )
        conntrack = self._conntrack()
        yield family(
            "amphora_agent_conntrack_entries",
            "gauge",
            "Connections that the kernel tracks in the traffic's namespace.",
            _if_known(conntrack and conntrack.used),
        )
        yield family(
            "amphora_agent_conntrack_entries_limit",
            "gauge",
            "Most connections that the kernel can track.",
            _if_known(conntrack and conntrack.limit),
        )
        yield family(
            "amphora_agent_alarm",
            "gauge",
            "A lasting condition that an operator must know of; its start, in seconds since 1970.",
            (
                Sample(
                    {"kind": alarm.kind, "subject": alarm.subject, "level": alarm.level},
                    alarm.since,
                )
                for alarm in self._alarms()
            ),
        )


def _of_workers(
    workers_of: Mapping[str, WorkersOf | None], figures: HeartbeatFigures
) -> Iterator[str]:
    def answers(name: str) -> bool:
        """Return whether the worker answers: it serves also while its master hangs."""
        if name in figures.silences:
            return False
        return workers_of[name] is not None or name in figures.masters_silent

    known = {instance: workers for instance, workers in workers_of.items() if workers is not None}
    yield family(
        "amphora_agent_haproxy_answers",
        "gauge",
        "Whether the haproxy of a load balancer answers: 1 or 0.",
        (Sample({"loadbalancer": name}, answers(name)) for name in workers_of),
    )
    yield family(
        "amphora_agent_haproxy_workers",
        "gauge",
        "Processes of a load balancer that serve; leaving: only connections from before a reload.",
        (
            Sample({"loadbalancer": name, "state": state}, count)
            for name, workers in known.items()
            for state, count in (("serving", workers.serving), ("leaving", workers.leaving))
        ),
    )
    yield family(
        "amphora_agent_haproxy_reloads_total",
        "counter",
        "Reloads of a load balancer since its haproxy was started.",
        (Sample({"loadbalancer": name}, workers.reloads) for name, workers in known.items()),
    )
    yield family(
        "amphora_agent_haproxy_failed_reloads",
        "gauge",
        "Reloads of a load balancer that failed, one after another, until now.",
        (Sample({"loadbalancer": name}, workers.failed) for name, workers in known.items()),
    )


def _of_heartbeats(figures: HeartbeatFigures, now: float) -> Iterator[str]:
    last = figures if figures.at else None
    yield family(
        "amphora_agent_heartbeats_total",
        "counter",
        "Heartbeats, by whether a controller was sent them.",
        [Sample({"sent": "yes"}, figures.sent), Sample({"sent": "no"}, figures.failed)],
    )
    yield family(
        "amphora_agent_heartbeat_age_seconds",
        "gauge",
        "Seconds since a controller was last sent a heartbeat.",
        _if_known(None if last is None else now - last.at),
    )
    for name, field, help_text in (
        ("size_bytes", "size", "Bytes of"),
        ("listeners", "listeners", "Listeners in"),
        ("members_left_out", "members_left_out", "Members that did not fit into"),
        ("pools_left_out", "pools_left_out", "Pools that did not fit into"),
        (
            "statistics_left_out",
            "statistics_left_out",
            "Listeners whose statistics did not fit into",
        ),
    ):
        yield family(
            f"amphora_agent_heartbeat_{name}",
            "gauge",
            f"{help_text} the last heartbeat that was sent.",
            _if_known(None if last is None else getattr(last, field)),
        )


def _of_controllers(figures: HeartbeatFigures) -> Iterator[str]:
    for name, field, help_text in (
        ("sent_total", "sent", "Heartbeats sent to a controller."),
        ("errors_total", "errors", "Heartbeats to a controller that met an error."),
        ("last_sent_timestamp_seconds", "last_sent", "When a controller was last sent one."),
        ("last_error_timestamp_seconds", "last_error", "When one last met an error."),
    ):
        counts = name.endswith("_total")
        yield family(
            f"amphora_agent_heartbeat_controller_{name}",
            "counter" if counts else "gauge",
            help_text,
            [
                Sample({"controller": each.address}, value)
                for each in figures.controllers
                if (value := getattr(each, field)) or counts
            ],
        )


def _if_known(value: float | None) -> Iterable[Sample]:
    return [] if value is None else [Sample({}, value)]
