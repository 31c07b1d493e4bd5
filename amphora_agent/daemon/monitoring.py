"""Makes what tells of the load balancers and of the agent: where metrics meet what they are of."""

import threading
import time
from collections.abc import Callable, Collection

from msgspec.structs import replace

from amphora_agent import logs
from amphora_agent.agent.certificate import AgentAuthorities, AgentCertificate
from amphora_agent.agent.host import Host
from amphora_agent.agent.settings_file import SettingsFile
from amphora_agent.events.alarms import Alarms
from amphora_agent.haproxy.certificate_expiry import ExpiryWatch
from amphora_agent.haproxy.runtime.metrics_poller import Inquiry
from amphora_agent.heartbeat.sender import Beat
from amphora_agent.keepalived.lvs import ipvs
from amphora_agent.keepalived.lvs.poller import LvsPoller
from amphora_agent.metrics.agent import AgentMetrics, WorkersOf
from amphora_agent.metrics.endpoint import Collector, MetricsEndpoint
from amphora_agent.metrics.shared import HeartbeatBoard, WorkerDeaths
from amphora_agent.metrics.translate import haproxy
from amphora_agent.metrics.translate.haproxy import Machine
from amphora_agent.model.heartbeats import ControllerFigures
from amphora_agent.model.status import Figures, Scope
from amphora_agent.namespace import Namespace
from amphora_agent.network import sysctl
from amphora_agent.paths import Layout
from amphora_agent.wiring import Options, layout_of


def agent_metrics(
    layout: Layout,
    certificate: AgentCertificate,
    authorities: AgentAuthorities,
    expiry: ExpiryWatch,
    board: HeartbeatBoard,
    deaths: WorkerDeaths,
    alarms: Alarms,
) -> AgentMetrics:
    """The agent's own metrics."""
    inquiry, namespace = Inquiry(layout), Namespace(layout.namespace)

    def workers(timeout: float) -> dict[str, WorkersOf | None]:
        return {
            instance: found
            and WorkersOf(int(bool(found.current)), len(found.leaving), found.reloads, found.failed)
            for instance, found in inquiry.workers(timeout=timeout).items()
        }

    return AgentMetrics(
        heartbeat=board.read,
        workers=workers,
        certificate_expiry=certificate.expires,
        authority_expiry=authorities.expires,
        expiries=expiry.soonest,
        conntrack=lambda: sysctl.usage(namespace),
        alarms=alarms.current,
        deaths=deaths.read,
        clock=time.monotonic,
    )


def note_on(
    board: HeartbeatBoard,
) -> Callable[[Beat | None, tuple[ControllerFigures, ...]], None]:
    """What a sender calls for others to know of its heartbeats, and of errors between them."""

    def told(beat: Beat | None, controllers: tuple[ControllerFigures, ...]) -> None:
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

    return told


def start_endpoint(layout: Layout, host: Host) -> None:
    """Serve the metrics of the load balancers from now on, in a thread."""
    endpoint = _endpoint(layout, host)
    threading.Thread(target=endpoint.run, name="metrics", daemon=True).start()


def run_endpoint(options: Options) -> None:
    """Serve the metrics of the load balancers, without the agent.

    Raises:
        AgentError: the settings cannot be read.
    """
    settings = SettingsFile(options.config_file).current()
    logs.set_up(settings)
    _endpoint(layout_of(settings, options), Host()).run()


def _endpoint(layout: Layout, host: Host) -> MetricsEndpoint:
    collector = Collector(_Everything(layout), lambda: Machine(*host.load()))
    return MetricsEndpoint(collector, Namespace(layout.namespace))


class _Everything:
    """The figures of all load balancers: what haproxy serves, and what IPVS does."""

    def __init__(self, layout: Layout) -> None:
        self._haproxy = Inquiry(layout)
        self._lvs = LvsPoller(layout, ipvs.reader(Namespace(layout.namespace)))

    def figures(
        self, scopes: Collection[Scope], columns: Collection[str], *, timeout: float
    ) -> list[Figures | None]:
        found = self._haproxy.figures(scopes, columns, timeout=timeout)
        if haproxy.SCOPES.intersection(scopes):
            found += haproxy.figures(self._lvs.read().values())
        return found
