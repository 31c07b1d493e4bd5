"""What was interrupted is told at the end of a run, and by what seed it can be had again."""

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

_HISTORIES = pytest.StashKey[Histories]()


@pytest.fixture(scope="session")
def histories(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Histories]:
    programs = []
    for series in haproxies.SERIES:
        with contextlib.suppress(UnavailableError):
            programs.append(haproxies.program(series))
    seed = os.environ.get("CHAOS_SEED") or str(time.time_ns() // 1000 % 1_000_000)
    with ExitStack() as ending:
        made = Histories(Site(lab, ending), programs, seed)
        request.config.stash[_HISTORIES] = made
        yield made


@pytest.hookimpl
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    histories = config.stash.get(_HISTORIES, None)
    if histories is not None:
        terminalreporter.section("chaos")
        terminalreporter.write_line(histories.told())
