"""Check that this machine lets haproxy start: enough file descriptors and memory."""

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

from amphora_agent.errors import InvalidRequest
from amphora_agent.haproxy.config import preflight
from amphora_agent.haproxy.config.parser import Texts

logger = logging.getLogger(__name__)

#: Bit of `CapEff` in /proc/PID/status: a process that has it raises its own limits.
_CAP_SYS_RESOURCE = 24
_HARD_FILES = re.compile(r"^Max open files\s+\S+\s+(\d+)", re.MULTILINE)
_CAPABILITIES = re.compile(r"^CapEff:\s*([0-9a-f]+)", re.MULTILINE)
_KILOBYTES = re.compile(r"^(MemAvailable|SwapFree):\s+(\d+) kB", re.MULTILINE)

#: More than any program asks for.
_UNLIMITED = 1 << 62


class ResourceLimits:
    """Upper bounds for a haproxy that `starter` starts: "self" for this process, "1" for systemd,
    whose children have other limits and another control group than this process.
    `root` is the directory with the kernel's files."""

    def __init__(self, starter: str, root: Path = Path("/")) -> None:
        self._starter = starter
        self._root = root

    def descriptors(self) -> int:
        """Return how many descriptors haproxy can have. It raises its limit up to the hard one, or
        with the capability that root has, up to the kernel's."""
        process = self._root / "proc" / self._starter
        capabilities = _CAPABILITIES.search(_read(process / "status"))
        if capabilities is None or int(capabilities[1], 16) >> _CAP_SYS_RESOURCE & 1:
            return _read_number(self._root / "proc/sys/fs/nr_open", _UNLIMITED)
        hard = _HARD_FILES.search(_read(process / "limits"))
        return int(hard[1]) if hard else _UNLIMITED

    def threads(self) -> int:
        """Return how many threads haproxy has by default: one for each processor."""
        return len(os.sched_getaffinity(0))

    def memory(self) -> int:
        """Return how many bytes a new worker could have now."""
        meminfo = {
            name: int(kilobytes) << 10
            for name, kilobytes in _KILOBYTES.findall(_read(self._root / "proc/meminfo"))
        }
        available = meminfo.get("MemAvailable", _UNLIMITED)
        groups = self._read_groups() if self._starter == "self" else ()
        return min(available, *groups, _UNLIMITED) + meminfo.get("SwapFree", 0)

    def require_descriptors(self, texts: Texts) -> None:
        """Check that a start finds enough file descriptors.

        Raises:
            InvalidRequest
        """
        limit = self.descriptors()
        if short := preflight.find_shortage(texts, limit):
            raise refuse(
                f"maxconn {short.connections}: haproxy would need at least {short.least} file"
                f" descriptors to start, and may have {limit}"
            )

    def require_memory(self, instance_id: str, running: Texts, wanted: Texts, version: str) -> None:
        """Check that there is memory for the new worker beside the `running` one, and for the next
        reload beside the new one. The TLS session cache must fit once: a controller may size it for
        half of the machine. `version` is haproxy's.

        Raises:
            InvalidRequest
        """
        threads, room = self.threads(), self.memory()
        needed = preflight.estimate_memory(wanted, version, threads)
        cache = preflight.estimate_tls_cache(wanted)
        given_back = preflight.estimate_tls_cache(running)
        if cache > room:
            raise refuse(
                f"tune.ssl.cachesize: a new worker would need {cache >> 20} MiB for its TLS"
                f" session cache, and {room >> 20} MiB are available"
            )
        if cache and cache > room - cache + given_back:
            logger.warning(
                "instance=%s the TLS session cache takes %d MiB, and a reload as much again for a"
                " while: that is more than there will be",
                instance_id,
                cache >> 20,
            )
        if running:
            before = preflight.estimate_memory(running, version, threads)
            if needed.most() <= before.most():
                return  # a change that needs no more memory is always allowed
            given_back += before.serving
        if needed.start + cache > room or needed.most() + cache > room + given_back:
            raise refuse(
                f"haproxy would need about {needed.start >> 20} MiB to load so many listeners,"
                f" pools and members, while a worker with {needed.serving >> 20} MiB serves, and"
                f" {room + given_back - cache >> 20} MiB are available for both"
            )

    def _read_groups(self) -> Iterator[int]:
        """Yield the bytes that each control group of this process has left."""
        top = self._root / "sys/fs/cgroup"
        for line in _read(self._root / "proc" / self._starter / "cgroup").splitlines():
            _, controllers, path = line.split(":", 2)
            # In version 2 all controllers have one tree, in version 1 each its own.
            if not controllers:
                tree, names = top, ("memory.max", "memory.current", "")
            elif "memory" in controllers.split(","):
                tree = top / "memory"
                names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
            else:
                continue
            group = tree / path.lstrip("/")
            while group.is_relative_to(tree):
                yield _read_group(group, *names)
                group = group.parent


def refuse(details: str) -> InvalidRequest:
    """Return the error for a configuration that cannot be committed."""
    return InvalidRequest("Invalid request", details)


def _read_group(group: Path, limit: str, usage: str, prefix: str) -> int:
    # The kernel gives up pages of files before anything fails.
    pattern = rf"(?m)^{prefix}(?:in)?active_file (\d+)"
    cached = sum(map(int, re.findall(pattern, _read(group / "memory.stat"))))
    return _read_number(group / limit, _UNLIMITED) - _read_number(group / usage, 0) + cached


def _read_number(path: Path, default: int) -> int:
    content = _read(path).strip()
    return int(content) if content.isdigit() else default


def _read(path: Path) -> str:
    """Return a file's text; empty if it does not exist: then it sets no limit."""
    try:
        return path.read_text()
    except OSError:
        return ""
