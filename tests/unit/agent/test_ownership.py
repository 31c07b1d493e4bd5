"""Who could exchange what a path names."""

import os
from pathlib import Path

import pytest

from amphora_agent.agent.reconfiguration import find_stranger

NOBODY = 65534

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="gives files away: needs root")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A directory below /tmp, which is sticky, with a file."""
    (tmp_path / "file").write_text("x")
    return tmp_path


def test_a_file_of_root_in_directories_of_root_is_safe() -> None:
    assert find_stranger(Path("/etc/passwd")) is None
    assert find_stranger(Path("/")) is None


def test_a_sticky_directory_is_safe_where_that_is_said(home: Path) -> None:
    assert find_stranger(home / "file", sticky=True) is None
    home.chmod(0o1777)
    assert find_stranger(home / "file", sticky=True) is None
    reason = find_stranger(home / "file")
    assert reason == "a directory above it can be written by others than root"


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o775, 0o702, 0o720])
def test_a_directory_that_others_write_is_not(home: Path, mode: int) -> None:
    home.chmod(mode)
    assert find_stranger(home / "file", sticky=True)


@pytest.mark.parametrize("mode", [0o666, 0o660, 0o620, 0o602, 0o1666])
def test_a_file_that_others_write_is_not(home: Path, mode: int) -> None:
    (home / "file").chmod(mode)
    assert find_stranger(home / "file", sticky=True) == "it can be written by others than root"


@pytest.mark.parametrize("part", ["file", ""])
def test_finds_a_stranger_who_owns_a_part_of_the_path(home: Path, part: str) -> None:
    os.chown(home / part, NOBODY, -1)
    assert "does not belong to root" in str(find_stranger(home / "file", sticky=True))


@pytest.mark.parametrize("target", ["file", "../{name}/file", "{home}/file", "./sub/../file"])
def test_links_are_followed_to_what_they_lead_to(home: Path, target: str) -> None:
    (home / "sub").mkdir()
    (home / "link").symlink_to(target.format(home=home, name=home.name))
    assert find_stranger(home / "link", sticky=True) is None
    (home / "file").chmod(0o666)
    assert find_stranger(home / "link", sticky=True)


def test_every_directory_that_a_link_leads_through_is_looked_at(home: Path) -> None:
    loose = home / "loose"
    loose.mkdir()
    (loose / "in").symlink_to(home / "file")
    (home / "out").symlink_to("loose")
    assert find_stranger(home / "out" / "in", sticky=True) is None
    loose.chmod(0o777)
    assert find_stranger(home / "out" / "in", sticky=True)
    loose.chmod(0o755)
    os.lchown(loose / "in", NOBODY, -1)
    assert "symbolic link" in str(find_stranger(home / "out" / "in", sticky=True))


def test_a_path_that_leads_nowhere_is_an_error(home: Path) -> None:
    (home / "circle").symlink_to("circle")
    assert find_stranger(home / "circle", sticky=True) == "it has too many symbolic links"
    for path in (home / "absent", home / "file" / "x"):
        with pytest.raises(OSError, match=r"No such file|Not a directory"):
            find_stranger(path, sticky=True)
