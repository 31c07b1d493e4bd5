"""Figures of the machine for `GET /1.0/details` (WIRE §4)."""

import contextlib
import os
import re
import threading
from pathlib import Path
from typing import Any

import psutil

from amphora_agent import files
from amphora_agent.errors import OperationFailed
from amphora_agent.supervisor.processes import run

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_TUNED_PROFILE = Path("/etc/tuned/active_profile")
#: Exists while the kernel has IPVS.
_IPVS = Path("/proc/net/ip_vs")


class Host:
    """Figures of this machine. `memory_limit`, in MiB, lets several amphorae share a machine: the
    controller sizes haproxy's caches by the reported memory (WIRE §4). `programs` is the directory
    of keepalived and ipvsadm."""

    def __init__(self, memory_limit: int | None = None, programs: Path = Path("/usr/sbin")) -> None:
        self._memory_limit = memory_limit
        self._programs = programs
        self._lock = threading.Lock()
        self._versions: dict[str, tuple[object, str]] = {}

    def figures(self) -> dict[str, Any]:
        """Return `cpu_count`, `cpu` (jiffies), `memory` (kB), `disk` (bytes of /), `load` and
        `active_tuned_profiles`."""
        disk = psutil.disk_usage("/")
        return {
            "cpu_count": os.cpu_count() or 1,
            "cpu": _read_cpu(),
            "memory": self._read_memory(),
            "disk": {"used": disk.used, "available": disk.free},
            "load": [f"{average:.2f}" for average in os.getloadavg()],
            "active_tuned_profiles": _read_tuned_profiles(),
        }

    def load(self) -> tuple[float, float]:
        """Return, in percent, the load of the last minute per processor, and the memory in use."""
        percent = os.getloadavg()[0] / (os.cpu_count() or 1) * 100
        return percent, psutil.virtual_memory().percent

    def _read_memory(self) -> dict[str, int]:
        memory = psutil.virtual_memory()
        scale = 1.0
        if self._memory_limit is not None:
            scale = min(1.0, self._memory_limit * 1024 * 1024 / memory.total)
        names = ("total", "free", "buffers", "cached", "shared", "slab")
        kilobytes = {name: int(getattr(memory, name) * scale) // 1024 for name in names}
        kilobytes["swap_used"] = psutil.swap_memory().used // 1024
        return kilobytes

    def find_version(self, name: str) -> str:
        """Return what a program reports as its version; empty when it is not installed, or is
        ipvsadm and the kernel has no IPVS. It is asked once for each program file, and again when
        IPVS comes or goes."""
        program = self._programs / name
        file = files.signature(program)
        if file is None:
            return ""
        signature = file, _IPVS.exists()
        with self._lock:
            known_signature, version = self._versions.get(name, (None, ""))
            if known_signature != signature:
                version = ""
                with contextlib.suppress(OperationFailed):
                    output = run((str(program), "--version"), timeout=10).output
                    version = _parse_version(output, name)
                self._versions[name] = signature, version
            return version


def _parse_version(output: str, name: str) -> str:
    """Return the version that follows a program's name at the beginning of a line. Elsewhere it may
    be the kernel's, in an error of modprobe."""
    version = re.search(rf"(?mi)^{name} v(\d[^\s,]*)", output)
    return version[1] if version else ""


def _read_cpu() -> dict[str, int | str]:
    times = psutil.cpu_times()
    jiffies = {name: round(value * _TICKS_PER_SECOND) for name, value in times._asdict().items()}
    guests = jiffies.get("guest", 0) + jiffies.get("guest_nice", 0)  # counted in user and nice too
    return {
        "total": sum(jiffies.values()) - guests,
        "user": str(jiffies["user"]),
        "system": str(jiffies["system"]),
        "soft_irq": str(jiffies["softirq"]),
    }


def _read_tuned_profiles() -> str:
    try:
        return " ".join(_TUNED_PROFILE.read_text().split())
    except OSError:
        return ""
