"""Directories of texts: what was read once is not read again."""

from pathlib import Path

import pytest

from amphora_agent import files
from amphora_agent.haproxy import directory, signs
from amphora_agent.haproxy.directory import Directory


def made(path: Path, **texts: str) -> Path:
    path.mkdir()
    for name, text in texts.items():
        files.fill(path / f"{name}.cfg", text.encode(), sync=False)
    return path


def unreadable(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Reading is what must not happen, and has no other effect."""
    text = files.text

    def read(path: Path) -> str:
        assert path.name not in names
        return text(path)

    monkeypatch.setattr(files, "text", read)


def test_haproxys_texts_are_read_in_its_order_and_nothing_else(tmp_path: Path) -> None:
    path = made(tmp_path / "one", pool="backend b\n", haproxy="global\n")
    for other in ("model.json", "a.cidrs", ".stage-1-1"):
        (path / other).touch()
    found = directory.read(path)
    assert list(found.texts.items()) == [("haproxy.cfg", "global\n"), ("pool.cfg", "backend b\n")]
    assert found.size == 17


def test_words_are_counted(tmp_path: Path) -> None:
    found = directory.read(made(tmp_path / "one", a="bind check check", b="bind bind"))
    for text in found.texts.values():
        assert text.counts == signs.counted(str(text)).counts


def test_files_that_are_the_same_are_taken_from_another_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = made(tmp_path / "one", same="s", changed="old"), tmp_path / "other"
    before = directory.read(one)
    made(other, changed="new", added="a")
    files.link(one / "same.cfg", other / "same.cfg")
    unreadable(monkeypatch, "same.cfg")
    now = directory.read(other, before)
    assert dict(now.texts) == {"added.cfg": "a", "changed.cfg": "new", "same.cfg": "s"}
    assert now.texts["same.cfg"] is before.texts["same.cfg"]


def test_a_file_by_another_name_is_another_one(tmp_path: Path) -> None:
    one, other = made(tmp_path / "one", first="1", second="2"), made(tmp_path / "other")
    files.link(one / "first.cfg", other / "second.cfg")
    assert dict(directory.read(other, directory.read(one)).texts) == {"second.cfg": "1"}


def test_a_directory_is_known_wherever_it_is_found(tmp_path: Path) -> None:
    path = made(tmp_path / "one", a="a")
    found = directory.read(path)
    path.rename(tmp_path / "moved")
    (tmp_path / "link").symlink_to("moved")
    others = [directory.read(made(tmp_path / "other", a="a")), found]
    assert directory.one_at(tmp_path / "link", others) is found
    assert directory.one_at(tmp_path / "one", others) is None


def test_a_directory_that_changed_is_not_known(tmp_path: Path) -> None:
    path = made(tmp_path / "one", a="a")
    # As if it had been read long ago: two changes at one time look the same.
    read = directory.read(path)._replace(signature=(path.stat().st_ino, 0, path.stat().st_size))
    known: list[Directory] = [read]
    files.fill(path / "b.cfg", b"b", sync=False)
    assert directory.one_at(path, known) is None
