"""A file is replaced whole or not at all, also by a process that is killed in the middle."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

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


def test_what_is_staged_is_not_in_place_until_it_is_committed(tmp_path: Path) -> None:
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


def test_what_is_not_committed_vanishes(tmp_path: Path) -> None:
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


KILLED_AT_EVERY_CALL = """
import os, signal, sys
from pathlib import Path
from amphora_agent import files

file, copy = Path(sys.argv[1]), Path(sys.argv[2])

def change(number):
    def count(frame, event, argument):
        nonlocal number
        number -= event in ("c_call", "c_return")
        if number < 0:
            os.kill(os.getpid(), signal.SIGKILL)
    sys.setprofile(count)
    files.keep_as(file, copy)
    files.write(file, b"new" * 120_000)
    sys.setprofile(None)
    os._exit(0)

number, status = 0, -1
while status != 0:
    for path in (file, copy):  # they may be one file by now
        path.unlink(missing_ok=True)
    file.write_bytes(b"old" * 100_000)
    copy.write_bytes(b"older")
    pid = os.fork()
    if pid == 0:
        change(number)
    status = os.waitpid(pid, 0)[1]
    print(file.read_bytes()[:3].decode(), file.stat().st_size, copy.read_bytes()[:5].decode())
    number += 1
"""


def test_a_kill_before_or_after_any_call_leaves_the_old_or_the_new_content(tmp_path: Path) -> None:
    """Not by chance: a child counts its calls, and kills itself at one after the other."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AT_EVERY_CALL, tmp_path / "file", tmp_path / "copy"],
        capture_output=True,
        text=True,
        check=True,
    )
    instants = done.stdout.splitlines()
    assert len(instants) > 40
    # One after the other, and nothing in between.
    states = ["old 300000 older", "old 300000 oldol", "new 360000 oldol"]
    assert list(dict.fromkeys(instants)) == states
    assert instants == sorted(instants, key=states.index)
    files.sweep(tmp_path)
    assert names(tmp_path) == ["copy", "file"]


WRITER = """
import sys
from pathlib import Path
from amphora_agent import files
file, contents = Path(sys.argv[1]), [letter * 400_000 for letter in (b"a", b"b")]
print("ready", flush=True)
number = 0
while True:
    files.write(file, contents[number % 2])
    if number % 3 == 0:
        files.keep_as(file, file.with_name("copy"))
    number += 1
    print(number, flush=True)
"""


def test_a_kill_at_any_instant_leaves_one_whole_content(tmp_path: Path) -> None:
    file = tmp_path / "file"
    wholes = {bytes([letter]) * 400_000 for letter in b"ab"}
    strays = 0
    for attempt in range(200):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(file)], stdout=subprocess.PIPE
        ) as child:
            assert child.stdout is not None
            for _ in range(2 + attempt % 5):
                child.stdout.readline()
            for _ in range(attempt % 40 * 400):  # another instant each time, without a clock
                os.getpid()
            child.send_signal(signal.SIGKILL)
        assert file.read_bytes() in wholes
        copy = tmp_path / "copy"
        assert not copy.exists() or copy.read_bytes() in wholes
        left = [name for name in names(tmp_path) if name not in ("file", "copy")]
        assert all(name.startswith(".stage-") for name in left)
        strays += len(left)
        files.sweep(tmp_path)
        assert set(names(tmp_path)) <= {"file", "copy"}
        if attempt >= 20 and strays >= 3:
            return
    pytest.fail("hardly a kill came in the middle of a write: this test proved nothing")


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


def test_links_make_a_directory_what_is_wanted_of_another(tmp_path: Path) -> None:
    source = tree(tmp_path / "source", a="a", b="b", d__e__f="f", g__h="h")
    copy = tmp_path / "copy"
    copy.mkdir()
    every = files.inodes_below(source)
    assert sorted(every) == ["a", "b", "d/e/f", "g/h"]
    files.link_all(source, copy, every)
    assert files.inodes_below(copy) == every
    assert stat.S_IMODE((copy / "d").stat().st_mode) == 0o700
    few = {name: every[name] for name in ("b", "g/h")}
    files.link_all(source, copy, few)
    assert files.inodes_below(copy) == few
    assert names(copy) == ["b", "g"]  # nor is there a directory too many
    files.link_all(source, copy, {})
    assert names(copy) == []
    assert (source / "d/e/f").read_text() == "f"


def test_links_that_are_right_stay_and_others_are_replaced(tmp_path: Path) -> None:
    before = tree(tmp_path / "before", a="a", b="old")
    now = tmp_path / "now"
    now.mkdir()
    files.link(before / "a", now / "a")
    tree(now, b="new", c="c")
    # What is right already could not be linked: there is nothing to link it to.
    wanted = files.inodes_below(now)
    (now / "a").unlink()
    files.link_all(now, before, wanted)
    assert files.inodes_below(before) == wanted
    assert {name: (before / name).read_text() for name in names(before)} == {
        "a": "a",
        "b": "new",
        "c": "c",
    }


def test_a_scratch_directory_is_made_of_a_spare_one(tmp_path: Path) -> None:
    spare = tree(tmp_path / "spare", a="a")
    with files.scratch_directory(tmp_path, spare) as scratch:
        assert (scratch / "a").read_text() == "a"
        assert not spare.exists()
    assert names(tmp_path) == []
    with files.scratch_directory(tmp_path, spare) as scratch:
        assert names(scratch) == []


def test_one_spare_directory_is_enough(tmp_path: Path) -> None:
    first, second = tree(tmp_path / "first", a="1"), tree(tmp_path / "second", a="2")
    files.spare_tree(first, tmp_path / "spare")
    files.spare_tree(second, tmp_path / "spare")
    assert names(tmp_path) == ["spare"]
    assert (tmp_path / "spare" / "a").read_text() == "1"


def test_text_tells_bytes(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"a\xff\r\n")
    assert files.text(tmp_path / "file").encode(errors="surrogateescape") == b"a\xff\r\n"


def test_keep_as_keeps_the_content_of_now(tmp_path: Path) -> None:
    file, copy = tmp_path / "file", tmp_path / "sub/copy"
    files.write(file, OLD)
    assert files.keep_as(file, copy)
    assert files.keep_as(file, copy)  # again, while both names are the same file
    files.write(file, NEW)
    assert copy.read_bytes() == OLD
    assert files.keep_as(file, copy)
    assert copy.read_bytes() == NEW
    assert names(tmp_path / "sub") == ["copy"]


def test_keep_as_of_nothing_leaves_the_earlier_copy(tmp_path: Path) -> None:
    files.write(tmp_path / "copy", OLD)
    assert not files.keep_as(tmp_path / "absent", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == OLD


def test_mirror_makes_a_directory_name_the_same_files(tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    for name in ("stays", "changes", "goes"):
        files.write(source / name, name.encode())
    (source / ".stage-1-x").touch()
    (source / "directory").mkdir()
    files.mirror(source, copy)
    assert {p.name: p.read_bytes() for p in copy.iterdir()} == {
        "stays": b"stays",
        "changes": b"changes",
        "goes": b"goes",
    }
    files.remove(source / "goes")
    files.write(source / "changes", NEW)
    files.write(source / "comes", b"comes")
    assert (copy / "changes").read_bytes() == b"changes"
    files.mirror(source, copy)
    assert {p.name: p.read_bytes() for p in copy.iterdir()} == {
        "stays": b"stays",
        "changes": NEW,
        "comes": b"comes",
    }


def test_mirror_of_a_directory_that_is_not_there_empties_the_copy(tmp_path: Path) -> None:
    files.write(tmp_path / "copy/file", OLD)
    files.mirror(tmp_path / "absent", tmp_path / "copy")
    assert names(tmp_path / "copy") == []


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
