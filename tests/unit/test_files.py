"""A file is replaced whole or not at all, also by a process that is killed in the middle."""

import errno
import io
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest

from amphora_agent import files

OLD, NEW = b"old" * 100_000, b"new" * 120_000


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_write_replaces_the_content_and_leaves_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "file"
    for content in (OLD, NEW, b""):
        files.write(file, content)
        assert file.read_bytes() == content
    assert names(tmp_path) == ["file"]


def test_all_is_written_where_the_disk_takes_a_part_at_a_time(tmp_path: Path) -> None:
    class AlmostFull(io.FileIO):
        def write(self, data: Any) -> int:
            return super().write(bytes(data)[:7])

    with AlmostFull(tmp_path / "file", "x") as file:
        files.write_all(cast(BinaryIO, file), NEW)
    assert (tmp_path / "file").read_bytes() == NEW


def test_files_are_for_the_agent_alone_unless_they_are_public(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        files.write(tmp_path / "private", b"key")
        files.write(tmp_path / "public", b"text", files.PUBLIC)
    finally:
        os.umask(old)
    assert mode(tmp_path / "private") == 0o600
    assert mode(tmp_path / "public") == 0o644


def test_the_mode_of_the_file_before_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "key").touch(0o666)
    files.write(tmp_path / "key", b"key")
    assert mode(tmp_path / "key") == 0o600


def test_directories_are_made(tmp_path: Path) -> None:
    files.write(tmp_path / "a/b/file", b"x")
    files.make_private_directory(tmp_path / "c/keys")
    assert mode(tmp_path / "a/b") == 0o755
    assert mode(tmp_path / "c/keys") == 0o700


def test_a_write_does_not_follow_a_link_that_has_the_name(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(OLD)
    (tmp_path / "file").symlink_to("target")
    files.write(tmp_path / "file", NEW)
    assert (tmp_path / "target").read_bytes() == OLD
    assert not (tmp_path / "file").is_symlink()


def test_staged_bytes_are_in_place_only_after_the_commit(tmp_path: Path) -> None:
    file = tmp_path / "file"
    files.write(file, OLD)
    with files.Staged(file, NEW, files.PRIVATE) as staged:
        assert file.read_bytes() == OLD
        assert staged.path.read_bytes() == NEW
        assert staged.path.parent == file.parent
        staged.commit()
        assert file.read_bytes() == NEW
    assert file.read_bytes() == NEW
    assert names(tmp_path) == ["file"]


def test_discards_staged_bytes_without_a_commit(tmp_path: Path) -> None:
    with files.Staged(tmp_path / "file", NEW, files.PRIVATE):
        pass
    with pytest.raises(ZeroDivisionError), files.Staged(tmp_path / "file", NEW, files.PRIVATE):
        raise ZeroDivisionError
    assert names(tmp_path) == []


def test_a_write_that_the_disk_refuses_leaves_the_old_file_and_nothing_else(
    tmp_path: Path,
) -> None:
    file = tmp_path / "file"
    files.write(file, OLD)
    # In a process of its own: the limit stands for a full disk, and must not be ours.
    script = f"""
import resource, signal
from pathlib import Path
from amphora_agent import files
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    files.write(Path({str(file)!r}), b"n" * 360_000)
except OSError:
    print("refused")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout == b"refused\n"
    assert file.read_bytes() == OLD
    assert names(tmp_path) == ["file"]


def test_sweep_removes_what_the_dead_left_at_any_depth_and_nothing_else(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / "a/b").mkdir(parents=True)
    for name in (f".stage-{dead.pid}-x", f"a/b/.stage-{dead.pid}-y", "stage-1", "a/.hidden"):
        (tmp_path / name).touch()
    files.sweep(tmp_path)
    assert names(tmp_path) == ["a", "stage-1"]
    assert names(tmp_path / "a") == [".hidden", "b"]
    assert names(tmp_path / "a/b") == []


def test_sweep_leaves_alone_what_is_being_written(tmp_path: Path) -> None:
    with files.Staged(tmp_path / "file", NEW, files.PRIVATE) as staged:
        files.sweep(tmp_path)
        staged.commit()
    assert (tmp_path / "file").read_bytes() == NEW


def test_sweep_of_a_directory_that_is_not_there_does_nothing(tmp_path: Path) -> None:
    files.sweep(tmp_path / "absent")


def test_sweep_looks_no_deeper_than_it_is_told(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / "a").mkdir()
    for name in (f".stage-{dead.pid}-x", f"a/.stage-{dead.pid}-y"):
        (tmp_path / name).mkdir()
    files.sweep(tmp_path, deep=False)
    assert names(tmp_path) == ["a"]
    assert names(tmp_path / "a") == [f".stage-{dead.pid}-y"]


def tree(path: Path, **contents: str) -> Path:
    """A directory with files; two underscores stand for a slash."""
    for name, content in contents.items():
        file = path / name.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return path


def test_text_keeps_the_bytes_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"a\xff\r\n")
    assert files.text(tmp_path / "file").encode(errors="surrogateescape") == b"a\xff\r\n"


def test_removing_is_idempotent(tmp_path: Path) -> None:
    files.write(tmp_path / "tree/file", OLD)
    assert files.remove(tmp_path / "tree/file")
    assert not files.remove(tmp_path / "tree/file")
    files.remove_tree(tmp_path / "tree")
    files.remove_tree(tmp_path / "tree")
    assert not files.remove(tmp_path / "tree/file")
    assert names(tmp_path) == []


def test_cap_empties_a_file_that_has_grown_too_large(tmp_path: Path) -> None:
    files.write(tmp_path / "log", b"x" * 100)
    files.cap(tmp_path / "log", 100)
    assert (tmp_path / "log").stat().st_size == 100
    with (tmp_path / "log").open("ab") as appending:
        appending.write(b"x")
        appending.flush()
        files.cap(tmp_path / "log", 100)
        appending.write(b"y")
    assert (tmp_path / "log").read_bytes() == b"y"
    files.cap(tmp_path / "absent", 100)


def test_the_signature_changes_with_every_replacement(tmp_path: Path) -> None:
    file = tmp_path / "file"
    assert files.signature(file) is None
    seen = set()
    for content in (b"a", b"b", b"c"):
        before = file.open("rb") if file.exists() else None  # keeps its inode from being reused
        files.write(file, content)
        seen.add(files.signature(file))
        if before is not None:
            before.close()
    assert len(seen) == 3
    assert files.signature(file) == files.signature(file)


def _refusing(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let the system refuse a call. No real disk refuses just one at will."""

    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, name, refuse)


@pytest.mark.parametrize("call", ["symlink", "replace", "fsync"])
@pytest.mark.parametrize("before", [None, "one"])
def test_a_link_that_is_refused_leads_where_it_did_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, before: str | None
) -> None:
    link = tmp_path / "link"
    if before is not None:
        files.point(link, before)
    with monkeypatch.context() as refusing:
        _refusing(refusing, call)
        with pytest.raises(OSError, match="Input/output error"):
            files.point(link, "two")
    assert (os.readlink(link) if link.is_symlink() else None) == before
    assert names(tmp_path) == (["link"] if before else [])
    files.point(link, "two")
    assert os.readlink(link) == "two"


def test_a_temporary_file_that_cannot_be_removed_goes_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as refusing:

        def refuse(*arguments: object) -> None:
            _refusing(refusing, "unlink")  # from now on
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        refusing.setattr(os, "replace", refuse)
        with pytest.raises(OSError, match="Input/output error"):
            files.replace_unsynced(tmp_path / "file", b"x", files.PRIVATE)
        assert len(names(tmp_path)) == 1
    files.discard(tmp_path / "another")
    assert names(tmp_path) == []


def test_a_directory_that_cannot_be_emptied_is_gone_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "keys"
    files.write(directory / "below/key", b"x")
    with monkeypatch.context() as refusing:
        _refusing(refusing, "rmdir")
        files.remove_at_once(directory)
        assert not directory.exists()
        assert len(names(tmp_path)) == 1
    files.remove_at_once(directory)  # which is not there any more
    files.discard(tmp_path / "another")
    assert names(tmp_path) == []


def test_a_directory_that_cannot_be_taken_away_is_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.write(tmp_path / "keys/key", b"x")
    with monkeypatch.context() as refusing:
        _refusing(refusing, "rename")
        with pytest.raises(OSError, match="Input/output error"):
            files.remove_at_once(tmp_path / "keys")
    assert (tmp_path / "keys/key").read_bytes() == b"x"
    assert names(tmp_path) == ["keys"]


def test_a_lock_goes_with_what_it_is_for(tmp_path: Path) -> None:
    owner, lock = tmp_path / "owner", tmp_path / "locks" / "owner.lock"
    owner.touch()
    with files.locked_for(owner, lock), files.locked_if_free(lock) as free:
        assert not free
    assert lock.exists()
    with files.locked_for(owner, lock):
        owner.unlink()
    assert not lock.exists()
    with files.locked_for(owner, lock):
        pass
    assert not lock.exists()
