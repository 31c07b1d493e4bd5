"""haproxy, in each of the versions that the agent supports."""

from pathlib import Path

import pytest

from lab import haproxies
from lab.archive import UnavailableError


def of_series(series: str) -> Path:
    """The program; where it cannot be had, the test is skipped."""
    try:
        return haproxies.program(series)
    except UnavailableError as missing:
        pytest.skip(str(missing))
