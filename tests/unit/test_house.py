"""The figures of a small source tree, which tools/house.py prints alone or beside a revision."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).parents[2] / "tools" / "house.py"
CLOCK = '''
"""A docstring of two lines
is no code."""

import amphora_agent.ground.files  # a comment behind code is part of its line
from ..ground import files

# A comment is no code.
class Clock:
    """No code."""

    async def read(self) -> str:
        """No code."""

        text = """a string
        of two lines"""
        return text


def _private() -> None: ...
def public() -> None: ...
'''
FILES = {
    "amphora_agent/__init__.py": '"""No module."""\n',
    "amphora_agent/top.py": "def public(): ...\n",
    "amphora_agent/room/__init__.py": "",
    "amphora_agent/room/clock.py": CLOCK,
    "amphora_agent/ground/__init__.py": "",
    "amphora_agent/ground/files.py": "class Clock: ...\ndef _private(): ...\n",
    "lab/site.py": "one = 1\n\n\ntwo = 2\n",
}


def write_tree(root: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def write_long(name: str, lines: int) -> str:
    """Return a function with a docstring and a body of so many lines, the last but one empty."""
    return f'def {name}():\n    """Wait."""\n' + "    pass\n" * (lines - 2) + "\n    pass\n"


def run(root: Path, *arguments: str) -> str:
    return subprocess.run(
        [sys.executable, PROGRAM, root, *arguments], stdout=subprocess.PIPE, text=True, check=True
    ).stdout


def measure(root: Path) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads(run(root, "--json", "--details"))["tree"]
    return figures


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    write_tree(tmp_path, FILES)
    return tmp_path


@pytest.mark.parametrize(
    ("label", "value"),
    [
        ("modules", 3),
        ("lines of code", 1 + 9 + 2),
        ("lines of code in lab/", 2),
        ("lines of code in tests/", 0),
        ("lines of code of a module, median", 2),
        ("lines of code of a function, median", 1),
        ("folders", 3),
        ("functions over 40 lines", 0),
        ("imports between folders: arrows", 1),
    ],
)
def test_a_figure_of_a_tree(tree: Path, label: str, value: int) -> None:
    assert measure(tree)[label]["value"] == value


@pytest.mark.parametrize(
    ("label", "places"),
    [
        (
            "modules that one other imports",
            ["amphora_agent.ground.files by amphora_agent.room.clock"],
        ),
        ("classes of one name", ["Clock: amphora_agent.ground.files, amphora_agent.room.clock"]),
        ("functions of one name", ["public: amphora_agent.room.clock, amphora_agent.top"]),
        ("imports between folders: in circles", []),
    ],
)
def test_what_was_counted_is_named(tree: Path, label: str, places: list[str]) -> None:
    assert measure(tree)[label] == {"value": len(places), "places": places}


def test_folders_that_lead_back_to_themselves_are_in_a_circle(tree: Path) -> None:
    write_tree(
        tree,
        {
            "amphora_agent/top.py": "from amphora_agent.room.clock import Clock\n",
            "amphora_agent/ground/sky.py": "def look():\n    from amphora_agent import room\n",
        },
    )
    figures = measure(tree)
    assert figures["imports between folders: arrows"]["value"] == 3
    assert figures["imports between folders: in circles"]["places"] == [
        "amphora_agent.ground with amphora_agent.room",
        "amphora_agent.room with amphora_agent.ground",
    ]


def test_a_folder_with_over_12_modules_of_its_own_is_named(tree: Path) -> None:
    label = "folders with over 12 modules of their own"
    write_tree(tree, {f"amphora_agent/room/m{number}.py": "x = 1\n" for number in range(11)})
    assert measure(tree)[label]["places"] == []
    write_tree(tree, {"amphora_agent/room/last.py": "x = 1\n"})
    assert measure(tree)[label]["places"] == ["amphora_agent.room (13)"]


def test_functions_and_test_bodies_over_40_lines_are_named(tree: Path) -> None:
    write_tree(
        tree,
        {
            "amphora_agent/top.py": write_long("short", 40) + write_long("long", 41),
            "tests/test_top.py": write_long("test_short", 40) + write_long("test_long", 41),
        },
    )
    figures = measure(tree)
    assert figures["functions over 40 lines"]["places"] == ["amphora_agent/top.py:43 long (41)"]
    assert figures["test bodies over 40 lines"]["places"] == ["tests/test_top.py:43 test_long (41)"]


def test_a_revision_stands_beside_the_tree(tree: Path) -> None:
    git = ["git", "-C", str(tree), "-c", "user.name=a", "-c", "user.email=a@example.com"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"], ["tag", "before"]):
        subprocess.run([*git, *command], check=True)
    write_tree(tree, {"amphora_agent/another.py": "x = 1\n" * 2000})
    rows = [line.split() for line in run(tree, "--against", "before").splitlines()]
    assert rows[0] == ["before", "tree"]
    assert rows[1] == ["modules", "3", "4"]
    assert rows[2] == ["lines", "of", "code", "12", "2,012"]
