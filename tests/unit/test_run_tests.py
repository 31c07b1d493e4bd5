"""A test that fails is run once more, and told of; one that fails twice fails."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "tools" / "run_tests.py"
SAMPLE = """
from pathlib import Path
import pytest

@pytest.mark.parametrize("number", range({number}))
def test_sometimes(number):
    ran = Path(f"ran-{{number}}")
    before = ran.exists()
    ran.touch()
    assert before or {steady}

def test_always():
    with Path("always").open("a") as file:
        file.write("ran ")
    assert {good}
"""


def run(
    directory: Path, *, number: int = 1, steady: bool = False, good: bool = True, once: bool = False
) -> subprocess.CompletedProcess[str]:
    (directory / "test_sample.py").write_text(
        SAMPLE.format(number=number, steady=steady, good=good)
    )
    return subprocess.run(
        [sys.executable, PROGRAM, "sample", sys.executable, "test_sample.py"],
        cwd=directory,
        env={"ONCE": "1"} if once else {},
        capture_output=True,
        text=True,
        check=False,
    )


def unsteady(directory: Path) -> list[str]:
    return (directory / ".cache/unsteady/sample").read_text().splitlines()


def test_one_that_passes_when_it_runs_again_is_told_of(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 0, done.stdout
    assert unsteady(tmp_path) == ["test_sample.py::test_sometimes[0]"]
    assert "unsteady: test_sample.py::test_sometimes[0] failed" in done.stdout
    assert (tmp_path / "always").read_text() == "ran "  # what has passed does not run again


def test_one_that_fails_twice_fails(tmp_path: Path) -> None:
    done = run(tmp_path, good=False)
    assert done.returncode == 1
    assert not (tmp_path / ".cache/unsteady/sample").exists()
    assert (tmp_path / "always").read_text() == "ran ran "


@pytest.mark.parametrize(("number", "status"), [(5, 0), (6, 1)])
def test_many_are_no_accident(tmp_path: Path, number: int, status: int) -> None:
    assert run(tmp_path, number=number).returncode == status


def test_nothing_runs_again_when_that_is_asked_for(tmp_path: Path) -> None:
    assert run(tmp_path, once=True).returncode == 1


def test_what_was_unsteady_before_is_forgotten(tmp_path: Path) -> None:
    run(tmp_path)
    assert run(tmp_path).returncode == 0
    assert not (tmp_path / ".cache/unsteady/sample").exists()


def test_what_cannot_be_collected_does_not_run_again(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("raise RuntimeError\n")
    done = run(tmp_path)
    assert done.returncode not in (0, 1)
    assert "again" not in done.stdout
