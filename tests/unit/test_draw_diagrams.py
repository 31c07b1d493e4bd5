"""Drawings are current, and the drawing of the packages agrees with the imports."""

import hashlib
from pathlib import Path

import pytest

from tools import draw_diagrams


def test_every_drawing_of_the_tree_is_current() -> None:
    assert list(draw_diagrams.check()) == [], "run `make diagrams`"


@pytest.fixture
def drawing(tmp_path: Path) -> Path:
    """Return a drawing that is current, beside its text."""
    source = tmp_path / "some.dot"
    source.write_text("digraph { a -> b }\n")
    body = "<svg>\na to b\n</svg>"
    digests = [hashlib.sha256(text.encode()).hexdigest() for text in (source.read_text(), body)]
    mark = "<!-- made from some.dot, sha256 {}; drawing {} -->".format(*digests)
    drawn = source.with_suffix(".svg")
    drawn.write_text(f"{body}\n{mark}\n")
    return drawn


def test_drawing_that_is_current_is_no_problem(drawing: Path) -> None:
    assert list(draw_diagrams.find_outdated(drawing.parent)) == []


def test_text_that_changed_after_its_drawing_is_told(drawing: Path) -> None:
    drawing.with_suffix(".dot").write_text("digraph { a -> c }\n")
    assert list(draw_diagrams.find_outdated(drawing.parent)) == [
        "some.dot has changed since some.svg was drawn"
    ]


def test_drawing_that_was_edited_is_told(drawing: Path) -> None:
    drawing.write_text(drawing.read_text().replace("a to b", "a to c"))
    assert list(draw_diagrams.find_outdated(drawing.parent)) == [
        "some.svg was edited; edit some.dot instead"
    ]


def test_missing_drawing_is_told(drawing: Path) -> None:
    drawing.unlink()
    assert list(draw_diagrams.find_outdated(drawing.parent)) == ["some.svg is missing"]


def test_imports_are_read_from_every_module_of_a_package(tmp_path: Path) -> None:
    root = tmp_path / "agent"
    for name in ("api", "haproxy", "model"):
        (root / name).mkdir(parents=True)
        (root / name / "__init__.py").touch()
    (root / "api" / "app.py").write_text(
        "from agent.haproxy.plan import plan\nimport agent.model\n"
    )
    (root / "haproxy" / "plan.py").write_text("def later():\n    from agent import model, files\n")
    assert draw_diagrams.read_imports(root) == {
        "api": {"haproxy", "model"},
        "haproxy": {"model"},
        "model": set(),
    }


def test_import_that_a_longer_way_shows_is_not_drawn() -> None:
    imports = {"api": {"haproxy", "model"}, "haproxy": {"model"}, "model": set[str]()}
    assert draw_diagrams.reduce_imports(imports) == {("api", "haproxy"), ("haproxy", "model")}
