"""Making an instance run what is committed, and going back when it does not come up.

`last-good` holds links to the files with which haproxy last came up; a start or a reload that
fails puts them back under their names.
"""

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from amphora_agent import files
from amphora_agent.errors import OperationFailed
from amphora_agent.haproxy import binds, ports, server_state, text, workers
from amphora_agent.haproxy.observe import keep_final_counters
from amphora_agent.haproxy.process import Haproxy
from amphora_agent.haproxy.socket import MasterSocket, NoAnswer, NotListening
from amphora_agent.haproxy.workers import Workers
from amphora_agent.layout import InstanceLayout, Layout
from amphora_agent.namespace import Namespace
from amphora_agent.processes.supervisor import ProcessSpec, ProcessState, Supervisor

logger = logging.getLogger(__name__)

#: Seconds for a start or a reload to come up; the controller waits 60 for its answer.
_PATIENCE = 50.0
#: Seconds for one answer of a socket.
_ANSWER = 5.0
#: Seconds between two looks at something that is coming up.
_PAUSE = 0.002


class _Refused(OperationFailed):
    """A reload that failed; the details say why, in haproxy's words."""


class Activation:
    """Starts and reloads instances. Those of one instance must follow one another."""

    def __init__(
        self,
        layout: Layout,
        haproxy: Haproxy,
        supervisor: Supervisor,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._layout = layout
        self._haproxy = haproxy
        self._supervisor = supervisor
        self._clock = clock

    def runs(self, instance: InstanceLayout) -> bool:
        """Whether it runs. One that comes up just now, by itself after a crash, is awaited: it may
        have read the configuration before the one that is committed."""
        deadline = self._clock() + _ANSWER
        while not master_of(instance).listening():
            state = self._supervisor.state(process_name(instance))
            if state is not ProcessState.RUNNING or self._clock() > deadline:
                return False
            time.sleep(_PAUSE)
        return True

    def start(self, instance: InstanceLayout) -> None:
        """Start one that does not run.

        Raises:
            OperationFailed: it did not come up. It is stopped, unless it was to run before: then it
                is tried with the last good files.
        """
        name = process_name(instance)
        was_wanted = self._supervisor.state(name) is not ProcessState.STOPPED
        mark = self._supervisor.mark(name)
        files.remove(instance.state)  # of an earlier life: its members have lived on since
        files.make_directory(self._layout.run)
        spec = self._spec(instance)
        try:
            self._supervisor.start(spec)
            self._await_worker(instance, after=None)
        except OperationFailed as error:
            words = self._supervisor.output(name, mark).strip()
            self._supervisor.stop(name)
            if self._restore(instance) and was_wanted:
                self._supervisor.start(spec)
            raise OperationFailed("Error starting haproxy", words or str(error)) from error
        self._remember_good(instance)

    def reload(self, instance: InstanceLayout) -> None:
        """Replace the worker of one that runs.

        Raises:
            OperationFailed: the new one did not come up; the old one serves.
        """
        name = process_name(instance)
        socket = master_of(instance)
        mark = self._supervisor.mark(name)
        try:
            self._require_ports(instance)
            before = self._await_master(socket)
            self._save_state(instance, socket, before)
            reply = socket.command("reload", timeout=_PATIENCE)
            if reply.startswith("Success=0"):
                raise _Refused("haproxy refused", reply.partition("--\n")[2].strip())
            self._await_worker(instance, after=before)
        except OperationFailed as error:
            words = self._supervisor.output(name, mark).strip()
            self._restore(instance)
            if isinstance(error, _Refused):
                words = error.details
            raise OperationFailed("Error reloading haproxy", words or str(error)) from error
        finally:
            # Read by now. A later life, when haproxy has died, must not begin with it, and a check
            # would read it too.
            files.remove(instance.state)
        self._remember_good(instance)

    def _require_ports(self, instance: InstanceLayout) -> None:
        """See that haproxy can listen wherever it does not listen yet."""
        running = instance.last_good / instance.configuration.name
        if running.exists():
            new = binds.added(_text(instance.configuration), _text(running))
            try:
                ports.require(Namespace(self._layout.namespace), new, self._clock)
            except OperationFailed as error:
                raise _Refused(error.message, error.details) from error

    def _save_state(self, instance: InstanceLayout, socket: MasterSocket, now: Workers) -> None:
        """What must come through a reload: the members' states, and the counters so far.

        A worker that cannot tell them any more is all the more in need of a reload.
        """
        if now.current is None:
            files.remove(instance.state)
            return
        configuration = _text(instance.configuration)
        command = f"@!{now.current} show servers state"
        try:
            state = server_state.NOTHING
            if server_state.may_be_read(configuration):
                # The agent takes as long to read the configuration as haproxy to answer.
                with ThreadPoolExecutor(1) as asking:
                    shown = asking.submit(socket.command, command, timeout=_ANSWER)
                    wanted = text.parse(configuration, server_state.KEYWORDS)
                state = server_state.carry_over(shown.result(), wanted)
            files.write(instance.state, state.encode())
            keep_final_counters(instance, now.current, timeout=_ANSWER)
        except OperationFailed as error:
            files.remove(instance.state)
            logger.warning("instance=%s nothing saved for the reload: %s", instance.id, error)

    def _await_master(self, socket: MasterSocket) -> Workers:
        """What the master says of its workers; one of 2.6 that comes up just now, by itself after
        a crash, hangs up first to execute itself anew.

        Raises:
            OperationFailed: it does not answer.
        """
        deadline = self._clock() + _ANSWER
        while True:
            try:
                return workers.parse(socket.command("show proc", timeout=_ANSWER))
            except (NotListening, NoAnswer):
                if self._clock() > deadline:
                    raise
            time.sleep(_PAUSE)

    def _await_worker(self, instance: InstanceLayout, after: Workers | None) -> None:
        """Wait until a worker serves that was not there `after`.

        Raises:
            OperationFailed: haproxy said that it failed, ended, or took too long.
        """
        socket = master_of(instance)
        deadline = self._clock() + _PATIENCE
        look_at = 0.0
        while self._clock() < deadline:
            try:
                now = workers.parse(socket.command("show proc", timeout=_ANSWER))
                if after is not None and now.failed and now.reloads > after.reloads:
                    raise OperationFailed("haproxy could not load the configuration")
                if now.current is not None and (after is None or now.current != after.current):
                    # A worker answers from the loop that accepts connections.
                    socket.command(f"@!{now.current} show version", timeout=_ANSWER)
                    return
            except (NotListening, NoAnswer):
                # Not yet, or a master of 2.6 that executes itself anew. Or it is dead.
                if self._clock() >= look_at:
                    look_at = self._clock() + 0.1
                    if self._supervisor.state(process_name(instance)) is not ProcessState.RUNNING:
                        raise OperationFailed("haproxy ended") from None
            time.sleep(_PAUSE)
        raise OperationFailed("haproxy did not come up", f"no new worker in {_PATIENCE:g} s")

    def _spec(self, instance: InstanceLayout) -> ProcessSpec:
        peer = instance.peer.read_text()
        return ProcessSpec(
            name=process_name(instance),
            description=f"HAProxy of load balancer {instance.id}",
            template="haproxy.service.j2",
            argv=self._haproxy.command(instance, peer, notify=self._supervisor.notified),
            namespace=self._layout.namespace,
        )

    def _remember_good(self, instance: InstanceLayout) -> None:
        good = instance.last_good
        files.mirror(instance.certificates, good / "certificates")
        files.keep_as(instance.addition, good / instance.addition.name)
        files.keep_as(instance.configuration, good / instance.configuration.name)

    def _restore(self, instance: InstanceLayout) -> bool:
        """Put the last good files back; without any, the instance has no configuration again."""
        good = instance.last_good
        files.keep_as(instance.configuration, instance.rejected)
        if not (good / instance.configuration.name).exists():
            files.remove(instance.configuration)
            return False
        files.mirror(good / "certificates", instance.certificates)
        files.keep_as(good / instance.addition.name, instance.addition)
        files.keep_as(good / instance.configuration.name, instance.configuration)
        logger.warning("instance=%s went back to the last good configuration", instance.id)
        return True


def process_name(instance: InstanceLayout) -> str:
    """The instance's name for its supervisor, and that of its unit."""
    return f"haproxy-{instance.id}"


def master_of(instance: InstanceLayout) -> MasterSocket:
    return MasterSocket(instance.master_socket)


def _text(configuration: Path) -> str:
    return configuration.read_text(errors="replace")
