"""What haproxy's own check does not try: whether a start finds descriptors and memory enough.

What is said of descriptors is certain, so that nothing is refused that would start: needs are lower
bounds, limits upper ones. Measured with 2.6, 2.8 and 3.0, which agree. What is said of memory is an
estimate from what each of these versions takes for an object (decision 0028): a little too high.
"""

import re
from typing import NamedTuple

from amphora_agent.haproxy.config import parser, word_counts
from amphora_agent.haproxy.config.parser import Config, Section, Texts

#: Bytes of one block of the TLS session cache: 200 and what keeps it. All are there from the start,
#: of each worker anew, wherever a bind line has `ssl`.
_CACHE_BLOCK = 248

#: Blocks of that cache where the text does not say how many.
_CACHE_BLOCKS = 20_000


class MemoryNeed(NamedTuple):
    """Bytes of memory: most of what a start or reload takes before the worker serves, and what the
    worker keeps then."""

    start: int
    serving: int

    def most(self) -> int:
        """What there must be for a start, and for a reload later, when two workers are there."""
        return self.start + self.serving


class _Costs(NamedTuple):
    """What a version of haproxy takes, each as (at the start, serving), in KiB: by itself; for a
    frontend or backend; for a server, one that is checked, has TLS, is checked by TLS, and for each
    thread beyond two; for an address with TLS, beside the session cache."""

    own: tuple[float, float]
    proxy: tuple[float, float]
    server: tuple[float, float]
    check: tuple[float, float]
    tls: tuple[float, float]
    tls_check: tuple[float, float]
    thread: tuple[float, float]
    tls_bind: tuple[float, float]


#: By the first version that has them. Measured as the memory of a control group, with texts of both
#: APIs. Checks count at their most: all under way at once.
_COSTS = {
    (3, 0): _Costs((10_700, 5_800), (14.2, 11.6), (4.5, 4.5), (4.4, 1.6), (17, 17), (31, 45),
                   (0.1, 0.1), (41, 36)),
    (2, 8): _Costs((6_300, 3_100), (13.2, 9.4), (4.0, 4.0), (5.3, 2.0), (14, 14), (25, 34),
                   (0.1, 0.1), (41, 34)),
    (0, 0): _Costs((6_700, 3_900), (17.5, 13.0), (6.0, 6.0), (3.4, 1.5), (14, 14), (30, 30),
                   (0.9, 0.9), (41, 34)),
}  # fmt: skip
#: Of what was measured, for what a text has beside these objects.
_MARGIN = 1.05

_OBJECT = re.compile(r"(?m)^[ \t]*(frontend|backend|listen|server|bind|default-server)[ \t](.*)$")
_CHECKED, _TLS = re.compile(r"(?:^|\s)check(?:\s|$)"), re.compile(r"(?:^|\s)ssl(?:\s|$)")
_THREADS = re.compile(r"(?m)^[ \t]*nbthread[ \t]+(\d{1,4})")

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


#: Descriptors of haproxy's own that nobody counts here: of its threads, peers and stats sockets.
_OTHERS = 256
#: Descriptors that a worker should have room for, whatever its text needs: at a reload it inherits
#: the listening sockets of its predecessor, which may have had thousands of listeners more.
_ROOM = 12_000


class DescriptorNeed(NamedTuple):
    """What a start needs at least, and for how many connections."""

    least: int
    connections: int


class Limits(NamedTuple):
    """What the agent adds to `global` for a start that succeeds; None adds nothing.

    `maxconn` replaces that of the text, since `wanted` connections need more descriptors than there
    are. `maxpipes` makes room for descriptors: haproxy reserves two for each pipe, and
    makes a pipe only when it splices.
    """

    maxconn: int | None = None
    maxpipes: int | None = None
    wanted: int = 0


def choose_limits(content: str, limit: int, asked: int | None) -> Limits:
    """Return what a configuration needs beside its own limits, where a process may have `limit`
    descriptors. `asked` is its connection limit where that was taken out."""
    if asked is None:
        short = find_shortage({"": content}, limit)
        if short is None:
            return Limits(maxpipes=_pipes_for_room(content, limit))
        asked = short.connections
    fits = _most_connections(content, limit)
    return Limits(maxconn=min(asked, fits), wanted=asked) if fits else Limits()


def _most_connections(content: str, limit: int) -> int:
    """Return how many connections `limit` descriptors allow; 0 when not even one.

    The number has two digits that count, so that a member more or less leaves it as it is.
    """
    low, high = 0, limit // 2
    parsed = parser.parse_config(content, _KEYWORDS)
    while low < high:
        middle = (low + high + 1) // 2
        if _least(parsed, middle) + _OTHERS <= limit:
            low = middle
        else:
            high = middle - 1
    unit = int(10 ** max(0, len(str(low)) - 2))
    return low // unit * unit


def choose_spare_pipes(connections: int, sockets: int, limit: int) -> int | None:
    """Return `maxpipes` with which a worker for so many connections has room for `_ROOM` inherited
    descriptors, or for as many as there are; None where it has room anyway.

    haproxy cannot change the number at run time. So it is the same for every small number of
    connections, and shrinks by halves: a connection or a member more leaves it as it is.
    """
    room = _ROOM
    while room and 2 * connections + room + sockets + _OTHERS > limit:
        room //= 2
    # Where connections are spliced, haproxy itself takes a pipe for every fourth.
    return room // 2 if room // 2 > connections // 4 else None


def _pipes_for_room(content: str, limit: int) -> int | None:
    first = next((each for each in parser.split_file("", content) if each.kind == "global"), None)
    parsed = parser.parse_config(first.text if first else "", _KEYWORDS | {"maxpipes"})
    connections = _number(parsed, "maxconn")
    decided = any(_in_global(parsed, keyword) for keyword in (*_OTHERWISE, "maxpipes"))
    if not connections or decided:
        return None
    sockets = sum(word_counts.count_word(content, word) for word in _SOCKETS)
    return choose_spare_pipes(connections, sockets, limit)


def find_shortage(texts: Texts, limit: int) -> DescriptorNeed | None:
    """What a start needs, when that is more than `limit` for certain.

    haproxy wants two for each connection; a quarter of the connections may have a pipe of two
    more where they are spliced; one for each listening address and each health check.
    """
    said: set[str] = set().union(*map(_MAXCONN.findall, texts.values()))
    connections = max(map(int, said), default=0)
    # More than there can be, and then enough but for some dozens of haproxy's own, which nobody
    # counts here: what must be parsed costs most.
    most = connections * 5 // 2
    if most + sum(map(len, texts.values())) // len("bind :") <= limit:
        return None
    if (
        most + sum(word_counts.count_word(t, word) for t in texts.values() for word in _SOCKETS)
        <= limit
    ):
        return None
    parsed = parser.parse_config(parser.join_texts(texts), _KEYWORDS)
    wanted = _number(parsed, "maxconn")
    if not wanted or any(_in_global(parsed, keyword) for keyword in _OTHERWISE):
        return None
    least = _least(parsed, wanted)
    return DescriptorNeed(least, wanted) if least > limit else None


def _least(parsed: Config, connections: int) -> int:
    return 2 * connections + 2 * _pipes(parsed, connections) + _sockets(parsed)


def estimate_memory(texts: Texts, version: str, threads: int) -> MemoryNeed:
    """What a haproxy of this version takes with these texts, beside a TLS session cache whose size
    they say. It begins with so many `threads` unless a text says otherwise."""
    counts: dict[str, int] = {}
    for content in texts.values():
        for name in map(_kind_of, _OBJECT.finditer(content)):
            counts[name] = counts.get(name, 0) + 1
    said = [int(number) for each in texts.values() for number in _THREADS.findall(each)]
    more_threads = max(0, (said[-1] if said else threads) - 2)
    costs = _costs_of(version)
    checked = counts.get("checked", 0) + counts.get("checked tls", 0)
    tls = counts.get("tls", 0) + counts.get("checked tls", 0)
    servers = counts.get("plain", 0) + checked + counts.get("tls", 0)
    has_cache = counts.get("tls bind") and not estimate_tls_cache(texts)
    cache = _CACHE_BLOCKS * _CACHE_BLOCK if has_cache else 0

    def total(when: int) -> int:
        kibibytes = (
            costs.own[when]
            + counts.get("proxy", 0) * costs.proxy[when]
            + servers * (costs.server[when] + more_threads * costs.thread[when])
            + checked * costs.check[when]
            + tls * costs.tls[when]
            + counts.get("checked tls", 0) * costs.tls_check[when]
            + counts.get("tls bind", 0) * costs.tls_bind[when]
        )
        return int(kibibytes * _MARGIN) * 1024 + cache

    return MemoryNeed(total(0), total(1))


def _kind_of(found: re.Match[str]) -> str:
    keyword, rest = found.groups()
    if keyword == "server":
        return (
            " ".join(
                word for word, is_so in (("checked", _CHECKED), ("tls", _TLS)) if is_so.search(rest)
            )
            or "plain"
        )
    if keyword == "bind":
        return "tls bind" if _TLS.search(rest) else "bind"
    return "default" if keyword == "default-server" else "proxy"


def _costs_of(version: str) -> _Costs:
    found = re.match(r"(\d+)\.(\d+)", version)
    series = (int(found[1]), int(found[2])) if found else (0, 0)
    return next(costs for first, costs in _COSTS.items() if series >= first)


def estimate_tls_cache(texts: Texts) -> int:
    """Bytes that each new worker takes for a TLS session cache whose size a text says."""
    # Most texts have no such line, and haproxy's own size is nothing to worry about.
    if not any(word_counts.has_word(each, "tune.ssl.cachesize") for each in texts.values()):
        return 0
    parsed = parser.parse_config(parser.join_texts(texts), _KEYWORDS)
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
