"""A part that fails does not keep the others from running, and the summary tells each."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "tools" / "run_parts.py"
MAKEFILE = """
good:
	@echo good ran
bad:
	@echo bad ran; exit 3
last:
	@echo last ran
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "Makefile").write_text(MAKEFILE)
    return tmp_path


def run(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, PROGRAM, *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )


def results(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    rows = [line.split() for line in done.stdout.splitlines()]
    return {row[0]: row[1] for row in rows if len(row) == 3 and row[1] in ("passed", "failed")}


@pytest.mark.parametrize(
    "arguments",
    [
        ("good", "bad", "last"),
        ("good", "--beside", "bad", "last"),
        ("--beside", "bad", "--beside", "good", "last"),
        ("good", "--beside", "bad", "--then", "last"),
    ],
)
def test_parts_go_on_after_one_that_fails(directory: Path, arguments: tuple[str, ...]) -> None:
    done = run(directory, *arguments)
    assert done.returncode == 1
    for part in ("good", "bad", "last"):
        assert f"{part} ran" in done.stdout
    assert results(done) == {"good": "passed", "bad": "failed", "last": "passed"}
    assert done.stdout.splitlines()[-1] == "parts: 2 passed, 1 failed"


def test_the_summary_tells_of_unsteady_tests(directory: Path) -> None:
    (directory / ".cache/unsteady").mkdir(parents=True)
    (directory / ".cache/unsteady/good").write_text("test_a.py::test_one\n")
    done = run(directory, "good", "last")
    assert done.returncode == 0
    assert "unsteady: good: test_a.py::test_one" in done.stdout.splitlines()


def test_what_follows_begins_when_all_before_has_ended(directory: Path) -> None:
    (directory / "Makefile").write_text(
        "slow:\n\t@mkfifo ready; cat ready; touch done\n"
        "quick:\n\t@until [ -p ready ]; do :; done; echo >ready\n"
        "last:\n\t@test -e done\n"
    )
    done = run(directory, "slow", "--beside", "quick", "--then", "last")
    assert results(done) == {"slow": "passed", "quick": "passed", "last": "passed"}


def test_the_status_is_0_when_all_passed(directory: Path) -> None:
    done = run(directory, "good", "--beside", "last")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "parts: 2 passed, 0 failed"
