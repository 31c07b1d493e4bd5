"""Find which values differ between two configurations, for the record of a change: old and new, and
in which line. No secret is told.

The words of a line decide what may be told: the values of one that speaks of passwords, keys,
headers or cookies are never told.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import TypeVar

from amphora_agent.haproxy.config import server_line
from amphora_agent.haproxy.config.diff import ConfigDiff
from amphora_agent.haproxy.config.parser import SectionText, split_words
from amphora_agent.haproxy.update.transaction import show_name, show_section
from amphora_agent.model.events import SECRET, Difference

#: Differences that are told of a change.
MOST = 20

#: Keywords whose second word is a part of their name.
_NAMED = frozenset(
    {
        "acl", "bind", "capture", "compression", "declare", "errorfile", "errorloc", "errorloc302",
        "errorloc303", "filter", "group", "hold", "http-after-response", "http-check",
        "http-request", "http-response", "nameserver", "no", "option", "peer", "server",
        "server-template", "stats", "tcp-check", "tcp-request", "tcp-response", "timeout", "user",
    }
)  # fmt: skip
#: Keywords of lines, and kinds of sections, whose values may be secret.
_SECRET_KEYWORDS = frozenset({"password", "insecure-password", "presetenv", "setenv", "user"})
_SECRET_SECTIONS = frozenset({"userlist"})
#: Words of a line whose values may be secret: who somebody is, or what a client sends.
_SECRET_WORDS = re.compile(
    r"""auth | bearer | cook | credential | hdr | header | passw | passphrase | private | pwd
      | secret | session | signature | token | (?<![a-z])api-?_?key | (?<![a-z])keys?(?![a-z])
      | keylog | ://[^/\s]*@""",
    re.VERBOSE | re.IGNORECASE,
)

_Words = tuple[str, ...]
#: The number of a line, and its words.
_Line = tuple[int, _Words]
_Value = TypeVar("_Value", str, _Words)


def compare_values(change: ConfigDiff | None, files: Iterable[str]) -> tuple[Difference, ...]:
    """Return the first values that differ in these files of a change."""
    if change is None:
        return ()
    return tuple(islice(_compare(change, frozenset(files)), MOST))


def _compare(change: ConfigDiff, files: frozenset[str]) -> Iterator[Difference]:
    for before, after in change.changed:
        if after.file in files:
            yield from _compare_sections(before, after)
    for block in change.removed:
        if block.file in files and block.section().header:
            yield Difference(show_section(block), _show_size(block), None)
    for block in change.added:
        if block.file in files and block.section().header:
            yield Difference(show_section(block), None, _show_size(block), block.line)


def _compare_sections(before: SectionText, after: SectionText) -> Iterator[Difference]:
    """Pair the lines that differ by their names, and compare each pair."""
    gone, new = _find_differing_lines(before, after)
    unpaired: dict[_Words, list[_Words]] = {}
    for _, words in gone:
        unpaired.setdefault(_find_name(words), []).append(words)
    for line, words in new:
        earlier = unpaired.get(_find_name(words))
        yield from _compare_lines(after, earlier.pop(0) if earlier else None, words, line)
    for words in chain.from_iterable(unpaired.values()):
        yield from _compare_lines(after, words, None, 0)


def _find_differing_lines(
    before: SectionText, after: SectionText
) -> tuple[list[_Line], list[_Line]]:
    """Return the lines with words that are in one of two sections only. Most lines are the same,
    and are not split into words."""
    old, new = before.text.split("\n"), after.text.split("\n")
    only_old, only_new = Counter(old) - Counter(new), Counter(new) - Counter(old)
    gone, added = (
        [(number, words) for number, line in lines if (words := split_words(line))]
        for lines in (
            _take(enumerate(old, before.line), only_old),
            _take(enumerate(new, after.line), only_new),
        )
    )
    # Lines that differ only in blanks or comments are the same.
    words_gone, words_added = Counter(w for _, w in gone), Counter(w for _, w in added)
    return _take(gone, words_gone - words_added), _take(added, words_added - words_gone)


def _take(lines: Iterable[tuple[int, _Value]], counts: Counter[_Value]) -> list[tuple[int, _Value]]:
    """Return the first lines of each value, as many as `counts` says."""
    left, taken = Counter(counts), []
    for number, value in lines:
        if left[value]:
            left[value] -= 1
            taken.append((number, value))
    return taken


def _compare_lines(
    block: SectionText, old: _Words | None, new: _Words | None, line: int
) -> Iterator[Difference]:
    words = new or old or ()
    if words[0] == "server" and len(words) > 2:
        yield from _compare_servers(block, old, new, line)
        return
    name = _find_name(words)
    in_secret_section = block.kind in _SECRET_SECTIONS
    is_secret = in_secret_section or any(_is_secret(each) for each in (old, new) if each)
    if is_secret:  # the name may be, too
        name = tuple(word for word in name if not _SECRET_WORDS.search(word)) or ("a line",)
        name = name[:1] if in_secret_section else name
    yield Difference(
        f"{show_section(block)}: {_show(name)}",
        _show_value(old, is_secret),
        _show_value(new, is_secret),
        line,
    )


def _compare_servers(
    block: SectionText, old: _Words | None, new: _Words | None, line: int
) -> Iterator[Difference]:
    """Yield a difference for each option; for a server that is new or gone its address."""
    name = f"{show_section(block)}: member {show_name((new or old or ())[1])}"
    before, after = _read_server(old), _read_server(new)
    if not before or not after:
        yield Difference(name, before.get("address"), after.get("address"), line)
        return
    for option in dict.fromkeys((*before, *after)):
        was, is_now = before.get(option), after.get(option)
        if was != is_now:
            if _SECRET_WORDS.search(option):
                was, is_now = was if was is None else SECRET, is_now if is_now is None else SECRET
            yield Difference(f"{name} {show_name(option)}", was, is_now, line)


def _read_server(words: _Words | None) -> dict[str, str]:
    """Return the address and the options of a `server` line; nothing if it is not complete."""
    if words is None or len(words) < 3:
        return {}
    return {"address": words[2], **server_line.read_options(words[3:])}


def _find_name(words: _Words) -> _Words:
    return words[: 2 if words[0] in _NAMED else 1]


def _is_secret(words: _Words) -> bool:
    return words[0] in _SECRET_KEYWORDS or any(map(_SECRET_WORDS.search, words))


def _show_value(words: _Words | None, is_secret: bool) -> str | None:
    if words is None:
        return None
    return SECRET if is_secret else _show(words[len(_find_name(words)) :]) or "there"


def _show(words: Iterable[str]) -> str:
    return " ".join(map(show_name, words))


def _show_size(block: SectionText) -> str:
    return f"{block.text.count(chr(10))} lines"
