"""The tutorial does what it says: its commands, in their order, print what it promises."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from lab import processes
from lab.agent import free_port
from lab.cleanup_registry import delete_namespace
from lab.network import Lab, namespace_exists

ROOT = Path(__file__).parent.parent.parent
TUTORIAL = ROOT / "docs" / "tutorial.md"
#: What a copy of the repository has that is installed from it.
NEEDED = (
    "amphora_agent",
    "haproxy_templates",
    "systemd",
    "tools",
    "requirements",
    "pyproject.toml",
    "setup.py",
)

#: Installing is most of it.
PATIENCE = 600


class Step(NamedTuple):
    """Commands, and what they are to print: `…` stands for anything. None: nothing is promised."""

    line: int
    commands: str
    promise: str | None


def steps() -> Iterator[Step]:
    text = TUTORIAL.read_text()
    block = re.compile(r"^```sh\n(.*?)^```\n(?:```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)
    for found in block.finditer(text):
        yield Step(text.count("\n", 0, found.start()) + 2, found[1], found[2])


def is_kept(promise: str, output: str) -> bool:
    pattern = ".*".join(re.escape(part) for part in promise.rstrip("\n").split("…"))
    return re.fullmatch(pattern, output.rstrip("\n"), re.DOTALL) is not None


@pytest.fixture
def work(lab: Lab) -> Iterator[Path]:
    """A directory that is not there yet; whatever happens, nothing of the tutorial stays."""
    work = lab.directory() / "t"
    lab.record.add_workplace(work)
    lab.record.add_namespace(namespace_of(work))
    yield work
    processes.end(processes.mentioning(work))
    delete_namespace(namespace_of(work))


def namespace_of(work: Path) -> str:
    return f"tutorial-{work.parent.name}"


def test_every_command_prints_what_is_promised(lab: Lab, work: Path) -> None:
    outputs = lab.directory()
    script = outputs / "script"
    all_steps = list(steps())
    script.write_text(
        "set -eo pipefail\n"
        + "".join(
            f"exec > {outputs}/{number} 2>&1\n{step.commands}"
            for number, step in enumerate(all_steps)
        )
    )
    namespace = namespace_of(work)
    ended = subprocess.run(
        ["bash", str(script)],
        cwd=copy_of_the_repository(lab),
        env={
            **{name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"},
            "WORK": str(work),
            "NETNS": namespace,
            "PORT": str(free_port()),
        },
        stdin=subprocess.DEVNULL,
        timeout=PATIENCE,
        check=False,
    )
    for number, step in enumerate(all_steps):
        output = read(outputs / str(number))
        words = f"{TUTORIAL.name}, line {step.line}:\n{step.commands}\nprinted:\n{output}"
        assert (outputs / str(number)).exists(), f"not reached: {words}"
        is_last = not (outputs / str(number + 1)).exists()
        assert ended.returncode == 0 or not is_last, f"{words}\n{read(work / 'agent.log')}"
        if step.promise is not None:
            assert is_kept(step.promise, output), f"{words}\ninstead of:\n{step.promise}"
    assert not work.exists()
    assert not namespace_exists(namespace)
    assert list(processes.mentioning(work)) == []


def test_a_promise_that_is_not_kept_is_found() -> None:
    assert is_kept("a …\nc\n", "a b\nb\nc\n")
    assert not is_kept("a …\nc\n", "a b\n")
    assert not is_kept("a\n", "a\nb\n")


def copy_of_the_repository(lab: Lab) -> Path:
    """Installing leaves traces in the directory from which it is done."""
    directory = lab.directory()
    for name in NEEDED:
        subprocess.run(["cp", "-r", str(ROOT / name), str(directory)], check=True)
    (directory / "README.md").touch()
    return directory


def read(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""
