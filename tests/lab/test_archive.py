"""Other releases of Debian come from where this machine's own packages come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import archive, haproxies
from lab.archive import UnavailableError

LISTED = """\
bookworm http://archive.example/debian/
bookworm-updates http://archive.example/debian/
bookworm-security http://security.example/debian-security/
"""


@pytest.fixture
def apt(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What apt lists, and which release this machine has."""
    told = {"listed": LISTED, "codename": "bookworm"}
    monkeypatch.setattr(archive, "_output", lambda _: told["listed"])
    monkeypatch.setattr(archive, "_codename", lambda: told["codename"])
    monkeypatch.setattr(archive, "_KEYRING", Path("/nowhere"))
    return told


def test_a_release_has_the_place_of_this_one(apt: dict[str, str]) -> None:
    assert archive.sources("trixie") == [
        "deb http://archive.example/debian trixie main",
        "deb http://security.example/debian-security trixie-security main",
    ]
    assert archive.sources("trixie", security=False) == [
        "deb http://archive.example/debian trixie main"
    ]


def test_the_keys_of_debian_are_named_when_they_are_there(
    apt: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    keyring = tmp_path / "keys.gpg"
    keyring.touch()
    monkeypatch.setattr(archive, "_KEYRING", keyring)
    first, _ = archive.sources("trixie")
    assert first == f"deb [signed-by={keyring}] http://archive.example/debian trixie main"


def test_a_machine_that_never_updated_its_lists_is_told_to(apt: dict[str, str]) -> None:
    apt["listed"] = ""
    with pytest.raises(UnavailableError, match=r"knows no archive for bookworm.*apt-get update"):
        archive.sources("trixie")


def test_a_haproxy_that_nobody_has_is_missed_by_its_version() -> None:
    with pytest.raises(UnavailableError, match=r"haproxy 1\.8: "):
        haproxies.program("1.8")
