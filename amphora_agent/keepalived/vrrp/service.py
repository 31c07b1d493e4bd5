"""VRRP: keepalived decides which of the load balancer's two amphorae has the VIPs.

Two processes are kept alive: keepalived, and the probe that its check reads. The agent is neither
of them: it may stop, crash or be replaced, and no VIP moves.
"""

import logging
import shlex
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from amphora_agent import files, templates
from amphora_agent.errors import InvalidRequest, OperationFailed
from amphora_agent.events.alarms import Alarms
from amphora_agent.keepalived import probe, program
from amphora_agent.keepalived.config import vrrp as config_vrrp
from amphora_agent.keepalived.config.parser import ConfigError
from amphora_agent.keepalived.config.render import Rendered
from amphora_agent.keepalived.program import (
    KEEPALIVED,
    SOMETHING_TO_SAY,
    bfd_pid_option,
    complaints,
    renumber,
)
from amphora_agent.model.events.alarms import AlarmKind
from amphora_agent.namespace import Namespace
from amphora_agent.paths import Layout, VrrpLayout
from amphora_agent.supervisor.command import Completed, run
from amphora_agent.supervisor.contract import ProcessSpec, ProcessState, Supervisor
from amphora_agent.supervisor.identity import has_word, pid_in

logger = logging.getLogger(__name__)

#: The names for the supervisor, and of the units (WIRE §3).
_KEEPALIVED, _PROBE = "octavia-keepalived", "octavia-vrrp-check"

#: Seconds for keepalived's check of a configuration, and for a start.
_CHECK_PATIENCE, _START_PATIENCE = 20.0, 15.0
#: Seconds between two looks at a keepalived that comes up.
_PAUSE = 0.01
#: A verdict of the probe that is older, in seconds, is none. A round takes two at most.
_FRESH = 5


class Vrrp:
    """The VRRP service of the amphora. Changes are made one after another."""

    def __init__(
        self,
        layout: Layout,
        supervisor: Supervisor,
        alarms: Alarms,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._layout = layout
        self._vrrp = layout.vrrp
        self._alarms = alarms
        self._supervisor = supervisor
        self._clock = clock
        self._lock = threading.Lock()

    def upload(self, configuration: bytes) -> None:
        """Check a configuration and make it the one to run; what runs is not touched.

        Raises:
            InvalidRequest: it has something that is not allowed, with its line; or keepalived
                cannot use it, in its own words.
        """
        try:
            given = self._read(configuration)
        except ConfigError as error:
            raise InvalidRequest("Invalid request", str(error)) from None
        with (
            self._lock,
            files.Staged(self._vrrp.configuration, configuration, files.PRIVATE) as staged,
            files.Staged(self._vrrp.given, given.text, files.PRIVATE) as staged_given,
        ):
            self._provide_check()  # keepalived looks whether it is there, and who may change it
            checked = self._check(staged_given.path)
            found = complaints(checked.output, given.lines)
            if found or checked.status not in (0, SOMETHING_TO_SAY):
                words = "\n".join(found) or renumber(checked.output.strip(), given.lines)
                words = words.replace(str(staged_given.path), str(staged.destination))
                raise InvalidRequest("Invalid request", words)
            # A kill between these leaves an old `given`, mended when the agent starts.
            staged.commit()
            staged_given.commit()
        self._alarms.clear_alarm(AlarmKind.KEEPALIVED_TEXT_REFUSED, str(self._vrrp.configuration))
        logger.info("vrrp change=upload bytes=%d", len(configuration))

    def start(self) -> str:
        """Start keepalived; one that runs reads its configuration again. Return the sentence for
        the controller.

        Raises:
            OperationFailed: there is no configuration, it is not allowed, or keepalived does not
                come up with it.
        """
        with self._lock:
            self._require_given()
            return self._reload() if runs(self._vrrp) else self._start()

    #: One that does not run is started, as a load balancer is.
    reload = start

    def stop(self) -> str:
        """Stop keepalived, which hands the VIPs over, until it is started again."""
        with self._lock:
            self._supervisor.stop(_KEEPALIVED)
            self._supervisor.stop(_PROBE)
        logger.info("vrrp change=stop")
        return "keepalived stopped"

    def adopt(self) -> None:
        """Bring what an earlier agent left into order; before the supervisor resumes.

        Where the configuration is not allowed, nothing is started any more; what runs goes on.
        """
        if not self._vrrp.configuration.is_file():
            return
        program.renew_vrrp(self._layout, self._alarms)
        self._provide_check()
        self._forget_pids_of_others()
        if not self._vrrp.given.exists() and not runs(self._vrrp):
            for name in (_KEEPALIVED, _PROBE):
                try:
                    self._supervisor.stop(name)
                except OperationFailed as error:
                    logger.error("%s: cannot be stopped: %s", name, error)

    def resume(self) -> None:
        """See that the probe of this very agent's version is kept where keepalived is."""
        with self._lock:
            if self._supervisor.state(_KEEPALIVED) is not ProcessState.STOPPED:
                self._supervisor.start(self._probe())

    # Starting

    def _require_given(self) -> None:
        """See that keepalived is given what the configuration says."""
        failed = f"Failed to start {_KEEPALIVED} service"
        try:
            configuration = self._vrrp.configuration.read_bytes()
            given = self._read(configuration)
        except FileNotFoundError:
            raise OperationFailed(failed, "no configuration has been uploaded") from None
        except ConfigError as error:
            words = f"{self._vrrp.configuration} is not allowed: {error}"
            raise OperationFailed(failed, words) from None
        files.provide(self._vrrp.given, given.text)

    def _start(self) -> str:
        mark = self._supervisor.mark(_KEEPALIVED)
        was_wanted = self._supervisor.state(_KEEPALIVED) is not ProcessState.STOPPED
        self._forget_pids_of_others()
        try:
            self._supervisor.start(self._probe())
            self._supervisor.start(self._keepalived())
            self._await_start()
        except OperationFailed as error:
            words = self._supervisor.output(_KEEPALIVED, mark).strip()
            if not was_wanted:
                self._supervisor.stop(_KEEPALIVED)
                self._supervisor.stop(_PROBE)
            raise OperationFailed(
                f"Failed to start {_KEEPALIVED} service", words or str(error)
            ) from error
        logger.info("vrrp change=start")
        return "keepalived started"

    def _reload(self) -> str:
        try:
            self._supervisor.start(self._probe())
            self._supervisor.reload(_KEEPALIVED)
        except OperationFailed as error:
            raise OperationFailed(f"Failed to reload {_KEEPALIVED} service", str(error)) from error
        logger.info("vrrp change=reload")
        return "keepalived reloaded"

    def _forget_pids_of_others(self) -> None:
        """Pid files may be of a life before this boot. When such a number is another process's by
        now, keepalived would take that for itself, and not start."""
        for file in (self._vrrp.pid_file, self._vrrp.child_pid_file):
            pid = pid_in(file)
            if pid and Path(f"/proc/{pid}").exists() and not has_word(pid, str(self._vrrp.given)):
                files.remove(file)

    def _await_start(self) -> None:
        deadline = self._clock() + _START_PATIENCE
        while not (runs(self._vrrp) and pid_in(self._vrrp.child_pid_file)):
            if self._clock() > deadline:
                raise OperationFailed("keepalived did not come up", f"{_START_PATIENCE:g} s")
            time.sleep(_PAUSE)

    def _keepalived(self) -> ProcessSpec:
        return ProcessSpec(
            name=_KEEPALIVED,
            description="VRRP of the load balancer's VIPs",
            template="octavia-keepalived.service.j2",
            argv=(
                *(KEEPALIVED, "--dont-fork", "--log-console", "--no-syslog", "--vrrp"),
                *("--use-file", str(self._vrrp.given)),
                # Its own places are the machine's, and hold the pid of one keepalived alone.
                *("--pid", str(self._vrrp.pid_file)),
                *("--vrrp_pid", str(self._vrrp.child_pid_file)),
                *bfd_pid_option(self._vrrp.bfd_pid_file),
            ),
            namespace=self._layout.namespace,
            writable=(self._vrrp.directory, self._layout.run),
        )

    def _probe(self) -> ProcessSpec:
        return ProcessSpec(
            name=_PROBE,
            description="The check of the load balancers that VRRP reads",
            template="octavia-vrrp-check.service.j2",
            argv=self._ask("serve", str(self._vrrp.verdict)),
            namespace=self._layout.namespace,
            writable=(self._layout.run,),
        )

    def _ask(self, how: str, *more: str) -> tuple[str, ...]:
        program = (sys.executable, "-I", "-S", str(Path(probe.__file__)))
        return (*program, how, str(self._layout.base), str(self._supervisor.wanted), *more)

    # Files

    def _read(self, configuration: bytes) -> Rendered:
        return config_vrrp.read(configuration, str(self._vrrp.check_script), str(self._vrrp.fifo))

    def _provide_check(self) -> None:
        text = templates.render(
            "systemd",
            "check_script.sh.j2",
            verdict=shlex.quote(str(self._vrrp.verdict)),
            fresh=_FRESH,
            command=shlex.join(self._ask("once")),
        )
        files.provide(self._vrrp.check_script, text.encode(), files.PRIVATE_PROGRAM)

    def _check(self, given: Path) -> Completed:
        # In the namespace: it looks for the interfaces that the configuration names.
        command = (KEEPALIVED, "--config-test", "--vrrp", "--use-file", str(given))
        namespace = Namespace(self._layout.namespace)
        return namespace.run(lambda: run(command, timeout=_CHECK_PATIENCE))


def runs(vrrp: VrrpLayout) -> bool:
    """Whether keepalived runs. Its pid file may be of a life before this boot."""
    pid = pid_in(vrrp.pid_file)
    return pid is not None and has_word(pid, str(vrrp.given))


def missing(vrrp: VrrpLayout) -> str | None:
    """That keepalived is configured and does not run, if so: then the amphora must look dead to
    the controller (WIRE §6)."""
    if vrrp.configuration.is_file() and not runs(vrrp):
        return "keepalived is configured and does not run"
    return None
