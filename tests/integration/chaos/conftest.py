"""The histories of a run, and what they are made in."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from lab import haproxies
from lab.archive import UnavailableError
from lab.network import Lab
from tests.integration.chaos.histories import Histories
from tests.integration.chaos.trial import Site


@pytest.fixture(scope="session")
def histories(lab: Lab) -> Iterator[Histories]:
    programs = []
    for series in haproxies.SERIES:
        with contextlib.suppress(UnavailableError):
            programs.append(haproxies.program(series))
    seed = os.environ.get("CHAOS_SEED") or str(time.time_ns() // 1000 % 1_000_000)
    with ExitStack() as ending:
        yield Histories(Site(lab, ending), programs, seed)
