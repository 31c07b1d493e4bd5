"""The kernel's settings of the namespace, each with its reason, and the firewall: all interfaces
share them.

A new namespace has the kernel's defaults, whatever `sysctl.d` says for the machine. Pure, as `diff`
is: the difference between wanted and actual state is a list of operations.
"""

import enum
import re
from functools import partial
from typing import TypeAlias

import msgspec

from amphora_agent.network.plan.diff import NetworkOperation, SetSysctl
from amphora_agent.network.plan.firewall_rules import Ruleset

_NUMBER = re.compile(r"-?\d+")
_RESERVED = re.compile(r"(\d+)(?:-(\d+))?")


class Comparison(enum.Enum):
    """Which other values of an operator stay."""

    EXACTLY = "this value"
    #: Of several numbers, each.
    AT_LEAST = "this value or a greater one"
    AT_MOST = "this value or a smaller one"
    #: From the first number to the second.
    RANGE = "this range or a wider one"
    #: Numbers and ranges, separated by commas.
    CONTAINS = "a list with these ports in it"


class Setting(msgspec.Struct, frozen=True):
    """The value that a setting of the kernel shall have, and why.

    needed: load balancers do not work without it. If the kernel lacks or refuses another one, that
        is an alarm, and everything else goes on.
    machine: it holds for the whole machine, and only the machine's own namespace may write it.
    late: the kernel offers it once it tracks connections.
    """

    comparison: Comparison
    value: str
    why: str
    needed: bool = False
    machine: bool = False
    late: bool = False

    def find_value(self, actual: str) -> str | None:
        """Return the value to write if the kernel has `actual`; None if that is good."""
        if self.comparison is Comparison.CONTAINS:
            missing = _parse_ports(self.value) - _parse_ports(actual)
            return ",".join(filter(None, (actual, self.value))) if missing else None
        wanted = _merge(self, actual)
        return None if wanted == actual else wanted


def _merge(setting: Setting, actual: str) -> str:
    """Return the wanted value, or the operator's where that goes further."""
    wanted, has = setting.value.split(), actual.split()
    comparable = len(wanted) == len(has) and all(map(_NUMBER.fullmatch, has))
    if setting.comparison is Comparison.EXACTLY or not comparable:
        return setting.value
    pairs = [(int(value), int(held)) for value, held in zip(wanted, has, strict=True)]
    if setting.comparison is Comparison.RANGE:
        return f"{min(pairs[0])} {max(pairs[1])}"
    further = max if setting.comparison is Comparison.AT_LEAST else min
    return " ".join(str(further(pair)) for pair in pairs)


def _parse_ports(ranges: str) -> frozenset[int]:
    ports: set[int] = set()
    for word in ranges.split(","):
        if matched := _RESERVED.fullmatch(word):
            first = int(matched[1])
            ports.update(range(first, int(matched[2] or first) + 1))
    return frozenset(ports)


_exactly = partial(Setting, Comparison.EXACTLY)
_at_least = partial(Setting, Comparison.AT_LEAST)
_at_most = partial(Setting, Comparison.AT_MOST)

_FORWARDS = "keepalived's LVS answers clients by forwarding"
_BINDS = "haproxy listens at the VIPs on the amphora, too, that does not have them now"
_FILLS_PATH = "one connection can fill a long, fast path"
_FORGETS = "ended connections leave the table of those that are tracked soon"

#: Every setting, by its path below /proc/sys.
SETTINGS = {
    "net/ipv4/ip_forward": _exactly("1", _FORWARDS, needed=True),
    "net/ipv6/conf/all/forwarding": _exactly("1", _FORWARDS, needed=True),
    "net/ipv4/ip_nonlocal_bind": _exactly("1", _BINDS, needed=True),
    "net/ipv6/ip_nonlocal_bind": _exactly("1", _BINDS, needed=True),
    "net/ipv4/ping_group_range": _exactly(
        "0 2147483647",
        "haproxy's user runs the checks of PING monitors, without any capability",
        needed=True,
    ),
    "net/ipv4/ip_local_port_range": Setting(
        Comparison.RANGE,
        "1025 65534",
        "a member takes as many connections from one address as there are ports in the range",
    ),
    "net/ipv4/ip_local_reserved_ports": Setting(
        Comparison.CONTAINS,
        "1025,9102",
        "a connection to a member takes neither the peers' port (1025) nor the metrics' (9102),"
        " for which haproxy and the agent could not listen then",
    ),
    "net/core/somaxconn": _at_least(
        "65534", "a burst of new connections waits for haproxy, and is not refused"
    ),
    "net/ipv4/tcp_max_syn_backlog": _at_least(
        "100000", "a burst of half-open connections needs no SYN cookies, which lose TCP options"
    ),
    "net/ipv4/tcp_synack_retries": _at_most(
        "3", "a half-open connection of a client that is gone ends after 15 s, not 63 s"
    ),
    "net/ipv4/tcp_fin_timeout": _at_most(
        "5", "a connection whose other end never closes holds its port for 5 s, not 60 s"
    ),
    "net/ipv4/tcp_tw_reuse": _exactly(
        "1", "a port in TIME_WAIT serves a new connection to the same member"
    ),
    "net/ipv4/tcp_max_tw_buckets": _at_least(
        "5800000", "TIME_WAIT is kept at every rate of short connections"
    ),
    "net/ipv4/tcp_keepalive_time": _at_most(
        "300", "a dead client of a listener with long timeouts is noticed after minutes, not hours"
    ),
    "net/ipv4/tcp_mtu_probing": _at_least(
        "1", "a path that swallows ICMP does not stall connections (RFC 4821)"
    ),
    "net/ipv4/tcp_rmem": _at_least("4096 87380 33554432", _FILLS_PATH),
    "net/ipv4/tcp_wmem": _at_least("4096 87380 33554432", _FILLS_PATH),
    "net/netfilter/nf_conntrack_tcp_timeout_time_wait": _at_most("5", _FORGETS, late=True),
    "net/netfilter/nf_conntrack_tcp_timeout_fin_wait": _at_most("5", _FORGETS, late=True),
    "net/netfilter/nf_conntrack_buckets": _at_least(
        "32768", "each flow of a UDP listener is looked up in this table", machine=True, late=True
    ),
    "net/netfilter/nf_conntrack_max": _at_least(
        "131072",
        "each flow of a UDP listener is tracked, and a full table drops packets",
        machine=True,
        late=True,
    ),
}


class SetFirewall(NetworkOperation, frozen=True):
    """Replace the whole ruleset."""

    text = "set the firewall's ruleset"
    ruleset: Ruleset


NamespaceOp: TypeAlias = SetFirewall | SetSysctl


class NamespaceState(msgspec.Struct, frozen=True):
    """What the namespace has. `sysctls`: those of `SETTINGS` that the kernel offers."""

    ruleset: Ruleset | None
    sysctls: frozenset[tuple[str, str]]


def diff_namespace(ruleset: Ruleset | None, actual: NamespaceState) -> tuple[NamespaceOp, ...]:
    """Return the operations that bring about the ruleset, unless it is None, and the settings. The
    firewall comes first: nothing is forwarded unfiltered."""
    ops: list[NamespaceOp] = []
    if ruleset is not None and actual.ruleset != ruleset:
        ops.append(SetFirewall(ruleset))
    has = dict(actual.sysctls)
    for key, setting in SETTINGS.items():
        if key in has and (value := setting.find_value(has[key])) is not None:
            ops.append(SetSysctl(key, value))
    return tuple(ops)


def find_missing(actual: NamespaceState) -> list[str]:
    """Return the keys of settings that the kernel should offer and does not."""
    has = dict(actual.sysctls)
    return [key for key, setting in SETTINGS.items() if key not in has and not setting.late]
