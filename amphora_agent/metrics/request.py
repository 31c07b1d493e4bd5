"""The request of a scrape: `GET /metrics?scope=listener&scope=pool`."""

from typing import NamedTuple
from urllib.parse import parse_qsl

from amphora_agent.model.figures import Scope

_PATH = "/metrics"

#: Octavia's names, and those that haproxy's exporter has for the same.
_SCOPES: dict[str, frozenset[Scope]] = {
    "*": frozenset(Scope),
    "global": frozenset({Scope.LOADBALANCER, Scope.MEMORY_POOL}),
    "frontend": frozenset({Scope.LISTENER}),
    "backend": frozenset({Scope.POOL}),
    "server": frozenset({Scope.MEMBER}),
    **{scope.value: frozenset({scope}) for scope in Scope},
}


class Request(NamedTuple):
    """`body`: whether the answer has one. `chunked`: whether it may come in chunks."""

    scopes: frozenset[Scope]
    body: bool
    chunked: bool


class Refused(Exception):
    """The request is not answered; the text says why, `status` in HTTP."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def parse(header: bytes) -> Request:
    """Read the header of a request.

    Raises:
        Refused
    """
    words = header.partition(b"\r\n")[0].decode("latin-1").split(" ")
    if len(words) != 3 or words[2] not in {"HTTP/1.0", "HTTP/1.1"} or b"\r\n\r\n" not in header:
        raise Refused("400 Bad Request", "not an HTTP request")
    method, target, version = words
    path, _, query = target.partition("?")
    if path != _PATH:
        raise Refused("404 Not Found", f"metrics are at {_PATH}")
    if method not in {"GET", "HEAD"}:
        raise Refused("405 Method Not Allowed", "metrics can only be read")
    asked = [value for name, value in parse_qsl(query, keep_blank_values=True) if name == "scope"]
    if not all(value in _SCOPES for value in asked):
        raise Refused("400 Bad Request", f"scope is one of {' '.join(_SCOPES)}")
    scopes = frozenset[Scope]().union(*(_SCOPES[value] for value in asked or ["*"]))
    return Request(scopes, method == "GET", version == "HTTP/1.1")
