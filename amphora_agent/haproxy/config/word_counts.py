"""Counts of keywords that affect the whole configuration.

A configuration has megabytes, and a change leaves nearly all of it as it was. So the counts follow
from those of the text before and from the lines that differ: nothing searches the whole text.
"""

from collections.abc import Mapping
from types import MappingProxyType

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
