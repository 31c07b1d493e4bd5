"""Live files that were changed by hand are saved, told and put back; others are left alone."""

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from amphora_agent.events.alarms import Alarms
from amphora_agent.model.events import AlarmKind
from amphora_agent.paths import InstanceLayout
from amphora_agent.revisions.contents import CERTIFICATES, PLACING, Revisions
from amphora_agent.revisions.live import LiveFiles
from tests.builders.instances import commit, layout

TEXT = "committed text\n"
KEY = b"committed key\n"


@pytest.fixture
def alarms(tmp_path: Path) -> Alarms:
    return Alarms(tmp_path / "alarms")


@pytest.fixture
def instance(tmp_path: Path) -> InstanceLayout:
    made = layout(tmp_path)
    commit(made, TEXT, **{"a.pem": KEY})
    return made


def by_rename(path: Path) -> None:
    """As vim and sed -i do."""
    other = path.with_name("4913")
    other.write_bytes(b"edited\n")
    os.replace(other, path)


def in_place(path: Path) -> None:
    path.write_bytes(b"edited\n")


def appended(path: Path) -> None:
    with path.open("a") as file:
        file.write("edited\n")


def same_size_and_time(path: Path) -> None:
    status = path.stat()
    path.write_bytes(path.read_bytes().swapcase())
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def truncated(path: Path) -> None:
    os.truncate(path, 0)


def other_link(path: Path) -> None:
    target = path.with_name("..elsewhere")
    target.write_bytes(b"edited\n")
    path.unlink()
    path.symlink_to(target)


EDITS = [by_rename, in_place, appended, same_size_and_time, truncated, other_link]


def paths(instance: InstanceLayout) -> list[Path]:
    return [instance.configuration, instance.certificates / "a.pem"]


def require_committed(instance: InstanceLayout) -> None:
    for path, data in zip(paths(instance), (TEXT.encode(), KEY), strict=True):
        assert path.read_bytes() == data
        assert not path.is_symlink()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def old(instance: InstanceLayout) -> None:
    """Let time pass since files were changed: see `_STEP`."""
    latest = max(path.stat().st_ctime_ns for path in paths(instance))
    while time.time_ns() < latest + 60_000_000:
        os.sched_yield()


@pytest.mark.parametrize("known", [True, False], ids=["compared before", "new agent"])
@pytest.mark.parametrize("which", [0, 1], ids=["configuration", "certificate"])
@pytest.mark.parametrize("edit", EDITS)
def test_op2_an_edit_is_saved_told_and_undone(
    instance: InstanceLayout,
    alarms: Alarms,
    edit: Callable[[Path], None],
    which: int,
    known: bool,
) -> None:
    live = LiveFiles(alarms)
    if known:
        old(instance)
        live.check(instance)
    path = paths(instance)[which]
    edit(path)
    edited = path.read_bytes()
    live.check(instance)
    require_committed(instance)
    saved = instance.directory / f"{path.name}.edited"
    assert saved.read_bytes() == edited
    (alarm,) = alarms.current(instance.id)
    assert alarm.kind == AlarmKind.FILE_EDITED
    assert str(path) in alarm.text
    assert str(saved) in alarm.text


@pytest.mark.parametrize("which", [0, 1], ids=["configuration", "certificate"])
def test_op2_a_file_that_was_removed_comes_back(
    instance: InstanceLayout, alarms: Alarms, which: int
) -> None:
    paths(instance)[which].unlink()
    LiveFiles(alarms).check(instance)
    require_committed(instance)
    (alarm,) = alarms.current(instance.id)
    assert "was removed" in alarm.text


@pytest.mark.parametrize("mode", [0o644, 0o000, 0o400])
def test_op2_modes_are_put_right(instance: InstanceLayout, alarms: Alarms, mode: int) -> None:
    live = LiveFiles(alarms)
    old(instance)
    live.check(instance)
    instance.configuration.chmod(mode)
    live.check(instance)
    require_committed(instance)
    assert alarms.current(instance.id)


def test_op2_a_directory_in_the_place_of_a_file(instance: InstanceLayout, alarms: Alarms) -> None:
    instance.configuration.unlink()
    instance.configuration.mkdir()
    (instance.configuration / "x").touch()
    LiveFiles(alarms).check(instance)
    require_committed(instance)
    assert (instance.directory / "haproxy.cfg.edited/x").exists()


def test_certificates_that_nobody_uploaded_are_put_away(
    instance: InstanceLayout, alarms: Alarms
) -> None:
    """haproxy loads every file of a directory, and `<name>.key` beside a certificate."""
    (instance.certificates / "a.pem.key").write_bytes(b"by hand")
    (instance.certificates / ".a.pem.swp").write_bytes(b"an editor's")
    LiveFiles(alarms).check(instance)
    assert {path.name for path in instance.certificates.iterdir()} == {"a.pem", ".a.pem.swp"}
    assert (instance.directory / "a.pem.key.edited").read_bytes() == b"by hand"


def test_saved_files_are_for_the_agent_alone(instance: InstanceLayout, alarms: Alarms) -> None:
    by_rename(instance.certificates / "a.pem")
    (instance.certificates / "a.pem").chmod(0o644)
    LiveFiles(alarms).check(instance)
    saved = instance.directory / "a.pem.edited"
    assert stat.S_IMODE(saved.stat().st_mode) == 0o600


def test_nobody_is_told_of_what_nobody_did(instance: InstanceLayout, alarms: Alarms) -> None:
    inodes = [path.stat().st_ino for path in paths(instance)]
    LiveFiles(alarms).check(instance)
    assert [path.stat().st_ino for path in paths(instance)] == inodes
    assert alarms.current() == ()


def test_files_that_were_compared_are_not_read_again(
    instance: InstanceLayout, alarms: Alarms, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = LiveFiles(alarms)
    old(instance)
    live.check(instance)
    read_bytes = Path.read_bytes

    def read(path: Path) -> bytes:
        assert path not in paths(instance)  # what must not happen, and has no other effect
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", read)
    live.check(instance)


def test_a_file_that_was_compared_and_changes_at_once_is_found(
    instance: InstanceLayout, alarms: Alarms
) -> None:
    """The kernel's clock goes in steps: within one, a file changes without a sign."""
    live = LiveFiles(alarms)
    for number in range(50):
        live.check(instance)
        same_size_and_time(instance.configuration)
        live.check(instance)
        require_committed(instance)
        assert (instance.directory / "haproxy.cfg.edited").exists(), number
        (instance.directory / "haproxy.cfg.edited").unlink()


def test_an_upload_saves_what_it_replaces(instance: InstanceLayout, alarms: Alarms) -> None:
    in_place(instance.configuration)
    live = LiveFiles(alarms)
    manifest = Revisions.of(instance).keep({"haproxy.cfg": b"uploaded"})
    live.commit(instance, manifest, {})
    assert instance.configuration.read_bytes() == b"uploaded"
    assert (instance.directory / "haproxy.cfg.edited").read_bytes() == b"edited\n"
    assert alarms.current(instance.id)


def test_the_alarm_ends_when_the_saved_file_is_gone(
    instance: InstanceLayout, alarms: Alarms
) -> None:
    in_place(instance.configuration)
    live = LiveFiles(alarms)
    live.check(instance)
    live.check(instance)
    assert alarms.current(instance.id)
    (instance.directory / "haproxy.cfg.edited").unlink()
    live.check(instance)
    assert alarms.current(instance.id) == ()


def test_a_commit_that_a_kill_cut_off_is_finished_without_a_word(
    instance: InstanceLayout, alarms: Alarms
) -> None:
    revisions = Revisions.of(instance)
    before = revisions.committed
    assert before is not None
    commit(instance, "new", **{"b.pem": b"new"})
    # As if the kill had come before any live file was written.
    revisions.refer(PLACING, before)
    instance.configuration.write_bytes(TEXT.encode())
    (instance.certificates / "b.pem").unlink()
    (instance.certificates / "a.pem").write_bytes(KEY)
    LiveFiles(alarms).check(instance)
    assert instance.configuration.read_bytes() == b"new"
    assert {path.name for path in instance.certificates.iterdir()} == {"b.pem"}
    assert alarms.current() == ()
    assert not list(instance.directory.glob("*.edited"))


def test_a_full_disk_changes_nothing(
    instance: InstanceLayout, alarms: Alarms, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write fails; a real full disk is tried elsewhere."""
    manifest = {**Revisions.of(instance).keep({"haproxy.cfg": b"new", f"{CERTIFICATES}x": b"x"})}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    committed = Revisions.of(instance).committed
    monkeypatch.setattr(os, "fchmod", full)
    with pytest.raises(OSError, match="No space left"):
        LiveFiles(alarms).commit(instance, manifest, {})
    monkeypatch.undo()
    assert Revisions.of(instance).committed == committed
    require_committed(instance)
    LiveFiles(alarms).check(instance)
    assert alarms.current() == ()
    assert not list(instance.directory.rglob(".stage-*"))
