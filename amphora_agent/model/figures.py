"""Figures for metrics, between where they are found and where they are told."""

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple


class Scope(Enum):
    """What figures are about, by Octavia's names."""

    LOADBALANCER = "loadbalancer"
    MEMORY_POOL = "memory_pool"
    LISTENER = "listener"
    POOL = "pool"
    MEMBER = "member"


class Figures(NamedTuple):
    """The figures of one instance at one moment.

    `process` is by haproxy's name (`CurrConns`). `columns` are haproxy's names of what each row
    holds (`scur`), in their order; the rows of each scope begin with the names of the proxy and
    of the server. A figure that does not apply is empty.
    """

    process: dict[str, str]
    columns: tuple[str, ...]
    rows: dict[Scope, list[Sequence[str]]]


class Conntrack(NamedTuple):
    """Connections that the kernel tracks in the namespace, and how many it can."""

    used: int
    limit: int
