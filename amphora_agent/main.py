"""The composition root: settings are read here, everything is made here and handed down."""

import functools
import logging
import threading

from amphora_agent import files, logs, monitoring
from amphora_agent.api.app import create_app
from amphora_agent.api.octavia.versions import CURRENT
from amphora_agent.api.services import Services
from amphora_agent.api.tls import ServerTls
from amphora_agent.certificate import AgentCertificate
from amphora_agent.commands import (
    Options,
    declared_of,
    instances_of,
    layer4_of,
    layout_of,
    network_of,
    supervisor_of,
)
from amphora_agent.controller import ControllerApi
from amphora_agent.errors import AgentError
from amphora_agent.haproxy.inventory import Inventory
from amphora_agent.haproxy.observe import Observer
from amphora_agent.heartbeat import versions
from amphora_agent.heartbeat.sender import Sender
from amphora_agent.heartbeat.sources import Sources
from amphora_agent.host import Host
from amphora_agent.keepalived import ipvs, lvs, vrrp
from amphora_agent.keepalived.lvs_observe import LvsObserver
from amphora_agent.keepalived.vrrp import Vrrp
from amphora_agent.layout import Layout
from amphora_agent.metrics.shared import HeartbeatBoard
from amphora_agent.namespace import Namespace
from amphora_agent.network.advertise import Announcer
from amphora_agent.network.dhcp import DhcpClients
from amphora_agent.network.leases import Leases
from amphora_agent.network.plug import Network
from amphora_agent.processes import systemd
from amphora_agent.processes.supervisor import Supervisor
from amphora_agent.processes.systemd import SystemdSupervisor
from amphora_agent.server import Server
from amphora_agent.settings import SettingsFile

logger = logging.getLogger(__name__)

#: Makes the namespace at boot.
_NAMESPACE_UNIT = "amphora-netns.service"


def run_agent(options: Options) -> None:
    """Run the agent until it is told to stop.

    Raises:
        AgentError: it cannot start; the text says why.
    """
    settings = SettingsFile(options.config_file)
    logs.set_up(settings.current())
    layout = layout_of(settings.current(), options)
    files.make_private_directory(layout.run)
    files.make_directory(layout.base)
    board = HeartbeatBoard()
    services = _services(settings, layout, options, board)
    try:
        tls = ServerTls(settings.current)
    except OSError as error:
        raise AgentError("Cannot serve TLS", f"{layout.agent_certificate}: {error}") from error
    Server(
        settings.current,
        tls,
        create_app(services),
        _sender(settings, layout, options, services.controller, board),
        serving=lambda: _begin(services),
        beating=lambda: monitoring.start_endpoint(layout, services.host),
        tick=lambda: logs.follow(settings.current()),
    ).run()


def _services(
    settings: SettingsFile, layout: Layout, options: Options, board: HeartbeatBoard
) -> Services:
    supervisor = supervisor_of(layout, options)
    certificate = AgentCertificate(layout.agent_certificate, settings.current().amphora_id)
    instances = instances_of(settings.current(), layout, supervisor)
    layer4 = layer4_of(layout, supervisor)
    return Services(
        settings=settings,
        instances=instances,
        inventory=Inventory(layout, supervisor),
        lvs=layer4,
        network=_network(layout, options, supervisor),
        vrrp=Vrrp(layout, supervisor),
        host=Host(options.memory_limit),
        certificate=certificate,
        metrics=monitoring.agent_metrics(layout, certificate, board),
        controller=ControllerApi(layout.controller_api, CURRENT),
        # Loaded with all that it needs when it is first asked for something.
        declared=functools.cache(lambda: declared_of(layout, instances, layer4, options)),
    )


def _sender(
    settings: SettingsFile,
    layout: Layout,
    options: Options,
    controller: ControllerApi,
    board: HeartbeatBoard,
) -> Sender:
    def version() -> int:
        if options.heartbeat_version is not None:
            return options.heartbeat_version
        return versions.OF_API.get(controller.version(), versions.LATEST)

    in_ipvs = ipvs.reader(Namespace(layout.namespace))
    return Sender(
        settings.current,
        Sources(Observer(layout), LvsObserver(layout, in_ipvs, lvs.runs)),
        layout.heartbeat_counters,
        version=version,
        silent=lambda: vrrp.missing(layout.vrrp),
        told=monitoring.note_on(board),
    )


def _begin(services: Services) -> None:
    """Take over what runs; bring back what does not, while the API answers already."""
    services.instances.adopt()
    services.vrrp.adopt()
    services.lvs.adopt()

    def restore_network() -> None:
        services.network.restore(single=services.settings.current().single)

    def resume() -> None:
        for step in (restore_network, services.instances.resume, services.vrrp.resume):
            try:
                step()
            except Exception:  # an agent that answers can be repaired, one that ended cannot
                logger.exception("not everything could be brought back")

    threading.Thread(target=resume, name="resume", daemon=True).start()


def _network(layout: Layout, options: Options, supervisor: Supervisor) -> Network:
    namespace = Namespace(layout.namespace)
    leases = Leases(layout.leases)

    def by_unit() -> bool:
        # What the agent mounts itself nobody else would see: its unit has mounts of its own.
        if namespace.exists():
            return False
        systemd.restart(_NAMESPACE_UNIT)
        return True

    under_systemd = isinstance(supervisor, SystemdSupervisor)
    return network_of(
        layout,
        leases,
        dhcp=DhcpClients(supervisor, leases, layout.namespace, options.command("network", "lease")),
        make_namespace=by_unit if under_systemd else None,
        announce=Announcer(namespace).announce,
    )
