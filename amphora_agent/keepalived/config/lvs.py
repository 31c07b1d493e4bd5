"""keepalived's text for a UDP or SCTP listener: what it may say, and what it says.

The controller writes ids in comments, each before the block that it is about, or instead of one
(`# Member <id> is disabled`). A text has one virtual server for each IP version of the VIPs, whose
addresses are in a group; controllers before 2023 write one virtual server with the one VIP.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import NamedTuple

from amphora_agent.keepalived.config import forms, table
from amphora_agent.keepalived.config.parser import ConfigError, Directive, parse
from amphora_agent.keepalived.config.render import Rendered, render
from amphora_agent.keepalived.config.table import Statement, require_allowed

_CHECKERS = frozenset({"HTTP_GET", "MISC_CHECK", "TCP_CHECK"})

_ABOUT = re.compile(r"# Configuration for (Listener|Member|Pool) ([0-9A-Za-z][0-9A-Za-z_-]*)\s*")
_DISABLED = re.compile(r"# (Listener|Member|Pool) ([0-9A-Za-z][0-9A-Za-z_-]*) is disabled\s*")

#: One client is one address, where a text says it for the other IP version.
_WHOLE_ADDRESS = {4: "255.255.255.255", 6: "128"}

#: Seconds over which keepalived spreads first checks, after the second that it always waits. It
#: takes a whole delay otherwise.
_FIRST_CHECKS = Statement(0, "warmup", ("0.1",))

#: How what keepalived is given begins: of which text it was made.
_HEADER = "Written by amphora-agent of a text with the SHA-256 {}"
_MADE_OF = re.compile(re.escape(f"# {_HEADER}").replace(r"\{\}", "([0-9a-f]{64})") + "\n")

#: How agents before 2.0 began it; the controller's text followed.
_EARLIER = b"global_defs {\n    script_user root\n    enable_script_security\n}\n"


class Endpoint(NamedTuple):
    """An address, in its shortest form, and a port."""

    address: str
    port: int


@dataclass(frozen=True)
class Member:
    """`endpoint` is None when it is disabled. `checked`: a health monitor looks at it."""

    id: str
    endpoint: Endpoint | None
    checked: bool = False


@dataclass(frozen=True)
class Virtual:
    """What clients reach: `protocol` at each of `endpoints`, if there is a member at all."""

    protocol: str
    endpoints: tuple[Endpoint, ...]
    members: tuple[Member, ...]


@dataclass(frozen=True)
class Listener:
    """A listener. Its pool is None when it has none, or none that is enabled."""

    enabled: bool
    pool: str | None
    virtuals: tuple[Virtual, ...]

    @property
    def members(self) -> tuple[Member, ...]:
        """All, each once: those that are disabled are written for each IP version."""
        known = {member.id: member for virtual in self.virtuals for member in virtual.members}
        return tuple(known.values())


# What keepalived is given


def read(configuration: bytes, udp_check: str) -> Rendered:
    """Return what keepalived is given of a configuration: what the table of LVS allows, written
    anew.

    Raises:
        ConfigError: something in it is not allowed, or it does not describe a listener.
    """
    directives = parse(configuration)
    statements = require_allowed(directives, table.lvs(udp_check))
    _listener(directives)
    digest = hashlib.sha256(configuration).hexdigest()
    return render(_mended(statements), _HEADER.format(digest))


def made_of(given: bytes, configuration: bytes) -> bool:
    """Return whether what keepalived was given was made of a configuration."""
    found = _MADE_OF.match(given[:200].decode("latin-1"))
    return found is not None and found[1] == hashlib.sha256(configuration).hexdigest()


def earlier_source(given: bytes) -> bytes | None:
    """Return the controller's text in what an earlier agent gave to keepalived; None when `given`
    was written by this one."""
    if _MADE_OF.match(given[:200].decode("latin-1")):
        return None
    return given.removeprefix(_EARLIER)


def _mended(statements: Sequence[Statement]) -> Iterator[Statement]:
    """Leave out what the agent tells keepalived otherwise, have first checks made at once, and
    write masks for their IP version.

    Octavia writes the mask of IPv4 for IPv6, too: keepalived would refuse it there.
    """
    versions = {
        each.values[0]: _version(each.block[0].values[0])
        for each in statements
        if each.keyword == "virtual_server_group" and each.block
    }
    for statement in statements:
        if statement.keyword == "virtual_server":
            first, second = statement.values
            version = versions.get(second, 0) if first == "group" else _version(first)
            block = tuple(_mended_mask(each, version) for each in statement.block or ())
            if _is_checked(statement):
                block = (_FIRST_CHECKS, *block)
            yield replace(statement, block=block)
        elif statement.keyword != "net_namespace":
            yield statement


def _is_checked(virtual: Statement) -> bool:
    servers = virtual.all("real_server")
    return any(each.keyword in _CHECKERS for server in servers for each in server.block or ())


def _mended_mask(statement: Statement, version: int) -> Statement:
    if statement.keyword != "persistence_granularity" or version == 0:
        return statement
    if ("." in statement.values[0]) == (version == 4):
        return statement
    return replace(statement, values=(_WHOLE_ADDRESS[version],))


def _version(address: str) -> int:
    return ip_address(address).version


# What it says


def describe(configuration: bytes) -> Listener:
    """Return the listener that a configuration describes, whether or not it is allowed.

    Raises:
        ConfigError: it describes none.
    """
    return _listener(parse(configuration))


def _listener(directives: Sequence[Directive]) -> Listener:
    comments = list(_comments(directives))
    groups = {
        each.words[1]: tuple(_endpoint(line, 0) for line in each.block or () if line.words)
        for each in _all(directives, "virtual_server_group")
        if len(each.words) == 2
    }
    pools = [
        found[2] for each in comments if (found := _ABOUT.fullmatch(each)) and found[1] == "Pool"
    ]
    disabled = [found for each in comments if (found := _DISABLED.fullmatch(each))]
    return Listener(
        enabled=not any(found[1] == "Listener" for found in disabled),
        pool=pools[0] if pools else None,
        virtuals=tuple(_virtual(each, groups) for each in _all(directives, "virtual_server")),
    )


def _comments(directives: Sequence[Directive]) -> Iterator[str]:
    for each in directives:
        if each.comment:
            yield each.comment
        yield from _comments(each.block or ())


def _all(directives: Sequence[Directive], keyword: str) -> Iterator[Directive]:
    return (each for each in directives if each.keyword == keyword)


def _virtual(directive: Directive, groups: Mapping[str, tuple[Endpoint, ...]]) -> Virtual:
    block = directive.block or ()
    if directive.words[1:2] == ("group",):
        if len(directive.words) != 3 or directive.words[2] not in groups:
            raise ConfigError(directive.line, "there is no such group")
        endpoints = groups[directive.words[2]]
    else:
        endpoints = (_endpoint(directive, 1),)
    protocol = next(
        (each.words[1].upper() for each in _all(block, "protocol") if len(each.words) > 1), ""
    )
    if protocol not in ("UDP", "SCTP"):
        raise ConfigError(directive.line, "its protocol is neither UDP nor SCTP")
    return Virtual(protocol, endpoints, tuple(_members(block)))


def _members(block: Sequence[Directive]) -> Iterator[Member]:
    about = ""
    for each in block:
        if each.comment:
            if (found := _DISABLED.fullmatch(each.comment)) and found[1] == "Member":
                yield Member(found[2], None)
            about = each.comment
            continue
        if each.keyword == "real_server":
            found = _ABOUT.fullmatch(about)
            if found is None or found[1] != "Member":
                raise ConfigError(each.line, "no comment says which member this is")
            checked = any(inner.keyword in _CHECKERS for inner in each.block or ())
            yield Member(found[2], _endpoint(each, 1), checked)
        about = ""


def _endpoint(directive: Directive, first: int) -> Endpoint:
    try:
        address, port = directive.words[first:]
        if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
            raise ValueError(port)
        return Endpoint(str(forms.parse_address(address)), int(port))
    except ValueError:
        raise ConfigError(directive.line, "not an address and a port") from None
