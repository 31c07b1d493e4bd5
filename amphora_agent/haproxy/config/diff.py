"""Compare two configurations, section by section.

Two texts of a large load balancer agree nearly everywhere. Their common beginning and end are found
by comparing memory, and only the rest is examined.
"""

import re
from collections.abc import Collection, Iterator
from typing import NamedTuple

from amphora_agent.haproxy.config import word_counts
from amphora_agent.haproxy.config.parser import (
    Header,
    SectionText,
    Texts,
    find_headers,
    read_header,
    split_file,
)
from amphora_agent.haproxy.config.word_counts import measure_head, measure_tail

#: Characters that are searched for a header at once, backwards.
_WINDOW = 1 << 12
#: Up to so many names of sections are searched for; for more, all headers are read.
_FEW = 8
#: A word that can only be written as it is, or with quotes or `\x`.
_SIMPLE = re.compile(r"[-.:\w]+", re.ASCII)
_HEXADECIMAL = re.compile(r"\\x")
_DISGUISES = ('"', "'", "\\x")

#: Identifies a section of a file: kind and name.
_Key = tuple[str, str]


class ConfigDiff(NamedTuple):
    """The sections that differ between two configurations.

    Sections correspond when file, kind and name are the same; the lines before the first section of
    a file are one without kind. `reordered` means that sections cannot be compared one by one:
    files or sections that stay have another order, or one that differs exists twice.
    """

    changed: tuple[tuple[SectionText, SectionText], ...] = ()
    added: tuple[SectionText, ...] = ()
    removed: tuple[SectionText, ...] = ()
    reordered: bool = False


def compare_configs(running: Texts, wanted: Texts) -> ConfigDiff:
    """Return what differs between two configurations; `ConfigDiff()` when nothing does."""
    files = [
        _compare_file(file, running.get(file, ""), wanted.get(file, ""))
        for file in dict.fromkeys([*running, *wanted])
    ]
    return ConfigDiff(
        changed=tuple(pair for file in files for pair in file.changed),
        added=tuple(block for file in files for block in file.added),
        removed=tuple(block for file in files for block in file.removed),
        reordered=any(file.reordered for file in files)
        or [file for file in running if file in wanted] != [f for f in wanted if f in running],
    )


def find_defaults(texts: Texts, block: SectionText) -> SectionText | None:
    """Return the `defaults` section in effect for a section; None when there is none."""
    header = block.section().header
    if header is None or block.kind not in ("backend", "defaults", "frontend", "listen"):
        return None
    rest = header.words[2 if block.name else 1 :]
    named = rest[1] if len(rest) > 1 and rest[0] == "from" else None
    if named is None and block.kind == "defaults":
        return None
    defaults = None
    for file, text in texts.items():
        start, line = 0, 1
        for candidate in _find_headers_with("defaults", text, 0, len(text)):
            line += text.count("\n", start, candidate.start)
            start = candidate.start
            if file == block.file and line >= block.line:
                break
            if candidate.kind == "defaults" and named in (None, candidate.name):
                defaults = next(split_file(file, text, start, line=line))
        if file == block.file:
            break
    return defaults


def _compare_file(file: str, running: str, wanted: str) -> ConfigDiff:
    if running == wanted:
        return ConfigDiff()
    start = _find_head(running, measure_head(running, wanted))
    tail = _find_tail(running, measure_tail(running, wanted, start))
    line = 1 + running.count("\n", 0, start)
    end = len(running) - tail
    before = _group(split_file(file, running, start, end, line))
    after = _group(split_file(file, wanted, start, len(wanted) - tail, line))

    differing = [key for key in {**before, **after} if _texts(before, key) != _texts(after, key)]
    twice = {
        key for key in differing if len(before.get(key, ())) > 1 or len(after.get(key, ())) > 1
    }
    twice |= _find_outside(running, start, end, set(differing) - twice)
    parts = [key for key in differing if key not in twice]
    return ConfigDiff(
        changed=tuple(
            (before[key][0], after[key][0]) for key in parts if key in before and key in after
        ),
        added=tuple(after[key][0] for key in parts if key not in before),
        removed=tuple(before[key][0] for key in parts if key not in after),
        reordered=bool(twice) or _list_order(before, after) != _list_order(after, before),
    )


def _find_head(text: str, head: int) -> int:
    """Return where the last section begins whose header is in the common head; 0 for none."""
    end = text.rfind("\n", 0, head) + 1
    while end > 0:
        start = text.rfind("\n", 0, max(0, end - _WINDOW)) + 1
        if headers := list(find_headers(text, start, end)):
            return headers[-1].start
        end = start
    return 0


def _find_tail(text: str, tail: int) -> int:
    """Return the length of the common tail, from the first header in it."""
    start = text.find("\n", len(text) - tail) + 1
    header = next(find_headers(text, start), None) if start else None
    return len(text) - header.start if header else 0


def _group(blocks: Iterator[SectionText]) -> dict[_Key, list[SectionText]]:
    by_key: dict[_Key, list[SectionText]] = {}
    for block in blocks:
        by_key.setdefault((block.kind, block.name), []).append(block)
    return by_key


def _texts(blocks: dict[_Key, list[SectionText]], key: _Key) -> list[str]:
    return [block.text for block in blocks.get(key, ())]


def _list_order(
    blocks: dict[_Key, list[SectionText]], others: dict[_Key, list[SectionText]]
) -> list[_Key]:
    """Return the sections that the others have, too, in their order."""
    kept = sorted((block.line, key) for key in blocks if key in others for block in blocks[key])
    return [key for _, key in kept]


def _find_outside(text: str, start: int, end: int, keys: Collection[_Key]) -> set[_Key]:
    """Return which sections are also in the common head or tail."""
    found: set[_Key] = set()
    for part in ((0, start), (end, len(text))):
        if len(keys) > _FEW:
            found.update((header.kind, header.name) for header in find_headers(text, *part))
            continue
        for kind, name in keys:
            # There is one part before the first section.
            if kind and any(
                (header.kind, header.name) == (kind, name)
                for header in _find_headers_with(name or kind, text, *part)
            ):
                found.add((kind, name))
    return found.intersection(keys)


def _find_headers_with(word: str, text: str, start: int, end: int) -> Iterator[Header]:
    """Yield the headers that may have this word. The part of the text begins where a line does."""
    if not _SIMPLE.fullmatch(word) or _may_disguise(text, start, end):
        yield from find_headers(text, start, end)
        return
    left = word_counts.get_counts(text).get(word, len(text))
    while left > 0 and (found := text.find(word, start, end)) >= 0:
        if header := read_header(text, text.rfind("\n", 0, found) + 1, end):
            yield header
        start = text.find("\n", found, end) + 1
        if not start:
            return
        left -= text.count(word, found, start)


def _may_disguise(text: str, start: int, end: int) -> bool:
    """Whether words in it may be written with quotes or escapes."""
    counts = word_counts.get_counts(text)
    if counts and not any(word_counts.has_word(text, sign) for sign in _DISGUISES):
        return False
    return (
        text.find('"', start, end) >= 0
        or text.find("'", start, end) >= 0
        or _HEXADECIMAL.search(text, start, end) is not None
    )
