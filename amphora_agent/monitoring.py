"""Makes what tells of the load balancers and of the agent: where metrics meet what they are of."""

import threading
import time
from collections.abc import Callable, Collection

from amphora_agent import logs
from amphora_agent.certificate import AgentCertificate
from amphora_agent.commands import Options, layout_of
from amphora_agent.haproxy.inquiry import Inquiry
from amphora_agent.heartbeat.sender import Beat
from amphora_agent.host import Host
from amphora_agent.keepalived import ipvs, lvs
from amphora_agent.keepalived.lvs_observe import LvsObserver
from amphora_agent.layout import Layout
from amphora_agent.metrics import readings
from amphora_agent.metrics.agent import AgentMetrics, WorkersOf
from amphora_agent.metrics.collector import Collector
from amphora_agent.metrics.endpoint import MetricsEndpoint
from amphora_agent.metrics.shared import HeartbeatBoard
from amphora_agent.metrics.translate import Machine
from amphora_agent.model.figures import Figures, Scope
from amphora_agent.namespace import Namespace
from amphora_agent.network import conntrack
from amphora_agent.settings import SettingsFile


def agent_metrics(
    layout: Layout, certificate: AgentCertificate, board: HeartbeatBoard
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
        conntrack=lambda: conntrack.usage(namespace),
        clock=time.monotonic,
    )


def note_on(board: HeartbeatBoard) -> Callable[[Beat], None]:
    """What a sender calls for the agent's metrics to know of its heartbeats."""

    def told(beat: Beat) -> None:
        board.note(
            sent=beat.sent,
            at=time.monotonic(),
            size=len(beat.heartbeat.datagram),
            listeners=beat.listeners,
            members_left_out=beat.heartbeat.members_left_out,
            pools_left_out=beat.heartbeat.pools_left_out,
            statistics_left_out=beat.heartbeat.statistics_left_out,
        )

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
        in_ipvs = ipvs.reader(Namespace(layout.namespace))
        self._haproxy = Inquiry(layout)
        self._lvs = LvsObserver(layout, in_ipvs, lvs.runs)

    def figures(
        self, scopes: Collection[Scope], columns: Collection[str], *, timeout: float
    ) -> list[Figures | None]:
        found = self._haproxy.figures(scopes, columns, timeout=timeout)
        if readings.SCOPES.intersection(scopes):
            found += readings.figures(self._lvs.read(timeout=timeout).values())
        return found
