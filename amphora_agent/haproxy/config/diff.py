"""The difference between two configurations, section by section.

Two texts of a large load balancer agree nearly everywhere. What they have in common at the
beginning and at the end is found by comparing memory, and cut off; only the rest is looked at.
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

#: How much is searched for a header at once, backwards.
_WINDOW = 1 << 12
#: For so many sections the text is searched for their names; for more, all headers are read.
_FEW = 8
#: A word that cannot be written otherwise but with quotes or `\x`.
_SIMPLE = re.compile(r"[-.:\w]+", re.ASCII)
_HEXADECIMAL = re.compile(r"\\x")
_DISGUISES = ('"', "'", "\\x")

#: What a section is known by: kind and name.
_Key = tuple[str, str]


class ConfigDiff(NamedTuple):
    """What has to change for the running configuration to be the wanted one.

    A section is the same one when file, kind and name are the same; what stands before the first
    section of a file is one without kind. `reordered` means that nothing can be said of parts:
    files or sections that stay follow one another otherwise, or one that differs is there twice.
    """

    changed: tuple[tuple[SectionText, SectionText], ...] = ()
    added: tuple[SectionText, ...] = ()
    removed: tuple[SectionText, ...] = ()
    reordered: bool = False


def compare_configs(running: Texts, wanted: Texts) -> ConfigDiff:
    """Compare two configurations; `Difference()` when nothing differs."""
    files = [
        _of_file(file, running.get(file, ""), wanted.get(file, ""))
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
    """The `defaults` section in effect for a section of these texts; None when there is none."""
    header = block.section().header
    if header is None or block.kind not in ("backend", "defaults", "frontend", "listen"):
        return None
    rest = header.words[2 if block.name else 1 :]
    wanted = rest[1] if len(rest) > 1 and rest[0] == "from" else None
    if wanted is None and block.kind == "defaults":
        return None
    found = None
    for file, text in texts.items():
        start, line = 0, 1
        for each in _headers_with("defaults", text, 0, len(text)):
            line += text.count("\n", start, each.start)
            start = each.start
            if file == block.file and line >= block.line:
                break
            if each.kind == "defaults" and wanted in (None, each.name):
                found = next(split_file(file, text, start, line=line))
        if file == block.file:
            break
    return found


def _of_file(file: str, running: str, wanted: str) -> ConfigDiff:
    if running == wanted:
        return ConfigDiff()
    start = _last_header(running, measure_head(running, wanted))
    tail = _first_header(running, measure_tail(running, wanted, start))
    line = 1 + running.count("\n", 0, start)
    end = len(running) - tail
    before = _by_key(split_file(file, running, start, end, line))
    after = _by_key(split_file(file, wanted, start, len(wanted) - tail, line))

    differing = [key for key in {**before, **after} if _texts(before, key) != _texts(after, key)]
    twice = {
        key for key in differing if len(before.get(key, ())) > 1 or len(after.get(key, ())) > 1
    }
    twice |= _outside(running, start, end, set(differing) - twice)
    parts = [key for key in differing if key not in twice]
    return ConfigDiff(
        changed=tuple(
            (before[key][0], after[key][0]) for key in parts if key in before and key in after
        ),
        added=tuple(after[key][0] for key in parts if key not in before),
        removed=tuple(before[key][0] for key in parts if key not in after),
        reordered=bool(twice) or _order(before, after) != _order(after, before),
    )


def _last_header(text: str, head: int) -> int:
    """Where the last section begins whose header's line is in the head; 0 for none."""
    end = text.rfind("\n", 0, head) + 1
    while end > 0:
        start = text.rfind("\n", 0, max(0, end - _WINDOW)) + 1
        if found := list(find_headers(text, start, end)):
            return found[-1].start
        end = start
    return 0


def _first_header(text: str, tail: int) -> int:
    """How much of a text's tail is sections, from the first whose header's line is all in it."""
    start = text.find("\n", len(text) - tail) + 1
    found = next(find_headers(text, start), None) if start else None
    return len(text) - found.start if found else 0


def _by_key(blocks: Iterator[SectionText]) -> dict[_Key, list[SectionText]]:
    found: dict[_Key, list[SectionText]] = {}
    for block in blocks:
        found.setdefault((block.kind, block.name), []).append(block)
    return found


def _texts(blocks: dict[_Key, list[SectionText]], key: _Key) -> list[str]:
    return [block.text for block in blocks.get(key, ())]


def _order(
    blocks: dict[_Key, list[SectionText]], others: dict[_Key, list[SectionText]]
) -> list[_Key]:
    """The sections that the others have, too, as they follow one another."""
    kept = sorted((block.line, key) for key in blocks if key in others for block in blocks[key])
    return [key for _, key in kept]


def _outside(text: str, start: int, end: int, keys: Collection[_Key]) -> set[_Key]:
    """Which sections are (also) in a text's head or tail."""
    found: set[_Key] = set()
    for part in ((0, start), (end, len(text))):
        if len(keys) > _FEW:
            found.update((header.kind, header.name) for header in find_headers(text, *part))
            continue
        for kind, name in keys:
            # What stands before the first section is there once.
            if kind and any(
                (header.kind, header.name) == (kind, name)
                for header in _headers_with(name or kind, text, *part)
            ):
                found.add((kind, name))
    return found.intersection(keys)


def _headers_with(word: str, text: str, start: int, end: int) -> Iterator[Header]:
    """The headers that may have this word, for a part of a text that begins where a line does."""
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
    """Whether there may be words in it that are not written as what they are."""
    counts = word_counts.get_counts(text)
    if counts and not any(word_counts.has_word(text, sign) for sign in _DISGUISES):
        return False
    return (
        text.find('"', start, end) >= 0
        or text.find("'", start, end) >= 0
        or _HEXADECIMAL.search(text, start, end) is not None
    )
