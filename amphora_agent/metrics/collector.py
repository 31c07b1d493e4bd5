"""What a scrape of a load balancer answers, and what was asked a moment ago."""

import time
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple, Protocol

from amphora_agent.errors import OperationFailed
from amphora_agent.metrics.octavia import COLUMNS
from amphora_agent.metrics.translate import Machine, families
from amphora_agent.model.figures import Figures, Scope

#: Seconds for which figures are as good as new: whoever scrapes costs haproxy no more than that.
FRESH = 1.0

#: Seconds for all instances to answer. The controller's text gives a scrape five.
_PATIENCE = 2.0


class Source(Protocol):
    """Where figures come from."""

    def figures(
        self, scopes: Collection[Scope], columns: Collection[str], *, timeout: float
    ) -> list[Figures | None]:
        """Those of each instance, with these columns at least; None of one that does not answer."""


class _Known(NamedTuple):
    until: float
    figures: list[Figures] | OperationFailed


class Collector:
    """Collects for one scrape at a time."""

    def __init__(
        self,
        source: Source,
        machine: Callable[[], Machine],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._machine = machine
        self._clock = clock
        self._known: dict[frozenset[Scope], _Known] = {}

    def collect(self, scopes: frozenset[Scope]) -> Iterator[str]:
        """The metrics of these scopes, family by family; the asking is done when this returns.

        Raises:
            OperationFailed: there are instances, and none answers.
        """
        figures = self._figures(scopes)
        if isinstance(figures, OperationFailed):
            raise figures
        return families(self._machine(), figures, scopes)

    def forget(self) -> None:
        """Drop what is too old to be used again: it may be large."""
        now = self._clock()
        self._known = {scopes: known for scopes, known in self._known.items() if now < known.until}

    def _figures(self, scopes: frozenset[Scope]) -> list[Figures] | OperationFailed:
        self.forget()
        for known_scopes, known in self._known.items():
            if scopes <= known_scopes:
                return known.figures
        asked = self._source.figures(scopes, COLUMNS, timeout=_PATIENCE)
        found: list[Figures] | OperationFailed = [f for f in asked if f is not None]
        if asked and not found:
            found = OperationFailed("No load balancer answers")
        self._known[scopes] = _Known(self._clock() + FRESH, found)
        return found
