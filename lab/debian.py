"""A Debian with the agent installed, as an amphora has it: a tree of files that can be booted.

It has two layers, both kept until what they are made of changes: Debian itself, and on top of it
the wheel built from this checkout with everything it depends on, its commands and its units. They
are layers of an overlay file system.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lab.archive import CACHE, UnavailableError, environment, sources

_ROOT = Path(__file__).resolve().parent.parent
_SOURCES = (
    *("setup.py", "pyproject.toml", "README.md", "LICENSE", "requirements/agent.txt"),
    *("amphora_agent", "haproxy_templates", "systemd"),
)
_LOCK = _ROOT / "requirements/agent.txt"
_PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "udev", "iproute2", "procps", "nftables", "haproxy"),
    *("udhcpc", "iputils-ping", "python3", "python3-venv", "ca-certificates", "openssl"),
)
_APT = ('APT::Install-Recommends "false"',)
_DPKG = tuple(f"path-exclude=/usr/share/{unread}/*" for unread in ("doc", "locale", "man"))

# Services that packages start by themselves, and what an amphora has no use for.
_DISABLED = ("haproxy.service", "apt-daily.timer", "apt-daily-upgrade.timer", "e2scrub_all.timer")
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
# Earlier versions of the agent that are kept: one goes back and forth between two of them.
_KEPT = 3

_INSTALL = """
python3 -m venv /opt/amphora-agent
pip() { /opt/amphora-agent/bin/pip install --quiet --no-index --no-deps --find-links /wheels "$@"; }
pip --require-hashes -r /wheels/agent.txt
pip amphora-agent
ln -s /opt/amphora-agent/bin/amphora-* /usr/bin/
units=$(/opt/amphora-agent/bin/python -c '
from amphora_agent import templates
print(templates.find_directory("systemd"))')
cp "$units"/*.service /etc/systemd/system/
cp "$units"/amphora-agent.sysusers /usr/lib/sysusers.d/amphora-agent.conf
systemd-sysusers
cd /etc/systemd/system
systemctl enable --quiet amphora-*.service
rm -r /wheels
"""


class InstallationError(RuntimeError):
    """The checkout cannot be built or installed; the text is what the programs said."""


@dataclass(frozen=True)
class Release:
    """A release of Debian, and the version of its Python."""

    codename: str
    python: str


BOOKWORM = Release("bookworm", "3.11")
TRIXIE = Release("trixie", "3.13")


def tree(
    release: Release, *, more: Sequence[str] = (), cache: Path = CACHE / "debian"
) -> list[Path]:
    """The layers of a Debian with the agent of this checkout, the upper one first.

    With ``more`` packages it is another Debian, kept beside the one without.

    Raises UnavailableError, InstallationError.
    """
    if os.geteuid() != 0:
        raise UnavailableError("a Debian tree can be made by root only")
    _require_overlays(cache)
    packages = (*_PACKAGES, *more)
    name = "-".join([release.codename, *more])
    base = _layer(
        cache / name,
        _digest_of_debian(release, packages),
        lambda scratch: _make_debian(release, packages, scratch),
    )
    agent = _layer(
        cache / f"{name}-agent",
        _digest_of_sources(base.name),
        lambda scratch: _install_agent(release, base, scratch),
    )
    return [agent, base]


def in_mounted(
    layers: Sequence[Path], changes: Path, target: Path, script: str, *arguments: str
) -> list[str]:
    """A command that mounts the layers at ``target`` and goes on with a shell script.

    What is written there goes below ``changes``. The mount is in a namespace of its own, so
    nothing stays mounted, however the script ends.
    """
    for directory in (changes / "upper", changes / "work", target):
        directory.mkdir(parents=True, exist_ok=True)
    lower = ":".join(str(layer) for layer in layers)
    options = f"lowerdir={lower},upperdir={changes}/upper,workdir={changes}/work"
    mount = f"mount -t overlay -o {options} overlay {target}"
    return ["unshare", "--mount", "sh", "-euc", f"{mount}\n{script}", "sh", *arguments]


def run_mounted(
    layers: Sequence[Path], changes: Path, target: Path, script: str, *arguments: str
) -> None:
    """Run such a script to its end; raises InstallationError."""
    _run(in_mounted(layers, changes, target, script, *arguments))


def _require_overlays(place: Path) -> None:
    """Raises UnavailableError where no overlay can be mounted: on another overlay, for one, which
    is what the root of many containers is."""
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".trying-", dir=place) as directory:
        scratch = Path(directory)
        lower = scratch / "lower"
        lower.mkdir()
        try:
            run_mounted([lower], scratch, scratch / "target", "true")
        except InstallationError as error:
            raise UnavailableError(f"no overlay can be mounted in {place}: {error}") from None


def _layer(place: Path, digest: str, make: Callable[[Path], None]) -> Path:
    """The directory of a layer, made now if it is not there; older ones in this place go."""
    layer = place / digest[:12]
    with _locked(place.with_suffix(".lock")):
        place.mkdir(exist_ok=True)
        if not layer.exists():
            with tempfile.TemporaryDirectory(prefix=".making-", dir=place.parent) as scratch:
                make(Path(scratch))
                Path(scratch, "upper").rename(layer)
        layer.touch()
        newest_first = sorted(place.iterdir(), key=lambda path: -path.stat().st_mtime)
        for outdated in newest_first[_KEPT:]:
            shutil.rmtree(outdated)
    return layer


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _digest_of_debian(release: Release, packages: Sequence[str]) -> str:
    made_of = (release, tuple(packages), _APT, _DPKG, _DISABLED)
    return hashlib.sha256(repr(made_of).encode()).hexdigest()


def _make_debian(release: Release, packages: Sequence[str], scratch: Path) -> None:
    if shutil.which("mmdebstrap") is None:
        raise UnavailableError("the program mmdebstrap is not installed")
    target = scratch / "upper"
    arguments = ["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase"]
    arguments.append(f"--include={','.join(packages)}")
    arguments += [f"--aptopt={option}" for option in _APT]
    arguments += [f"--dpkgopt={option}" for option in _DPKG]
    # Where the packages came from is nothing that what was made of them should know.
    arguments.append('--customize-hook=rm -rf "$1"/etc/apt/sources.list*')
    for unit in _DISABLED:
        arguments.append(f'--customize-hook=chroot "$1" systemctl disable {unit} || true')
    done = subprocess.run(
        [*arguments, release.codename, str(target), "-"],
        input="\n".join([*sources(release.codename), ""]),
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.startswith("E: ")]
        raise UnavailableError("; ".join(["mmdebstrap failed", *said]))
    # Each machine that boots makes one of its own.
    (target / "etc/machine-id").write_text("")
    (target / "etc/hostname").write_text("amphora\n")
    (target / "etc/hosts").write_text("127.0.0.1 localhost amphora\n")


def _digest_of_sources(base: str) -> str:
    digest = hashlib.sha256(f"{base}\n{_INSTALL}".encode())
    for source in _SOURCES:
        path = _ROOT / source
        below = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in below:
            if file.is_file() and "__pycache__" not in file.parts:
                content = hashlib.sha256(file.read_bytes()).hexdigest()
                digest.update(f"{file.relative_to(_ROOT)} {content}\n".encode())
    return digest.hexdigest()


def _install_agent(release: Release, base: Path, scratch: Path) -> None:
    wheel = _build_wheel(scratch)
    wheels = scratch / "upper/wheels"
    _pip(
        *("download", "--dest", str(wheels), "--no-deps", "--only-binary=:all:"),
        *("--python-version", release.python, "--require-hashes", "-r", str(_LOCK)),
    )
    shutil.copy2(_LOCK, wheels)
    shutil.copy2(wheel, wheels)
    target = scratch / "target"
    # The host's own environment has settings for pip that mean nothing in there.
    script = f'exec env -i PATH={_PATH} chroot {target} sh -euc "$1"'
    run_mounted([base], scratch, target, script, _INSTALL)


def _build_wheel(scratch: Path) -> Path:
    """Build it from a copy: what earlier builds left beside the sources must not get into it."""
    copy, built = scratch / "source", scratch / "wheel"
    copy.mkdir()
    for source in _SOURCES:
        path = _ROOT / source
        if path.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(path, copy / source, ignore=ignored)
        else:
            (copy / source).parent.mkdir(exist_ok=True)
            shutil.copy2(path, copy / source)
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(built), str(copy))
    (wheel,) = built.glob("*.whl")
    return wheel


def _pip(*arguments: str) -> None:
    _run([sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments])


def _run(arguments: Sequence[str]) -> None:
    done = subprocess.run(
        arguments, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise InstallationError(f"{done.stdout}{done.stderr}".strip())
