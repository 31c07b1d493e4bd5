"""Something that is wrong with what was sent, and where."""

from collections.abc import Iterable
from typing import NamedTuple


class Problem(NamedTuple):
    """`path` as a person writes it: `listeners[2].l7policies[0].rules[1].value`."""

    path: str
    words: str

    def __str__(self) -> str:
        return f"{self.path}: {self.words}"


def either(names: Iterable[str]) -> str:
    """Any of them, in words."""
    return ", ".join(sorted(names))
