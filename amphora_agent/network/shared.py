"""What all interfaces share: the settings of the namespace, and its firewall.

Pure, as `diff` is: there are settings and a ruleset, there should be others, and the difference
is operations.
"""

from collections.abc import Iterator
from typing import TypeAlias

import msgspec

from amphora_agent.network.diff import SetSysctl
from amphora_agent.network.firewall import Ruleset

#: Exactly so, where the kernel offers them.
_SYSCTLS = (
    # keepalived's LVS answers clients by forwarding.
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    # haproxy listens at the VIPs on the amphora, too, that does not have them now.
    ("net/ipv4/ip_nonlocal_bind", "1"),
    ("net/ipv6/ip_nonlocal_bind", "1"),
    # The checks of PING monitors are run by haproxy's user, and haproxy forbids them to gain any
    # capability.
    ("net/ipv4/ping_group_range", "0 2147483647"),
)

#: At least so, for the whole machine: no namespace has a limit of its own. Each flow of a UDP
#: listener is tracked, and a full table drops packets. Offered once something tracks.
_CAPACITIES = (
    ("net/netfilter/nf_conntrack_buckets", 32768),
    ("net/netfilter/nf_conntrack_max", 131072),
)

SYSCTLS = tuple(key for key, _ in (*_SYSCTLS, *_CAPACITIES))


class SetFirewall(msgspec.Struct, frozen=True):
    """Replace the ruleset whole."""

    ruleset: Ruleset

    def __str__(self) -> str:
        return "set the firewall's ruleset"


class RaiseLimit(msgspec.Struct, frozen=True):
    """Raise a limit of the whole machine. Without it things work, until they are many."""

    key: str
    least: int

    def __str__(self) -> str:
        return f"raise {self.key} to {self.least}"


SharedOp: TypeAlias = SetFirewall | SetSysctl | RaiseLimit


class SharedState(msgspec.Struct, frozen=True):
    """What the namespace has. `sysctls` are those of `SYSCTLS` that the kernel offers."""

    ruleset: Ruleset | None
    sysctls: frozenset[tuple[str, str]]


def diff_shared(ruleset: Ruleset, actual: SharedState) -> tuple[SharedOp, ...]:
    """What makes `actual` what it should be, with this ruleset."""
    return tuple(_differences(ruleset, actual))


def _differences(ruleset: Ruleset, actual: SharedState) -> Iterator[SharedOp]:
    if actual.ruleset != ruleset:
        yield SetFirewall(ruleset)
    has = dict(actual.sysctls)
    for key, value in _SYSCTLS:
        if has.get(key, value) != value:
            yield SetSysctl(key, value)
    for key, least in _CAPACITIES:
        if int(has.get(key, least)) < least:
            yield RaiseLimit(key, least)
