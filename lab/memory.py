"""Control groups that limit memory for real: who takes more is killed."""

from __future__ import annotations

import contextlib
import itertools
import os
from pathlib import Path

from lab.lifecycle import Closing
from lab.waiting import until

_GROUPS = Path("/sys/fs/cgroup")
_numbers = itertools.count()


class UnavailableError(RuntimeError):
    """There is no control group whose memory may be limited here."""


class MemoryGroup(Closing):
    """A control group of its own; `limit` is in bytes. Raises UnavailableError."""

    def __init__(self, limit: int) -> None:
        old = _GROUPS / "memory"
        self.directory = (old if old.is_dir() else _GROUPS) / f"lab-{os.getpid()}-{next(_numbers)}"
        self._limit = "memory.limit_in_bytes" if old.is_dir() else "memory.max"
        try:
            self.directory.mkdir()
            self.set_limit(limit)
        except OSError as error:
            with contextlib.suppress(OSError):
                self.directory.rmdir()
            raise UnavailableError(f"no control group for memory: {error}") from error

    def set_limit(self, limit: int) -> None:
        (self.directory / self._limit).write_text(str(limit))

    def take(self, pid: int) -> None:
        """Have a process in it, and those that it starts from now on."""
        (self.directory / "cgroup.procs").write_text(str(pid))

    def used(self) -> int:
        """Bytes, without pages of files, which are given up before anything fails."""
        name = "memory.usage_in_bytes" if "limit" in self._limit else "memory.current"
        used = int((self.directory / name).read_text())
        rows = (row.split() for row in (self.directory / "memory.stat").read_text().splitlines())
        return used - sum(
            int(size) for what, size in rows if what in ("active_file", "inactive_file")
        )

    def close(self) -> None:
        """Remove it, once its processes have ended."""
        until(lambda: not (self.directory / "cgroup.procs").read_text(), "the group is empty")
        self.directory.rmdir()
