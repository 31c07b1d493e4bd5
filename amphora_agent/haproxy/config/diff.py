"""Compare two configurations, section by section, and count the words that affect all sections.

Two texts of a large load balancer agree nearly everywhere. Their common beginning and end are found
by comparing memory, and only the rest is examined. Word counts follow from those of the text before
and from the lines that differ: nothing searches megabytes for each change.

`build_minimal_config` reduces what haproxy must check. haproxy has accepted a configuration before,
and only some frontends and backends differ now. A fault can only be in these, or between them and
the sections that name them or that they name. So haproxy checks those, and all sections of other
kinds. The rest becomes blank lines, so that line numbers in messages are right.
"""

import re
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from amphora_agent.haproxy.config import parser
from amphora_agent.haproxy.config.parser import Header, SectionText, Texts

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
                defaults = next(parser.split_file(file, text, start, line=line))
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
    before = _group(parser.split_file(file, running, start, end, line))
    after = _group(parser.split_file(file, wanted, start, len(wanted) - tail, line))

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
        if headers := list(parser.find_headers(text, start, end)):
            return headers[-1].start
        end = start
    return 0


def _find_tail(text: str, tail: int) -> int:
    """Return the length of the common tail, from the first header in it."""
    start = text.find("\n", len(text) - tail) + 1
    header = next(parser.find_headers(text, start), None) if start else None
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
    outside: set[_Key] = set()
    for part in ((0, start), (end, len(text))):
        if len(keys) > _FEW:
            outside.update(
                (header.kind, header.name) for header in parser.find_headers(text, *part)
            )
            continue
        for kind, name in keys:
            # There is one part before the first section.
            if kind and any(
                (header.kind, header.name) == (kind, name)
                for header in _find_headers_with(name or kind, text, *part)
            ):
                outside.add((kind, name))
    return outside.intersection(keys)


def _find_headers_with(word: str, text: str, start: int, end: int) -> Iterator[Header]:
    """Yield the headers that may have this word. The part of the text begins where a line does."""
    if not _SIMPLE.fullmatch(word) or _may_disguise(text, start, end):
        yield from parser.find_headers(text, start, end)
        return
    left = get_counts(text).get(word, len(text))
    while left > 0 and (found := text.find(word, start, end)) >= 0:
        if header := parser.read_header(text, text.rfind("\n", 0, found) + 1, end):
            yield header
        start = text.find("\n", found, end) + 1
        if not start:
            return
        left -= text.count(word, found, start)


def _may_disguise(text: str, start: int, end: int) -> bool:
    """Whether words in it may be written with quotes or escapes."""
    counts = get_counts(text)
    if counts and not any(has_word(text, sign) for sign in _DISGUISES):
        return False
    return (
        text.find('"', start, end) >= 0
        or text.find("'", start, end) >= 0
        or _HEXADECIMAL.search(text, start, end) is not None
    )


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
    everything = parser.split_sections(wanted)
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
        any(has_word(text, word) for word in _FAR_REACHING_WORDS)
        or (has_word(text, ".if") and _CONDITION.search(text) is not None)
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


#: The counted words. No word overlaps with itself, or with the end of a line.
WORDS = (
    # Statements that haproxy refuses, and how they are kept.
    "http-use-htx", "group None", "cpu-map", "#amphora-agent:",
    # What the agent adds if the text does not say it.
    "group", "hard-stop-after", "max-spread-checks", "mworker-max-reloads", "user",
    # What makes haproxy skip lines, and what changes how words are read.
    ".if", ".endif", '"', "'", "\\x",
    # What other sections depend on, and what connects sections.
    "defaults", "guid", "ocsp", "spoe", "zero-warning",
    # What refers to servers of other lines.
    "srv_", "track", "use-server",
    # What a start needs.
    "bind ", "check", "tune.ssl.cachesize",
)  # fmt: skip

_NOTHING: Mapping[str, int] = MappingProxyType({})

#: Characters that are compared at once: first many, then ever fewer.
_STEPS = (1 << 16, 1 << 12, 1 << 8, 1 << 4, 1)


class CountedText(str):
    """A text with its counts of `WORDS`."""

    __slots__ = ("counts",)
    counts: Mapping[str, int]


def count_words(text: str, before: CountedText | None = None) -> CountedText:
    """Count the words in a text. With `before`, only lines that differ from it are searched."""
    if before is None:
        return attach_counts(text, {word: text.count(word) for word in WORDS})
    start, tail = find_differing_lines(before, text)
    old, new = before[start : len(before) - tail], text[start : len(text) - tail]
    counts = {
        word: total + new.count(word) - old.count(word) for word, total in before.counts.items()
    }
    return attach_counts(text, counts)


def attach_counts(text: str, counts: Mapping[str, int]) -> CountedText:
    """Return a text with counts that were kept without it."""
    counted = CountedText(text)
    counted.counts = counts
    return counted


def get_counts(text: str) -> Mapping[str, int]:
    """Return the counts of a text; empty if it has not been counted."""
    return text.counts if isinstance(text, CountedText) else _NOTHING


def count_word(text: str, word: str) -> int:
    """Return how often a text has a word. Any word may be asked for; `WORDS` need no search."""
    counted_before = get_counts(text).get(word)
    return text.count(word) if counted_before is None else counted_before


def has_word(text: str, word: str) -> bool:
    """Whether a text has a word. Any word may be asked for; `WORDS` need no search."""
    counted_before = get_counts(text).get(word)
    return word in text if counted_before is None else counted_before > 0


def find_differing_lines(one: str, other: str) -> tuple[int, int]:
    """Return which lines of two texts differ: where these begin in both, and how many characters
    follow them at the end of both."""
    head = measure_head(one, other)
    start = one.rfind("\n", 0, head) + 1
    tail = measure_tail(one, other, start)
    ended = one.find("\n", len(one) - tail) + 1 if tail else 0
    return start, len(one) - ended if ended else 0


def measure_head(one: str, other: str) -> int:
    """Return how many characters two texts have in common at the beginning."""
    common, end = 0, min(len(one), len(other))
    for step in _STEPS:
        while common + step <= end and one.startswith(other[common : common + step], common):
            common += step
    return common


def measure_tail(one: str, other: str, start: int) -> int:
    """Return how many characters two texts have in common at the end, behind `start` in both."""
    common, end = 0, min(len(one), len(other)) - start
    for step in _STEPS:
        while common + step <= end and one.endswith(
            other[len(other) - common - step : len(other) - common], 0, len(one) - common
        ):
            common += step
    return common
