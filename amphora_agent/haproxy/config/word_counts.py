"""Words that decide something wherever they stand in a configuration, and how often they do.

A configuration has megabytes, of which nearly all is as before: how often a word stands in it
follows from how often it stood before, and from the lines that differ. So nobody need look for it
in the whole.
"""

from collections.abc import Mapping
from types import MappingProxyType

#: No word overlaps with itself, or with the end of a line.
WORDS = (
    # Statements that haproxy refuses, and how they are kept.
    "http-use-htx", "group None", "cpu-map", "#amphora-agent:",
    # What the agent says itself if the text does not.
    "group", "hard-stop-after", "max-spread-checks", "mworker-max-reloads", "user",
    # What makes lines count or not, and words other than what they are written as.
    ".if", ".endif", '"', "'", "\\x",
    # What other sections depend on, and what joins them.
    "defaults", "guid", "ocsp", "spoe", "zero-warning",
    # What speaks of servers elsewhere.
    "srv_", "track", "use-server",
    # What a start needs.
    "bind ", "check", "tune.ssl.cachesize",
)  # fmt: skip

_NOTHING: Mapping[str, int] = MappingProxyType({})

#: How much is compared at once, in characters: first in large steps, then in ever smaller ones.
_STEPS = (1 << 16, 1 << 12, 1 << 8, 1 << 4, 1)


class CountedText(str):
    """A text of which it is known how often it has each of the words."""

    __slots__ = ("counts",)
    counts: Mapping[str, int]


def count_words(text: str, before: CountedText | None = None) -> CountedText:
    """Count the words in a text; only where it is not as the one `before` it is looked at."""
    if before is None:
        return attach_counts(text, {word: text.count(word) for word in WORDS})
    start, tail = find_differing_lines(before, text)
    old, new = before[start : len(before) - tail], text[start : len(text) - tail]
    counts = {
        word: total + new.count(word) - old.count(word) for word, total in before.counts.items()
    }
    return attach_counts(text, counts)


def attach_counts(text: str, counts: Mapping[str, int]) -> CountedText:
    """A text whose counts have been kept apart from it."""
    made = CountedText(text)
    made.counts = counts
    return made


def get_counts(text: str) -> Mapping[str, int]:
    """The counts of a text; empty for one that has not been counted."""
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
    """Which lines of two texts differ: all from this place in both on, but for so many characters
    at the end of both."""
    head = measure_head(one, other)
    start = one.rfind("\n", 0, head) + 1
    tail = measure_tail(one, other, start)
    ended = one.find("\n", len(one) - tail) + 1 if tail else 0
    return start, len(one) - ended if ended else 0


def measure_head(one: str, other: str) -> int:
    """How many characters two texts have in common at the beginning."""
    common, end = 0, min(len(one), len(other))
    for step in _STEPS:
        while common + step <= end and one.startswith(other[common : common + step], common):
            common += step
    return common


def measure_tail(one: str, other: str, start: int) -> int:
    """How many characters two texts have in common at the end, behind `start` in both."""
    common, end = 0, min(len(one), len(other)) - start
    for step in _STEPS:
        while common + step <= end and one.endswith(
            other[len(other) - common - step : len(other) - common], 0, len(one) - common
        ):
            common += step
    return common
