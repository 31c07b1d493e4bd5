"""The machine that figures were taken on, without which they mean nothing."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path

from amphora_agent import __version__


def description(haproxy: Path) -> dict[str, str]:
    """Names and values, in the order in which they are to be read."""
    cpu = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())
    return {
        "cpu": f"{os.cpu_count()} x {cpu[1] if cpu else platform.machine()}",
        "memory": f"{int(memory[1]) / 1024 / 1024:.0f} GiB" if memory else "?",
        "kernel": platform.release(),
        "system": _system(),
        "python": platform.python_version(),
        "haproxy": haproxy_version(haproxy),
        "agent": __version__,
        "load average before": " ".join(f"{average:.2f}" for average in os.getloadavg()),
    }


def haproxy_version(program: Path) -> str:
    said = subprocess.run([program, "-v"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"version (\S+)", said)
    return found[1] if found else said.partition("\n")[0]


def _system() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "?")
    except OSError:
        return "?"
