"""Figures as values: tables that a person reads and JSON that a program compares."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Cell = str | float | int | None


@dataclass(frozen=True)
class Column:
    """One column of a table; `key` is the cell's in each row. Numbers get so many `digits`
    behind the point."""

    key: str
    heading: str
    digits: int = 0


@dataclass(frozen=True)
class Section:
    """What one benchmark found. A row may hold more than the columns show; JSON has all of it."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...] = ()

    def text(self) -> str:
        """The table as text: words to the left, numbers to the right."""
        headings = [column.heading for column in self.columns]
        body = [[_shown(row.get(c.key), c.digits) for c in self.columns] for row in self.rows]
        numeric = [
            all(isinstance(row.get(c.key), int | float | None) for row in self.rows)
            for c in self.columns
        ]
        widths = [max(map(len, cells)) for cells in zip(headings, *body, strict=True)]
        lines = [self.title, ""]
        for cells in (headings, ["-" * width for width in widths], *body):
            aligned = (
                cell.rjust(width) if is_number else cell.ljust(width)
                for cell, width, is_number in zip(cells, widths, numeric, strict=True)
            )
            lines.append("  " + "  ".join(aligned).rstrip())
        if self.notes:
            lines += ["", *(f"  {note}" for note in self.notes)]
        return "\n".join(lines) + "\n"

    def data(self) -> dict[str, Any]:
        """The same for JSON, not rounded."""
        return {
            "title": self.title,
            "columns": {column.key: column.heading for column in self.columns},
            "rows": [dict(row) for row in self.rows],
            "notes": list(self.notes),
        }


def median(samples: Sequence[float]) -> float:
    return statistics.median(samples)


def percentile(samples: Sequence[float], percent: float) -> float:
    """The sample that `percent` of all do not exceed (nearest rank)."""
    ordered = sorted(samples)
    rank = -(-len(ordered) * percent // 100)  # rounded up
    return ordered[max(0, int(rank) - 1)]


def seconds(action: Callable[[], object]) -> float:
    """How long something takes, as one who waits sees it."""
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def milliseconds(seconds: float) -> float:
    return seconds * 1000


def _shown(cell: Cell, digits: int) -> str:
    if cell is None:
        return ""
    if isinstance(cell, str):
        return cell
    return f"{cell:,.{digits}f}"
