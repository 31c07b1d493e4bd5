"""keepalived's configuration of a UDP or SCTP listener: rewrite it for keepalived, and read it.

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
from amphora_agent.keepalived.config.language import (
    ConfigError,
    KeepalivedDirective,
    Rendered,
    Statement,
    parse,
    render,
)
from amphora_agent.keepalived.config.table import require_allowed
from amphora_agent.model.addressing import Claim, claim

_CHECKERS = frozenset({"HTTP_GET", "MISC_CHECK", "TCP_CHECK"})

_ABOUT = re.compile(r"# Configuration for (Listener|Member|Pool) ([0-9A-Za-z][0-9A-Za-z_-]*)\s*")
_DISABLED = re.compile(r"# (Listener|Member|Pool) ([0-9A-Za-z][0-9A-Za-z_-]*) is disabled\s*")

#: The first line of the configuration of a listener of API 2.0, with its load balancer.
_OWNER = re.compile(rb"# Written by amphora-agent for ([0-9A-Za-z_-]+)\.")

#: Masks that stand for one client address, by IP version.
_WHOLE_ADDRESS = {4: "255.255.255.255", 6: "128"}

#: Seconds over which keepalived spreads first checks, after the second that it always waits. By
#: default it spreads them over `delay_loop`.
_FIRST_CHECKS = Statement(0, "warmup", ("0.1",))

#: The first line of what keepalived reads: the digest of the configuration that it was made of.
_HEADER = "Written by amphora-agent of a text with the SHA-256 {}"
_MADE_OF = re.compile(re.escape(f"# {_HEADER}").replace(r"\{\}", "([0-9a-f]{64})") + "\n")

#: What agents before 2.0 put before the controller's configuration.
_EARLIER = b"global_defs {\n    script_user root\n    enable_script_security\n}\n"


class Endpoint(NamedTuple):
    """An address, in its shortest form, and a port."""

    address: str
    port: int


@dataclass(frozen=True)
class ParsedMember:
    """A member. `endpoint` is None when it is disabled; `checked`: it has a health monitor."""

    id: str
    endpoint: Endpoint | None
    checked: bool = False


@dataclass(frozen=True)
class Virtual:
    """A virtual server at each of `endpoints`. keepalived leaves out one without members."""

    protocol: str
    endpoints: tuple[Endpoint, ...]
    members: tuple[ParsedMember, ...]


@dataclass(frozen=True)
class ParsedListener:
    """A listener. Its pool is None when it has none, or none that is enabled."""

    enabled: bool
    pool: str | None
    virtuals: tuple[Virtual, ...]

    @property
    def members(self) -> tuple[ParsedMember, ...]:
        """All members, each once: disabled ones stand in the virtual server of each IP version."""
        by_id = {member.id: member for virtual in self.virtuals for member in virtual.members}
        return tuple(by_id.values())

    @property
    def addresses(self) -> tuple[tuple[str, Endpoint], ...]:
        """Protocol and endpoint of all virtual servers."""
        return tuple(
            (virtual.protocol, endpoint)
            for virtual in self.virtuals
            for endpoint in virtual.endpoints
        )


# What keepalived reads


def rewrite(configuration: bytes, udp_check: str) -> Rendered:
    """Return the text that keepalived reads for a configuration. All of it is in the table of LVS.

    Raises:
        ConfigError: something in it is not allowed, or it does not describe a listener.
    """
    directives = parse(configuration)
    statements = require_allowed(directives, table.lvs(udp_check))
    _read_listener(directives)
    digest = hashlib.sha256(configuration).hexdigest()
    return render(_adapt_statements(statements), _HEADER.format(digest))


def is_made_of(given: bytes, configuration: bytes) -> bool:
    """Return whether keepalived's text `given` was made of a configuration."""
    header = _MADE_OF.match(given[:200].decode("latin-1"))
    return header is not None and header[1] == hashlib.sha256(configuration).hexdigest()


def earlier_source(given: bytes) -> bytes | None:
    """Return the controller's configuration in a text that an agent before 2.0 wrote; None if a
    later agent wrote it."""
    if _MADE_OF.match(given[:200].decode("latin-1")):
        return None
    return given.removeprefix(_EARLIER)


def _adapt_statements(statements: Sequence[Statement]) -> Iterator[Statement]:
    """Drop the namespace, which the supervisor enters; make first checks early; fix masks.

    Octavia writes the mask of IPv4 for IPv6, too, where keepalived refuses it.
    """
    versions = {
        group.values[0]: _version(group.block[0].values[0])
        for group in statements
        if group.keyword == "virtual_server_group" and group.block
    }
    for statement in statements:
        if statement.keyword == "virtual_server":
            first, second = statement.values
            version = versions.get(second, 0) if first == "group" else _version(first)
            block = tuple(_fix_mask(inner, version) for inner in statement.block or ())
            if _is_checked(statement):
                block = (_FIRST_CHECKS, *block)
            yield replace(statement, block=block)
        elif statement.keyword != "net_namespace":
            yield statement


def _is_checked(virtual: Statement) -> bool:
    servers = virtual.all("real_server")
    return any(inner.keyword in _CHECKERS for server in servers for inner in server.block or ())


def _fix_mask(statement: Statement, version: int) -> Statement:
    if statement.keyword != "persistence_granularity" or version == 0:
        return statement
    if ("." in statement.values[0]) == (version == 4):
        return statement
    return replace(statement, values=(_WHOLE_ADDRESS[version],))


def _version(address: str) -> int:
    return ip_address(address).version


# What a configuration describes


def find_owner(configuration: bytes) -> str | None:
    """Return the id of the load balancer of API 2.0 that wrote a configuration; None if a
    controller did."""
    header = _OWNER.match(configuration)
    return header[1].decode() if header else None


def find_claims(configuration: bytes) -> frozenset[Claim]:
    """Return the addresses that a configuration claims; none if it is invalid."""
    try:
        listener = describe(configuration)
    except ConfigError:
        return frozenset()
    return frozenset(
        claim(protocol, endpoint.address, endpoint.port)
        for protocol, endpoint in listener.addresses
    )


def describe(configuration: bytes) -> ParsedListener:
    """Return the listener that a configuration describes, allowed or not.

    Raises:
        ConfigError: it describes none.
    """
    return _read_listener(parse(configuration))


def _read_listener(directives: Sequence[KeepalivedDirective]) -> ParsedListener:
    comments = list(_list_comments(directives))
    groups = {
        group.words[1]: tuple(_read_endpoint(line, 0) for line in group.block or () if line.words)
        for group in _select(directives, "virtual_server_group")
        if len(group.words) == 2
    }
    pools = (about[2] for about in map(_ABOUT.fullmatch, comments) if about and about[1] == "Pool")
    disabled = (about[1] for about in map(_DISABLED.fullmatch, comments) if about)
    return ParsedListener(
        enabled="Listener" not in disabled,
        pool=next(pools, None),
        virtuals=tuple(
            _read_virtual(server, groups) for server in _select(directives, "virtual_server")
        ),
    )


def _list_comments(directives: Sequence[KeepalivedDirective]) -> Iterator[str]:
    for directive in directives:
        if directive.comment:
            yield directive.comment
        yield from _list_comments(directive.block or ())


def _select(
    directives: Sequence[KeepalivedDirective], keyword: str
) -> Iterator[KeepalivedDirective]:
    return (directive for directive in directives if directive.keyword == keyword)


def _read_virtual(
    directive: KeepalivedDirective, groups: Mapping[str, tuple[Endpoint, ...]]
) -> Virtual:
    block = directive.block or ()
    if directive.words[1:2] == ("group",):
        if len(directive.words) != 3 or directive.words[2] not in groups:
            raise ConfigError(directive.line, "there is no such group")
        endpoints = groups[directive.words[2]]
    else:
        endpoints = (_read_endpoint(directive, 1),)
    protocols = (line.words[1].upper() for line in _select(block, "protocol") if line.words[1:])
    protocol = next(protocols, "")
    if protocol not in ("UDP", "SCTP"):
        raise ConfigError(directive.line, "its protocol is neither UDP nor SCTP")
    return Virtual(protocol, endpoints, tuple(_read_members(block)))


def _read_members(block: Sequence[KeepalivedDirective]) -> Iterator[ParsedMember]:
    comment = ""
    for directive in block:
        if directive.comment:
            comment = directive.comment
            disabled = _DISABLED.fullmatch(comment)
            if disabled and disabled[1] == "Member":
                yield ParsedMember(disabled[2], None)
            continue
        if directive.keyword == "real_server":
            about = _ABOUT.fullmatch(comment)
            if about is None or about[1] != "Member":
                raise ConfigError(directive.line, "no comment says which member this is")
            checked = any(inner.keyword in _CHECKERS for inner in directive.block or ())
            yield ParsedMember(about[2], _read_endpoint(directive, 1), checked)
        comment = ""


def _read_endpoint(directive: KeepalivedDirective, first: int) -> Endpoint:
    try:
        address, port = directive.words[first:]
        if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
            raise ValueError(port)
        return Endpoint(str(forms.parse_address(address)), int(port))
    except ValueError:
        raise ConfigError(directive.line, "not an address and a port") from None
