"""VRRP: keepalived decides which of the load balancer's two amphorae holds the VIPs.

The supervisor keeps two processes alive: keepalived, and the probe whose verdict keepalived's check
script reads. The agent may stop, crash or be replaced: no VIP moves by that.
"""

import logging
import shlex
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from amphora_agent import files, templates
from amphora_agent.errors import InvalidRequest, OperationFailed
from amphora_agent.events.alarms import Alarms
from amphora_agent.keepalived import probe, program
from amphora_agent.keepalived.config import vrrp as config_vrrp
from amphora_agent.keepalived.config.language import ConfigError, Rendered
from amphora_agent.keepalived.program import is_running
from amphora_agent.model.events import AlarmKind
from amphora_agent.namespace import Namespace
from amphora_agent.paths import Layout, VrrpLayout
from amphora_agent.supervisor.contract import ProcessSpec, ProcessState, Supervisor
from amphora_agent.supervisor.processes import has_word, pid_in

logger = logging.getLogger(__name__)

#: Names for the supervisor, and of the units (WIRE §3).
_KEEPALIVED, _PROBE = "octavia-keepalived", "octavia-vrrp-check"

#: Seconds for a start, and between two looks at a keepalived that comes up.
_START_TIMEOUT, _START_POLL = 15.0, 0.01
#: Seconds for which a verdict of the probe counts. A round of the probe takes two at most.
_VERDICT_LIFETIME = 5


class Vrrp:
    """The VRRP service of the amphora. Changes follow one another."""

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

    def upload(self, configuration: bytes) -> None:
        """Check and store the configuration; keepalived does not read it yet.

        Raises:
            InvalidRequest: a line is not allowed, or keepalived cannot use the configuration; with
                keepalived's complaints.
        """
        try:
            given = self._rewrite(configuration)
        except ConfigError as error:
            raise InvalidRequest("Invalid request", str(error)) from None
        with (
            self._locked(),
            files.Staged(self._vrrp.configuration, configuration, files.PRIVATE) as staged,
            files.Staged(self._vrrp.given, given.text, files.PRIVATE) as staged_given,
        ):
            self._provide_check()  # keepalived checks that it is there, and who may change it
            # In the namespace: keepalived looks for the interfaces that the configuration names.
            Namespace(self._layout.namespace).run(
                lambda: program.require_usable(
                    "--vrrp", staged_given.path, given, staged.destination
                )
            )
            # A kill between these leaves an old `given`, which the next agent writes anew.
            staged.commit()
            staged_given.commit()
        self._alarms.clear_alarm(AlarmKind.KEEPALIVED_TEXT_REFUSED, str(self._vrrp.configuration))
        logger.info("vrrp change=upload bytes=%d", len(configuration))

    def start(self) -> str:
        """Start keepalived, or have it read its configuration again if it runs. Return the sentence
        for the controller.

        Raises:
            OperationFailed: there is no configuration, it is not allowed, or keepalived does not
                come up with it.
        """
        with self._locked():
            self._provide_given()
            return self._reload() if is_running(self._vrrp) else self._start()

    #: A reload starts a keepalived that does not run, as that of a load balancer does.
    reload = start

    def stop(self) -> str:
        """Stop keepalived until it is started again: the VIPs move to the other amphora."""
        with self._locked():
            self._stop_both()
        logger.info("vrrp change=stop")
        return "keepalived stopped"

    def adopt(self) -> None:
        """Take over what an earlier agent left, before the supervisor resumes.

        keepalived is not started any more if its configuration is not allowed; if it runs, it is
        left running.
        """
        if not self._vrrp.configuration.is_file():
            return
        program.renew_vrrp(self._layout, self._alarms)
        self._provide_check()
        self._remove_stale_pid_files()
        if not self._vrrp.given.exists() and not is_running(self._vrrp):
            program.stop_refused(self._supervisor, _KEEPALIVED)
            program.stop_refused(self._supervisor, _PROBE)

    def resume(self) -> None:
        """Run the probe of this agent's version if keepalived is wanted."""
        with self._locked():
            if self._supervisor.state(_KEEPALIVED) is not ProcessState.STOPPED:
                self._supervisor.start(self._build_probe_spec())

    # Starting

    def _provide_given(self) -> None:
        """Write what keepalived reads, made of the stored configuration."""
        message = f"Failed to start {_KEEPALIVED} service"
        try:
            configuration = self._vrrp.configuration.read_bytes()
            given = self._rewrite(configuration)
        except FileNotFoundError:
            raise OperationFailed(message, "no configuration has been uploaded") from None
        except ConfigError as error:
            reason = f"{self._vrrp.configuration} is not allowed: {error}"
            raise OperationFailed(message, reason) from None
        files.provide(self._vrrp.given, given.text)

    def _start(self) -> str:
        mark = self._supervisor.mark(_KEEPALIVED)
        was_wanted = self._supervisor.state(_KEEPALIVED) is not ProcessState.STOPPED
        self._remove_stale_pid_files()
        try:
            self._supervisor.start(self._build_probe_spec())
            self._supervisor.start(self._build_keepalived_spec())
            self._await_start()
        except OperationFailed as error:
            output = self._supervisor.output(_KEEPALIVED, mark).strip()
            if not was_wanted:
                self._stop_both()
            message = f"Failed to start {_KEEPALIVED} service"
            raise OperationFailed(message, output or str(error)) from error
        logger.info("vrrp change=start")
        return "keepalived started"

    def _stop_both(self) -> None:
        self._supervisor.stop(_KEEPALIVED)
        self._supervisor.stop(_PROBE)

    def _reload(self) -> str:
        try:
            self._supervisor.start(self._build_probe_spec())
            self._supervisor.reload(_KEEPALIVED)
        except OperationFailed as error:
            raise OperationFailed(f"Failed to reload {_KEEPALIVED} service", str(error)) from error
        logger.info("vrrp change=reload")
        return "keepalived reloaded"

    def _remove_stale_pid_files(self) -> None:
        """Remove pid files from before this boot whose number another process has now: keepalived
        would take that process for itself, and not start."""
        for file in (self._vrrp.pid_file, self._vrrp.child_pid_file):
            pid = pid_in(file)
            if pid and Path(f"/proc/{pid}").exists() and not has_word(pid, str(self._vrrp.given)):
                files.remove(file)

    def _await_start(self) -> None:
        deadline = self._clock() + _START_TIMEOUT
        while not (is_running(self._vrrp) and pid_in(self._vrrp.child_pid_file)):
            if self._clock() > deadline:
                raise OperationFailed("keepalived did not come up", f"{_START_TIMEOUT:g} s")
            time.sleep(_START_POLL)

    def _build_keepalived_spec(self) -> ProcessSpec:
        return ProcessSpec(
            name=_KEEPALIVED,
            description="VRRP of the load balancer's VIPs",
            template="octavia-keepalived.service.j2",
            argv=program.build_command("--vrrp", self._vrrp),
            namespace=self._layout.namespace,
            writable=(self._vrrp.directory, self._layout.run),
        )

    def _build_probe_spec(self) -> ProcessSpec:
        return ProcessSpec(
            name=_PROBE,
            description="The check of the load balancers that VRRP reads",
            template="octavia-vrrp-check.service.j2",
            argv=self._build_probe_command("serve", str(self._vrrp.verdict)),
            namespace=self._layout.namespace,
            writable=(self._layout.run,),
        )

    def _build_probe_command(self, mode: str, *arguments: str) -> tuple[str, ...]:
        python = (sys.executable, "-I", "-S", str(Path(probe.__file__)))
        return (*python, mode, str(self._layout.base), str(self._supervisor.wanted), *arguments)

    # Files

    def _locked(self) -> AbstractContextManager[None]:
        """Return the lock of VRRP, which commands on the amphora would hold, too."""
        lock = self._layout.instance_lock(_KEEPALIVED)
        return files.locked_for(self._vrrp.configuration, lock)

    def _rewrite(self, configuration: bytes) -> Rendered:
        check_script, fifo = str(self._vrrp.check_script), str(self._vrrp.fifo)
        return config_vrrp.rewrite(configuration, check_script, fifo)

    def _provide_check(self) -> None:
        text = templates.render(
            "systemd",
            "check_script.sh.j2",
            verdict=shlex.quote(str(self._vrrp.verdict)),
            fresh=_VERDICT_LIFETIME,
            command=shlex.join(self._build_probe_command("once")),
        )
        files.provide(self._vrrp.check_script, text.encode(), files.PRIVATE_PROGRAM)


def find_outage(vrrp: VrrpLayout) -> str | None:
    """Return a sentence if keepalived is configured and does not run: the amphora must then look
    dead to the controller (WIRE §6)."""
    if vrrp.configuration.is_file() and not is_running(vrrp):
        return "keepalived is configured and does not run"
    return None
