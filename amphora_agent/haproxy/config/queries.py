"""Octavia's objects in a configuration, and the addresses that it listens at."""

import ipaddress
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from amphora_agent.haproxy.config import parser
from amphora_agent.haproxy.config.parser import Config, Section
from amphora_agent.model.addressing import TCP, Claim, claim, split_endpoint

#: Options that make it another socket than a plain one of this address.
_UNUSUAL = frozenset({"interface", "namespace", "transparent"})


class ListenAddress(NamedTuple):
    """A TCP socket's address, the host as a literal IP."""

    host: str
    port: int


def find_claims(configuration: str) -> frozenset[Claim]:
    """What the `bind` lines claim, whatever they say."""
    return frozenset(
        found
        for words in map(parser.split_words, _lines(configuration))
        if words[:1] == ("bind",) and len(words) > 1
        for word in words[1].split(",")
        if (found := _claim(word, only_ipv6="v6only" in words)) is not None
    )


def find_new_addresses(configuration: str, before: str) -> frozenset[ListenAddress]:
    """Return the TCP addresses of the `bind` lines that `before` does not have, without those that
    are not literal (names, `*`, ranges of ports, Unix sockets, QUIC): what those mean is haproxy's
    to say."""
    # A change leaves most lines as they are: only the others are looked into.
    lines, lines_before = _lines(configuration), _lines(before)
    new = _addresses(lines - lines_before)
    return new - _addresses(lines_before) if new else new


def _claim(word: str, *, only_ipv6: bool) -> Claim | None:
    """None for what is no IP socket."""
    endpoint = word.rpartition("@")[2]
    host, ports = split_endpoint(endpoint)
    low, _, high = ports.partition("-")
    if not (":" in endpoint and low.isdecimal() and (high or low).isdecimal()):
        return None
    return claim(TCP, host, int(low), int(high or low), only_ipv6=only_ipv6)


def _lines(configuration: str) -> frozenset[str]:
    """All `bind` lines, and perhaps others."""
    return frozenset(line for line in configuration.split("\n") if "bind" in line)


def _addresses(lines: Iterable[str]) -> frozenset[ListenAddress]:
    return frozenset(
        address
        for words in map(parser.split_words, lines)
        if words[:1] == ("bind",)
        for address in _literal(words[1:])
    )


def _literal(words: tuple[str, ...]) -> Iterator[ListenAddress]:
    if not words or _UNUSUAL.intersection(words):
        return
    for word in words[0].split(","):
        host, port = split_endpoint(word)
        try:
            yield ListenAddress(str(ipaddress.ip_address(host)), int(port))
        except ValueError:
            continue


#: The controller adds a frontend for the agent's own use to a load balancer with a PROMETHEUS
#: listener; it is nobody's listener (WIRE §3).
INTERNAL_PREFIX = "prometheus-exporter-internal"

#: What of a configuration must be parsed for `listeners`.
LISTENER_KEYWORDS = frozenset({"bind", "mode"})


class ListenerType(NamedTuple):
    """A listener by its id; `type` as `GET /1.0/listeners` names it."""

    id: str
    type: str


def list_listeners(config: Config) -> tuple[ListenerType, ...]:
    """The listeners of a configuration: its frontends, in order."""
    return tuple(
        ListenerType(frontend.name, _type(frontend))
        for frontend in config.of_kind("frontend")
        if not frontend.name.startswith(INTERNAL_PREFIX)
    )


#: What of a configuration must be parsed for `pools`.
POOL_KEYWORDS = frozenset({"server"})


def list_pools(config: Config) -> dict[str, tuple[str, ...]]:
    """The members of each pool, by `<pool id>:<listener id>`: its backends and their servers."""
    return {
        backend.name: tuple(server.words[1] for server in backend.all("server"))
        for backend in config.of_kind("backend")
        if not backend.name.startswith(INTERNAL_PREFIX)
    }


def _type(frontend: Section) -> str:
    # Controllers before 4.1 name the certificates themselves.
    if any({"crt-list", "crt"} & set(bind.words) for bind in frontend.all("bind")):
        return "TERMINATED_HTTPS"
    mode = frontend.first("mode")
    return "TCP" if mode is not None and mode.words[1:2] == ("tcp",) else "HTTP"
