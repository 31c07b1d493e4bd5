"""Line plots as SVG, for documents: legible on light and on dark ground, and in grey."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

_WIDTH, _HEIGHT = 680, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 72, 190, 44, 56

#: Of middle lightness, so that they stand out from white and from black.
_TEXT, _GRID = "#757d87", "#757d87"
_COLOURS = ("#2f81f7", "#e5730b", "#2da05a", "#b65fd0")

#: Pixels that the names of two series need between them.
_LINE = 15


@dataclass(frozen=True)
class Series:
    """Points from left to right. A `like` is the number of another series whose colour it has,
    drawn with a dashed line."""

    name: str
    points: Sequence[tuple[float, float]]
    like: int | None = None


@dataclass(frozen=True)
class Plot:
    """The x axis is logarithmic, with a mark at each x that occurs; `logarithmic` is about y, where
    zero cannot be shown then."""

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    logarithmic: bool = False

    def svg(self) -> str:
        xs = sorted({x for series in self.series for x, _ in series.points})
        ys = [y for series in self.series for _, y in series.points]
        ticks = _decades(ys) if self.logarithmic else _steps(max(ys))
        across = _scale(xs[0], xs[-1], _LEFT, _WIDTH - _RIGHT, logarithmic=True)
        up = _scale(ticks[0], ticks[-1], _HEIGHT - _BOTTOM, _TOP, logarithmic=self.logarithmic)
        lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
            f' width="{_WIDTH}" height="{_HEIGHT}" font-family="sans-serif" font-size="12"'
            f' fill="{_TEXT}" role="img">',
            f"<title>{escape(self.title)}</title>",
            _text(_LEFT, 22, self.title, size=15),
        ]
        for tick in ticks:
            y = up(tick)
            lines.append(
                f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}"'
                f' stroke="{_GRID}" stroke-opacity="0.35"/>'
            )
            lines.append(_text(_LEFT - 8, y + 4, f"{tick:,g}", anchor="end"))
        for x in xs:
            lines.append(_text(across(x), _HEIGHT - _BOTTOM + 20, f"{x:g}", anchor="middle"))
        middle = (_LEFT + _WIDTH - _RIGHT) / 2
        lines.append(_text(middle, _HEIGHT - 14, self.x_label, anchor="middle"))
        middle = (_TOP + _HEIGHT - _BOTTOM) / 2
        turned = f' transform="rotate(-90 18 {middle:.1f})"'
        lines.append(_text(18, middle, self.y_label, anchor="middle", more=turned))
        ends = _apart([up(series.points[-1][1]) for series in self.series])
        for number, series in enumerate(self.series):
            style = number if series.like is None else series.like
            places = [(across(x), up(y)) for x, y in series.points]
            lines += _curve(places, style, dashed=series.like is not None)
            colour = f' style="fill:{_COLOURS[style]}"'
            lines.append(_text(_WIDTH - _RIGHT + 12, ends[number] + 4, series.name, more=colour))
        return "\n".join([*lines, "</svg>"]) + "\n"


def _curve(places: Sequence[tuple[float, float]], style: int, *, dashed: bool) -> list[str]:
    colour = _COLOURS[style]
    dashes = ' stroke-dasharray="6 4"' if dashed else ""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    lines = [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>']
    for x, y in places:
        # Told apart without colours, too.
        lines.append(
            f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" fill="{colour}"/>'
            if style % 2
            else f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>'
        )
    return lines


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", size: int = 12, more: str = ""
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"{more}>'
        f"{escape(text)}</text>"
    )


def _scale(
    low: float, high: float, begin: float, end: float, *, logarithmic: bool
) -> Callable[[float], float]:
    """Where a value is to be drawn, between `begin` and `end`."""

    def place(value: float) -> float:
        if low == high:
            return (begin + end) / 2
        if logarithmic:
            part = math.log(max(value, low) / low) / math.log(high / low)
        else:
            part = (value - low) / (high - low)
        return begin + part * (end - begin)

    return place


def _steps(largest: float) -> list[float]:
    """From zero to the largest value or a little more, three to six round steps."""
    rough = (largest or 1) / 5
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return [step * n for n in range(math.ceil((largest or 1) / step) + 1)]


def _decades(values: Sequence[float]) -> list[float]:
    """The powers of ten around all values that have a logarithm."""
    values = [value for value in values if value > 0] or [1.0]
    lowest, highest = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return [10.0**n for n in range(lowest, max(highest, lowest + 1) + 1)]


def _apart(places: Sequence[float]) -> list[float]:
    """The places, moved down where one would cover another."""
    moved = list(places)
    before = -math.inf
    for index in sorted(range(len(moved)), key=moved.__getitem__):
        before = moved[index] = max(moved[index], before + _LINE)
    return moved
