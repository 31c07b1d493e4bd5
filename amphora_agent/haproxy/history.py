"""A journal as a table for people."""

from collections.abc import Iterable, Sequence

from amphora_agent.model.changes import Entry, Result

_TITLES = ("when", "who", "what", "plan", "result", "ms", "gen")
#: Columns that hold numbers, which stand at the right.
_NUMBERS = frozenset({"ms", "gen"})


def table(entries: Sequence[Entry]) -> list[str]:
    """Lines: one row for each entry, the words and the reasons below it."""
    rows = [_TITLES, *(_row(entry) for entry in entries)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row, entry in zip(rows, (None, *entries), strict=True):
        cells = [
            cell.rjust(width) if title in _NUMBERS else cell.ljust(width)
            for title, cell, width in zip(_TITLES, row, widths, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
        if entry is not None:
            lines += _below(entry)
    return lines


def _row(entry: Entry) -> tuple[str, ...]:
    return (
        entry.at,
        str(entry.who),
        entry.operation.value,
        entry.plan or "-",
        entry.result.value,
        f"{entry.milliseconds:.1f}",
        "-" if entry.generation is None else str(entry.generation),
    )


def _below(entry: Entry) -> Iterable[str]:
    yield from (f"    {words}" for words in entry.words)
    yield from (f"    {entry.plan}, for: {reason}" for reason in entry.reasons)
    if entry.result is not Result.DONE:
        for number, line in enumerate(entry.because.splitlines()):
            yield f"    {'because: ' if number == 0 else '         '}{line}"
