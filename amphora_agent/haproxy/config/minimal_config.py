"""As little of a configuration as proves a change of it.

Of a configuration that haproxy has accepted before, only some frontends and backends differ now.
What is wrong with it can only be in these, or between them and the sections that name them or that
they name. So haproxy is shown those, and all sections of other kinds. The rest becomes blank lines:
what haproxy says has the right line numbers.
"""

import re
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping

from amphora_agent.haproxy.config import word_counts
from amphora_agent.haproxy.config.diff import ConfigDiff
from amphora_agent.haproxy.config.parser import SectionText, Texts, split_sections

#: Kinds of sections that can be left out.
_PROXIES = frozenset({"backend", "frontend"})

#: What joins sections of which neither names the other, or decides which lines count, wherever it
#: stands: identifiers that must differ, settings that must agree, names in files of their own,
#: warnings that count as errors, conditionals, numbers for names, names in disguise. Each pattern
#: begins with itself, because that is found fast.
_FAR_REACHING_WORDS = ("guid", "ocsp", "spoe", "zero-warning", "\\x")
_CONDITION = re.compile(r"\.if(?![-.\w])", re.ASCII)
_FAR_REACHING = tuple(
    re.compile(sign, re.ASCII)
    for sign in (
        r"#\d",
        r"'(?<=[-.:\w]')['\"]*[-.:\w]",
        r"\"(?<=[-.:\w]\")['\"]*[-.:\w]",
    )
)
#: What a name is made of, and so where it ends.
_NAME = re.compile(r"[-.:\w]+", re.ASCII)
#: For more sections than these their names are not looked for.
_MANY = 100

#: What a section is told apart by: its file and line.
_Place = tuple[str, int]


def build_minimal_config(wanted: Texts, change: ConfigDiff) -> Texts | None:
    """What haproxy must be shown of `wanted` to know whether all of it is right, provided that it
    was before the `change`; None when that is everything."""
    after = (*(block for _, block in change.changed), *change.added)
    touched = (*after, *change.removed)
    if (
        change.reordered
        or len(touched) > _MANY
        or any(block.kind not in _PROXIES for block in touched)
        or any(map(_is_joined, wanted.values()))
        # A number that haproxy gives to one section alone.
        or any(block.section().first("id") for block in after)
    ):
        return None
    everything = split_sections(wanted)
    # haproxy also asks for something that listens, which may be in what is left out.
    if not any(b.section().first("stats", "socket") for b in everything if b.kind == "global"):
        return None
    by_file: dict[str, list[SectionText]] = {file: [] for file in wanted}
    for block in everything:
        by_file[block.file].append(block)
    naming = tuple(_naming(by_file, wanted, {block.name for block in touched}))
    if any(block.kind == "defaults" for block in naming):
        return None  # what is left out inherits it
    others = [block for block in everything if block.kind not in _PROXIES]
    kept = _with_named((*others, *after, *naming), everything)
    return {
        file: "".join(
            block.text if _place(block) in kept else "\n" * block.text.count("\n")
            for block in inside
        )
        for file, inside in by_file.items()
    }


def _is_joined(text: str) -> bool:
    """Whether a text may have what joins any of its sections."""
    return (
        any(word_counts.has_word(text, word) for word in _FAR_REACHING_WORDS)
        or (word_counts.has_word(text, ".if") and _CONDITION.search(text) is not None)
        or any(sign.search(text) for sign in _FAR_REACHING)
    )


def _naming(
    by_file: Mapping[str, list[SectionText]], wanted: Texts, names: Collection[str]
) -> Iterator[SectionText]:
    """The sections that have one of the names in them, be it only in a comment."""
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


def _with_named(some: Iterable[SectionText], everything: Iterable[SectionText]) -> set[_Place]:
    """Where these sections are, and the proxies that they name, and those that these name."""
    by_name: dict[str, list[SectionText]] = {}
    for block in everything:
        if block.kind in _PROXIES:
            by_name.setdefault(block.name, []).append(block)
    kept: set[_Place] = set()
    pending = list(some)
    while pending:
        block = pending.pop()
        if _place(block) not in kept:
            kept.add(_place(block))
            for word in set(_NAME.findall(block.text)):
                pending += by_name.get(word, ())
    return kept


def _place(block: SectionText) -> _Place:
    return block.file, block.line
