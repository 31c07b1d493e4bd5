"""What stands around the code agrees with the code: documents, templates, workflows, hooks."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
HOOKS = ROOT / ".pre-commit-config.yaml"
GUIDES = [ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md", "docs/support.md")]

_PATH = re.compile(r"`((?:amphora_agent|docs|lab|requirements|tests|tools)/[\w./-]*)`")
_TARGET = re.compile(r"\bmake ([a-z][a-z0-9-]*)(?=[`\s])")
_COMMAND = re.compile(r"^(?:\w+=\S+ )*make [a-z]|`(?:\w+=\S+ )*make [a-z]", re.MULTILINE)
_HOST = re.compile(r"\b[\w-]+\.(?:com|dev|io|net|org)\b|://")
_TARGETS = re.compile(r"^([a-z][a-z0-9-]*):", re.MULTILINE)


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def commands(workflow: Any) -> Iterator[str]:
    for job in workflow["jobs"].values():
        yield from (step["run"] for step in job["steps"] if "run" in step)


@pytest.fixture(scope="module")
def targets() -> set[str]:
    makefile = (ROOT / "Makefile").read_text()
    return {*_TARGETS.findall(makefile), "conformance-19"}


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_guide_names_paths_that_exist(guide: Path) -> None:
    named = _PATH.findall(guide.read_text())
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_guide_names_targets_that_exist(guide: Path, targets: set[str]) -> None:
    lines = (line for line in guide.read_text().splitlines() if _COMMAND.search(line))
    assert {name for line in lines for name in _TARGET.findall(f"{line}\n")} <= targets


@pytest.mark.parametrize("path", [*WORKFLOWS, HOOKS], ids=lambda path: path.name)
def test_workflows_and_hooks_name_no_host(path: Path) -> None:
    assert _HOST.findall(path.read_text()) == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflow_runs_what_ci_runs_and_existing_targets(path: Path, targets: set[str]) -> None:
    workflow = load(path)
    ran = list(commands(workflow))
    assert ".ci/run" in ran
    assert {line.split()[1] for line in ran if line.startswith("make ")} <= targets
    assert all({"runs-on", "timeout-minutes"} <= job.keys() for job in workflow["jobs"].values())
    assert workflow["permissions"] == {"contents": "read"}


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_form_for_issues_has_fields_with_labels(path: Path) -> None:
    form = load(path)
    fields = [field for field in form.get("body", []) if field["type"] != "markdown"]
    assert all(field["attributes"]["label"] for field in fields)
    identifiers = [field["id"] for field in fields]
    assert len(identifiers) == len(set(identifiers))


def test_hooks_run_programs_of_the_locked_environment() -> None:
    configuration = load(HOOKS)
    assert {repository["repo"] for repository in configuration["repos"]} == {"local"}
    hooks = [hook for repository in configuration["repos"] for hook in repository["hooks"]]
    assert all(hook["language"] == "system" for hook in hooks)
    assert all(hook["entry"].startswith(".venv/bin/") for hook in hooks)


def test_owners_are_named_for_paths_that_exist() -> None:
    lines = (line.split() for line in (ROOT / "CODEOWNERS").read_text().splitlines())
    patterns = [words[0] for words in lines if words and not words[0].startswith("#")]
    assert patterns[0] == "*"
    assert [path for path in patterns[1:] if not (ROOT / path.strip("/")).exists()] == []


def test_fragments_have_a_kind_that_the_changelog_knows() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["towncrier"]
    kinds = {kind["directory"] for kind in settings["type"]}
    fragments = [path for path in (ROOT / "changelog.d").glob("*.md") if path.name != "README.md"]
    assert [path.name for path in fragments if path.name.split(".")[-2] not in kinds] == []
