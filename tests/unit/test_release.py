"""A release is made whole or not at all."""

import tarfile
import zipfile
from pathlib import Path

import pytest

from tools import release

PYPROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "amphora-agent"
dynamic = ["version"]
[tool.setuptools]
packages = ["amphora_agent"]
[tool.setuptools.dynamic]
version = { attr = "amphora_agent.__version__" }
[tool.towncrier]
directory = "changelog.d"
filename = "CHANGELOG.md"
"""
MAKEFILE = """
openapi:
	@cut -d'"' -f2 amphora_agent/__init__.py > docs/openapi.json
"""
#: The files of a small project that can be released.
FILES = {
    ".gitignore": "dist/\n*.egg-info/\nbuild/\n__pycache__/\n",
    "pyproject.toml": PYPROJECT,
    "amphora_agent/__init__.py": '__version__ = "1.2.3"\n',
    "docs/openapi.json": "1.2.3\n",
    "Makefile": MAKEFILE,
    "CHANGELOG.md": "# Changelog\n\n<!-- towncrier release notes start -->\n",
    "changelog.d/faster.feature.md": "Reloads are faster.\n",
}


def git(tree: Path, *arguments: str) -> str:
    return release.run(tree, "git", *arguments)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a small project at version 1.2.3, in a repository of its own, everything committed."""
    tree = tmp_path / "project"
    for name, content in FILES.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    git(tree, "init", "--quiet", "--initial-branch", "main")
    git(tree, "config", "user.name", "Somebody")
    git(tree, "config", "user.email", "somebody@example.org")
    git(tree, "add", "--all")
    git(tree, "commit", "--quiet", "--message", "Begin")
    return tree


def test_release_has_version_changelog_archives_and_tag(tree: Path) -> None:
    sdist, wheel = release.release(tree, "1.3.0")
    assert git(tree, "tag", "--list") == "v1.3.0"
    assert git(tree, "rev-parse", "v1.3.0^{commit}") == git(tree, "rev-parse", "main")
    assert git(tree, "status", "--porcelain") == ""
    assert release.read_version(tree) == "1.3.0"
    assert (tree / "docs/openapi.json").read_text() == "1.3.0\n"
    assert "Reloads are faster." in (tree / "CHANGELOG.md").read_text()
    assert list((tree / "changelog.d").glob("*")) == []
    assert (sdist.name, wheel.name) == (
        "amphora_agent-1.3.0.tar.gz",
        "amphora_agent-1.3.0-py3-none-any.whl",
    )
    with tarfile.open(sdist) as archive:
        assert "amphora_agent-1.3.0/amphora_agent/__init__.py" in archive.getnames()
    assert '"1.3.0"' in zipfile.ZipFile(wheel).read("amphora_agent/__init__.py").decode()


def test_tree_with_changes_is_refused(tree: Path) -> None:
    (tree / "new.py").touch()
    (obstacle,) = release.find_obstacles(tree, "1.3.0")
    assert obstacle.startswith("the tree has changes; commit or remove them:\n?? new.py")


def test_tag_that_exists_is_refused(tree: Path) -> None:
    git(tree, "tag", "v1.3.0")
    assert release.find_obstacles(tree, "1.3.0") == [
        "the tag v1.3.0 exists; choose a later version"
    ]


def test_release_without_fragments_is_refused(tree: Path) -> None:
    git(tree, "mv", "changelog.d/faster.feature.md", "changelog.d/README.md")
    git(tree, "commit", "--quiet", "--message", "Say nothing")
    assert release.find_obstacles(tree, "1.3.0") == [
        "changelog.d/ has no fragment; say there what has changed"
    ]


@pytest.mark.parametrize("version", ["1.2.2", "1.2.3rc1", "0.9.9"])
def test_older_version_is_refused(tree: Path, version: str) -> None:
    assert release.find_obstacles(tree, version) == [
        f"{version} is older than 1.2.3; choose a later one"
    ]


@pytest.mark.parametrize("version", ["", "1.3", "v1.3.0", "1.3.0; rm", "01.3.0"])
def test_what_is_no_version_is_refused(tree: Path, version: str) -> None:
    (obstacle, *_) = release.find_obstacles(tree, version)
    assert obstacle == f"{version!r} is no version; write it as 1.2.3 or 1.2.3rc1"


def test_release_that_fails_leaves_the_tree_as_it_was(tree: Path) -> None:
    (tree / "pyproject.toml").write_text(PYPROJECT.replace("amphora-agent", "no name"))
    git(tree, "commit", "--quiet", "--all", "--message", "Break the build")
    before = git(tree, "rev-parse", "HEAD")
    with pytest.raises(release.ReleaseError, match="build_sdist"):
        release.release(tree, "1.3.0")
    assert git(tree, "rev-parse", "HEAD") == before
    assert git(tree, "tag", "--list") == git(tree, "status", "--porcelain") == ""
    assert len(git(tree, "worktree", "list").splitlines()) == 1
    assert not (tree / "dist").exists()


def test_command_says_what_is_in_the_way(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    git(tree, "tag", "v1.3.0")
    assert release.main(["1.3.0", "--directory", str(tree)]) == 1
    assert capsys.readouterr().err == (
        "cannot release 1.3.0: the tag v1.3.0 exists; choose a later version\n"
    )
