"""States of declared load balancers: made beside one another, committed at one instant."""

import os
from pathlib import Path

import pytest

from amphora_agent.declarative.certificate_files import About, Purpose
from amphora_agent.declarative.store import Record, State, Store
from amphora_agent.errors import NotFound
from amphora_agent.layout import Layout, ObjectId, object_id
from amphora_agent.settings import Settings

LB = object_id("lb")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    settings = Settings(amphora_id="amphora", base_path=str(tmp_path / "base"))
    return Layout.of(settings, run=tmp_path / "run", namespace="none")


@pytest.fixture
def store(layout: Layout) -> Store:
    return Store(layout)


def record(etag: str = "1", *processes: str) -> Record:
    return Record(
        etag=etag,
        process_model="loadbalancer",
        chosen=None,
        maker="test",
        processes=processes or (LB,),
    )


def committed(store: Store, made: dict[str, bytes], *kept: str, etag: str = "1") -> State:
    with store.staged(LB, made, kept, store.state(LB), record(etag), b"{}") as stage:
        return store.commit(LB, stage)


def current(layout: Layout, lb: ObjectId = LB) -> Path:
    return layout.base / lb / "current"


def test_there_is_nothing_at_first(store: Store) -> None:
    assert store.ids() == []
    assert store.state(LB) is None
    with pytest.raises(NotFound):
        store.existing(LB)


def test_what_was_committed_is_there(store: Store, layout: Layout) -> None:
    state = committed(store, {"haproxy.cfg": b"text", "certificates/a.pem": b"key"})
    assert (state.number, state.record.etag) == (1, "1")
    assert store.ids() == [LB]
    assert store.existing(LB).directory == state.directory
    assert (current(layout) / "certificates" / "a.pem").read_bytes() == b"key"
    assert current(layout).readlink() == Path("generations/1")


def test_only_the_agent_can_read_it(store: Store, layout: Layout) -> None:
    committed(store, {"haproxy.cfg": b"text", "certificates/a.pem": b"key"})
    generation = layout.base / LB / "generations"
    assert generation.stat().st_mode & 0o777 == 0o700
    for path in generation.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_files_that_are_kept_are_the_same_files(store: Store, layout: Layout) -> None:
    first = committed(store, {"haproxy.cfg": b"text", "pool.cfg": b"old"})
    inode = (first.directory / "haproxy.cfg").stat().st_ino
    second = committed(store, {"pool.cfg": b"new"}, "haproxy.cfg", etag="2")
    assert (second.directory / "haproxy.cfg").stat().st_ino == inode
    assert (first.directory / "pool.cfg").read_bytes() == b"old"
    assert store.existing(LB).record.etag == "2"


def test_what_is_not_committed_leaves_nothing(store: Store, layout: Layout) -> None:
    with store.staged(LB, {"haproxy.cfg": b"x"}, (), None, record(), b"{}") as stage:
        assert (stage / "haproxy.cfg").exists()
    store.forget_empty(LB)
    assert not (layout.base / LB).exists()


def test_an_end_by_force_leaves_the_old_state(store: Store, layout: Layout) -> None:
    committed(store, {"haproxy.cfg": b"old"})
    child = os.fork()
    if child == 0:
        with store.staged(LB, {"haproxy.cfg": b"new"}, (), None, record("2"), b"{}"):
            os._exit(0)  # as a kill: nothing is tidied up
    os.waitpid(child, 0)
    assert store.existing(LB).record.etag == "1"
    assert len(list((layout.base / LB / "generations").iterdir())) == 2
    store.prune(LB)
    assert [path.name for path in (layout.base / LB / "generations").iterdir()] == ["1"]


def test_going_back_forgets_what_failed(store: Store, layout: Layout) -> None:
    before = committed(store, {"haproxy.cfg": b"old"})
    committed(store, {"haproxy.cfg": b"new"}, etag="2")
    store.go_back(LB, before)
    assert store.existing(LB).record.etag == "1"
    assert store.numbers(LB) == [1]
    store.go_back(LB, None)
    assert store.state(LB) is None


def test_the_last_ten_are_kept_and_those_in_use(store: Store) -> None:
    for number in range(15):
        committed(store, {"haproxy.cfg": b"%d" % number}, etag=str(number))
    store.prune(LB, used={2})
    assert store.numbers(LB) == [2, *range(6, 16)]
    assert store.numbered(LB, 6).record.etag == "5"
    with pytest.raises(NotFound):
        store.numbered(LB, 3)


def test_a_state_is_made_of_one_that_is_forgotten(store: Store, layout: Layout) -> None:
    generations = layout.base / LB / "generations"
    same = {f"{number}.cfg": b"same" for number in range(20)}
    first = committed(store, {**same, "changed.cfg": b"0", "gone/a.cfg": b"a"})
    inode = first.directory.stat().st_ino
    for number in range(1, 11):
        committed(store, {"changed.cfg": b"%d" % number}, *same, etag=str(number))
    store.prune(LB)
    assert store.numbers(LB) == [*range(2, 12)]
    kept = {number: store.numbered(LB, number).inodes for number in store.numbers(LB)}
    last = committed(store, {"changed.cfg": b"last"}, *same, etag="last")
    assert last.directory.stat().st_ino == inode
    assert sorted(last.inodes) == sorted([*same, "changed.cfg", "model.json", "record.json"])
    assert [path.name for path in generations.glob("12/*") if path.is_dir()] == []
    assert (current(layout) / "changed.cfg").read_bytes() == b"last"
    for number, inodes in kept.items():
        state = store.numbered(LB, number)
        assert state.inodes == inodes
        assert (state.directory / "changed.cfg").read_bytes() == b"%d" % (number - 1)


def test_what_is_left_of_a_spare_state_is_removed_with_the_load_balancer(store: Store) -> None:
    for number in range(12):
        committed(store, {"haproxy.cfg": b"%d" % number}, etag=str(number))
        store.prune(LB)
    # It is used up when the next state is refused, too.
    with store.staged(LB, {}, (), None, record(), b"{}") as stage:
        assert sorted(path.name for path in stage.iterdir()) == ["model.json", "record.json"]
    directory = store.existing(LB).directory.parent
    assert sorted(path.name for path in directory.iterdir() if not path.name.isdigit()) == []


def test_several_processes_have_directories_that_lead_there(store: Store, layout: Layout) -> None:
    made = {"a/haproxy.cfg": b"a", "b/haproxy.cfg": b"b"}
    with store.staged(LB, made, (), None, record("1", "a", "b"), b"{}") as stage:
        store.commit(LB, stage)
    assert (layout.base / "a" / "current" / "haproxy.cfg").read_bytes() == b"a"
    assert [instance.id for instance in layout.instances()] == ["a", "b"]
    assert not store.taken("a", LB)
    assert store.taken("a", object_id("other"))
    assert store.taken("a", object_id("a"))


def test_certificates_are_kept_by_name(store: Store) -> None:
    about = About(
        purpose=Purpose.CERTIFICATE, subject="CN=a", not_before="", not_after="", fingerprint=""
    )
    assert store.put_certificate(LB, "site", "pem", about)
    assert not store.put_certificate(LB, "site", "other", about)
    assert store.stored(LB) == {"site": b"other"}
    assert store.certificates(LB) == {"site": about}
    store.delete_certificate(LB, "site")
    with pytest.raises(NotFound):
        store.certificate(LB, "site")
