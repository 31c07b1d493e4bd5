"""What this machine lets a haproxy have: file descriptors and memory."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

#: Bit of `CapEff` in /proc/PID/status: who has it raises its own limits.
_CAP_SYS_RESOURCE = 24
_HARD_FILES = re.compile(r"^Max open files\s+\S+\s+(\d+)", re.MULTILINE)
_CAPABILITIES = re.compile(r"^CapEff:\s*([0-9a-f]+)", re.MULTILINE)
_KILOBYTES = re.compile(r"^(MemAvailable|SwapFree):\s+(\d+) kB", re.MULTILINE)

#: More than any program asks for.
_UNLIMITED = 1 << 62


class ResourceLimits:
    """Upper bounds of what a haproxy may have that `starter` starts: "self" for this process, "1"
    for systemd, with whose children this process shares neither limits nor a control group.
    `root` is where the kernel's files are."""

    def __init__(self, starter: str, root: Path = Path("/")) -> None:
        self._starter = starter
        self._process = root / "proc" / starter
        self._descriptors = root / "proc/sys/fs/nr_open"
        self._memory = root / "proc/meminfo"
        self._groups = root / "sys/fs/cgroup"

    def descriptors(self) -> int:
        """haproxy raises its limit to what it needs: up to the hard one that it is given, or with
        the capability that root has, up to what the kernel allows anybody."""
        capabilities = _CAPABILITIES.search(_read(self._process / "status"))
        if capabilities is None or int(capabilities[1], 16) >> _CAP_SYS_RESOURCE & 1:
            return _number(self._descriptors, _UNLIMITED)
        hard = _HARD_FILES.search(_read(self._process / "limits"))
        return int(hard[1]) if hard else _UNLIMITED

    def threads(self) -> int:
        """How many threads haproxy has unless its text says otherwise: one for each processor."""
        return len(os.sched_getaffinity(0))

    def memory(self) -> int:
        """Bytes that a new worker could have now."""
        found = {
            name: int(kilobytes) << 10
            for name, kilobytes in _KILOBYTES.findall(_read(self._memory))
        }
        rooms = self._in_groups() if self._starter == "self" else ()
        return min(found.get("MemAvailable", _UNLIMITED), *rooms, _UNLIMITED) + found.get(
            "SwapFree", 0
        )

    def _in_groups(self) -> Iterator[int]:
        """What each control group that this process is in has left."""
        for line in _read(self._process / "cgroup").splitlines():
            _, controllers, path = line.split(":", 2)
            # All controllers have one tree in version 2, and each its own in version 1.
            if not controllers:
                top, names = self._groups, ("memory.max", "memory.current", "")
            elif "memory" in controllers.split(","):
                top = self._groups / "memory"
                names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
            else:
                continue
            group = top / path.lstrip("/")
            while group.is_relative_to(top):
                yield _left(group, *names)
                group = group.parent


def _left(group: Path, most: str, used: str, prefix: str) -> int:
    # Pages of files are given up before anything fails.
    files = re.findall(
        rf"^{prefix}(?:in)?active_file (\d+)", _read(group / "memory.stat"), re.MULTILINE
    )
    return _number(group / most, _UNLIMITED) - _number(group / used, 0) + sum(map(int, files))


def _number(path: Path, otherwise: int) -> int:
    content = _read(path).strip()
    return int(content) if content.isdigit() else otherwise


def _read(path: Path) -> str:
    """Empty when there is no such file: what it would limit is not known to be limited."""
    try:
        return path.read_text()
    except OSError:
        return ""
