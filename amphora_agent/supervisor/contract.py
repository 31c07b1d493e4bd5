"""The contract between what the agent runs and who keeps it alive."""

import enum
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NewType, Protocol

#: A moment in the output of a process, to ask later for what it said since.
Mark = NewType("Mark", float)


@dataclass(frozen=True)
class ProcessSpec:
    """A process that is to run until it is stopped, over restarts of agent and machine.

    `name` is the name of the systemd unit without `.service`. `template` is the unit's, in
    `systemd/`. `argv` holds no shell syntax; `namespace` is the file of the network namespace.
    `writable` are the directories in which it may write, besides those that its unit names.
    `before` is a command for systemd to run before each start, whose failure prevents nothing.
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
    #: Wanted, and not there now: it crashed and waits for its restart.
    FAILED = "failed"
    STOPPED = "stopped"


class Supervisor(Protocol):
    """Keeps processes alive, independently of the life of the agent.

    A process is known by its name. All methods may be called from any thread, those about one
    name from one thread at a time. Each raises OperationFailed when the system refuses.
    """

    #: Whether it understands sd_notify: then haproxy is started with -Ws.
    notified: bool
    #: A directory where anybody sees what is wanted, also while the agent is dead: an entry
    #: `<name>.service` for each process, or a record `<name>.json` that says `"wanted":true`.
    wanted: Path

    def start(self, spec: ProcessSpec) -> None:
        """Want the process from now on and start it; return once it has been started.

        Whether it does its job is for the caller to find out. A process of that name that runs
        already is left alone; its specification counts from its next start.
        """

    def stop(self, name: str) -> None:
        """End the process and no longer want it; return when it is gone. Idempotent."""

    def reload(self, name: str) -> None:
        """Have a process that runs read its configuration again (SIGHUP)."""

    def forget(self, name: str) -> None:
        """`stop`, and leave no trace."""

    def retire(self, name: str) -> None:
        """Have a process end as soon as its work is done (SIGUSR1, as haproxy understands it), and
        leave no trace; its name is free at once. Nobody starts it again. Idempotent."""

    def state(self, name: str) -> ProcessState: ...

    def mark(self, name: str) -> Mark:
        """Now, in the output of the process."""

    def output(self, name: str, since: Mark) -> str:
        """What the process has said since a mark: bounded, the end of it when it is too long."""

    def prepare_restarts(self, prepare: Callable[[str], None]) -> None:
        """Have a function called with the name of a process before it is started again by itself.
        (systemd runs the `before` of the specification.) It raises nothing."""

    def adopt(self) -> None:
        """Take over what an earlier agent left running. Quick; before anything else is called."""

    def resume(self) -> None:
        """Start what should run and does not, and keep it so from now on."""
