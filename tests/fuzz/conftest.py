"""Every test here that takes examples takes new ones until its share of the time is over.

FUZZ_SECONDS is the time of all of them together; FUZZ_SEED begins the series of seeds, so that a
run that failed can be had again. Both are printed.
"""

from __future__ import annotations

import itertools
import os
import time

import hypothesis
import pytest

from tests.integration.conftest import amphora, authorities, boot, lab, namespace, webs

__all__ = ["amphora", "authorities", "boot", "lab", "namespace", "webs"]

SECONDS = float(os.environ.get("FUZZ_SECONDS", "30"))
SEED = int(os.environ.get("FUZZ_SEED") or time.time_ns() // 1000 % 1_000_000)

_SHARE = pytest.StashKey[float]()
_ROUNDS = pytest.StashKey[dict[str, int]]()

hypothesis.settings.register_profile(
    "fuzz",
    deadline=None,
    max_examples=100,  # of a round
    database=None,
    print_blob=True,
    suppress_health_check=[
        hypothesis.HealthCheck.too_slow,
        hypothesis.HealthCheck.function_scoped_fixture,
    ],
)


def pytest_configure(config: pytest.Config) -> None:
    hypothesis.settings.load_profile("fuzz")
    config.stash[_ROUNDS] = {}


def pytest_report_header() -> str:
    return f"fuzz: FUZZ_SECONDS={SECONDS:g} FUZZ_SEED={SEED}"


def pytest_collection_finish(session: pytest.Session) -> None:
    takers = sum(_takes_examples(item) for item in session.items)
    session.config.stash[_SHARE] = SECONDS / max(1, takers)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> object | None:
    """Another round, with another seed, until the time of the test is over."""
    if not _takes_examples(pyfuncitem):
        return None
    stash = pyfuncitem.config.stash
    end = time.monotonic() + stash[_SHARE]
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    for number in itertools.count():
        hypothesis.seed(SEED + number)(pyfuncitem.obj)
        stash[_ROUNDS][pyfuncitem.name] = number + 1
        pyfuncitem.obj(**arguments)
        if time.monotonic() > end:
            return True
    return None


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    terminalreporter.section(f"fuzz: {SECONDS:g} seconds, seed {SEED}")
    for name, rounds in config.stash[_ROUNDS].items():
        terminalreporter.write_line(f"{rounds:6} rounds of {name}")


def _takes_examples(item: pytest.Item) -> bool:
    return hypothesis.is_hypothesis_test(getattr(item, "obj", None))
