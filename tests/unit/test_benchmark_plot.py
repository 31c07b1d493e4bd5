"""How the benchmarks draw their figures."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from benchmarks.plot import Plot, Series

SVG = "{http://www.w3.org/2000/svg}"


def drawn(plot: Plot) -> ElementTree.Element:
    return ElementTree.fromstring(plot.svg())


def texts(plot: Plot) -> list[str | None]:
    return [text.text for text in drawn(plot).iter(f"{SVG}text")]


def heights(plot: Plot) -> list[float]:
    """Of the points of the first series, the largest for what is lowest."""
    line = next(drawn(plot).iter(f"{SVG}polyline"))
    return [float(point.partition(",")[2]) for point in line.attrib["points"].split()]


def plot(*points: tuple[float, float], logarithmic: bool = False) -> Plot:
    return Plot("Memory", "listeners", "MiB", [Series("one", points)], logarithmic)


def test_axes_and_series_are_named() -> None:
    shown = texts(plot((1, 3), (200, 40)))
    assert {"Memory", "listeners", "MiB", "one", "1", "200", "0", "40"} <= set(shown)


def test_words_are_not_markup() -> None:
    assert "a < b & c" in texts(Plot("a < b & c", "x", "y", [Series("s", [(1, 1)])]))


def test_a_larger_value_is_higher_and_zero_is_at_the_foot() -> None:
    none, some, most = heights(plot((1, 0), (10, 50), (100, 100)))
    assert none > some > most
    assert some == pytest.approx((none + most) / 2)


def test_powers_of_ten_are_equally_far_apart_on_a_logarithmic_axis() -> None:
    low, middle, high = heights(plot((1, 1), (10, 10), (100, 100), logarithmic=True))
    assert middle == pytest.approx((low + high) / 2)


def test_zero_is_at_the_foot_of_a_logarithmic_axis() -> None:
    none, one = heights(plot((1, 0), (10, 1), logarithmic=True))
    assert none == one


def test_names_do_not_cover_each_other() -> None:
    series = [Series(name, [(1, 5), (10, 5)]) for name in ("one", "each", "third")]
    found = {
        text.text: float(text.attrib["y"])
        for text in drawn(Plot("t", "x", "y", series)).iter(f"{SVG}text")
    }
    assert found["each"] - found["one"] >= 12
    assert found["third"] - found["each"] >= 12


def test_a_series_like_another_has_its_colour_and_is_dashed() -> None:
    series = [Series("one", [(1, 5)]), Series("one p99", [(1, 9)], like=0)]
    first, second = drawn(Plot("t", "x", "y", series)).iter(f"{SVG}polyline")
    assert first.attrib["stroke"] == second.attrib["stroke"]
    assert "stroke-dasharray" in second.attrib
    assert "stroke-dasharray" not in first.attrib
