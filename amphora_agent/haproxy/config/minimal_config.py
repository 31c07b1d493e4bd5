"""Build the smallest configuration that validates a change.

haproxy has accepted a configuration before, and only some frontends and backends differ now. A
fault can only be in these, or between them and the sections that name them or that they name. So
haproxy checks those, and all sections of other kinds. The rest becomes blank lines, so that line
numbers in messages are right.
"""

import re
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping

from amphora_agent.haproxy.config import word_counts
from amphora_agent.haproxy.config.diff import ConfigDiff
from amphora_agent.haproxy.config.parser import SectionText, Texts, split_sections

#: Kinds of sections that can be left out.
_PROXIES = frozenset({"backend", "frontend"})

#: What connects sections of which neither names the other, or makes haproxy skip lines: identifiers
#: that must differ, settings that must agree, names in other files, warnings that count as errors,
#: conditionals, numbers for names, names in quotes. Each pattern begins with its literal, which is
#: found fast.
_FAR_REACHING_WORDS = ("guid", "ocsp", "spoe", "zero-warning", "\\x")
_CONDITION = re.compile(r"\.if(?![-.\w])", re.ASCII)
_FAR_REACHING = tuple(
    re.compile(pattern, re.ASCII)
    for pattern in (
        r"#\d",
        r"'(?<=[-.:\w]')['\"]*[-.:\w]",
        r"\"(?<=[-.:\w]\")['\"]*[-.:\w]",
    )
)
#: The characters of a name.
_NAME = re.compile(r"[-.:\w]+", re.ASCII)
#: The names of more sections are not searched for.
_MANY = 100

#: Identifies a section: its file and line.
_Place = tuple[str, int]


def build_minimal_config(wanted: Texts, change: ConfigDiff) -> Texts | None:
    """Return the part of `wanted` that haproxy must check, provided that the configuration before
    the `change` was valid; None when that is all of it."""
    after = (*(block for _, block in change.changed), *change.added)
    touched = (*after, *change.removed)
    if (
        change.reordered
        or len(touched) > _MANY
        or any(block.kind not in _PROXIES for block in touched)
        or any(map(_is_connected, wanted.values()))
        # No two sections may have one number.
        or any(block.section().first("id") for block in after)
    ):
        return None
    everything = split_sections(wanted)
    # haproxy needs a listening socket, and the others may be in what is left out.
    if not any(b.section().first("stats", "socket") for b in everything if b.kind == "global"):
        return None
    by_file: dict[str, list[SectionText]] = {file: [] for file in wanted}
    for block in everything:
        by_file[block.file].append(block)
    naming = tuple(_find_naming(by_file, wanted, {block.name for block in touched}))
    if any(block.kind == "defaults" for block in naming):
        return None  # sections that are left out inherit it
    others = [block for block in everything if block.kind not in _PROXIES]
    kept = _add_named((*others, *after, *naming), everything)
    return {
        file: "".join(
            block.text if _locate(block) in kept else "\n" * block.text.count("\n")
            for block in inside
        )
        for file, inside in by_file.items()
    }


def _is_connected(text: str) -> bool:
    """Whether a text may have what connects any of its sections."""
    return (
        any(word_counts.has_word(text, word) for word in _FAR_REACHING_WORDS)
        or (word_counts.has_word(text, ".if") and _CONDITION.search(text) is not None)
        or any(pattern.search(text) for pattern in _FAR_REACHING)
    )


def _find_naming(
    by_file: Mapping[str, list[SectionText]], wanted: Texts, names: Collection[str]
) -> Iterator[SectionText]:
    """Yield the sections that have one of the names in them, be it only in a comment."""
    for file, text in wanted.items():
        inside = by_file[file]
        starts, start = [], 0
        for block in inside:
            starts.append(start)
            start += len(block.text)
        for name in names:
            literal = re.escape(name)
            # The name comes first, because that is found fast.
            for found in re.finditer(rf"{literal}(?![-.:\w])(?<![-.:\w]{literal})", text, re.ASCII):
                yield inside[bisect_right(starts, found.start()) - 1]


def _add_named(sections: Iterable[SectionText], everything: Iterable[SectionText]) -> set[_Place]:
    """Return where these sections are, and the proxies that they name, directly or not."""
    by_name: dict[str, list[SectionText]] = {}
    for block in everything:
        if block.kind in _PROXIES:
            by_name.setdefault(block.name, []).append(block)
    kept: set[_Place] = set()
    pending = list(sections)
    while pending:
        block = pending.pop()
        if _locate(block) not in kept:
            kept.add(_locate(block))
            for word in set(_NAME.findall(block.text)):
                pending += by_name.get(word, ())
    return kept


def _locate(block: SectionText) -> _Place:
    return block.file, block.line
