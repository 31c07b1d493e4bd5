"""The settings of the namespace, each with its reason, and the firewall: all interfaces share them.

A new namespace has the kernel's defaults, whatever `sysctl.d` says for the machine. Pure: a setting
is compared with what the kernel says, and the answer is the value to write.

Pure, as `diff` is: there are settings and a ruleset, there should be others, and the difference
is operations.
"""

import enum
import re
from collections.abc import Iterator
from typing import TypeAlias

import msgspec

from amphora_agent.network.plan.diff import SetSysctl
from amphora_agent.network.plan.firewall_rules import Ruleset

_NUMBER = re.compile(r"-?\d+")
_RESERVED = re.compile(r"(\d+)(?:-(\d+))?")


class Rule(enum.Enum):
    """Which values an operator may have chosen instead."""

    EXACTLY = "this value"
    #: Of several numbers, each.
    AT_LEAST = "this value or a greater one"
    AT_MOST = "this value or a smaller one"
    #: From the first number to the second.
    RANGE = "this range or a wider one"
    #: Numbers and ranges, separated by commas.
    CONTAINS = "a list with these ports in it"


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """A setting, by its path below /proc/sys.

    needed: load balancers do not work without it. One that is not needed and that the kernel
        lacks or refuses is reported, and everything else goes on.
    machine: it counts for the whole machine, and only the machine's own namespace may write it.
    late: the kernel offers it once it tracks connections.
    """

    key: str
    value: str
    why: str
    rule: Rule = Rule.EXACTLY
    needed: bool = False
    machine: bool = False
    late: bool = False

    def to_write(self, actual: str) -> str | None:
        """Return the value to write where the kernel has `actual`; None when that is good."""
        if self.rule is Rule.CONTAINS:
            missing = _ports(self.value) - _ports(actual)
            return ",".join(filter(None, (actual, self.value))) if missing else None
        wanted = _merge(self, actual)
        return None if wanted == actual else wanted


def _merge(setting: Setting, actual: str) -> str:
    """Return what is wanted, with what the operator has that goes further."""
    wanted, has = setting.value.split(), actual.split()
    if setting.rule is Rule.EXACTLY or len(wanted) != len(has) or not all(map(_is_number, has)):
        return setting.value
    pairs = [(int(one), int(other)) for one, other in zip(wanted, has, strict=True)]
    if setting.rule is Rule.RANGE:
        return f"{min(pairs[0])} {max(pairs[1])}"
    further = max if setting.rule is Rule.AT_LEAST else min
    return " ".join(str(further(pair)) for pair in pairs)


def _is_number(word: str) -> bool:
    return _NUMBER.fullmatch(word) is not None


def _ports(ranges: str) -> frozenset[int]:
    found: set[int] = set()
    for word in ranges.split(","):
        if matched := _RESERVED.fullmatch(word):
            first = int(matched[1])
            found.update(range(first, int(matched[2] or first) + 1))
    return frozenset(found)


SETTINGS = (
    Setting(
        key="net/ipv4/ip_forward",
        value="1",
        needed=True,
        why="keepalived's LVS answers clients by forwarding",
    ),
    Setting(
        key="net/ipv6/conf/all/forwarding",
        value="1",
        needed=True,
        why="keepalived's LVS answers clients by forwarding",
    ),
    Setting(
        key="net/ipv4/ip_nonlocal_bind",
        value="1",
        needed=True,
        why="haproxy listens at the VIPs on the amphora, too, that does not have them now",
    ),
    Setting(
        key="net/ipv6/ip_nonlocal_bind",
        value="1",
        needed=True,
        why="haproxy listens at the VIPs on the amphora, too, that does not have them now",
    ),
    Setting(
        key="net/ipv4/ping_group_range",
        value="0 2147483647",
        needed=True,
        why="haproxy's user runs the checks of PING monitors, without any capability",
    ),
    Setting(
        key="net/ipv4/ip_local_port_range",
        value="1025 65534",
        rule=Rule.RANGE,
        why="a member takes as many connections from one address as there are ports in the range",
    ),
    Setting(
        key="net/ipv4/ip_local_reserved_ports",
        value="1025,9102",
        rule=Rule.CONTAINS,
        why="a connection to a member takes neither the peers' port (1025) nor the metrics' (9102),"
        " for which haproxy and the agent could not listen then",
    ),
    Setting(
        key="net/core/somaxconn",
        value="65534",
        rule=Rule.AT_LEAST,
        why="a burst of new connections waits for haproxy, and is not refused",
    ),
    Setting(
        key="net/ipv4/tcp_max_syn_backlog",
        value="100000",
        rule=Rule.AT_LEAST,
        why="a burst of half-open connections needs no SYN cookies, which lose TCP options",
    ),
    Setting(
        key="net/ipv4/tcp_synack_retries",
        value="3",
        rule=Rule.AT_MOST,
        why="a half-open connection of a client that is gone ends after 15 s, not 63 s",
    ),
    Setting(
        key="net/ipv4/tcp_fin_timeout",
        value="5",
        rule=Rule.AT_MOST,
        why="a connection whose other end never closes holds its port for 5 s, not 60 s",
    ),
    Setting(
        key="net/ipv4/tcp_tw_reuse",
        value="1",
        why="a port in TIME_WAIT serves a new connection to the same member",
    ),
    Setting(
        key="net/ipv4/tcp_max_tw_buckets",
        value="5800000",
        rule=Rule.AT_LEAST,
        why="TIME_WAIT is kept at every rate of short connections",
    ),
    Setting(
        key="net/ipv4/tcp_keepalive_time",
        value="300",
        rule=Rule.AT_MOST,
        why="a dead client of a listener with long timeouts is noticed after minutes, not hours",
    ),
    Setting(
        key="net/ipv4/tcp_mtu_probing",
        value="1",
        rule=Rule.AT_LEAST,
        why="a path that swallows ICMP does not stall connections (RFC 4821)",
    ),
    Setting(
        key="net/ipv4/tcp_rmem",
        value="4096 87380 33554432",
        rule=Rule.AT_LEAST,
        why="one connection can fill a long, fast path",
    ),
    Setting(
        key="net/ipv4/tcp_wmem",
        value="4096 87380 33554432",
        rule=Rule.AT_LEAST,
        why="one connection can fill a long, fast path",
    ),
    Setting(
        key="net/netfilter/nf_conntrack_tcp_timeout_time_wait",
        value="5",
        rule=Rule.AT_MOST,
        late=True,
        why="ended connections leave the table of those that are tracked soon",
    ),
    Setting(
        key="net/netfilter/nf_conntrack_tcp_timeout_fin_wait",
        value="5",
        rule=Rule.AT_MOST,
        late=True,
        why="ended connections leave the table of those that are tracked soon",
    ),
    Setting(
        key="net/netfilter/nf_conntrack_buckets",
        value="32768",
        rule=Rule.AT_LEAST,
        machine=True,
        late=True,
        why="each flow of a UDP listener is looked up in this table",
    ),
    Setting(
        key="net/netfilter/nf_conntrack_max",
        value="131072",
        rule=Rule.AT_LEAST,
        machine=True,
        late=True,
        why="each flow of a UDP listener is tracked, and a full table drops packets",
    ),
)


#: Every setting, by its path below /proc/sys.
SYSCTLS = {setting.key: setting for setting in SETTINGS}


class SetFirewall(msgspec.Struct, frozen=True):
    """Replace the ruleset whole."""

    ruleset: Ruleset

    def __str__(self) -> str:
        return "set the firewall's ruleset"


SharedOp: TypeAlias = SetFirewall | SetSysctl


class SharedState(msgspec.Struct, frozen=True):
    """What the namespace has. `sysctls` are those of `SYSCTLS` that the kernel offers."""

    ruleset: Ruleset | None
    sysctls: frozenset[tuple[str, str]]


def diff_shared(ruleset: Ruleset | None, actual: SharedState) -> tuple[SharedOp, ...]:
    """What makes `actual` what it should be, with this ruleset; None is for any."""
    return tuple(_differences(ruleset, actual))


def _differences(ruleset: Ruleset | None, actual: SharedState) -> Iterator[SharedOp]:
    if ruleset is not None and actual.ruleset != ruleset:
        yield SetFirewall(ruleset)
    has = dict(actual.sysctls)
    for setting in SETTINGS:
        if setting.key in has and (value := setting.to_write(has[setting.key])) is not None:
            yield SetSysctl(setting.key, value)


def missing_settings(actual: SharedState) -> tuple[Setting, ...]:
    """Return the settings that the kernel should offer by now and does not."""
    has = dict(actual.sysctls)
    return tuple(each for each in SETTINGS if each.key not in has and not each.late)
