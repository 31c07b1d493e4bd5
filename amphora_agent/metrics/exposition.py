"""The text format of Prometheus, version 0.0.4.

Written here and not by a library: a load balancer may have a million samples, which are written
column by column, and the rest of a library would be memory for nothing.
"""

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Kind = Literal["counter", "gauge", "histogram"]


class Sample(NamedTuple):
    """One value. `suffix` is what a histogram adds to the name of its family."""

    labels: Mapping[str, str]
    value: float
    suffix: str = ""


def head(name: str, kind: Kind, help_text: str) -> str:
    """The lines that begin a family."""
    return f"# HELP {name} {help_text}\n# TYPE {name} {kind}\n"


def family(name: str, kind: Kind, help_text: str, samples: Iterable[Sample]) -> str:
    """A family, whole."""
    lines = [head(name, kind, help_text)]
    for sample in samples:
        labels = label_set(sample.labels)
        braces = f"{{{labels}}}" if labels else ""
        lines.append(f"{name}{sample.suffix}{braces} {number(sample.value)}\n")
    return "".join(lines)


def label_set(labels: Mapping[str, str]) -> str:
    """What stands between the braces."""
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())


def number(value: float) -> str:
    """A value; whole ones have no point, and none loses a digit."""
    if value == float("inf"):
        return "+Inf"
    return repr(int(value)) if value == int(value) else repr(value)


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
