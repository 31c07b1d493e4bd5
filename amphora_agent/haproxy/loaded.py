"""Which files a configuration names, and as what haproxy loads them."""

import enum
import re
from collections.abc import Iterator
from typing import NamedTuple

from amphora_agent.haproxy.text import Texts, split


class Role(enum.Enum):
    """As what a file is loaded. OTHER is what cannot be replaced while haproxy runs."""

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
#: Lines where these keywords mean what they seem to.
_LINES = frozenset({"bind", "server"})
_BASE = re.compile(r"\b(?:ca|crt)-base\b")
_BUFFER_SIZE = re.compile(r"^[ \t]*tune\.bufsize[ \t]+(\S+)", re.MULTILINE)
_DEFAULT_BUFFER_SIZE = 16384


def roles(texts: Texts, path: str) -> frozenset[Role]:
    """As what these texts name a file."""
    return frozenset(
        role
        for text in texts.values()
        for line in _lines_with(text, path)
        for role in _roles_in(line, path)
    )


def names_directory(texts: Texts, directory: str) -> bool:
    """Whether these texts name a directory: then all that is in it is loaded."""
    end_of_word = re.compile(re.escape(directory) + r"/?(?=[\s#'\"]|\Z)")
    return any(
        {directory, directory + "/"}.intersection(split(_line_at(text, found.start())))
        for text in texts.values()
        for found in end_of_word.finditer(text)
    )


def has_bases(texts: Texts) -> bool:
    """Whether files may be named relative to `ca-base` or `crt-base`: then no path can be looked
    for."""
    return any("-base" in text and _BASE.search(text) for text in texts.values())


def buffer_size(texts: Texts) -> int:
    """How large a buffer is: what is said at once to a running haproxy must fit into one. 0 when
    it cannot be told."""
    found = [
        size
        for text in texts.values()
        if "tune.bufsize" in text
        for size in _BUFFER_SIZE.findall(text)
    ]
    if not found:
        return _DEFAULT_BUFFER_SIZE
    return int(found[-1]) if re.fullmatch(r"[0-9]{1,9}", found[-1]) else 0


class Entry(NamedTuple):
    """One line of a crt-list; `rest` is what follows the path: options and names."""

    path: str
    rest: str = ""


def entries(crt_list: str) -> tuple[Entry, ...]:
    """The entries of a crt-list."""
    found = []
    for line in crt_list.split("\n"):
        words = line.split("#")[0].split()
        if words:
            found.append(Entry(words[0], " ".join(words[1:])))
    return tuple(found)


def _lines_with(text: str, part: str) -> Iterator[str]:
    """The lines that contain something."""
    at = text.find(part)
    while at >= 0:
        line = _line_at(text, at)
        yield line
        at = text.find(part, text.rfind("\n", 0, at) + 1 + len(line))


def _line_at(text: str, position: int) -> str:
    end = text.find("\n", position)
    return text[text.rfind("\n", 0, position) + 1 : end if end >= 0 else len(text)]


def _roles_in(line: str, path: str) -> set[Role]:
    words = split(line)
    if path not in words:
        # Part of a longer word, a comment, or written in an unusual way.
        return {Role.OTHER} if any(path in word for word in words) else set()
    found = set()
    for position, word in enumerate(words):
        if word == path:
            role = _ROLES.get(words[position - 1]) if words[0] in _LINES else None
            found.add(role or Role.OTHER)
    return found
