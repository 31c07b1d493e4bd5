"""The kernel's settings, by their path below /proc/sys: `net/ipv4/ip_forward`.

Those of a network belong to the namespace of the thread that reads or writes them."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from amphora_agent.errors import OperationFailed
from amphora_agent.model.status import Conntrack
from amphora_agent.namespace import Namespace

_SYSCTLS = Path("/proc/sys")


def path(key: str) -> Path:
    """The file of a setting."""
    return _SYSCTLS / key


def read(keys: Iterable[str]) -> frozenset[tuple[str, str]]:
    """Those of `keys` that the kernel offers, with their values."""
    found = set()
    for key in keys:
        with suppress(FileNotFoundError):
            # Values of several numbers are written with spaces, and read with tabs.
            found.add((key, " ".join(path(key).read_text().split())))
    return frozenset(found)


def write(key: str, value: str) -> None:
    """Raises OSError when there is no such setting, or the kernel refuses."""
    with open(path(key), "r+") as file:
        file.write(value)


_USED, _LIMIT = "net/netfilter/nf_conntrack_count", "net/netfilter/nf_conntrack_max"


def usage(namespace: Namespace) -> Conntrack | None:
    """That of the namespace; None where the kernel tracks nothing, or there is no namespace."""
    try:
        found = dict(namespace.run(lambda: read((_USED, _LIMIT))))
    except OperationFailed:
        return None
    if not found.keys() >= {_USED, _LIMIT}:
        return None
    return Conntrack(used=int(found[_USED]), limit=int(found[_LIMIT]))
