"""Build the metrics endpoints of the load balancers and of the agent."""

import threading
import time
from collections.abc import Callable, Collection

from msgspec.structs import replace

from amphora_agent.agent import logs
from amphora_agent.agent.host import Host
from amphora_agent.agent.settings_file import SettingsFile
from amphora_agent.agent.trust import AgentAuthorities, AgentCertificate
from amphora_agent.events.alarms import Alarms
from amphora_agent.haproxy.certificate_expiry import ExpiryWatch
from amphora_agent.haproxy.runtime.poller import Poller
from amphora_agent.heartbeat.sender import Beat
from amphora_agent.keepalived.lvs import ipvs
from amphora_agent.keepalived.lvs.poller import LvsPoller
from amphora_agent.metrics.agent import AgentMetrics, WorkersOf
from amphora_agent.metrics.endpoint import Collector, MetricsEndpoint
from amphora_agent.metrics.shared import HeartbeatBoard, WorkerDeaths
from amphora_agent.metrics.translate import octavia
from amphora_agent.metrics.translate.octavia import Machine
from amphora_agent.model.status import ControllerFigures, Figures, Scope
from amphora_agent.namespace import Namespace
from amphora_agent.network import sysctl
from amphora_agent.paths import Layout
from amphora_agent.wiring import Options, make_layout


def make_agent_metrics(
    layout: Layout,
    certificate: AgentCertificate,
    authorities: AgentAuthorities,
    expiry: ExpiryWatch,
    board: HeartbeatBoard,
    deaths: WorkerDeaths,
    alarms: Alarms,
) -> AgentMetrics:
    """Build the agent's own metrics."""
    poller, namespace = Poller(layout), Namespace(layout.namespace)

    def count_workers(timeout: float) -> dict[str, WorkersOf | None]:
        return {
            instance: workers
            and WorkersOf(
                int(bool(workers.current)), len(workers.leaving), workers.reloads, workers.failed
            )
            for instance, workers in poller.read_workers(timeout=timeout).items()
        }

    return AgentMetrics(
        heartbeat=board.read,
        workers=count_workers,
        certificate_expiry=certificate.expires,
        authority_expiry=authorities.expires,
        expiries=expiry.soonest,
        conntrack=lambda: sysctl.read_conntrack(namespace),
        alarms=alarms.current,
        deaths=deaths.read,
        clock=time.monotonic,
    )


def make_note(
    board: HeartbeatBoard,
) -> Callable[[Beat | None, tuple[ControllerFigures, ...]], None]:
    """Return a callback for a sender. It shows heartbeats, and errors between them, to the other
    processes."""

    def note(beat: Beat | None, controllers: tuple[ControllerFigures, ...]) -> None:
        figures = replace(board.read(), controllers=controllers)
        if beat is not None:
            figures = replace(
                figures,
                silences=dict(beat.silences),
                masters_silent=beat.masters_silent,
                hung=dict(beat.hung),
            )
            if beat.sent:
                figures = replace(
                    figures,
                    sent=figures.sent + 1,
                    at=time.monotonic(),
                    size=len(beat.heartbeat.datagram),
                    listeners=beat.listeners,
                    members_left_out=beat.heartbeat.members_left_out,
                    pools_left_out=beat.heartbeat.pools_left_out,
                    statistics_left_out=beat.heartbeat.statistics_left_out,
                )
            else:
                figures = replace(figures, failed=figures.failed + 1)
        board.write(figures)

    return note


def start_endpoint(layout: Layout, host: Host) -> None:
    """Serve the metrics of the load balancers in a thread."""
    endpoint = _make_endpoint(layout, host)
    threading.Thread(target=endpoint.run, name="metrics", daemon=True).start()


def run_endpoint(options: Options) -> None:
    """Serve the metrics of the load balancers, without the agent.

    Raises:
        AgentError: the settings cannot be read.
    """
    settings = SettingsFile(options.config_file).current()
    logs.set_up(settings)
    _make_endpoint(make_layout(settings, options), Host()).run()


def _make_endpoint(layout: Layout, host: Host) -> MetricsEndpoint:
    collector = Collector(_AllFigures(layout), lambda: Machine(*host.load()))
    return MetricsEndpoint(collector, Namespace(layout.namespace))


class _AllFigures:
    """The figures of all load balancers, of haproxy and of IPVS."""

    def __init__(self, layout: Layout) -> None:
        self._haproxy = Poller(layout)
        self._lvs = LvsPoller(layout, ipvs.reader(Namespace(layout.namespace)))

    def read_figures(
        self, scopes: Collection[Scope], columns: Collection[str], *, timeout: float
    ) -> list[Figures | None]:
        figures = self._haproxy.read_figures(scopes, columns, timeout=timeout)
        if octavia.SCOPES.intersection(scopes):
            figures += octavia.figures(self._lvs.read().values())
        return figures
