#!/usr/bin/env python3
"""Make a release: version, changelog, commit, sdist, wheel, tag.

    tools/release.py VERSION [--directory TREE]

Everything is made in a worktree of its own. The branch, the tag and dist/ change at the end, when
all of it has succeeded; a release that fails leaves the tree as it was. Nothing is pushed.
"""

import argparse
import datetime
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

VERSION_FILE = Path("amphora_agent/__init__.py")
FRAGMENTS = Path("changelog.d")
#: Files of the folder of fragments that tell of no change.
_NO_FRAGMENTS = frozenset({".gitignore", "README.md", "template.md.jinja"})
_VERSION = re.compile(r"(?:0|[1-9]\d*)\.(?:0|[1-9]\d*)\.(?:0|[1-9]\d*)(?:rc[1-9]\d*)?")
_ASSIGNED = re.compile(r'^__version__ = "([^"]+)"$', re.MULTILINE)
_BUILD = (
    "import sys; from setuptools import build_meta as b; print(getattr(b, sys.argv[1])('dist'))"
)


class ReleaseError(Exception):
    """The release cannot be made; the text says why, and what to do."""


def find_obstacles(tree: Path, version: str) -> list[str]:
    """Return what keeps `tree` from being released as `version`, each with what to do."""
    obstacles = []
    if not _VERSION.fullmatch(version):
        obstacles.append(f"{version!r} is no version; write it as 1.2.3 or 1.2.3rc1")
    elif _order(version) < _order(read_version(tree)):
        obstacles.append(f"{version} is older than {read_version(tree)}; choose a later one")
    if changed := run(tree, "git", "status", "--porcelain"):
        obstacles.append(f"the tree has changes; commit or remove them:\n{changed}")
    if run(tree, "git", "tag", "--list", f"v{version}"):
        obstacles.append(f"the tag v{version} exists; choose a later version")
    if not any(path.name not in _NO_FRAGMENTS for path in (tree / FRAGMENTS).iterdir()):
        obstacles.append(f"{FRAGMENTS}/ has no fragment; say there what has changed")
    if not run(tree, "git", "branch", "--show-current"):
        obstacles.append("no branch is checked out; check out the one to release from")
    return obstacles


def read_version(tree: Path) -> str:
    """Return the version that the tree has: the one place where it stands."""
    match = _ASSIGNED.search((tree / VERSION_FILE).read_text())
    if match is None:
        raise ReleaseError(f'{VERSION_FILE} has no line __version__ = "…"; write it again')
    return match[1]


def write_version(tree: Path, version: str) -> None:
    """Write the version into the one place where it stands."""
    path = tree / VERSION_FILE
    path.write_text(_ASSIGNED.sub(f'__version__ = "{version}"', path.read_text()))


def release(tree: Path, version: str) -> list[Path]:
    """Make the release in a worktree, then move the branch, set the tag and fill dist/.

    Returns:
        The sdist and the wheel.

    Raises:
        ReleaseError: something is in the way, or a step failed. The tree is as it was.
    """
    if obstacles := find_obstacles(tree, version):
        raise ReleaseError("\n".join(obstacles))
    with tempfile.TemporaryDirectory(prefix="release-") as name:
        copy = Path(name) / "tree"
        run(tree, "git", "worktree", "add", "--quiet", "--detach", str(copy), "HEAD")
        try:
            _prepare(copy, version)
            built = _build(copy, Path(name))
            commit = run(copy, "git", "rev-parse", "HEAD")
            run(tree, "git", "merge", "--quiet", "--ff-only", commit)
            run(tree, "git", "tag", "--annotate", "--message", f"Release {version}", f"v{version}")
            destination = tree / "dist"
            destination.mkdir(exist_ok=True)
            return [_put(path, destination) for path in built]
        finally:
            run(tree, "git", "worktree", "remove", "--force", str(copy))


def _prepare(copy: Path, version: str) -> None:
    """Commit the version, the changelog, and the document that has the version in it."""
    write_version(copy, version)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    towncrier = [sys.executable, "-m", "towncrier", "build", "--yes"]
    run(copy, *towncrier, "--version", version, "--date", today)
    # The environment is the one that is there: it is not made anew for the copy.
    environment = sys.prefix
    installed = f"--old-file={environment}/demo"
    run(copy, "make", "--no-print-directory", installed, f"VENV={environment}", "openapi")
    run(copy, "git", "add", "--all")
    run(copy, "git", "commit", "--quiet", "--message", f"Release {version}")


def _build(copy: Path, scratch: Path) -> list[Path]:
    """Build the sdist of the tree, and the wheel of the sdist: so the sdist is complete."""
    sdist = copy / "dist" / run(copy, sys.executable, "-c", _BUILD, "build_sdist").split()[-1]
    with tarfile.open(sdist) as archive:
        archive.extractall(scratch / "unpacked", filter="data")
    (source,) = (scratch / "unpacked").iterdir()
    wheel = source / "dist" / run(source, sys.executable, "-c", _BUILD, "build_wheel").split()[-1]
    return [sdist, wheel]


def _put(path: Path, directory: Path) -> Path:
    """Copy a file into a directory, where it is whole or not there."""
    copied = directory / f".{path.name}.new"
    copied.write_bytes(path.read_bytes())
    return copied.replace(directory / path.name)


def _order(version: str) -> tuple[float, ...]:
    """Return what versions are compared by; a candidate comes before its release."""
    numbers, _, candidate = version.partition("rc")
    return (*map(int, numbers.split(".")), int(candidate) if candidate else float("inf"))


def run(directory: Path, *command: str) -> str:
    """Run a program and return its output without the blanks around it.

    Raises:
        ReleaseError: it failed, with what it said.
    """
    done = subprocess.run(
        command,
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": ""},
    )
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise ReleaseError(f"{' '.join(command[:3])} failed: {said}")
    return done.stdout.strip()


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("version", help="for example 1.2.3")
    parser.add_argument("--directory", type=Path, default=Path(__file__).resolve().parents[1])
    options = parser.parse_args(arguments)
    try:
        built = release(options.directory, options.version)
    except ReleaseError as error:
        print(f"cannot release {options.version}: {error}", file=sys.stderr)
        return 1
    for path in built:
        print(path)
    print(f"look at it (git show v{options.version}), then: git push --follow-tags")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
