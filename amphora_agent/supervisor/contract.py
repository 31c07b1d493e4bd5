"""The interface of supervisors, which keep the agent's processes alive."""

import enum
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NewType, Protocol

#: A moment in the output of a process, from which to read later.
Mark = NewType("Mark", float)


@dataclass(frozen=True)
class ProcessSpec:
    """A process that runs until it is stopped, also across restarts of the agent and the machine.

    `name` is the name of the systemd unit without `.service`. `template` is the unit's, in
    `systemd/`. `argv` has no shell syntax; `namespace` is the file of the network namespace.
    `writable` are directories in which it may write, besides those of its unit.
    `before` is a command that systemd runs before each start; its failure prevents nothing.
    """

    name: str
    description: str
    template: str
    argv: tuple[str, ...]
    namespace: Path
    writable: tuple[Path, ...] = ()
    before: tuple[str, ...] = ()


class ProcessState(enum.Enum):
    RUNNING = "running"
    #: Wanted, but not running: it crashed and waits for its restart.
    FAILED = "failed"
    STOPPED = "stopped"


class Supervisor(Protocol):
    """Keeps processes alive, whether or not the agent lives.

    Any thread may call any method, but one at a time for each name of a process. All raise
    OperationFailed if the system refuses.
    """

    #: Whether it understands sd_notify: then haproxy starts with -Ws.
    notified: bool
    #: A directory that says what is wanted, also while no agent runs: an entry
    #: `<name>.service` for each process, or a record `<name>.json` that says `"wanted":true`.
    wanted: Path

    def start(self, spec: ProcessSpec) -> None:
        """Want the process and start it; return when it is started.

        The caller finds out whether it does its job. A process of that name that runs stays; the
        specification counts from its next start.
        """

    def stop(self, name: str) -> None:
        """End the process and want it no more; return when it is gone. Idempotent."""

    def reload(self, name: str) -> None:
        """Have a process that runs read its configuration again (SIGHUP)."""

    def forget(self, name: str) -> None:
        """Stop the process, and remove all its files."""

    def retire(self, name: str) -> None:
        """Have a process end when its work is done (SIGUSR1, as haproxy understands it), want it no
        more and remove its files; its name is free at once. Idempotent."""

    def state(self, name: str) -> ProcessState: ...

    def mark(self, name: str) -> Mark:
        """Return the end of the output so far."""

    def output(self, name: str, since: Mark) -> str:
        """Return the output since a mark; only its end if it is too long."""

    def prepare_restarts(self, prepare: Callable[[str], None]) -> None:
        """Call a function, which raises nothing, with the name of a process before each restart.
        (systemd runs the `before` of the specification instead.)"""

    def adopt(self) -> None:
        """Take over what an earlier agent left running: quickly, and before any other call."""

    def resume(self) -> None:
        """Start what is wanted and does not run, and keep it alive from now on."""
