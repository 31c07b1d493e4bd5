"""States of rendered load balancers: made beside one another, committed at one instant."""

from pathlib import Path

import pytest

from amphora_agent import files
from amphora_agent.errors import NotFound
from amphora_agent.events.alarms import Alarms
from amphora_agent.loadbalancer.states import Record, State, States
from amphora_agent.model.responses import About, ProcessModel, Purpose
from amphora_agent.paths import LIVE, Layout, ObjectId, object_id
from amphora_agent.revisions import reading
from amphora_agent.revisions.adoption import adopt
from amphora_agent.revisions.live import LiveFiles
from amphora_agent.revisions.store import RevisionStore
from amphora_agent.settings.reader import Settings

LB = object_id("lb")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    settings = Settings(amphora_id="amphora", base_path=str(tmp_path / "base"))
    return Layout.of(settings, run=tmp_path / "run", namespace="none")


@pytest.fixture
def store(layout: Layout) -> States:
    return States(layout, RevisionStore(LiveFiles(Alarms(layout.alarms))))


def record(etag: str = "1", *processes: ObjectId) -> Record:
    return Record(
        etag=etag,
        process_model=ProcessModel.LOADBALANCER,
        chosen=None,
        maker="test",
        processes=processes or (LB,),
    )


def committed(store: States, made: dict[str, bytes], *kept: str, etag: str = "1") -> State:
    staged = store.stage(LB, made, kept, store.state(LB), record(etag), b"{}")
    return store.commit(LB, staged)


def current(layout: Layout, lb: ObjectId = LB) -> Path:
    return layout.base / lb / "current"


def test_empty_layout_has_no_load_balancer(store: States) -> None:
    assert store.ids() == []
    assert store.state(LB) is None
    with pytest.raises(NotFound):
        store.existing(LB)


def test_commit_makes_a_state_current(store: States, layout: Layout) -> None:
    state = committed(store, {"haproxy.cfg": b"text", "certificates/a.pem": b"key"})
    assert (state.number, state.record.etag) == (1, "1")
    assert store.ids() == [LB]
    assert store.existing(LB).digest == state.digest
    assert (current(layout) / "certificates" / "a.pem").read_bytes() == b"key"
    assert current(layout).readlink() == Path(LIVE)


@pytest.mark.parametrize("moved", [False, True])
def test_adoption_moves_live_files_to_where_an_older_agent_finds_them(
    store: States, layout: Layout, moved: bool
) -> None:
    state = committed(store, {"haproxy.cfg": b"text"})
    instance = layout.rendered(LB)
    if not moved:  # a kill came before the link followed
        instance.live.rename(instance.directory / "live")
        instance.live.parent.rmdir()
    files.point(instance.current, "live")

    adopt(layout, instance)

    assert current(layout).readlink() == Path(LIVE)
    assert (current(layout) / "haproxy.cfg").read_bytes() == b"text"
    assert not (instance.directory / "live").exists()
    assert store.existing(LB).digest == state.digest


def test_adoption_ends_one_that_was_interrupted(store: States, layout: Layout) -> None:
    committed(store, {"haproxy.cfg": b"text"})
    instance = layout.rendered(LB)
    older = instance.live.parent / "3"
    older.mkdir()
    (older / "haproxy.cfg").write_bytes(b"of an older agent")
    instance.last_good.mkdir()
    files.point(instance.last_good / "current", str(older))

    adopt(layout, instance)

    assert [*instance.live.parent.iterdir()] == [instance.live]
    assert not (instance.last_good / "current").is_symlink()
    assert (current(layout) / "haproxy.cfg").read_bytes() == b"text"


def test_files_of_a_state_are_private(store: States, layout: Layout) -> None:
    committed(store, {"haproxy.cfg": b"text", "certificates/a.pem": b"key"})
    for directory in (layout.base / LB / LIVE, layout.base / LB / "revisions"):
        assert directory.stat().st_mode & 0o777 == 0o700
        for path in directory.rglob("*"):
            assert path.is_symlink() or path.stat().st_mode & 0o077 == 0, path


def test_kept_files_are_not_written_again(store: States, layout: Layout) -> None:
    first = committed(store, {"haproxy.cfg": b"text", "pool.cfg": b"old"})
    kept = current(layout) / "haproxy.cfg"
    inode = kept.stat().st_ino
    second = committed(store, {"pool.cfg": b"new"}, "haproxy.cfg", etag="2")
    assert kept.stat().st_ino == inode
    assert kept.stat().st_nlink == 1
    assert (current(layout) / "pool.cfg").read_bytes() == b"new"
    assert first.content("pool.cfg") == b"old"
    assert second.content("haproxy.cfg") == b"text"
    assert store.existing(LB).record.etag == "2"


def test_commit_removes_files_of_the_state_before(store: States, layout: Layout) -> None:
    committed(store, {"haproxy.cfg": b"text", "certificates/a.pem": b"key", "gone.cfg": b""})
    committed(store, {}, "haproxy.cfg", etag="2")
    names = {path.name for path in (layout.base / LB / LIVE).rglob("*") if path.is_file()}
    assert names == {"haproxy.cfg", "model.json", "record.json"}


def test_staged_state_without_commit_leaves_nothing(store: States, layout: Layout) -> None:
    store.stage(LB, {"haproxy.cfg": b"x"}, (), None, record(), b"{}")
    store.forget_empty(LB)
    assert not (layout.base / LB).exists()


def test_going_back_forgets_what_failed(store: States, layout: Layout) -> None:
    before = committed(store, {"haproxy.cfg": b"old"})
    committed(store, {"haproxy.cfg": b"new"}, etag="2")
    store.go_back(LB, before)
    assert store.existing(LB).record.etag == "1"
    assert (current(layout) / "haproxy.cfg").read_bytes() == b"old"
    assert store.numbers(LB) == [1]
    store.go_back(LB, None)
    assert store.state(LB) is None
    store.forget_empty(LB)
    assert not (layout.base / LB).exists()


def test_state_that_is_gone_back_to_gets_a_new_number(store: States) -> None:
    first = committed(store, {"haproxy.cfg": b"old"})
    committed(store, {"haproxy.cfg": b"new"}, etag="2")
    again = store.commit(LB, store.numbered(LB, 1).files)
    assert (again.number, again.digest) == (3, first.digest)
    assert store.existing(LB).number == 3


def test_processes_have_directories_that_lead_to_their_files(store: States, layout: Layout) -> None:
    made = {"a/haproxy.cfg": b"a", "b/haproxy.cfg": b"b"}
    store.commit(
        LB, store.stage(LB, made, (), None, record("1", object_id("a"), object_id("b")), b"{}")
    )
    assert (layout.base / "a" / "current" / "haproxy.cfg").read_bytes() == b"a"
    assert [instance.id for instance in reading.instances(layout)] == ["a", "b"]
    assert not store.taken("a", LB)
    assert store.taken("a", object_id("other"))
    assert store.taken("a", object_id("a"))


def test_certificates_are_kept_by_name(store: States) -> None:
    about = About(
        purpose=Purpose.CERTIFICATE, subject="CN=a", not_before="", not_after="", fingerprint=""
    )
    store.put_certificate(LB, "site", "pem", about)
    store.put_certificate(LB, "site", "other", about)
    assert store.stored(LB) == {"site": b"other"}
    assert store.certificates(LB) == {"site": about}
    store.delete_certificate(LB, "site")
    with pytest.raises(NotFound):
        store.certificate(LB, "site")
