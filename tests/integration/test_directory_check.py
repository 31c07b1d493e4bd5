"""haproxy checks a directory that is not in its place yet, and says where what is wrong will be."""

from pathlib import Path

import pytest

from amphora_agent.haproxy.process.binary import Haproxy

_SHARED = "global\n    maxconn 10\ndefaults\n    mode http\n    timeout client 1s\n"
_LISTENER = "# A comment.\nfrontend {0}\n    bind 127.0.0.1:1\n    default_backend {1}\n"
_POOL = "backend {0}\n    timeout connect 1s\n    timeout server 1s\n{1}"


@pytest.fixture
def haproxy(program: Path, tmp_path: Path) -> Haproxy:
    return Haproxy(program, tmp_path / "run")


def texts(pool: str = "b", wrong: str = "") -> dict[str, str]:
    return {
        "haproxy.cfg": _SHARED,
        "listener-a.cfg": _LISTENER.format("a", pool),
        "pool-b.cfg": _POOL.format("b", ""),
        "pool-c.cfg": _POOL.format("c", wrong),
    }


def check(haproxy: Haproxy, tmp_path: Path, some: dict[str, str]) -> tuple[bool, str]:
    staged, name = tmp_path / "staged", Path("/lb/current")
    named = {path.name: path for path in staged.glob("*")}
    done = haproxy.check_directory(some, named, name)
    assert str(tmp_path) not in done.output
    assert "stdin" not in done.output
    return done.succeeded, done.output


def test_what_is_right_is_right(haproxy: Haproxy, tmp_path: Path) -> None:
    assert check(haproxy, tmp_path, texts())[0]


def test_a_line_is_named_by_its_file(haproxy: Haproxy, tmp_path: Path) -> None:
    right, words = check(haproxy, tmp_path, texts(wrong="    nonsense\n"))
    assert not right
    assert "[/lb/current/pool-c.cfg:4]" in words


def test_lines_of_what_is_left_out_count(haproxy: Haproxy, tmp_path: Path) -> None:
    some = texts(wrong="    nonsense\n")
    some["pool-b.cfg"] = "\n" * some["pool-b.cfg"].count("\n")
    right, words = check(haproxy, tmp_path, some)
    assert not right
    assert "[/lb/current/pool-c.cfg:4]" in words


def test_a_section_is_named_by_its_file(haproxy: Haproxy, tmp_path: Path) -> None:
    right, words = check(haproxy, tmp_path, texts(pool="nowhere"))
    assert not right
    assert "unable to find required default_backend: 'nowhere'" in words


def test_files_that_texts_name_are_found(haproxy: Haproxy, tmp_path: Path) -> None:
    (tmp_path / "staged").mkdir()
    (tmp_path / "staged" / "a.cidrs").write_text("10.0.0.0/8\n")
    some = texts(wrong="    http-request deny unless { src -f /lb/current/a.cidrs }\n")
    assert check(haproxy, tmp_path, some)[0]
    (tmp_path / "staged" / "a.cidrs").write_text("nobody\n")
    right, words = check(haproxy, tmp_path, some)
    assert not right
    assert "/lb/current/pool-c.cfg:4" in words
