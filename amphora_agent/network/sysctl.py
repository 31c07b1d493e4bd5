"""Read and write settings of the kernel, by their path below /proc/sys: `net/ipv4/ip_forward`.

Those of networks belong to the network namespace of the calling thread.
"""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from amphora_agent.errors import OperationFailed
from amphora_agent.model.status import Conntrack
from amphora_agent.namespace import Namespace

_SYSCTLS = Path("/proc/sys")


def path(key: str) -> Path:
    """Return the file of a setting."""
    return _SYSCTLS / key


def read(keys: Iterable[str]) -> frozenset[tuple[str, str]]:
    """Return those of `keys` that the kernel offers, with their values."""
    settings = set()
    for key in keys:
        with suppress(FileNotFoundError):
            # Several numbers are written with spaces, and read with tabs.
            settings.add((key, " ".join(path(key).read_text().split())))
    return frozenset(settings)


def write(key: str, value: str) -> None:
    """Write a setting. Raises OSError if there is none, or the kernel refuses."""
    with open(path(key), "r+") as file:
        file.write(value)


_USED, _LIMIT = "net/netfilter/nf_conntrack_count", "net/netfilter/nf_conntrack_max"


def read_conntrack(namespace: Namespace) -> Conntrack | None:
    """Return the use of the table of connections of a namespace; None if the kernel tracks none, or
    there is no namespace."""
    try:
        settings = dict(namespace.run(lambda: read((_USED, _LIMIT))))
    except OperationFailed:
        return None
    if not settings.keys() >= {_USED, _LIMIT}:
        return None
    return Conntrack(used=int(settings[_USED]), limit=int(settings[_LIMIT]))
