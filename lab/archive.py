"""Debian's archive, as this machine's own apt has it: other releases come from the same place."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

CACHE = Path(__file__).resolve().parent.parent / ".cache"
"""Where what was fetched and built is kept for the next run."""

_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


class UnavailableError(RuntimeError):
    """Something cannot be had on this machine; the text says what is missing."""


def sources(release: str, *, security: bool = True) -> list[str]:
    """Lines for a ``sources.list`` that has a release of Debian, by code name.

    Raises UnavailableError when this machine's apt knows no archive.
    """
    codename = _codename()
    origins = _origins()
    if codename not in origins:
        raise UnavailableError(f"apt knows no archive for {codename}: run apt-get update")
    suites = {release: codename}
    if security:
        suites[f"{release}-security"] = f"{codename}-security"
    signed = f" [signed-by={_KEYRING}]" if _KEYRING.exists() else ""
    return [
        f"deb{signed} {origins[like]} {suite} main"
        for suite, like in suites.items()
        if like in origins
    ]


def environment() -> Mapping[str, str]:
    """Ours, and the proxy that apt is told to use, for programs that do not ask apt."""
    shown = _output(["apt-config", "shell", "PROXY", "Acquire::http::Proxy"]).strip()
    proxy = shown.removeprefix("PROXY=").strip("'")
    return {"http_proxy": proxy, **os.environ} if proxy else os.environ


def fetch(release: str, package: str, directory: Path) -> list[Path]:
    """Fetch a package and everything it depends on; answers with the ``.deb`` files.

    The machine's own apt is not touched: this one keeps everything below ``directory`` and
    believes that nothing is installed. Raises UnavailableError.
    """
    for place in ("state/lists/partial", "cache/archives/partial"):
        (directory / place).mkdir(parents=True, exist_ok=True)
    (directory / "state/status").touch()
    (directory / "sources.list").write_text("\n".join([*sources(release), ""]))
    settings = {
        "Dir::Etc::sourcelist": str(directory / "sources.list"),
        "Dir::Etc::sourceparts": "-",
        "Dir::State": str(directory / "state"),
        "Dir::State::status": str(directory / "state/status"),
        "Dir::Cache": str(directory / "cache"),
        # The user whom apt downloads as may not be able to enter the directory.
        "APT::Sandbox::User": "root",
        "APT::Update::Error-Mode": "any",
        "Acquire::Languages": "none",
        "Acquire::Retries": "2",
    }
    apt = ["apt-get", "-q", *(f"-o{name}={value}" for name, value in settings.items())]
    _output([*apt, "update"])
    _output([*apt, "install", "--yes", "--download-only", "--no-install-recommends", package])
    return sorted((directory / "cache/archives").glob("*.deb"))


def run(*arguments: str) -> str:
    """What a program says; raises UnavailableError when it fails."""
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UnavailableError(f"{' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.strip()


def _codename() -> str:
    lines = Path("/etc/os-release").read_text().splitlines()
    values = dict(line.partition("=")[::2] for line in lines)
    return values.get("VERSION_CODENAME", "").strip('"')


def _origins() -> dict[str, str]:
    """The archive's address by code name of what it serves."""
    listed = _output(
        ["apt-get", "indextargets", "--format", "$(CODENAME) $(REPO_URI)", "Created-By: Packages"]
    )
    origins: dict[str, str] = {}
    for line in listed.splitlines():
        codename, _, uri = line.partition(" ")
        origins.setdefault(codename, uri.rstrip("/"))
    return origins


def _output(arguments: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            arguments,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    except FileNotFoundError:
        raise UnavailableError(f"the program {arguments[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"{arguments[0]} did not end within 300 s") from None
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines() or ["(it said nothing)"]
        raise UnavailableError(f"{arguments[0]} failed: {said[-1]}")
    return done.stdout
