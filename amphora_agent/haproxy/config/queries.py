"""Find Octavia's objects in a configuration, the addresses at which it listens, and the files that
it names with what haproxy loads them as.
"""

import enum
import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import NamedTuple

from amphora_agent.haproxy.config.parser import Config, Section, Texts, split_words
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


class Role(enum.Enum):
    """What a file is loaded as. OTHER cannot be replaced while haproxy runs."""

    CERTIFICATE = "certificate"
    CRT_LIST = "crt-list"
    AUTHORITIES = "CA file"
    REVOCATIONS = "CRL file"
    OTHER = "file"


_ROLES = {
    "crt": Role.CERTIFICATE,
    "crt-list": Role.CRT_LIST,
    "ca-file": Role.AUTHORITIES,
    "crl-file": Role.REVOCATIONS,
}
#: Directives in which these keywords have their usual meaning.
_LINES = frozenset({"bind", "server"})
#: Characters that change how words are read, and parts of the keywords before a file's name.
_QUOTES, _QUOTE = "\\'\"", re.compile(r"[\\'\"]")
_PARTS = ("crt", "-file")
_BASE = re.compile(r"\b(?:ca|crt)-base\b")
_BUFFER_SIZE = re.compile(r"^[ \t]*tune\.bufsize[ \t]+(\S+)", re.MULTILINE)
_DEFAULT_BUFFER_SIZE = 16384


def find_roles(texts: Texts, path: str, quoted: Iterable[str] | None = None) -> frozenset[Role]:
    """Return what a file is loaded as. `quoted` are the `find_quoted_lines` of the texts, if at
    hand."""
    lines = [line for text in texts.values() for line in _lines_with(text, path)]
    lines += find_quoted_lines(texts) if quoted is None else quoted
    return frozenset(role for line in lines for role in _find_roles_in_line(line, path))


def find_quoted_lines(texts: Texts) -> tuple[str, ...]:
    """Return the lines that may name a file for TLS in quotes or with escapes."""
    return tuple(line for text in texts.values() for line in _quoted_lines(text))


def names_directory(texts: Texts, directory: str) -> bool:
    """Whether these texts name a directory: then haproxy loads all of it."""
    end_of_word = re.compile(re.escape(directory) + r"/?(?=[\s#'\"]|\Z)")
    return any(
        {directory, directory + "/"}.intersection(split_words(_line_at(text, found.start())))
        for text in texts.values()
        for found in end_of_word.finditer(text)
    )


def has_bases(texts: Texts) -> bool:
    """Whether `ca-base` or `crt-base` may stand before names of files: then no path can be searched
    for."""
    return any("-base" in text and _BASE.search(text) for text in texts.values())


def read_buffer_size(texts: Texts) -> int:
    """Return the bytes of a buffer of haproxy: a command to it must fit into one. 0 if the size is
    unknown."""
    sizes = [
        size
        for text in texts.values()
        if "tune.bufsize" in text
        for size in _BUFFER_SIZE.findall(text)
    ]
    if not sizes:
        return _DEFAULT_BUFFER_SIZE
    return int(sizes[-1]) if re.fullmatch(r"[0-9]{1,9}", sizes[-1]) else 0


def find_crt_lists(texts: Texts) -> frozenset[str]:
    """Return the crt-lists that these texts name."""
    paths = set()
    for text in texts.values():
        lines = (*_lines_with(text, "crt-list"), *_quoted_lines(text))
        for words in map(split_words, lines):
            paths |= {word for before, word in pairwise(words) if before == "crt-list"}
    return frozenset(paths)


def find_files_below(texts: Texts, directory: str) -> Mapping[str, frozenset[Role]]:
    """Return the files of a directory that these texts name for TLS, and their roles."""
    files: dict[str, set[Role]] = {}
    roles = {**_ROLES, "ca-verify-file": Role.AUTHORITIES}
    named = re.compile(rf"({'|'.join(roles)})[ \t]+({re.escape(directory)}/[^\s#'\"\\]+)")
    for text in texts.values():
        pairs = named.findall(text)
        for line in _quoted_lines(text):
            pairs += pairwise(split_words(line))
        for keyword, path in pairs:
            if keyword in roles and path.startswith(f"{directory}/"):
                files.setdefault(path, set()).add(roles[keyword])
    return {path: frozenset(found) for path, found in files.items()}


def _lines_with(text: str, part: str) -> Iterator[str]:
    """Yield the lines that contain `part`."""
    at = text.find(part)
    while at >= 0:
        line = _line_at(text, at)
        yield line
        at = text.find(part, text.rfind("\n", 0, at) + 1 + len(line))


def _quoted_lines(text: str) -> Iterator[str]:
    """Yield the lines about files with quotes or escapes."""
    plain = text
    for quote in _QUOTES:
        plain = plain.replace(quote, "")
    if plain is text:
        return
    numbers = {*_number_lines_with(text, "\\x")}
    for part in _PARTS:
        numbers.update(_number_lines_with(plain, part))
    lines = text.split("\n")
    yield from (lines[number] for number in sorted(numbers) if _QUOTE.search(lines[number]))


def _number_lines_with(text: str, part: str) -> Iterator[int]:
    number = counted = 0
    at = text.find(part)
    while at >= 0:
        number += text.count("\n", counted, at)
        counted = at
        yield number
        end = text.find("\n", at)
        at = text.find(part, end) if end >= 0 else -1


def _line_at(text: str, position: int) -> str:
    end = text.find("\n", position)
    return text[text.rfind("\n", 0, position) + 1 : end if end >= 0 else len(text)]


def _find_roles_in_line(line: str, path: str) -> set[Role]:
    words = split_words(line)
    if path not in words:
        # Part of a longer word, a comment, or written in an unusual way.
        return {Role.OTHER} if any(path in word for word in words) else set()
    roles = _ROLES if words[0] in _LINES else {}
    return {
        roles.get(keyword, Role.OTHER) for keyword, word in pairwise(("", *words)) if word == path
    }
