"""Find Octavia's objects in a configuration, and the addresses at which it listens."""

import ipaddress
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from amphora_agent.haproxy.config.parser import Config, Section, split_words
from amphora_agent.model.addressing import TCP, Claim, claim, split_endpoint

#: The controller adds a frontend for the agent's own use to a load balancer with a PROMETHEUS
#: listener; it is no listener of a user (WIRE §3).
INTERNAL_PREFIX = "prometheus-exporter-internal"

#: Keywords that must be parsed for `list_listeners` and for `list_pools`.
LISTENER_KEYWORDS = frozenset({"bind", "mode"})
POOL_KEYWORDS = frozenset({"server"})

#: Options of `bind` that make another socket than a plain one of the address.
_UNUSUAL = frozenset({"interface", "namespace", "transparent"})


class ListenAddress(NamedTuple):
    """The address of a TCP socket; the host is a literal IP address."""

    host: str
    port: int


class ListenerType(NamedTuple):
    """The id of a listener, and its type as `GET /1.0/listeners` names it."""

    id: str
    type: str


def list_listeners(config: Config) -> tuple[ListenerType, ...]:
    """Return the listeners of a configuration: its frontends, in order."""
    return tuple(
        ListenerType(frontend.name, _find_type(frontend))
        for frontend in config.of_kind("frontend")
        if not frontend.name.startswith(INTERNAL_PREFIX)
    )


def list_pools(config: Config) -> dict[str, tuple[str, ...]]:
    """Return the members of each pool, by `<pool id>:<listener id>`: backends and their servers."""
    return {
        backend.name: tuple(server.words[1] for server in backend.all("server"))
        for backend in config.of_kind("backend")
        if not backend.name.startswith(INTERNAL_PREFIX)
    }


def find_claims(configuration: str) -> frozenset[Claim]:
    """Return what the `bind` lines claim, whatever they say."""
    claims = (
        _claim(endpoint, only_ipv6="v6only" in words)
        for words in _find_binds(_find_lines(configuration))
        for endpoint in words[1].split(",")
    )
    return frozenset(found for found in claims if found is not None)


def find_new_addresses(configuration: str, before: str) -> frozenset[ListenAddress]:
    """Return the TCP addresses of the `bind` lines that `before` does not have.

    Addresses that are not literal are left out (names, `*`, ranges of ports, Unix sockets, QUIC):
    only haproxy knows what they mean.
    """
    # Only lines that a change touches are split into words.
    lines, lines_before = _find_lines(configuration), _find_lines(before)
    new = frozenset(_find_addresses(lines - lines_before))
    return new.difference(_find_addresses(lines_before)) if new else new


def _find_type(frontend: Section) -> str:
    # Controllers before 4.1 name the certificates themselves.
    if any({"crt-list", "crt"} & set(bind.words) for bind in frontend.all("bind")):
        return "TERMINATED_HTTPS"
    mode = frontend.first("mode")
    return "TCP" if mode is not None and mode.words[1:2] == ("tcp",) else "HTTP"


def _find_lines(configuration: str) -> frozenset[str]:
    """Return all `bind` lines, and perhaps others."""
    return frozenset(line for line in configuration.split("\n") if "bind" in line)


def _find_binds(lines: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """Yield the words of the `bind` lines."""
    for words in map(split_words, lines):
        if words[:1] == ("bind",) and len(words) > 1:
            yield words


def _claim(word: str, *, only_ipv6: bool) -> Claim | None:
    """Return the claim of an IP socket, None for any other."""
    endpoint = word.rpartition("@")[2]
    host, ports = split_endpoint(endpoint)
    low, _, high = ports.partition("-")
    if not (":" in endpoint and low.isdecimal() and (high or low).isdecimal()):
        return None
    return claim(TCP, host, int(low), int(high or low), only_ipv6=only_ipv6)


def _find_addresses(lines: Iterable[str]) -> Iterator[ListenAddress]:
    for words in _find_binds(lines):
        if not _UNUSUAL.intersection(words):
            for endpoint in words[1].split(","):
                host, port = split_endpoint(endpoint)
                try:
                    yield ListenAddress(str(ipaddress.ip_address(host)), int(port))
                except ValueError:
                    continue
