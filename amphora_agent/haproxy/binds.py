"""Which addresses a configuration listens at."""

import ipaddress
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from amphora_agent.haproxy import text

#: Options that make it another socket than a plain one of this address.
_UNUSUAL = frozenset({"interface", "namespace", "transparent"})


class Address(NamedTuple):
    """A TCP socket's address, the host as a literal IP."""

    host: str
    port: int


def addresses(configuration: str) -> frozenset[Address]:
    """The TCP addresses of the `bind` lines, without those that are not literal (names, `*`,
    ranges of ports, Unix sockets, QUIC): what those mean is haproxy's to say."""
    return _addresses(_lines(configuration))


def added(configuration: str, before: str) -> frozenset[Address]:
    """Those of `addresses(configuration)` that `before` does not have."""
    # A change leaves most lines as they are: only the others are looked into.
    lines, lines_before = _lines(configuration), _lines(before)
    new = _addresses(lines - lines_before)
    return new - _addresses(lines_before) if new else new


def _lines(configuration: str) -> frozenset[str]:
    """All `bind` lines, and perhaps others."""
    return frozenset(line for line in configuration.split("\n") if "bind" in line)


def _addresses(lines: Iterable[str]) -> frozenset[Address]:
    return frozenset(
        address
        for words in map(text.split, lines)
        if words[:1] == ("bind",)
        for address in _literal(words[1:])
    )


def _literal(words: tuple[str, ...]) -> Iterator[Address]:
    if not words or _UNUSUAL.intersection(words):
        return
    for word in words[0].split(","):
        host, _, port = word.rpartition(":")
        try:
            yield Address(str(ipaddress.ip_address(host.strip("[]"))), int(port))
        except ValueError:
            continue
