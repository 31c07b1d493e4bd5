"""Pythons that the machine's own Debian does not have: 3.13 is Debian 13's.

The interpreter and its libraries, down to the C library, are taken out of the packages and put
into one directory, and the interpreter is told to look nowhere else. Environments that are made
with it have no pip: Debian keeps that elsewhere.

``python -m lab.pythons`` fetches it where it is missing, and prints where it is.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from lab.archive import CACHE, UnavailableError, fetch, run

_VERSION, _RELEASE = "3.13", "trixie"


def program(*, directory: Path = CACHE / "python") -> Path:
    """The interpreter; what has to be fetched for it is kept in ``directory``.

    Raises UnavailableError.
    """
    home = directory / f"{_VERSION}-{sysconfig.get_platform()}"
    made = home / f"usr/bin/python{_VERSION}"
    if _runs(made):
        return made
    if shutil.which("patchelf") is None:
        raise UnavailableError(f"Python {_VERSION}: the program patchelf is not installed")
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".making-", dir=directory) as scratch:
        tree = Path(scratch, "tree")
        for package in fetch(_RELEASE, f"python{_VERSION}-venv", Path(scratch, "apt")):
            run("dpkg-deb", "--extract", str(package), str(tree))
        _link(tree / made.relative_to(home), tree, home)
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(home)
        # Another process may have put the same thing there in the meantime.
        with contextlib.suppress(OSError):
            tree.rename(home)
    if not _runs(made):
        raise UnavailableError(f"Python {_VERSION}: that of {_RELEASE} does not run here")
    return made


def _link(interpreter: Path, tree: Path, home: Path) -> None:
    """Have an interpreter of a tree use the libraries that will be in ``home``."""
    (libraries,) = (path.relative_to(tree) for path in tree.glob("usr/lib/*-linux-gnu"))
    linker = Path(run("patchelf", "--print-interpreter", str(interpreter))).name
    run(
        "patchelf",
        *("--set-interpreter", str(home / libraries / linker)),
        # Unlike a RUNPATH it counts for what the libraries themselves need, too.
        *("--force-rpath", "--set-rpath", str(home / libraries)),
        str(interpreter),
    )


def _runs(interpreter: Path) -> bool:
    if not interpreter.exists():
        return False
    done = subprocess.run([interpreter, "-c", "import ssl, venv"], capture_output=True, check=False)
    return done.returncode == 0


if __name__ == "__main__":
    try:
        print(program())
    except UnavailableError as error:
        sys.exit(str(error))
