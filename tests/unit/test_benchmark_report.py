"""How the benchmarks present their figures."""

from benchmarks.report import Column, Section, median, percentile


def test_a_table_has_words_to_the_left_and_numbers_to_the_right() -> None:
    section = Section(
        "start",
        "Start",
        (Column("what", "what"), Column("ms", "wall, ms", 1), Column("note", "note")),
        ({"what": "agent", "ms": 1234.56, "note": ""}, {"what": "a floor", "ms": 7, "note": "x"}),
        notes=("by turns",),
    )
    assert section.text().splitlines() == [
        "Start",
        "",
        "  what     wall, ms  note",
        "  -------  --------  ----",
        "  agent     1,234.6",
        "  a floor       7.0  x",
        "",
        "  by turns",
    ]


def test_json_has_what_the_table_does_not_show() -> None:
    section = Section("s", "S", (Column("a", "A"),), ({"a": 0.123456, "samples": [1, 2]},))
    assert section.data() == {
        "title": "S",
        "columns": {"a": "A"},
        "rows": [{"a": 0.123456, "samples": [1, 2]}],
        "notes": [],
    }


def test_a_figure_that_there_is_not_is_left_blank() -> None:
    section = Section("s", "S", (Column("a", "A"), Column("b", "B")), ({"a": 1}, {"b": 2}))
    assert section.text().splitlines()[2:] == ["  A  B", "  -  -", "  1", "     2"]


def test_percentiles_are_samples() -> None:
    samples = list(range(200, 0, -1))
    assert percentile(samples, 50) == 100
    assert percentile(samples, 99) == 198
    assert percentile([7.0], 99) == 7.0
    assert median([3.0, 1.0, 2.0]) == 2.0
