"""UDP and SCTP listeners: upload, start, stop, reload, delete.

Each has a keepalived of its own, which puts the listener's virtual servers into IPVS, where the
kernel balances, and takes members out that a check finds dead. A reload is no restart: flows,
counters and what the checks have found go on.
"""

import contextlib
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from amphora_agent import files, templates
from amphora_agent.errors import InvalidRequest, NotFound, OperationFailed
from amphora_agent.events.alarms import Alarms
from amphora_agent.keepalived import program
from amphora_agent.keepalived.config import lvs
from amphora_agent.keepalived.config.lvs import Listener
from amphora_agent.keepalived.config.parser import ConfigError
from amphora_agent.keepalived.lvs import poller
from amphora_agent.keepalived.lvs.poller import Index
from amphora_agent.keepalived.lvs.status import Service
from amphora_agent.keepalived.program import (
    KEEPALIVED,
    SOMETHING_TO_SAY,
    bfd_pid_option,
    complaints,
    renumber,
)
from amphora_agent.model.addressing import Claim
from amphora_agent.model.events.alarms import AlarmKind
from amphora_agent.model.status import ListenerStatus
from amphora_agent.namespace import Namespace
from amphora_agent.paths import Layout, LvsLayout, ObjectId
from amphora_agent.supervisor.command import run
from amphora_agent.supervisor.contract import ProcessSpec, ProcessState, Supervisor
from amphora_agent.supervisor.identity import has_word, pid_in

logger = logging.getLogger(__name__)

_MODPROBE = "/sbin/modprobe"

#: IPVS tells connection tracking about its flows only then, and only those are masqueraded and let
#: through (network/plan/firewall_rules.py). It counts for flows that begin afterwards.
_CONNTRACK = Path("/proc/sys/net/ipv4/vs/conntrack")

#: Seconds for keepalived's check of a configuration; for a start or a reload to be seen in IPVS.
_CHECK_PATIENCE, _START_PATIENCE = 20.0, 30.0
#: Seconds between two looks at a keepalived that comes up.
_PAUSE = 0.02


class LvsListeners:
    """All UDP and SCTP listeners of the amphora. Changes of one are made one after another.

    `services` are those of IPVS now.
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
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._index = Index()

    # Configuration

    def holds(self, listener_id: ObjectId) -> bool:
        """Whether this is the id of a listener here, and not of a load balancer."""
        return self._layout.lvs(listener_id).configuration.is_file()

    def upload(self, listener_id: ObjectId, configuration: bytes) -> None:
        """Check a configuration and make it the listener's; what runs is not touched.

        Raises:
            InvalidRequest: it has something that is not allowed, or keepalived cannot use it.
        """
        listener = self._layout.lvs(listener_id)
        try:
            given = lvs.read(configuration, str(self._layout.udp_check))
        except ConfigError as error:
            raise InvalidRequest("Invalid request", str(error)) from None
        with (
            self._locks[listener_id],
            files.Staged(listener.configuration, configuration, files.PRIVATE) as staged,
            files.Staged(listener.given, given.text, files.PRIVATE) as staged_given,
        ):
            self._provide_check()  # keepalived looks whether it is there, and who may change it
            checked = run(
                (KEEPALIVED, "--config-test", "--check", "--use-file", str(staged_given.path)),
                timeout=_CHECK_PATIENCE,
            )
            # Of a pool that drains it says that nothing has any weight: that is no objection.
            found = complaints(checked.output, given.lines)
            if found or checked.status not in (0, SOMETHING_TO_SAY):
                words = "\n".join(found) or renumber(checked.output.strip(), given.lines)
                words = words.replace(str(staged_given.path), str(staged.destination))
                raise InvalidRequest("Invalid request", words)
            staged.commit()
        self._alarms.clear_alarm(AlarmKind.KEEPALIVED_TEXT_REFUSED, listener_id)
        logger.info("listener=%s change=upload bytes=%d", listener_id, len(configuration))

    def claims(self, *, rendered_only: bool) -> Iterator[tuple[str, frozenset[Claim]]]:
        """What the listeners claim, each with its owner: a rendered load balancer, or itself."""
        return poller.all_claims(self._layout, rendered_only=rendered_only)

    def claims_of(self, configuration: bytes) -> frozenset[Claim]:
        """What a configuration claims."""
        return poller.claims(configuration)

    def configuration(self, listener_id: ObjectId) -> bytes:
        """The configuration as it was sent.

        Raises:
            NotFound
        """
        return self._existing(listener_id).configuration.read_bytes()

    def listeners(self) -> list[ListenerStatus]:
        """Each listener: ACTIVE, OFFLINE (stopped or disabled) or ERROR (died)."""
        return [
            ListenerStatus(self._status(listener), listener.id, "UDP")
            for listener in self._layout.lvs_listeners()
        ]

    def running(self) -> int:
        """How many keepalived run for listeners."""
        return sum(runs(listener) for listener in self._layout.lvs_listeners())

    # Life

    def start(self, listener_id: ObjectId) -> str:
        """Start a listener, unless it runs; return the sentence for the controller.

        Raises:
            NotFound, OperationFailed
        """
        with self._locks[listener_id]:
            listener = self._existing(listener_id)
            if not runs(listener):
                self._activate(listener, "start")
        return f"keepalivedlvs listener {listener_id} started"

    def reload(self, listener_id: ObjectId) -> str:
        """Have the listener do what is committed, also one that does not run; return the sentence
        for the controller.

        Raises:
            NotFound
            OperationFailed: it did not come up; what it did before, it does again.
        """
        with self._locks[listener_id]:
            self._activate(self._existing(listener_id), "reload")
        return f"keepalivedlvs listener {listener_id} reloaded"

    def stop(self, listener_id: ObjectId) -> str:
        """Stop a listener until it is started again; return the sentence for the controller."""
        with self._locks[listener_id]:
            listener = self._existing(listener_id)
            self._supervisor.stop(listener.name)
        logger.info("listener=%s change=stop", listener_id)
        return f"keepalivedlvs listener {listener_id} stopped"

    def delete(self, listener_id: ObjectId) -> None:
        """Stop a listener and remove all its files. Nothing happens when there is none."""
        listener = self._layout.lvs(listener_id)
        with self._locks[listener_id]:
            self._supervisor.forget(listener.name)
            for file in (
                *(listener.given, listener.pid_file, listener.child_pid_file),
                listener.bfd_pid_file,
                listener.configuration,
            ):
                files.remove(file)
        self._alarms.clear_subject(listener_id)
        logger.info("listener=%s change=delete", listener_id)

    def adopt(self) -> None:
        """Bring what an earlier agent left into order; before the supervisor resumes.

        A listener whose configuration is not allowed is not started any more; what runs goes on.
        """
        listeners = self._layout.lvs_listeners()
        if listeners:
            self._provide_check()
            self._prepare_kernel()
        for listener in listeners:
            program.renew_lvs(self._layout, listener, self._alarms)
            if not runs(listener):
                # Of a life before this boot: the number may be another process's now, which
                # keepalived would take for itself.
                files.remove(listener.pid_file)
                if not listener.given.exists():
                    self._stop_unable(listener)

    def _stop_unable(self, listener: LvsLayout) -> None:
        try:
            self._supervisor.stop(listener.name)
        except OperationFailed as error:
            logger.error("%s: cannot be stopped: %s", listener.name, error)

    # Starting

    def _activate(self, listener: LvsLayout, change: str) -> None:
        begun = self._clock()
        message = f"Failed to {change} keepalivedlvs listener {listener.id}"
        before = _content(listener.given)
        try:
            configuration = listener.configuration.read_bytes()
            wanted = lvs.read(configuration, str(self._layout.udp_check)).text
        except ConfigError as error:
            words = f"{listener.configuration} is not allowed: {error}"
            raise OperationFailed(message, words) from None
        was_wanted = self._supervisor.state(listener.name) is not ProcessState.STOPPED
        mark = self._supervisor.mark(listener.name)
        files.write(listener.given, wanted)
        try:
            self._run(listener)
        except OperationFailed as error:
            words = self._supervisor.output(listener.name, mark).strip()
            if before is None or not was_wanted:
                self._supervisor.stop(listener.name)
            elif before != wanted:
                files.write(listener.given, before)
                if runs(listener):
                    self._supervisor.reload(listener.name)
            raise OperationFailed(message, words or str(error)) from error
        milliseconds = (self._clock() - begun) * 1000
        logger.info("listener=%s change=%s ms=%.0f", listener.id, change, milliseconds)

    def _run(self, listener: LvsLayout) -> None:
        """Have keepalived read what it is given, and wait until IPVS does what that says."""
        if runs(listener):
            self._supervisor.reload(listener.name)
        else:
            self._prepare_kernel()
            files.remove(listener.pid_file)
            self._supervisor.start(self._spec(listener))
        described = self._index.of(listener)
        assert described is not None
        deadline = self._clock() + _START_PATIENCE
        while not (runs(listener) and self._serves(described)):
            if self._supervisor.state(listener.name) is not ProcessState.RUNNING:
                raise OperationFailed("keepalived ended")
            if self._clock() > deadline:
                raise OperationFailed("keepalived did not come up", f"{_START_PATIENCE:g} s")
            time.sleep(_PAUSE)

    def _serves(self, described: Listener) -> bool:
        """Whether IPVS has the virtual servers, of which keepalived leaves out those that have no
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
            return wanted <= {(each.protocol, each.endpoint) for each in self._services()}
        except OSError as error:
            raise OperationFailed("IPVS cannot be read", str(error)) from error

    def _spec(self, listener: LvsLayout) -> ProcessSpec:
        return ProcessSpec(
            name=listener.name,
            description=f"keepalived of listener {listener.id}",
            template="octavia-keepalivedlvs.service.j2",
            argv=(
                *(KEEPALIVED, "--dont-fork", "--log-console", "--no-syslog", "--check"),
                *("--use-file", str(listener.given)),
                *("--pid", str(listener.pid_file)),
                *("--checkers_pid", str(listener.child_pid_file)),
                *bfd_pid_option(listener.bfd_pid_file),
            ),
            namespace=self._layout.namespace,
            writable=(self._layout.lvs_directory,),
        )

    def _prepare_kernel(self) -> None:
        """What the unit does, too; for whoever starts keepalived without one."""
        with contextlib.suppress(OperationFailed):  # no such program where nothing is to be loaded
            run((_MODPROBE, "ip_vs"), timeout=_CHECK_PATIENCE)

        def track() -> None:
            if _CONNTRACK.exists():
                _CONNTRACK.write_text("1\n")

        try:
            Namespace(self._layout.namespace).run(track)
        except (OSError, OperationFailed) as error:
            logger.error("IPVS does not tell connection tracking about its flows: %s", error)

    def _provide_check(self) -> None:
        script = templates.render("systemd", "udp_check.sh.j2").encode()
        files.provide(self._layout.udp_check, script, files.PROGRAM)

    def _existing(self, listener_id: ObjectId) -> LvsLayout:
        if not self.holds(listener_id):
            raise NotFound("UDP Listener Not Found", f"No UDP listener with UUID: {listener_id}")
        return self._layout.lvs(listener_id)

    def _status(self, listener: LvsLayout) -> str:
        described = self._index.of(listener)
        if described is not None and not described.virtuals:
            return "OFFLINE"
        if runs(listener):
            return "ACTIVE"
        stopped = self._supervisor.state(listener.name) is ProcessState.STOPPED
        return "OFFLINE" if stopped else "ERROR"


def runs(listener: LvsLayout) -> bool:
    """Whether the listener's keepalived runs. Its pid file may be of a life before this boot."""
    pid = pid_in(listener.pid_file)
    return pid is not None and has_word(pid, str(listener.given))


def _content(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None
