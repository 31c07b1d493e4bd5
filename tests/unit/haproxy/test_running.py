"""What a worker has loaded is known from the last good files and a record of the worker."""

import os
from pathlib import Path

import pytest

from amphora_agent import files
from amphora_agent.haproxy import directory, running
from amphora_agent.haproxy.plan import FileChange
from amphora_agent.haproxy.running import Record
from amphora_agent.layout import InstanceLayout, object_id

#: Of a process that is there all the while.
PID = os.getpid()


@pytest.fixture
def instance(tmp_path: Path) -> InstanceLayout:
    made = InstanceLayout(
        id=object_id("lb"),
        directory=tmp_path / "lb",
        certificates=tmp_path / "certs",
        stats_socket=tmp_path / "s",
        master_socket=tmp_path / "m",
    )
    files.write(made.configuration, b"first\n")
    files.write(made.addition, b"addition\n")
    return made


def record(**more: object) -> Record:
    return Record(worker=running.identity(PID), program="3.0", **more)  # type: ignore[arg-type]


def loaded(instance: InstanceLayout, program: str = "3.0") -> running.Loaded | None:
    return running.loaded(instance, PID, program, running.committed(instance))


def doubt(instance: InstanceLayout, program: str = "3.0") -> str:
    found = loaded(instance, program)
    assert found is not None
    return found.doubt


def test_nothing_is_known_of_what_never_came_up(instance: InstanceLayout) -> None:
    assert loaded(instance) is None


def test_what_was_remembered_is_loaded_whatever_is_committed_since(
    instance: InstanceLayout,
) -> None:
    running.remember(instance, record())
    files.write(instance.configuration, b"second \xff\n")
    found = loaded(instance)
    assert found is not None
    assert found == ({"haproxy.cfg": "first\n", "agent.cfg": "addition\n"}, "", record())
    committed = running.committed(instance)["haproxy.cfg"]
    assert committed.encode(errors="surrogateescape") == b"second \xff\n"


def test_another_worker_is_doubtful(instance: InstanceLayout) -> None:
    running.remember(instance, Record(worker="1 boot:2", program="3.0"))
    assert "another one" in doubt(instance)
    found = loaded(instance)
    assert found is not None
    assert found.record is None


@pytest.mark.parametrize("torn", [b"", b"{", b'{"worker": 1}', b"\xff"])
def test_a_record_that_cannot_be_read_is_doubtful(instance: InstanceLayout, torn: bytes) -> None:
    running.remember(instance, record())
    (instance.last_good / "activation.json").write_bytes(torn)
    assert doubt(instance)


def test_another_program_is_doubtful(instance: InstanceLayout) -> None:
    running.remember(instance, record())
    assert doubt(instance, "3.1") == "haproxy 3.0 was replaced by 3.1"


def test_a_change_is_doubtful_until_it_is_remembered(instance: InstanceLayout) -> None:
    running.remember(instance, record())
    running.begin(instance, record(), ("b/s",))
    assert "did not come to its end" in doubt(instance)
    found = loaded(instance)
    assert found is not None
    assert found.record == record(pending=("b/s",))
    running.remember(instance, record(left_over=("b/s",)))
    assert doubt(instance) == ""


def put(instance: InstanceLayout, name: str, data: bytes) -> None:
    files.write(instance.certificates / name, data)


def test_certificate_files_that_differ_are_found(instance: InstanceLayout) -> None:
    for name in ("same.pem", "again.pem", "other.pem", "gone.pem"):
        put(instance, name, name.encode())
    running.remember(instance, record())
    assert running.file_changes(instance) == []
    put(instance, "again.pem", b"again.pem")
    put(instance, "other.pem", b"new")
    put(instance, "added.pem", b"new")
    files.remove(instance.certificates / "gone.pem")
    path = instance.certificates
    assert running.file_changes(instance) == [
        FileChange(str(path / "added.pem"), None, b"new"),
        FileChange(str(path / "gone.pem"), b"gone.pem", None),
        FileChange(str(path / "other.pem"), b"other.pem", b"new"),
    ]


@pytest.fixture
def declared(tmp_path: Path) -> InstanceLayout:
    """One that has come up with its first state, and has a second one committed."""
    directory = tmp_path / "lb"
    made = InstanceLayout(
        id=object_id("lb"),
        directory=directory,
        certificates=directory / "current" / "certificates",
        stats_socket=tmp_path / "s",
        master_socket=tmp_path / "m",
        declared=True,
    )
    for number in ("1", "2"):
        state = directory / "generations" / number
        files.write(state / "haproxy.cfg", b"global\n")
        files.write(state / "pool.cfg", f"backend {number}\n".encode())
        files.write(state / "listener.cidrs", f"10.0.0.{number}\n".encode())
    files.point(made.current, "generations/1")
    running.remember(made, record())
    files.point(made.current, "generations/2")
    return made


def test_what_a_declared_instance_has_loaded(declared: InstanceLayout) -> None:
    wanted = running.unread(declared)
    found = running.loaded(declared, PID, "3.0", wanted)
    assert found is not None
    assert dict(wanted) == {"haproxy.cfg": "global\n", "pool.cfg": "backend 2\n"}
    assert dict(found.texts) == {"haproxy.cfg": "global\n", "pool.cfg": "backend 1\n"}
    assert running.file_changes(declared) == [
        FileChange(str(declared.current / "listener.cidrs"), b"10.0.0.1\n", b"10.0.0.2\n")
    ]
    assert not running.is_remembered(declared)


def test_directories_that_have_been_read_are_not_read_again(declared: InstanceLayout) -> None:
    read = [directory.read(path) for path in (declared.current, declared.good)]
    wanted = running.unread(declared, read)
    found = running.loaded(declared, PID, "3.0", wanted, read)
    assert found is not None
    assert wanted is read[0].texts
    assert found.texts is read[1].texts


def test_what_was_committed_has_the_same_signature_when_it_is_loaded(
    declared: InstanceLayout,
) -> None:
    committed = running.signatures(declared.loads)
    assert running.good_signatures(declared) != committed
    running.remember(declared, record())
    assert running.good_signatures(declared) == committed
    wanted = running.unread(declared)
    found = running.loaded(declared, PID, "3.0", wanted)
    assert found is not None
    assert found.texts is wanted
    assert running.file_changes(declared) == []


def test_nothing_is_known_of_a_declared_instance_without_good_files(
    declared: InstanceLayout,
) -> None:
    declared.good.unlink()
    assert running.loaded(declared, PID, "3.0", running.unread(declared)) is None


def test_files_that_are_the_same_are_not_read(
    instance: InstanceLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(instance, "same.pem", b"large")
    running.remember(instance, record())
    # Reading is what must not happen, and has no other effect.
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} was read"))
    assert running.file_changes(instance) == []


def test_going_back_brings_everything_back(instance: InstanceLayout) -> None:
    put(instance, "a.pem", b"first")
    running.remember(instance, record())
    files.write(instance.configuration, b"second\n")
    files.write(instance.addition, b"other\n")
    put(instance, "a.pem", b"second")
    put(instance, "b.pem", b"second")
    assert running.restore(instance)
    assert running.committed(instance) == {"haproxy.cfg": "first\n", "agent.cfg": "addition\n"}
    assert running.file_changes(instance) == []
    assert instance.rejected.read_bytes() == b"second\n"


def test_without_anything_to_go_back_to_there_is_no_configuration(
    instance: InstanceLayout,
) -> None:
    assert not running.restore(instance)
    assert not instance.configuration.exists()
