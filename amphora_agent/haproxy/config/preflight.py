"""Calculate the file descriptors and memory that a start needs, which `haproxy -c` does not check.

Needs of descriptors are lower bounds, so that nothing is refused that would start. Measured with
2.6, 2.8 and 3.0, which agree. Needs of memory are estimates, a little too high, from what each of
these versions takes for an object (decision 0028).
"""

import re
from bisect import bisect_right
from collections import Counter
from functools import partial
from typing import NamedTuple

from amphora_agent.haproxy.config import diff, parser
from amphora_agent.haproxy.config.parser import Config, Section, Texts

#: Bytes of one block of the TLS session cache: 200 and its overhead. Each worker allocates all of
#: them when it starts, if a bind line has `ssl`.
_CACHE_BLOCK = 248
#: Blocks of that cache by default.
_CACHE_BLOCKS = 20_000
_OBJECT = re.compile(r"(?m)^[ \t]*(frontend|backend|listen|server|bind|default-server)[ \t](.*)$")
_CHECKED, _TLS = re.compile(r"(?:^|\s)check(?:\s|$)"), re.compile(r"(?:^|\s)ssl(?:\s|$)")
_SERVER_KINDS = (("checked", _CHECKED), ("tls", _TLS))
_THREADS = re.compile(r"(?m)^[ \t]*nbthread[ \t]+(\d{1,4})")
#: Keywords that must be parsed.
_KEYWORDS = frozenset(
    {
        "bind", "fd-hard-limit", "fullconn", "maxconn", "maxpipes", "no", "option", "server",
        "strict-limits", "tune.ssl.cachesize", "ulimit-n",
    }
)  # fmt: skip
#: Keywords of `global` that change what haproxy does when descriptors are short.
_OTHERWISE = ("fd-hard-limit", "strict-limits", "ulimit-n")
_SPLICING = ("splice-auto", "splice-request", "splice-response")
_MAXCONN = re.compile(r"maxconn[ \t]+(\d{1,10})")
#: Words of lines that take a socket.
_SOCKETS = ("bind ", "check")
_NUMBER = re.compile(r"\d{1,10}")
#: Descriptors of haproxy's own that are not counted: for threads, peers and stats sockets.
_OTHERS = 256
#: Descriptors that a worker should have beside the need of its text: at a reload it inherits the
#: listening sockets of its predecessor, which may have had thousands of listeners more.
_ROOM = 12_000


class MemoryNeed(NamedTuple):
    """Bytes of memory: the most that a start or reload takes before the worker serves, and what the
    worker keeps then."""

    start: int
    serving: int

    def most(self) -> int:
        """Return what a start needs, and later a reload with two workers."""
        return self.start + self.serving


class DescriptorNeed(NamedTuple):
    """The descriptors that a start needs at least, and for how many connections."""

    least: int
    connections: int


class Limits(NamedTuple):
    """Settings that the agent adds to `global` so that a start succeeds; None adds nothing.

    `maxconn` replaces that of the text, if `wanted` connections need more descriptors than there
    are. `maxpipes` reserves descriptors: haproxy reserves two for each pipe, and makes a pipe only
    when it splices.
    """

    maxconn: int | None = None
    maxpipes: int | None = None
    wanted: int = 0


class _Costs(NamedTuple):
    """KiB that a version of haproxy takes, each as (at the start, serving): by itself; for a
    frontend or backend; for a server, and more if it is checked, has TLS, is checked by TLS, and
    for each thread beyond two; for an address with TLS, without the session cache."""

    own: tuple[float, float]
    proxy: tuple[float, float]
    server: tuple[float, float]
    check: tuple[float, float]
    tls: tuple[float, float]
    tls_check: tuple[float, float]
    thread: tuple[float, float]
    tls_bind: tuple[float, float]


#: Costs by the first version with them. Measured as the memory of a control group, with texts of
#: both APIs, while all checks are under way at once.
_COSTS = {
    (3, 0): _Costs((10_700, 5_800), (14.2, 11.6), (4.5, 4.5), (4.4, 1.6), (17, 17), (31, 45),
                   (0.1, 0.1), (41, 36)),
    (2, 8): _Costs((6_300, 3_100), (13.2, 9.4), (4.0, 4.0), (5.3, 2.0), (14, 14), (25, 34),
                   (0.1, 0.1), (41, 34)),
    (0, 0): _Costs((6_700, 3_900), (17.5, 13.0), (6.0, 6.0), (3.4, 1.5), (14, 14), (30, 30),
                   (0.9, 0.9), (41, 34)),
}  # fmt: skip
#: A factor for what a text has beside these objects.
_MARGIN = 1.05


def choose_limits(content: str, limit: int, asked: int | None) -> Limits:
    """Return the settings that a configuration needs if a process may have `limit` descriptors.
    `asked` is its connection limit if that was taken out."""
    if asked is None:
        short = find_shortage({"": content}, limit)
        if short is None:
            return Limits(maxpipes=_choose_pipes(content, limit))
        asked = short.connections
    fits = _find_most_connections(content, limit)
    return Limits(maxconn=min(asked, fits), wanted=asked) if fits else Limits()


def choose_spare_pipes(connections: int, sockets: int, limit: int) -> int | None:
    """Return `maxpipes` that leaves `_ROOM` descriptors to inherit, or as many as there are; None
    if there is room anyway.

    haproxy cannot change the number at run time. So it is the same for every small number of
    connections, and shrinks by halves: one more connection or server does not change it.
    """
    room = _ROOM
    while room and 2 * connections + room + sockets + _OTHERS > limit:
        room //= 2
    # With splicing, haproxy itself takes a pipe for every fourth connection.
    return room // 2 if room // 2 > connections // 4 else None


def find_shortage(texts: Texts, limit: int) -> DescriptorNeed | None:
    """Return what a start needs, if that is certainly more than `limit`.

    haproxy needs two descriptors for each connection; two more for the pipe of every fourth
    connection if they are spliced; one for each listening address and each health check.
    """
    numbers: set[str] = set().union(*map(_MAXCONN.findall, texts.values()))
    connections = max(map(int, numbers), default=0)
    # Two upper bounds first: parsing takes longest.
    most = connections * 5 // 2
    if most + sum(map(len, texts.values())) // len("bind :") <= limit:
        return None
    if most + sum(map(_estimate_sockets, texts.values())) <= limit:
        return None
    parsed = parser.parse_config(parser.join_texts(texts), _KEYWORDS)
    wanted = _find_number(parsed, "maxconn")
    if not wanted or any(_find_in_global(parsed, keyword) for keyword in _OTHERWISE):
        return None
    least = _count_descriptors(parsed, wanted)
    return DescriptorNeed(least, wanted) if least > limit else None


def estimate_memory(texts: Texts, version: str, threads: int) -> MemoryNeed:
    """Return what a haproxy of this version takes with these texts, without a TLS session cache
    whose size they say. It has so many `threads` unless a text says otherwise."""
    counts = Counter(_classify(line) for text in texts.values() for line in _OBJECT.finditer(text))
    nbthreads = [int(number) for text in texts.values() for number in _THREADS.findall(text)]
    more_threads = max(0, (nbthreads[-1] if nbthreads else threads) - 2)
    costs = _find_costs(version)
    checked = counts["checked"] + counts["checked tls"]
    tls = counts["tls"] + counts["checked tls"]
    servers = counts["plain"] + checked + counts["tls"]
    has_cache = counts["tls bind"] and not estimate_tls_cache(texts)
    cache = _CACHE_BLOCKS * _CACHE_BLOCK if has_cache else 0

    def total(when: int) -> int:
        kibibytes = (
            costs.own[when]
            + counts["proxy"] * costs.proxy[when]
            + servers * (costs.server[when] + more_threads * costs.thread[when])
            + checked * costs.check[when]
            + tls * costs.tls[when]
            + counts["checked tls"] * costs.tls_check[when]
            + counts["tls bind"] * costs.tls_bind[when]
        )
        return int(kibibytes * _MARGIN) * 1024 + cache

    return MemoryNeed(total(0), total(1))


def estimate_tls_cache(texts: Texts) -> int:
    """Return the bytes of a TLS session cache whose size a text says."""
    # Most texts have no such line, and haproxy's default is small.
    if not any(diff.has_word(each, "tune.ssl.cachesize") for each in texts.values()):
        return 0
    parsed = parser.parse_config(parser.join_texts(texts), _KEYWORDS)
    binds = (bind for section in parsed.sections for bind in section.all("bind"))
    if not any("ssl" in bind.words for bind in binds):
        return 0
    return (_find_number(parsed, "tune.ssl.cachesize") or 0) * _CACHE_BLOCK


def _find_most_connections(content: str, limit: int) -> int:
    """Return how many connections `limit` descriptors allow; 0 when not even one.

    The number is rounded to two digits, so that a server more or less does not change it.
    """
    parsed = parser.parse_config(content, _KEYWORDS)
    needs = partial(_count_descriptors, parsed)
    most = max(0, bisect_right(range(limit // 2 + 1), limit - _OTHERS, key=needs) - 1)
    unit = int(10 ** max(0, len(str(most)) - 2))
    return most // unit * unit


def _choose_pipes(content: str, limit: int) -> int | None:
    first = next((b for b in parser.split_file("", content) if b.kind == "global"), None)
    parsed = parser.parse_config(first.text if first else "", _KEYWORDS | {"maxpipes"})
    connections = _find_number(parsed, "maxconn")
    decided = any(_find_in_global(parsed, keyword) for keyword in (*_OTHERWISE, "maxpipes"))
    if not connections or decided:
        return None
    return choose_spare_pipes(connections, _estimate_sockets(content), limit)


def _estimate_sockets(content: str) -> int:
    """Return an upper bound of the sockets that a text takes."""
    return sum(diff.count_word(content, word) for word in _SOCKETS)


def _count_descriptors(parsed: Config, connections: int) -> int:
    return 2 * connections + 2 * _count_pipes(parsed, connections) + _count_sockets(parsed)


def _classify(line: re.Match[str]) -> str:
    keyword, rest = line.groups()
    if keyword == "server":
        kinds = [kind for kind, sign in _SERVER_KINDS if sign.search(rest)]
        return " ".join(kinds) or "plain"
    if keyword == "bind":
        return "tls bind" if _TLS.search(rest) else "bind"
    return "default" if keyword == "default-server" else "proxy"


def _find_costs(version: str) -> _Costs:
    found = re.match(r"(\d+)\.(\d+)", version)
    series = (int(found[1]), int(found[2])) if found else (0, 0)
    return next(costs for first, costs in _COSTS.items() if series >= first)


def _find_in_global(parsed: Config, keyword: str) -> list[tuple[str, ...]]:
    """Return the statements of `global` with this keyword, also those with `no`."""
    return [line.words for line in parsed.lines("global") if keyword in line.words[:2]]


def _find_number(parsed: Config, keyword: str) -> int | None:
    """Return the last number for a keyword in `global`; None if there is none for certain."""
    for words in _find_in_global(parsed, keyword)[-1:]:
        if words[0] == keyword and len(words) == 2 and _NUMBER.fullmatch(words[1]):
            return int(words[1])
    return None


def _count_pipes(parsed: Config, connections: int) -> int:
    if _find_in_global(parsed, "maxpipes"):
        return _find_number(parsed, "maxpipes") or 0
    defaults = list(parsed.of_kind("defaults"))
    splice = len(defaults) == 1 and any(
        directive.words[1:2] and directive.words[1] in _SPLICING
        for directive in defaults[0].all("option")
    )
    denied = any(section.first("no") for section in parsed.sections)
    if not splice or denied:
        return 0
    most = max(
        sum(_find_limit(keyword, proxy, *defaults) or connections for proxy in parsed.of_kind(kind))
        for kind, keyword in (("frontend", "maxconn"), ("backend", "fullconn"))
    )
    return min(most, connections) // 4


def _find_limit(keyword: str, *sections: Section) -> int:
    """Return the number for a keyword in the first section that has one; 0 for none."""
    for line in (section.first(keyword) for section in sections):
        if line and len(line.words) == 2 and _NUMBER.fullmatch(line.words[1]):
            return int(line.words[1])
    return 0


def _count_sockets(parsed: Config) -> int:
    """Count listening addresses and checks, also the disabled ones."""
    binds = (line.words for line in parsed.lines("frontend", "bind") if len(line.words) > 1)
    sockets = sum(1 + words[1].count(",") for words in binds)
    return sockets + sum("check" in line.words for line in parsed.lines("backend", "server"))
