"""The agent's service for haproxy, in processes that die by SIGKILL just before a given step.

Beside those of `lab.crash_injection`, steps are a command to haproxy (before it is sent, and while
nobody has read its answer) and a signal.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from amphora_agent.errors import AgentError, OperationFailed
from amphora_agent.events.alarms import Alarms
from amphora_agent.haproxy import replies
from amphora_agent.haproxy.process.binary import Haproxy
from amphora_agent.haproxy.runtime.socket import master_of
from amphora_agent.haproxy.service import Instances
from amphora_agent.paths import InstanceLayout, Layout, object_id
from amphora_agent.revisions import reading
from amphora_agent.supervisor.contract import ProcessState
from amphora_agent.supervisor.embedded import EmbeddedSupervisor
from amphora_agent.wiring import make_journal
from lab import crash_injection
from lab.crash_injection import NEVER, Ending, Steps, changes_something
from lab.processes import Process
from lab.waiting import until
from tests.integration.chaos.states import Call

AMPHORA = object_id("the-amphora")

_PATIENCE = 20.0
_READS = re.compile(rb"(@!?\d+ )?(show|get) ")


def layout_below(directory: Path, namespace: str) -> Layout:
    return Layout(
        base=directory / "o",
        certificates=directory / "o" / "certs",
        network=directory / "n",
        run=directory / "r",
        namespace=Path("/run/netns") / namespace,
        units=directory / "units",
    )


@dataclass(frozen=True)
class Life:
    """What an agent does from its begin to its end: operations, each some calls of the service's
    methods, of which the first to fail is the last, as with a controller.

    Steps are counted from the operation of the given number; -1 is the agent's own beginning.
    """

    program: str
    operations: Sequence[Sequence[Call]] = ()
    counted_from: int = -1
    victim: str = "agent"
    """Who dies at the step: the agent, or haproxy's "master" or "worker", whom it outlives."""


@dataclass
class Agents:
    """Gives an amphora one agent after another."""

    directory: Path
    namespace: str
    _crashing: crash_injection.CrashingProcess = field(init=False)

    def __post_init__(self) -> None:
        self._crashing = crash_injection.CrashingProcess(
            __name__, str(self.directory), self.namespace
        )

    def live(self, life: Life, *, before: int = NEVER) -> Ending:
        """What an agent says of each call is [number of the operation, number of the call in it,
        the error or None]; at the end it says how many steps there were."""
        return self._crashing.do(asdict(life), before=before)

    def close(self) -> None:
        self._crashing.__exit__()


class _Agent:
    def __init__(self, layout: Layout, life: Life, steps: Steps) -> None:
        self._layout = layout
        self._life = life
        self._steps = steps
        self._supervisor = EmbeddedSupervisor(layout.processes, layout.run)
        #: Workers that were killed, or whose master was: a master may not know it yet.
        self._gone: set[int | None] = {None}
        self._instances = Instances(
            layout,
            Haproxy(Path(life.program), layout.run),
            self._supervisor,
            make_journal(layout),
            Alarms(layout.alarms),
            group="nogroup",
        )

    def kill_haproxy(self, instance: InstanceLayout, victim: str) -> None:
        self._gone.add(worker_of(instance))
        kill(instance, victim)

    def live(self) -> None:
        self._count(-1)
        marks = {
            instance.id: self._supervisor.mark(instance.process)
            for instance in reading.instances(self._layout)
        }
        self._instances.adopt()
        self._instances.resume()
        for instance in reading.instances(self._layout):
            self._await_rest(instance, marks.get(instance.id, 0.0))
        for number, operation in enumerate(self._life.operations):
            self._count(number)
            for position, (method, *arguments) in enumerate(operation):
                error = self._call(method, arguments)
                self._steps.say([number, position, error])
                if error:
                    break
        for instance in reading.instances(self._layout):
            # A restart may be waiting for its time.
            self._await_rest(instance, NEVER)
        self._steps.say(self._steps.begun)

    def _count(self, number: int) -> None:
        if number == self._life.counted_from:
            self._steps.start()

    def _call(self, method: str, arguments: Sequence[Any]) -> str | None:
        try:
            match method, arguments:
                case "upload", (lb, text):
                    self._instances.upload(object_id(lb), AMPHORA, text.encode())
                case "put_certificate", (lb, name, content):
                    self._instances.certificates.put(object_id(lb), name, content.encode())
                case "delete_certificate", (lb, name):
                    self._instances.certificates.delete(object_id(lb), name)
                case "kill", (lb, victim):
                    instance = self._layout.instance(object_id(lb))
                    self.kill_haproxy(instance, victim)
                    self._await_rest(instance, NEVER)
                case _, (lb, *more):
                    getattr(self._instances, method)(object_id(lb), *more)
        except AgentError as error:
            return f"{error}: {error.details}"
        return None

    def _await_rest(self, instance: InstanceLayout, mark: float) -> None:
        """Until it runs with a worker, is not to run, or has failed to since the mark."""
        name = instance.process

        def rests() -> bool:
            match self._supervisor.state(name):
                case ProcessState.STOPPED:
                    return True
                case ProcessState.RUNNING:
                    return worker_of(instance) not in self._gone
                case ProcessState.FAILED:
                    return self._supervisor.mark(name) > mark

        until(rests, f"{instance.id} rests", timeout=_PATIENCE)


def worker_of(instance: InstanceLayout) -> int | None:
    try:
        return replies.read_workers(master_of(instance).command("show proc", timeout=5)).current
    except OperationFailed:
        return None


def kill(instance: InstanceLayout, victim: str) -> None:
    """Kill haproxy's worker or master, if there is one; return when it is gone."""
    try:
        worker = worker_of(instance)
        master = int(instance.pid_file.read_text())
    except (OSError, ValueError):
        return
    process = Process.of(worker or master) if victim == "worker" else Process.of(master)
    if process is not None and str(instance.directory) in " ".join(process.arguments):
        process.send(signal.SIGKILL)
        process.wait(_PATIENCE)


def _count_commands(steps: Steps) -> None:
    """They go through sockets; what only reads changes nothing."""

    def counting(send: Callable[..., Any]) -> Callable[..., Any]:
        def counted(connection: socket.socket, data: bytes, *flags: int) -> Any:
            if connection.family != socket.AF_UNIX or _READS.match(data):
                return send(connection, data, *flags)
            command = data.partition(b"\n")[0].decode(errors="replace")
            steps.begin("command", command)
            sent = send(connection, data, *flags)
            steps.begin("answer to", command)
            return sent

        return counted

    for name in ("send", "sendall"):
        setattr(socket.socket, name, counting(getattr(socket.socket, name)))


def _is_step(event: str, arguments: tuple[Any, ...]) -> bool:
    if event in ("os.kill", "os.killpg"):
        return bool(arguments[0] != os.getpid())
    return changes_something(event, arguments)


def _obey(layout: Layout, life: Life, steps: Steps) -> None:
    agent = _Agent(layout, life, steps)
    if life.victim != "agent":

        def fault(*_: object) -> None:
            for instance in reading.instances(layout):
                agent.kill_haproxy(instance, life.victim)

        steps.fault = fault
    _count_commands(steps)
    steps.wrap(signal, "pidfd_send_signal")
    steps.listen(_is_step)
    logging.basicConfig(filename=layout.base.parent / "agent.log", level=logging.INFO, force=True)
    logging.info("---- an agent begins")
    agent.live()


def main() -> None:
    for module in ("shutil", "concurrent.futures.thread"):  # when they are needed, they take long
        importlib.import_module(module)
    layout = layout_below(Path(sys.argv[1]), sys.argv[2])
    crash_injection.serve(lambda life, steps: _obey(layout, Life(**life), steps))


if __name__ == "__main__":
    main()
