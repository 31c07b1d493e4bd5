"""UDP and SCTP listeners: upload, start, stop, reload, delete.

Each listener has its own keepalived. It adds the listener's virtual servers to IPVS, the balancer
in the kernel, and removes members that a check finds dead. A reload keeps flows, counters and the
results of checks.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from amphora_agent import files, templates
from amphora_agent.errors import InvalidRequest, NotFound, OperationFailed
from amphora_agent.events.alarms import Alarms
from amphora_agent.keepalived import program
from amphora_agent.keepalived.config import lvs
from amphora_agent.keepalived.config.language import ConfigError
from amphora_agent.keepalived.config.lvs import ParsedListener
from amphora_agent.keepalived.lvs.poller import ConfigCache, Service
from amphora_agent.keepalived.program import is_running
from amphora_agent.model.addressing import Claim
from amphora_agent.model.events import AlarmKind
from amphora_agent.model.status import ListenerRow
from amphora_agent.namespace import Namespace
from amphora_agent.paths import Layout, LvsLayout, ObjectId
from amphora_agent.supervisor.contract import ProcessSpec, ProcessState, Supervisor
from amphora_agent.supervisor.processes import run

logger = logging.getLogger(__name__)

_MODPROBE = "/sbin/modprobe"

#: Connection tracking learns of IPVS's flows only with this setting, and only tracked flows are
#: masqueraded and let through (network/plan/firewall_rules.py). It counts for later
#: flows.
_CONNTRACK = Path("/proc/sys/net/ipv4/vs/conntrack")

#: Seconds for modprobe, and for a start or a reload to be seen in IPVS.
_MODPROBE_TIMEOUT, _START_TIMEOUT = 20.0, 30.0
#: Seconds between two looks at a keepalived that comes up.
_START_POLL = 0.02


class LvsListeners:
    """All UDP and SCTP listeners of the amphora. Changes of one listener follow one another.

    `services` returns those that IPVS has now.
    """

    def __init__(
        self,
        layout: Layout,
        supervisor: Supervisor,
        services: Callable[[], Sequence[Service]],
        alarms: Alarms,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._layout = layout
        self._alarms = alarms
        self._supervisor = supervisor
        self._services = services
        self._clock = clock
        self._configs = ConfigCache()

    # Configuration

    def holds(self, listener_id: ObjectId) -> bool:
        """Return whether this is the id of a UDP or SCTP listener, not of a load balancer."""
        return self._layout.lvs(listener_id).configuration.is_file()

    def upload(self, listener_id: ObjectId, configuration: bytes) -> None:
        """Check and store the configuration of a listener; its keepalived does not read it yet.

        Raises:
            InvalidRequest: the configuration is not allowed, or keepalived cannot use it.
        """
        listener = self._layout.lvs(listener_id)
        try:
            given = lvs.rewrite(configuration, str(self._layout.udp_check))
        except ConfigError as error:
            raise InvalidRequest("Invalid request", str(error)) from None
        with (
            self._locked(listener_id),
            files.Staged(listener.configuration, configuration, files.PRIVATE) as staged,
            files.Staged(listener.given, given.text, files.PRIVATE) as staged_given,
        ):
            self._provide_check()  # keepalived checks that it is there, and who may change it
            program.require_usable("--check", staged_given.path, given, staged.destination)
            staged.commit()
        self._alarms.clear_alarm(AlarmKind.KEEPALIVED_TEXT_REFUSED, listener_id)
        logger.info("listener=%s change=upload bytes=%d", listener_id, len(configuration))

    def list_claims(self, *, rendered_only: bool) -> Iterator[tuple[str, frozenset[Claim]]]:
        """Yield the claims of each listener with their owner: its load balancer of API 2.0, or the
        listener itself."""
        for listener in self._layout.lvs_listeners():
            configuration = listener.configuration.read_bytes()
            owner = lvs.find_owner(configuration)
            if owner or not rendered_only:
                yield owner or listener.id, lvs.find_claims(configuration)

    def configuration(self, listener_id: ObjectId) -> bytes:
        """Return the configuration as it was sent.

        Raises:
            NotFound
        """
        return self._existing(listener_id).configuration.read_bytes()

    def listeners(self) -> list[ListenerRow]:
        """Return each listener as ACTIVE, OFFLINE (stopped or disabled) or ERROR (died)."""
        return [
            ListenerRow(self._read_status(listener), listener.id, "UDP")
            for listener in self._layout.lvs_listeners()
        ]

    def running(self) -> int:
        """Return how many listeners have a keepalived that runs."""
        return sum(is_running(listener) for listener in self._layout.lvs_listeners())

    # Start and stop

    def start(self, listener_id: ObjectId) -> str:
        """Start a listener, unless it runs; return the sentence for the controller.

        Raises:
            NotFound, OperationFailed
        """
        with self._locked(listener_id):
            listener = self._existing(listener_id)
            if not is_running(listener):
                self._activate(listener, "start")
        return f"keepalivedlvs listener {listener_id} started"

    def reload(self, listener_id: ObjectId) -> str:
        """Have keepalived read the stored configuration; start it if it does not run. Return the
        sentence for the controller.

        Raises:
            NotFound
            OperationFailed: it did not come up; it serves its earlier configuration again.
        """
        with self._locked(listener_id):
            self._activate(self._existing(listener_id), "reload")
        return f"keepalivedlvs listener {listener_id} reloaded"

    def stop(self, listener_id: ObjectId) -> str:
        """Stop a listener until it is started again; return the sentence for the controller."""
        with self._locked(listener_id):
            listener = self._existing(listener_id)
            self._supervisor.stop(listener.name)
        logger.info("listener=%s change=stop", listener_id)
        return f"keepalivedlvs listener {listener_id} stopped"

    def delete(self, listener_id: ObjectId) -> None:
        """Stop a listener and remove all its files. Nothing happens when there is none."""
        listener = self._layout.lvs(listener_id)
        with self._locked(listener_id):
            self._supervisor.forget(listener.name)
            for file in (
                listener.given,
                listener.pid_file,
                listener.child_pid_file,
                listener.bfd_pid_file,
                listener.configuration,
            ):
                files.remove(file)
        self._alarms.clear_subject(listener_id)
        logger.info("listener=%s change=delete", listener_id)

    def adopt(self) -> None:
        """Take over what an earlier agent left, before the supervisor resumes.

        A listener whose configuration is not allowed is not started any more; one that runs is
        left running.
        """
        listeners = self._layout.lvs_listeners()
        if listeners:
            self._provide_check()
            self._prepare_kernel()
        for listener in listeners:
            program.renew_lvs(self._layout, listener, self._alarms)
            if not is_running(listener):
                # The file may be from before this boot, and its number another process's now, which
                # keepalived would take for itself.
                files.remove(listener.pid_file)
                if not listener.given.exists():
                    program.stop_refused(self._supervisor, listener.name)

    # Starting

    def _activate(self, listener: LvsLayout, change: str) -> None:
        started = self._clock()
        message = f"Failed to {change} keepalivedlvs listener {listener.id}"
        before = program.read_if_exists(listener.given)
        try:
            configuration = listener.configuration.read_bytes()
            given = lvs.rewrite(configuration, str(self._layout.udp_check)).text
        except ConfigError as error:
            reason = f"{listener.configuration} is not allowed: {error}"
            raise OperationFailed(message, reason) from None
        was_wanted = self._supervisor.state(listener.name) is not ProcessState.STOPPED
        mark = self._supervisor.mark(listener.name)
        files.write(listener.given, given)
        try:
            self._run(listener)
        except OperationFailed as error:
            output = self._supervisor.output(listener.name, mark).strip()
            if before is None or not was_wanted:
                self._supervisor.stop(listener.name)
            elif before != given:
                files.write(listener.given, before)
                if is_running(listener):
                    self._supervisor.reload(listener.name)
            raise OperationFailed(message, output or str(error)) from error
        milliseconds = (self._clock() - started) * 1000
        logger.info("listener=%s change=%s ms=%.0f", listener.id, change, milliseconds)

    def _run(self, listener: LvsLayout) -> None:
        """Have keepalived read its configuration, and wait until IPVS has the virtual servers."""
        if is_running(listener):
            self._supervisor.reload(listener.name)
        else:
            self._prepare_kernel()
            files.remove(listener.pid_file)
            self._supervisor.start(self._build_spec(listener))
        described = self._configs.describe(listener)
        assert described is not None
        deadline = self._clock() + _START_TIMEOUT
        while not (is_running(listener) and self._serves(described)):
            if self._supervisor.state(listener.name) is not ProcessState.RUNNING:
                raise OperationFailed("keepalived ended")
            if self._clock() > deadline:
                raise OperationFailed("keepalived did not come up", f"{_START_TIMEOUT:g} s")
            time.sleep(_START_POLL)

    def _serves(self, described: ParsedListener) -> bool:
        """Return whether IPVS has the virtual servers. keepalived leaves out those without
        members."""
        wanted = {
            (virtual.protocol, endpoint)
            for virtual in described.virtuals
            if any(member.endpoint for member in virtual.members)
            for endpoint in virtual.endpoints
        }
        if not wanted:
            return True
        try:
            return wanted <= {(found.protocol, found.endpoint) for found in self._services()}
        except OSError as error:
            raise OperationFailed("Cannot read IPVS", str(error)) from error

    def _build_spec(self, listener: LvsLayout) -> ProcessSpec:
        return ProcessSpec(
            name=listener.name,
            description=f"keepalived of listener {listener.id}",
            template="octavia-keepalivedlvs.service.j2",
            argv=program.build_command("--check", listener),
            namespace=self._layout.namespace,
            writable=(self._layout.lvs_directory,),
        )

    def _prepare_kernel(self) -> None:
        """Load IPVS and have its flows tracked, as keepalived's unit does: the embedded supervisor
        has no units."""
        with contextlib.suppress(
            OperationFailed
        ):  # a container has no modprobe, and nothing to load
            run((_MODPROBE, "ip_vs"), timeout=_MODPROBE_TIMEOUT)

        def enable_tracking() -> None:
            if _CONNTRACK.exists():
                _CONNTRACK.write_text("1\n")

        try:
            Namespace(self._layout.namespace).run(enable_tracking)
        except (OSError, OperationFailed) as error:
            logger.error("cannot have connection tracking learn of the flows of IPVS: %s", error)

    def _provide_check(self) -> None:
        script = templates.render("systemd", "udp_check.sh.j2").encode()
        files.provide(self._layout.udp_check, script, files.PROGRAM)

    def _locked(self, listener_id: ObjectId) -> contextlib.AbstractContextManager[None]:
        """Return the lock of a listener, which commands on the amphora hold, too."""
        listener = self._layout.lvs(listener_id)
        return files.locked_for(listener.configuration, self._layout.instance_lock(listener.name))

    def _existing(self, listener_id: ObjectId) -> LvsLayout:
        if not self.holds(listener_id):
            raise NotFound("UDP Listener Not Found", f"No UDP listener with UUID: {listener_id}")
        return self._layout.lvs(listener_id)

    def _read_status(self, listener: LvsLayout) -> str:
        described = self._configs.describe(listener)
        if described is not None and not described.virtuals:
            return "OFFLINE"
        if is_running(listener):
            return "ACTIVE"
        stopped = self._supervisor.state(listener.name) is ProcessState.STOPPED
        return "OFFLINE" if stopped else "ERROR"
