"""The composition root: read the settings, build all services, start the processes."""

import functools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from amphora_agent import files
from amphora_agent.agent import logs
from amphora_agent.agent.host import Host
from amphora_agent.agent.reconfiguration import Reconfiguration, require_listening
from amphora_agent.agent.settings_file import ChosenSettings, ControllerApi, SettingsFile
from amphora_agent.agent.trust import Admission, AgentAuthorities, AgentCertificate, RevocationLists
from amphora_agent.api.app import create_app
from amphora_agent.api.http import CURRENT
from amphora_agent.api.server.requests import LocalBackend
from amphora_agent.api.server.tls import ServerTls, read_first_files
from amphora_agent.api.services import MadeOnce, Services
from amphora_agent.daemon import monitoring
from amphora_agent.daemon.arbiter import AgentServer, Heart
from amphora_agent.daemon.privileges import find_user
from amphora_agent.errors import AgentError, Conflict, describe_os_error
from amphora_agent.events.alarms import Alarms
from amphora_agent.events.journal import Journal
from amphora_agent.haproxy.certificate_expiry import ExpiryWatch
from amphora_agent.haproxy.housekeeping import HungWorkers, Presence, Tidying
from amphora_agent.haproxy.runtime.poller import Poller
from amphora_agent.haproxy.status import Inventory
from amphora_agent.heartbeat import message
from amphora_agent.heartbeat.memory import CounterMemory
from amphora_agent.heartbeat.reader import Reader
from amphora_agent.heartbeat.sender import Facts, Sender
from amphora_agent.keepalived.lvs import ipvs
from amphora_agent.keepalived.lvs.poller import LvsPoller
from amphora_agent.keepalived.vrrp import service as vrrp_service
from amphora_agent.keepalived.vrrp.mastership import Mastership
from amphora_agent.keepalived.vrrp.service import Vrrp
from amphora_agent.metrics.shared import HeartbeatBoard, WorkerDeaths
from amphora_agent.model.addressing import Address, with_brackets
from amphora_agent.namespace import Namespace
from amphora_agent.network.announcer import Announcer
from amphora_agent.network.dhcp_client import DhcpClients
from amphora_agent.network.netlink.links import Netlink
from amphora_agent.network.records import Leases
from amphora_agent.network.service import Network
from amphora_agent.paths import Layout, alarms_directory
from amphora_agent.revisions import state_format
from amphora_agent.settings.reader import Settings
from amphora_agent.slots import SlotFile
from amphora_agent.supervisor import systemd
from amphora_agent.supervisor.contract import Supervisor
from amphora_agent.supervisor.processes import boot_id
from amphora_agent.supervisor.systemd import SystemdSupervisor
from amphora_agent.wiring import (
    Options,
    make_declared,
    make_instances,
    make_layout,
    make_lvs,
    make_network,
    make_supervisor,
)

logger = logging.getLogger(__name__)

#: Seconds to wait for the address to exist and be free, and between attempts: at a boot it may come
#: late, and a killed agent holds it for a moment.
_ADDRESS_TIMEOUT, _PAUSE = 5.0, 0.1


def require_startable(settings: Settings, *, run: Path) -> None:
    """Check that the agent can serve with these settings: logs, TLS, address, directories.

    Raises:
        AgentError: it cannot; the text names the file, directory or address, and the reason.
    """
    logs.set_up(settings)
    read_first_files(settings)
    _require_address(settings.bind_host, settings.bind_port)
    for directory in (run, Path(settings.base_path)):
        try:
            make = files.make_private_directory if directory == run else files.make_directory
            make(directory)
        except OSError as error:
            raise AgentError("Cannot make directory", f"{directory}: {error.strerror}") from error


def _require_address(host: str, port: int) -> None:
    deadline = time.monotonic() + _ADDRESS_TIMEOUT
    while True:
        try:
            return require_listening(host, port)
        except OSError as error:
            if time.monotonic() > deadline:
                details = f"{host} port {port}: {error.strerror}"
                raise AgentError("Cannot listen", details) from error
        time.sleep(_PAUSE)


def protect_secrets(
    configuration: Path, settings: Settings, directories: Iterable[Path], run: Path
) -> None:
    """Make the files with secrets private to the agent's user, and their directory, if it is the
    agent's. Warn of those that cannot be changed."""
    certificate = Path(settings.agent_server_cert)
    for path in (configuration, certificate):
        for file in (path, path.with_name(f"{path.name}.previous")):
            if not files.tighten(file, files.PRIVATE):
                logger.warning("%s can be read by others, and that cannot be changed", file)
    home = configuration.parent
    for_others = (run, Path(settings.base_path), Path(settings.base_cert_dir))
    # haproxy's user must get through to what it reads.
    own = any(home.is_relative_to(directory) for directory in directories) and not any(
        path.is_relative_to(home) for path in for_others
    )
    if own and not files.tighten(home, files.PRIVATE_PROGRAM):
        logger.warning("%s can be read by others, and that cannot be changed", home)


#: Units that make the namespace, and restore what was plugged, at boot.
_NETWORK_UNITS = ("amphora-netns.service", "amphora-network.service")


def run_agent(options: Options) -> None:
    """Run the agent until it is told to stop.

    Raises:
        AgentError: it cannot start; the text says why.
    """
    alarms = Alarms(alarms_directory(options.run_directory))
    chosen = _choose_settings(options, alarms)
    started = chosen.settings
    logs.set_up(started)
    settings = SettingsFile(options.config_file, alarms=alarms, chosen=chosen)
    layout = make_layout(started, options)
    protect_secrets(settings.path, started, options.directories, layout.run)
    user = find_user(options.api_user)
    if user is None:
        logger.warning(
            "there is no user %s: the process that speaks TLS and HTTP is root's", options.api_user
        )
    board, deaths = HeartbeatBoard(), WorkerDeaths()
    refusal = state_format.take_over(layout.format, alarms)
    services = _make_services(settings, started, layout, options, board, deaths, alarms, refusal)
    AgentServer(
        f"{with_brackets(started.bind_host)}:{started.bind_port}",
        _make_backend(settings, layout, options, services, board, alarms),
        make_heart=lambda: _make_heart(settings, layout, options, services, board),
        died=services.journal.report_death,
        deaths=deaths,
        board=board,
        user=user,
    ).run()


def _choose_settings(options: Options, alarms: Alarms) -> ChosenSettings:
    """Choose the settings to start with, in a process that ends: what it reads of secrets shall not
    be in the memory of any worker that does not need them.

    Raises:
        AgentError: it cannot start with any.
    """
    outcome, other = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(other, _try_settings(options, alarms))
        except Exception:  # the parent cannot see it
            logger.exception("the settings cannot be read")
        finally:
            os._exit(0)
    os.close(other)
    with open(outcome, "rb") as pipe:
        data = pipe.read()
    os.waitpid(pid, 0)
    if not data:
        raise AgentError("Cannot start", "the process that reads the settings has ended")
    chosen = msgspec.msgpack.decode(data, type=ChosenSettings | _Failure)
    if isinstance(chosen, _Failure):
        raise AgentError(chosen.message, chosen.details)
    return chosen


class _Failure(msgspec.Struct, tag=True):
    message: str
    details: str


def _try_settings(options: Options, alarms: Alarms) -> bytes:
    usable = functools.partial(require_startable, run=options.run_directory)
    try:
        settings = SettingsFile(options.config_file, alarms=alarms, require_usable=usable)
    except AgentError as error:
        return msgspec.msgpack.encode(_Failure(error.message, error.details))
    except OSError as error:
        return msgspec.msgpack.encode(_Failure("Cannot start", describe_os_error(error)))
    return msgspec.msgpack.encode(settings.chosen())


def _make_backend(
    settings: SettingsFile,
    layout: Layout,
    options: Options,
    services: Services,
    board: HeartbeatBoard,
    alarms: Alarms,
) -> LocalBackend:
    admission = _make_admission(settings, layout, options, alarms)
    watches = (
        Presence(services.instances.haproxy, alarms, services.journal).watch,
        HungWorkers(layout, lambda: board.read().hung, services.journal).watch,
        _make_mastership(layout, services.journal).watch,
    )
    return LocalBackend(
        create_app(services),
        admission,
        ServerTls(settings.current, alarms, options.client_crl),
        begin=lambda: _begin(services, watches, admission),
        tick=lambda: logs.set_level(settings.current()),
        note_failed_handshake=services.metrics.requests.handshake_failed,
        spool=layout.base,
    )


def _make_services(
    settings: SettingsFile,
    started: Settings,
    layout: Layout,
    options: Options,
    board: HeartbeatBoard,
    deaths: WorkerDeaths,
    alarms: Alarms,
    refusal: Conflict | None,
) -> Services:
    journal = Journal(layout.journal_beside if refusal else layout.journal, alarms)
    supervisor = make_supervisor(layout, options, journal.report_death, alarms)
    certificate = AgentCertificate(
        lambda: Path(settings.current().agent_server_cert), started.amphora_id
    )
    authorities = AgentAuthorities(lambda: Path(settings.current().agent_server_ca))
    expiry = ExpiryWatch(layout, alarms)
    instances = make_instances(
        layout,
        supervisor,
        journal,
        alarms,
        started,
        settings.current,
        Tidying().later,
        expiry.note_change,
    )
    lvs = make_lvs(layout, supervisor, alarms)
    return Services(
        settings=settings,
        reconfiguration=Reconfiguration(settings, options.directories),
        instances=instances,
        journal=journal,
        inventory=Inventory(
            layout, supervisor, alarms, journal, silences=lambda: board.read().silences
        ),
        lvs=lvs,
        network=_make_network(layout, options, supervisor, alarms),
        vrrp=Vrrp(layout, supervisor, alarms),
        host=Host(options.memory_limit),
        certificate=certificate,
        authorities=authorities,
        expiry=expiry,
        metrics=monitoring.make_agent_metrics(
            layout, certificate, authorities, expiry, board, deaths, alarms
        ),
        controller=ControllerApi(layout.controller_api, CURRENT),
        # Loaded, with all that it imports, at its first use.
        declared=MadeOnce(lambda: make_declared(layout, instances, lvs, options)),
        refusal=refusal,
    )


def _make_heart(
    settings: SettingsFile,
    layout: Layout,
    options: Options,
    services: Services,
    board: HeartbeatBoard,
) -> Heart:
    """Build the reader and the sender of heartbeats, in their own process, and start the load
    balancers' metrics in a thread of it."""
    monitoring.start_endpoint(layout, services.host)

    def find_facts() -> Facts:
        current = settings.current()
        logs.set_level(current)
        version = options.heartbeat_version
        if version is None:
            version = message.BY_API.get(services.controller.version(), message.LATEST)
        return Facts(current, version, vrrp_service.find_outage(layout.vrrp))

    alarms = Alarms(layout.alarms)
    on_disk, in_memory = layout.heartbeat_counters
    counters = [SlotFile(in_memory, sync=False)]
    if services.refusal is None:
        counters.insert(0, SlotFile(on_disk, sync=True))
    memory = CounterMemory(counters, boot_id(), alarms)
    in_ipvs = LvsPoller(layout, ipvs.reader(Namespace(layout.namespace)))
    reader = Reader(
        Poller(layout),
        in_ipvs.read,
        find_facts,
        Facts(settings.current()),
        memory,
        alarms,
    )
    return Heart(reader, Sender(reader.facts, reader.readings, memory, monitoring.make_note(board)))


def _make_admission(
    settings: SettingsFile, layout: Layout, options: Options, alarms: Alarms
) -> Admission:
    lists = None
    if options.client_crl is not None:
        lists = RevocationLists(
            options.client_crl,
            layout.kept_client_crl,
            lambda: Path(settings.current().agent_server_ca),
            alarms,
        )
    return Admission(alarms, lists, require_usage=options.require_client_eku)


def _begin(services: Services, watches: Iterable[Callable[[], None]], admission: Admission) -> None:
    """Adopt what runs, and start what should run, while the API answers already."""
    admission.start(services.certificate, services.authorities)
    if services.refusal is not None:  # what runs, runs on
        return
    _attempt(services.instances.adopt, services.vrrp.adopt, services.lvs.adopt)
    services.expiry.start()

    def restore_network() -> None:
        services.network.restore(single=services.settings.current().single)

    def resume() -> None:
        _attempt(restore_network, services.instances.resume, services.vrrp.resume)

    threading.Thread(target=resume, name="resume", daemon=True).start()
    for watch in watches:
        threading.Thread(target=watch, name="watch", daemon=True).start()


def _make_mastership(layout: Layout, journal: Journal) -> Mastership:
    namespace = Namespace(layout.namespace)

    def list_addresses() -> frozenset[Address]:
        with Netlink() as netlink:
            return netlink.addresses()

    return Mastership(layout.vrrp, lambda: namespace.run(list_addresses), journal)


def _attempt(*steps: Callable[[], object]) -> None:
    for step in steps:
        try:
            step()
        except Exception:  # an agent that answers can be repaired; one that has ended cannot
            logger.exception("not everything could be restored")


def _make_network(
    layout: Layout, options: Options, supervisor: Supervisor, alarms: Alarms
) -> Network:
    namespace = Namespace(layout.namespace)
    leases = Leases(layout.leases)

    def make_by_unit() -> bool:
        # A mount of the agent's own would be visible to nobody else: its unit has its own mounts.
        if namespace.exists():
            return False
        systemd.restart(*_NETWORK_UNITS)
        return True

    under_systemd = isinstance(supervisor, SystemdSupervisor)
    return make_network(
        layout,
        leases,
        alarms=alarms,
        dhcp=DhcpClients(
            supervisor,
            leases,
            layout.namespace,
            options.command("network", "lease"),
            writable=(layout.leases, layout.network, layout.run),
        ),
        make_namespace=make_by_unit if under_systemd else None,
        announce=Announcer(namespace).announce,
    )
