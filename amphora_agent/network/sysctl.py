"""The kernel's settings, by their path below /proc/sys: `net/ipv4/ip_forward`.

Those of a network belong to the namespace of the thread that reads or writes them.
"""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_SYSCTLS = Path("/proc/sys")


def read(keys: Iterable[str]) -> frozenset[tuple[str, str]]:
    """Those of `keys` that the kernel offers, with their values."""
    found = set()
    for key in keys:
        with suppress(FileNotFoundError):
            # Values of several numbers are written with spaces, and read with tabs.
            found.add((key, " ".join((_SYSCTLS / key).read_text().split())))
    return frozenset(found)


def write(key: str, value: str) -> None:
    """Raises OSError when there is no such setting, or the kernel refuses."""
    with open(_SYSCTLS / key, "r+") as file:
        file.write(value)
