"""Processes that are not our children: who they are, ending them, waiting for their end.

A process is identified by its id and its start time, because ids are used again.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True, order=True)
class Process:
    pid: int
    started: int
    """Clock ticks after boot, as in field 22 of ``/proc/<pid>/stat``."""

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """The process which has this id now; None if none has it, or it waits to be reaped.

        One whose first thread has ended, and others have not, still has its files and sockets.
        """
        fields = _stat(pid)
        if fields is None or (fields[0] in ("Z", "X") and int(fields[17]) <= 1):
            return None
        return cls(pid, int(fields[19]))

    @property
    def alive(self) -> bool:
        return Process.of(self.pid) == self

    @property
    def waits_for_disk(self) -> bool:
        """Whether its first thread has ended, and all others wait in the kernel, where nothing ends
        them."""
        tasks = PROC / str(self.pid) / "task"
        try:
            states = {
                each.name: (each / "stat").read_text().rpartition(")")[2].split()[0]
                for each in tasks.iterdir()
            }
        except OSError:
            return False
        return states.pop(str(self.pid), "") == "Z" and bool(states) and {*states.values()} == {"D"}

    @property
    def parent(self) -> int:
        """Parent's id, 0 when the process is gone."""
        fields = _stat(self.pid)
        return int(fields[1]) if fields else 0

    @property
    def session(self) -> int:
        """Session id, 0 when the process is gone."""
        fields = _stat(self.pid)
        return int(fields[3]) if fields else 0

    @property
    def arguments(self) -> list[str]:
        """The command line, empty when the process is gone."""
        try:
            raw = (PROC / str(self.pid) / "cmdline").read_bytes()
        except OSError:
            return []
        return raw.decode(errors="surrogateescape").rstrip("\0").split("\0") if raw else []

    @property
    def program(self) -> str:
        """Base name of the executable file, empty when the process is gone."""
        try:
            path = os.readlink(PROC / str(self.pid) / "exe")
        except OSError:
            return ""
        # A program replaced on disk while it runs reads as "… (deleted)".
        return os.path.basename(path.removesuffix(" (deleted)"))

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if this very process still lives."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            # The handle is bound to whoever has the id now; so is this check, after opening it.
            if self.alive:
                signal.pidfd_send_signal(handle, number)
        except ProcessLookupError:
            pass
        finally:
            os.close(handle)

    def wait(self, timeout: float) -> bool:
        """Wait for the end of the process; False when it still lives after the timeout."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return True
        try:
            if not self.alive:
                return True
            poller = select.poll()
            poller.register(handle, select.POLLIN)
            return bool(poller.poll(timeout * 1000))
        finally:
            os.close(handle)


def running() -> Iterator[Process]:
    """Every process of this machine."""
    for name in os.listdir(PROC):
        if name.isdigit():
            process = Process.of(int(name))
            if process is not None:
                yield process


def mentioning(path: Path) -> list[Process]:
    """Processes whose command line names this path or something below it; never ourselves."""
    exact, below = str(path), f"{path}/"
    found = []
    for process in running():
        if process.pid != os.getpid() and any(
            argument == exact or argument.endswith(f"={exact}") or below in argument
            for argument in process.arguments
        ):
            found.append(process)
    return found


def descendants(pid: int) -> list[Process]:
    """Children, children's children and so on."""
    children: dict[int, list[Process]] = {}
    for process in running():
        children.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    waiting = [pid]
    while waiting:
        for process in children.get(waiting.pop(), []):
            found.append(process)
            waiting.append(process.pid)
    return found


def end(processes: Iterable[Process], *, grace: float = 0.0, timeout: float = 10.0) -> None:
    """End processes: SIGTERM and some grace if any is given, then SIGKILL, then wait.

    Raises TimeoutError when one outlives even that.
    """
    left = [process for process in processes if process.alive]
    if grace:
        for process in left:
            process.send(signal.SIGTERM)
        left = [process for process in left if not process.wait(grace)]
    for process in left:
        process.send(signal.SIGKILL)
    for process in left:
        # Who only waits for a disk is as good as ended, and cannot be ended sooner.
        over = process.wait(0.2) or process.waits_for_disk or process.wait(timeout)
        if not over and not process.waits_for_disk:
            raise TimeoutError(f"process {process.pid} cannot be ended")


def _stat(pid: int) -> list[str] | None:
    """The fields of ``/proc/<pid>/stat`` that follow the name: state, parent, group, session…"""
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    # The name, in parentheses, may itself hold spaces and parentheses.
    return text[text.rindex(")") + 2 :].split()
