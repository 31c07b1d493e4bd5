"""The agent's own metrics: what its operator sees of it, and no tenant."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from amphora_agent import __version__
from amphora_agent.metrics.exposition import Sample, family
from amphora_agent.metrics.requests import RequestCounts
from amphora_agent.metrics.shared import HeartbeatFigures
from amphora_agent.model.figures import Conntrack

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
    `certificate_expiry()`, a time (UTC, seconds since 1970), None when it cannot be told;
    `conntrack()`, None where the kernel tracks nothing.
    """

    def __init__(
        self,
        *,
        heartbeat: Callable[[], HeartbeatFigures],
        workers: Callable[[float], Mapping[str, WorkersOf | None]],
        certificate_expiry: Callable[[], float | None],
        conntrack: Callable[[], Conntrack | None],
        clock: Callable[[], float],
    ) -> None:
        self.requests = RequestCounts()
        self._heartbeat = heartbeat
        self._workers = workers
        self._certificate_expiry = certificate_expiry
        self._conntrack = conntrack
        self._clock = clock

    def text(self) -> str:
        """All of them, in the format of Prometheus."""
        return "".join(self._families())

    def _families(self) -> Iterator[str]:
        yield family(
            "amphora_agent_build_info",
            "gauge",
            "The version of the agent.",
            [Sample({"version": __version__}, 1)],
        )
        yield from self.requests.families()
        yield from _of_workers(self._workers(_PATIENCE))
        yield from _of_heartbeats(self._heartbeat(), self._clock())
        yield family(
            "amphora_agent_certificate_expiry_timestamp_seconds",
            "gauge",
            "When the agent's own certificate expires, in seconds since 1970.",
            _if_known(self._certificate_expiry()),
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


def _of_workers(found: Mapping[str, WorkersOf | None]) -> Iterator[str]:
    known = {instance: workers for instance, workers in found.items() if workers is not None}
    yield family(
        "amphora_agent_haproxy_answers",
        "gauge",
        "Whether the haproxy of a load balancer answers: 1 or 0.",
        (Sample({"loadbalancer": name}, workers is not None) for name, workers in found.items()),
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
    for name, help_text, value in (
        ("age_seconds", "Seconds since the last heartbeat was made.", last and now - last.at),
        ("size_bytes", "The last heartbeat, in bytes.", last and last.size),
        ("listeners", "Listeners in the last heartbeat.", last and last.listeners),
        (
            "members_left_out",
            "Members that did not fit into the last heartbeat.",
            last and last.members_left_out,
        ),
        (
            "pools_left_out",
            "Pools that did not fit into the last heartbeat.",
            last and last.pools_left_out,
        ),
        (
            "statistics_left_out",
            "Listeners whose statistics did not fit into the last heartbeat.",
            last and last.statistics_left_out,
        ),
    ):
        yield family(f"amphora_agent_heartbeat_{name}", "gauge", help_text, _if_known(value))


def _if_known(value: float | None) -> Iterable[Sample]:
    return [] if value is None else [Sample({}, value)]
