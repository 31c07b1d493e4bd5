"""Prometheus' scrape and its text format, version 0.0.4.

Written here and not by a library: a load balancer may have a million samples, which are written
column by column, and the rest of a library would be memory for nothing.
"""

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple
from urllib.parse import parse_qsl

from amphora_agent.model.status import Scope

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Kind = Literal["counter", "gauge", "histogram"]


class Sample(NamedTuple):
    """One value. `suffix` is what a histogram adds to the name of its family."""

    labels: Mapping[str, str]
    value: float
    suffix: str = ""


def head(name: str, kind: Kind, help_text: str) -> str:
    """Write the lines that begin a family."""
    return f"# HELP {name} {help_text}\n# TYPE {name} {kind}\n"


def family(name: str, kind: Kind, help_text: str, samples: Iterable[Sample]) -> str:
    """Write a family with its samples."""
    lines = [head(name, kind, help_text)]
    for sample in samples:
        labels = label_set(sample.labels)
        braces = f"{{{labels}}}" if labels else ""
        lines.append(f"{name}{sample.suffix}{braces} {format_number(sample.value)}\n")
    return "".join(lines)


def label_set(labels: Mapping[str, str]) -> str:
    """Write what stands between the braces."""
    return ",".join(f'{name}="{_escape(value)}"' for name, value in labels.items())


def format_number(value: float) -> str:
    """Write a value; whole ones have no point, and none loses a digit."""
    if value == float("inf"):
        return "+Inf"
    return repr(int(value)) if value == int(value) else repr(value)


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


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


class Scrape(NamedTuple):
    """`body`: whether the answer has one. `chunked`: whether it may come in chunks."""

    scopes: frozenset[Scope]
    body: bool
    chunked: bool


class ScrapeRefused(Exception):
    """The request is not answered; the text says why, `status` in HTTP."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def parse_scrape(header: bytes) -> Scrape:
    """Read the header of a scrape.

    Raises:
        ScrapeRefused
    """
    words = header.partition(b"\r\n")[0].decode("latin-1").split(" ")
    if len(words) != 3 or words[2] not in {"HTTP/1.0", "HTTP/1.1"} or b"\r\n\r\n" not in header:
        raise ScrapeRefused("400 Bad Scrape", "not an HTTP request")
    method, target, version = words
    path, _, query = target.partition("?")
    if path != _PATH:
        raise ScrapeRefused("404 Not Found", f"metrics are at {_PATH}")
    if method not in {"GET", "HEAD"}:
        raise ScrapeRefused("405 Method Not Allowed", "metrics can only be read")
    asked = [value for name, value in parse_qsl(query, keep_blank_values=True) if name == "scope"]
    if not all(value in _SCOPES for value in asked):
        raise ScrapeRefused("400 Bad Scrape", f"scope is one of {' '.join(_SCOPES)}")
    scopes = frozenset[Scope]().union(*(_SCOPES[value] for value in asked or ["*"]))
    return Scrape(scopes, method == "GET", version == "HTTP/1.1")
