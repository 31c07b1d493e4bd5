"""What differs between two configurations value by value, for the record of what happened: old and
new, and in which line. No secret is told.

What may be told of a line is decided by what it has: the values of one that speaks of passwords,
keys, headers or cookies are never told.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

from amphora_agent.haproxy.config import server_line
from amphora_agent.haproxy.config.diff import ConfigDiff
from amphora_agent.haproxy.config.parser import SectionText, split_words
from amphora_agent.haproxy.update.runtime_change import show_name
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
#: Lines whose values may be anybody's, and sections of which each line is such a one.
_SECRET_KEYWORDS = frozenset({"password", "insecure-password", "presetenv", "setenv", "user"})
_SECRET_SECTIONS = frozenset({"userlist"})
#: Words of lines whose values may be: they speak of who somebody is, or of what a client sends.
_SECRET_WORDS = re.compile(
    r"""auth | bearer | cook | credential | hdr | header | passw | passphrase | private | pwd
      | secret | session | signature | token | (?<![a-z])api-?_?key | (?<![a-z])keys?(?![a-z])
      | keylog | ://[^/\s]*@""",
    re.VERBOSE | re.IGNORECASE,
)
_NOUNS = {"frontend": "listener", "backend": "pool", "": "before all sections"}


def compare_values(change: ConfigDiff | None, files: Iterable[str]) -> tuple[Difference, ...]:
    """The first values that differ in these files of a change."""
    if change is None:
        return ()
    return tuple(islice(_differences(change, frozenset(files)), MOST))


def _differences(change: ConfigDiff, files: frozenset[str]) -> Iterator[Difference]:
    for before, after in change.changed:
        if after.file in files:
            yield from _of_block(before, after)
    for block in change.removed:
        if block.file in files and block.section().header:
            yield Difference(_noun(block), _size(block), None)
    for block in change.added:
        if block.file in files and block.section().header:
            yield Difference(_noun(block), None, _size(block), block.line)


def _of_block(before: SectionText, after: SectionText) -> Iterator[Difference]:
    """The lines that differ, those of a name paired."""
    gone, come = _lines_that_differ(before, after)
    secret = after.kind in _SECRET_SECTIONS
    waiting: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for _, words in gone:
        waiting.setdefault(_name(words), []).append(words)
    for line, words in come:
        earlier = waiting.get(_name(words))
        yield from _of_line(after, earlier.pop(0) if earlier else None, words, line, secret)
    for each in waiting.values():
        for words in each:
            yield from _of_line(after, words, None, 0, secret)


_Line = tuple[int, tuple[str, ...]]


def _lines_that_differ(before: SectionText, after: SectionText) -> tuple[list[_Line], list[_Line]]:
    """Lines with words, by number, that are only in one of two blocks. Most are the same, and are
    not split into words."""
    old, new = before.text.split("\n"), after.text.split("\n")
    less, more = Counter(old), Counter(new)
    gone = _words_of(old, before.line, less - more)
    come = _words_of(new, after.line, more - less)
    # Lines that only differ in blanks or comments do not differ.
    same = Counter(words for _, words in gone) & Counter(words for _, words in come)
    return _without(gone, same), _without(come, same)


def _words_of(lines: list[str], first: int, wanted: Mapping[str, int]) -> list[_Line]:
    left = dict(wanted)
    found = []
    for number, line in enumerate(lines, first):
        if left.get(line):
            left[line] -= 1
            words = split_words(line)
            if words:
                found.append((number, words))
    return found


def _without(lines: list[_Line], same: Counter[tuple[str, ...]]) -> list[_Line]:
    left = Counter(same)
    kept = []
    for line in lines:
        if left[line[1]]:
            left[line[1]] -= 1
        else:
            kept.append(line)
    return kept


def _of_line(
    block: SectionText,
    old: tuple[str, ...] | None,
    new: tuple[str, ...] | None,
    line: int,
    secret: bool,
) -> Iterator[Difference]:
    words = new or old or ()
    if words[0] == "server" and len(words) > 2:
        yield from _of_member(block, old, new, line)
        return
    secret = secret or any(_is_secret(each) for each in (old, new) if each)
    name = _name(words)
    if secret:  # the name may have it, too
        name = tuple(word for word in name if not _SECRET_WORDS.search(word)) or ("a line",)
        name = name[:1] if block.kind in _SECRET_SECTIONS else name
    yield Difference(
        f"{_noun(block)}: {_shown(name)}", _value(old, secret), _value(new, secret), line
    )


def _of_member(
    block: SectionText, old: tuple[str, ...] | None, new: tuple[str, ...] | None, line: int
) -> Iterator[Difference]:
    """One difference for each option of a member; of one that is new or gone its address."""
    name = f"{_noun(block)}: member {show_name((new or old or ())[1])}"
    before, after = _options(old), _options(new)
    if before and after:
        for option in dict.fromkeys((*before, *after)):
            values = before.get(option), after.get(option)
            if values[0] != values[1]:
                if _SECRET_WORDS.search(option):
                    values = _hidden(values[0]), _hidden(values[1])
                said = f"{name} {show_name(option)}"
                yield Difference(said, values[0], values[1], line)
    else:
        yield Difference(name, before.get("address"), after.get("address"), line)


def _options(words: tuple[str, ...] | None) -> dict[str, str]:
    """What a member's line says, its address first; nothing of one that is not whole."""
    if words is None or len(words) < 3:
        return {}
    return {"address": words[2], **server_line.read_options(words[3:])}


def _hidden(value: str | None) -> str | None:
    return None if value is None else SECRET


def _name(words: tuple[str, ...]) -> tuple[str, ...]:
    return words[: 2 if words[0] in _NAMED else 1]


def _is_secret(words: tuple[str, ...]) -> bool:
    return words[0] in _SECRET_KEYWORDS or any(map(_SECRET_WORDS.search, words))


def _value(words: tuple[str, ...] | None, secret: bool) -> str | None:
    if words is None:
        return None
    if secret:
        return SECRET
    return _shown(words[len(_name(words)) :]) or "there"


def _shown(words: Iterable[str]) -> str:
    return " ".join(map(show_name, words))


def _size(block: SectionText) -> str:
    return f"{block.text.count(chr(10))} lines"


def _noun(block: SectionText) -> str:
    return f"{_NOUNS.get(block.kind, block.kind)} {show_name(block.name)}".strip()
