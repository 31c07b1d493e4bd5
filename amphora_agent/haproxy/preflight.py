"""What haproxy's own check does not try: whether a start finds descriptors and memory enough.

What is said here is certain, so that nothing is refused that would start: needs are lower bounds,
limits upper ones. Measured with 2.6, 2.8 and 3.0, which agree.
"""

import re
from typing import NamedTuple

from amphora_agent.haproxy import signs, text
from amphora_agent.haproxy.text import Config, Section, Texts

#: Bytes of one block of the TLS session cache: 200 and what keeps it. All are there from the start,
#: of each worker anew, wherever a bind line has `ssl`.
_CACHE_BLOCK = 248

#: What must be parsed to know what a start needs.
_KEYWORDS = frozenset(
    {
        "bind", "fd-hard-limit", "fullconn", "maxconn", "maxpipes", "no", "option", "server",
        "strict-limits", "tune.ssl.cachesize", "ulimit-n",
    }
)  # fmt: skip
#: Of these in `global` depends otherwise what happens when descriptors are short.
_OTHERWISE = ("fd-hard-limit", "strict-limits", "ulimit-n")
_SPLICING = ("splice-auto", "splice-request", "splice-response")

_MAXCONN = re.compile(r"maxconn[ \t]+(\d{1,10})")
#: What has one of these takes a socket.
_SOCKETS = ("bind ", "check")
_NUMBER = re.compile(r"\d{1,10}")


class Descriptors(NamedTuple):
    """What a start needs at least, and for how many connections."""

    least: int
    connections: int


def descriptors(texts: Texts, limit: int) -> Descriptors | None:
    """What a start needs, when that is more than `limit` for certain.

    haproxy wants two for each connection; a quarter of the connections may have a pipe of two
    more where they are spliced; one for each listening address and each health check.
    """
    said = (number for each in texts.values() for number in _MAXCONN.findall(each))
    connections = max(map(int, said), default=0)
    # More than there can be, and then enough but for some dozens of haproxy's own, which nobody
    # counts here: what must be parsed costs most.
    most = connections * 5 // 2
    if most + sum(map(len, texts.values())) // len("bind :") <= limit:
        return None
    if most + sum(signs.count(t, word) for t in texts.values() for word in _SOCKETS) <= limit:
        return None
    parsed = text.parse(text.whole(texts), _KEYWORDS)
    wanted = _number(parsed, "maxconn")
    if not wanted or any(_in_global(parsed, keyword) for keyword in _OTHERWISE):
        return None
    least = 2 * wanted + 2 * _pipes(parsed, wanted) + _sockets(parsed)
    return Descriptors(least, wanted) if least > limit else None


def tls_cache(texts: Texts) -> int:
    """Bytes that each new worker takes for its TLS session cache at least."""
    # Most texts have no such line, and haproxy's own size is nothing to worry about.
    if not any(signs.has(each, "tune.ssl.cachesize") for each in texts.values()):
        return 0
    parsed = text.parse(text.whole(texts), _KEYWORDS)
    binds = (bind for section in parsed.sections for bind in section.all("bind"))
    if not any("ssl" in bind.words for bind in binds):
        return 0
    return (_number(parsed, "tune.ssl.cachesize") or 0) * _CACHE_BLOCK


def _in_global(parsed: Config, keyword: str) -> list[tuple[str, ...]]:
    """The statements of `global` with this keyword, also those that deny it."""
    return [
        directive.words
        for section in parsed.of_kind("global")
        for directive in section.directives
        if keyword in directive.words[:2]
    ]


def _number(parsed: Config, keyword: str) -> int | None:
    """What `global` says last; None when that is nothing, or nothing certain."""
    for words in _in_global(parsed, keyword)[-1:]:
        if words[0] == keyword and len(words) == 2 and _NUMBER.fullmatch(words[1]):
            return int(words[1])
    return None


def _pipes(parsed: Config, connections: int) -> int:
    if _in_global(parsed, "maxpipes"):
        return _number(parsed, "maxpipes") or 0
    defaults = list(parsed.of_kind("defaults"))
    splice = len(defaults) == 1 and any(
        directive.words[1:2] and directive.words[1] in _SPLICING
        for directive in defaults[0].all("option")
    )
    denied = any(section.first("no") for section in parsed.sections)
    if not splice or denied:
        return 0
    most = max(
        sum(
            _limit(frontend, "maxconn", *defaults) or connections
            for frontend in parsed.of_kind("frontend")
        ),
        sum(
            _limit(backend, "fullconn", *defaults) or connections
            for backend in parsed.of_kind("backend")
        ),
    )
    return min(most, connections) // 4


def _limit(section: Section, keyword: str, *otherwise: Section) -> int:
    for said in (section.first(keyword), *(other.first(keyword) for other in otherwise)):
        if said and len(said.words) == 2 and _NUMBER.fullmatch(said.words[1]):
            return int(said.words[1])
    return 0


def _sockets(parsed: Config) -> int:
    """Listening addresses and checks; what is disabled has its own, too."""
    binds = sum(
        1 + bind.words[1].count(",")
        for frontend in parsed.of_kind("frontend")
        for bind in frontend.all("bind")
        if len(bind.words) > 1
    )
    checks = sum(
        "check" in server.words
        for backend in parsed.of_kind("backend")
        for server in backend.all("server")
    )
    return binds + checks
