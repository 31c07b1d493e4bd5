"""The demo succeeds, and leaves nothing behind however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import cleanup_registry
from lab.demo import MEMBER_LINK, PREFIX, VIP_LINK
from lab.processes import running

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def demo() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "lab.demo"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # As from a terminal: Ctrl-C reaches everything that it started as well.
        start_new_session=True,
    )
    with process:
        yield process
        process.kill()
    cleanup_registry.remove_leftovers()


def read_until(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if text in line:
            return
    pytest.fail(f"the demo never said {text!r}:\n{''.join(seen)}")


def remains() -> list[str]:
    found = [str(path) for path in Path("/run/netns").glob(f"{PREFIX}-*")]
    found += [str(path) for path in Path("/tmp").glob(f"{PREFIX}-*")]
    found += [str(path) for path in cleanup_registry.RECORDS.glob(f"{PREFIX}.json")]
    found += [name for name in (VIP_LINK, MEMBER_LINK) if Path("/sys/class/net", name).exists()]
    found += [
        " ".join(process.arguments)
        for process in running()
        if any(f"/tmp/{PREFIX}-" in argument for argument in process.arguments)
    ]
    return found


def test_the_demo_succeeds_and_leaves_nothing(demo: subprocess.Popen[str]) -> None:
    output, _ = demo.communicate(timeout=60)
    assert demo.returncode == 0, output
    assert "FAILED" not in output
    assert remains() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", ["2/11", "3/11", "6/11"])
def test_an_interrupted_demo_leaves_nothing(
    demo: subprocess.Popen[str], number: signal.Signals, step: str
) -> None:
    read_until(demo, step)
    os.killpg(demo.pid, number)
    output, _ = demo.communicate(timeout=60)
    assert demo.returncode == 130, output
    assert remains() == []


def test_a_demo_that_fails_half_way_leaves_nothing(demo: subprocess.Popen[str]) -> None:
    read_until(demo, "6/11")
    for process in running():
        if any(f"/tmp/{PREFIX}-" in argument for argument in process.arguments):
            process.send(signal.SIGKILL)
    output, _ = demo.communicate(timeout=60)
    assert demo.returncode == 1
    assert "FAILED" in output
    assert remains() == []


def test_the_next_run_removes_what_a_killed_one_left(demo: subprocess.Popen[str]) -> None:
    read_until(demo, "7/11")
    demo.kill()
    demo.wait()
    assert remains() != []
    assert PREFIX in cleanup_registry.remove_leftovers()
    assert remains() == []
