"""What a worker has loaded is known from the last good files and a record of the worker."""

import os
from pathlib import Path

import pytest

from amphora_agent import files
from amphora_agent.haproxy.runtime import loaded_state
from amphora_agent.haproxy.runtime.loaded_state import WorkerRecord
from amphora_agent.haproxy.update.planner import FileChange
from amphora_agent.paths import LIVE, InstanceLayout, RenderedLayout, object_id
from amphora_agent.revisions import reading
from amphora_agent.revisions.contents import LOADED, Revisions
from amphora_agent.revisions.store import RevisionStore
from tests.builders.instances import commit, layout, live_files

#: Of a process that is there all the while.
PID = os.getpid()
FIRST = {"haproxy.cfg": "first\n", "agent.cfg": "addition of first\n"}


@pytest.fixture
def instance(tmp_path: Path) -> InstanceLayout:
    made = layout(tmp_path)
    commit(made, "first\n")
    return made


def record(**more: object) -> WorkerRecord:
    return WorkerRecord(worker=loaded_state.identify_worker(PID), program="3.0", **more)  # type: ignore[arg-type]


def loaded(instance: InstanceLayout, program: str = "3.0") -> loaded_state.LoadedState | None:
    return loaded_state.find_loaded_state(
        instance, PID, program, loaded_state.read_committed(instance)
    )


def doubt(instance: InstanceLayout, program: str = "3.0") -> str:
    found = loaded(instance, program)
    assert found is not None
    return found.doubt


def test_nothing_is_known_of_what_never_came_up(instance: InstanceLayout) -> None:
    assert loaded(instance) is None


def test_remembered_files_stay_loaded_whatever_is_committed_since(
    instance: InstanceLayout,
) -> None:
    loaded_state.record_loaded(instance, record())
    put(instance, "haproxy.cfg", b"second \xff\n")
    found = loaded(instance)
    assert found is not None
    assert found == (FIRST, "", record())
    committed = loaded_state.read_committed(instance)["haproxy.cfg"]
    assert committed.encode(errors="surrogateescape") == b"second \xff\n"


def test_another_worker_is_doubtful(instance: InstanceLayout) -> None:
    loaded_state.record_loaded(instance, WorkerRecord(worker="1 boot:2", program="3.0"))
    assert "another one" in doubt(instance)
    found = loaded(instance)
    assert found is not None
    assert found.record is None


@pytest.mark.parametrize("torn", [b"", b"{", b'{"worker": 1}', b"\xff"])
def test_a_record_that_cannot_be_read_is_doubtful(instance: InstanceLayout, torn: bytes) -> None:
    loaded_state.record_loaded(instance, record())
    (instance.last_good / "activation.json").write_bytes(torn)
    assert doubt(instance)


def test_another_program_is_doubtful(instance: InstanceLayout) -> None:
    loaded_state.record_loaded(instance, record())
    assert doubt(instance, "3.1") == "haproxy 3.0 was replaced by 3.1"


def test_a_change_is_doubtful_until_it_is_remembered(instance: InstanceLayout) -> None:
    loaded_state.record_loaded(instance, record())
    loaded_state.record_begin(instance, record(), ("b/s",))
    assert "did not come to its end" in doubt(instance)
    found = loaded(instance)
    assert found is not None
    assert found.record == record(pending=("b/s",))
    loaded_state.record_loaded(instance, record(left_over=("b/s",)))
    assert doubt(instance) == ""


def put(instance: InstanceLayout, name: str, data: bytes | None) -> None:
    """Commit a file anew, or without one."""
    manifest = {**(reading.committed(instance) or {})}
    if data is None:
        del manifest[name]
    else:
        manifest |= Revisions.of(instance).keep({name: data})
    live_files(instance).commit(instance, manifest, {})


def test_certificate_files_that_differ_are_found(instance: InstanceLayout) -> None:
    for name in ("same.pem", "again.pem", "other.pem", "gone.pem"):
        put(instance, f"certificates/{name}", name.encode())
    loaded_state.record_loaded(instance, record())
    assert loaded_state.find_file_changes(instance) == []
    put(instance, "certificates/again.pem", b"again.pem")
    put(instance, "certificates/other.pem", b"new")
    put(instance, "certificates/added.pem", b"new")
    put(instance, "certificates/gone.pem", None)
    path = instance.certificates
    assert loaded_state.find_file_changes(instance) == [
        FileChange(str(path / "added.pem"), None, b"new"),
        FileChange(str(path / "gone.pem"), b"gone.pem", None),
        FileChange(str(path / "other.pem"), b"other.pem", b"new"),
    ]


@pytest.mark.parametrize("name", ["haproxy.cfg", "certificates/a.pem"])
def test_whatever_differs_from_what_came_up_waits(instance: InstanceLayout, name: str) -> None:
    loaded_state.record_loaded(instance, record())
    assert loaded_state.is_remembered(instance)
    put(instance, name, b"other")
    assert not loaded_state.is_remembered(instance)
    loaded_state.record_loaded(instance, record())
    assert loaded_state.is_remembered(instance)


@pytest.fixture
def declared(tmp_path: Path) -> RenderedLayout:
    """One that has come up with its first state, and has a second one committed."""
    directory = tmp_path / "lb"
    made = RenderedLayout(
        id=object_id("lb"),
        directory=directory,
        certificates=directory / "current" / "certificates",
        stats_socket=tmp_path / "s",
        master_socket=tmp_path / "m",
    )
    directory.mkdir()
    files.point(made.current, LIVE)
    for number in ("1", "2"):
        state = {
            "haproxy.cfg": b"global\n",
            "pool.cfg": f"backend {number}\n".encode(),
            "listener.cidrs": f"10.0.0.{number}\n".encode(),
            "model.json": number.encode(),
            "layer4/l.conf": number.encode(),
        }
        live_files(made).commit(made, Revisions.of(made).keep(state), {})
        if number == "1":
            loaded_state.record_loaded(made, record())
    return made


def test_finds_the_texts_that_a_rendered_instance_has_loaded(declared: RenderedLayout) -> None:
    wanted = loaded_state.open_committed(declared)
    found = loaded_state.find_loaded_state(declared, PID, "3.0", wanted)
    assert found is not None
    assert dict(wanted) == {"haproxy.cfg": "global\n", "pool.cfg": "backend 2\n"}
    assert dict(found.texts) == {"haproxy.cfg": "global\n", "pool.cfg": "backend 1\n"}
    assert loaded_state.find_file_changes(declared) == [
        FileChange(str(declared.current / "listener.cidrs"), b"10.0.0.1\n", b"10.0.0.2\n")
    ]
    assert not loaded_state.is_remembered(declared)


def test_texts_that_have_been_read_are_not_read_again(declared: RenderedLayout) -> None:
    committed, loaded_files = reading.committed(declared), reading.loaded(declared)
    assert committed is not None
    assert loaded_files is not None
    revisions = Revisions.of(declared)
    read = [loaded_state.read_directory(revisions, files_) for files_ in (committed, loaded_files)]
    wanted = loaded_state.open_committed(declared, read)
    found = loaded_state.find_loaded_state(declared, PID, "3.0", wanted, read)
    assert found is not None
    assert wanted is read[0].texts
    assert found.texts is read[1].texts


def test_committed_texts_keep_their_digests_when_they_are_loaded(
    declared: RenderedLayout,
) -> None:
    committed = loaded_state.digest_committed(declared)
    assert loaded_state.digest_loaded(declared) != committed
    loaded_state.record_loaded(declared, record())
    assert loaded_state.digest_loaded(declared) == committed
    wanted = loaded_state.open_committed(declared)
    found = loaded_state.find_loaded_state(declared, PID, "3.0", wanted)
    assert found is not None
    assert found.texts is wanted
    assert loaded_state.find_file_changes(declared) == []


def test_nothing_is_known_of_a_declared_instance_without_good_files(
    declared: RenderedLayout,
) -> None:
    Revisions.of(declared).drop(f"{LOADED}{declared.id}")
    assert (
        loaded_state.find_loaded_state(declared, PID, "3.0", loaded_state.open_committed(declared))
        is None
    )


def test_files_that_are_the_same_are_not_read(
    instance: InstanceLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(instance, "certificates/same.pem", b"large")
    loaded_state.record_loaded(instance, record())
    # Reading is what must not happen, and has no other effect.
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} was read"))
    assert loaded_state.find_file_changes(instance) == []


def test_going_back_brings_everything_back(instance: InstanceLayout) -> None:
    put(instance, "certificates/a.pem", b"first")
    loaded_state.record_loaded(instance, record())
    commit(instance, "second\n", **{"a.pem": b"second", "b.pem": b"second"})
    assert RevisionStore(live_files(instance)).restore(instance)
    assert loaded_state.read_committed(instance) == FIRST
    assert loaded_state.find_file_changes(instance) == []
    assert instance.configuration.read_bytes() == b"first\n"
    assert {path.name for path in instance.certificates.iterdir()} == {"a.pem"}
    assert instance.rejected.read_bytes() == b"second\n"


def test_without_anything_to_go_back_to_there_is_no_configuration(
    instance: InstanceLayout,
) -> None:
    put(instance, "certificates/a.pem", b"waits")
    assert not RevisionStore(live_files(instance)).restore(instance)
    assert not instance.configuration.exists()
    assert not reading.exists(instance)
    assert reading.read(instance, "certificates/a.pem") == b"waits"
