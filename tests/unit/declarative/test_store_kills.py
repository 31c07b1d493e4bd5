"""A kill before any single call to the file system leaves the old or the new state, and every other
one as it was."""

import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from amphora_agent.declarative.store import Record, State, Store
from amphora_agent.layout import Layout, object_id
from amphora_agent.settings import Settings

LB = object_id("lb")
SAME = {f"{number}.cfg": b"same" for number in range(3)} | {"certificates/a.pem": b"key"}
#: What Python says before it changes something.
CALLS = {"os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "shutil.rmtree"}
WRITES = os.O_WRONLY | os.O_RDWR


@pytest.fixture
def store(tmp_path: Path) -> Store:
    settings = Settings(amphora_id="amphora", base_path=str(tmp_path / "base"))
    return Store(Layout.of(settings, run=tmp_path / "run", namespace="none"))


def change(store: Store, etag: str, *, certificates: bool = True) -> None:
    """Commit a state whose one file says what its record does."""
    kept = [name for name in SAME if certificates or "/" not in name]
    before = store.state(LB)
    record = Record(
        etag=etag, process_model="loadbalancer", chosen=None, maker="test", processes=(LB,)
    )
    made = {"changed.cfg": etag.encode()}
    if before is None or not {*kept} <= before.inodes.keys():
        made, kept = made | SAME, []
    with store.staged(LB, made, kept, before, record, b"{}") as stage:
        state = store.commit(LB, stage)
    store.prune(LB, {state.number})


def killed_at(number: int, work: Callable[[], None]) -> bool:
    """Work in another process that is killed before its call of this number; False when there are
    not so many."""
    child = os.fork()
    if child == 0:
        calls = itertools.count(1)

        def listen(event: str, arguments: tuple[object, ...]) -> None:
            writes = event == "open" and int(str(arguments[2])) & WRITES
            if (event in CALLS or writes) and next(calls) == number:
                os._exit(9)

        status = 1
        try:
            sys.addaudithook(listen)
            work()
            status = 0
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9)
    return status == 9


def require_whole(state: State) -> str:
    """See that a state has all of its files, and return what it says."""
    etag = state.record.etag
    assert (state.directory / "changed.cfg").read_bytes() == etag.encode()
    for name, content in SAME.items():
        if "/" not in name or state.inodes.get(name):
            assert (state.directory / name).read_bytes() == content
    assert state.model() == b"{}"
    return etag


@pytest.mark.parametrize("certificates", [True, False])
@pytest.mark.parametrize("states", [1, 10, 14])
def test_a_kill_leaves_the_old_or_the_new(store: Store, states: int, certificates: bool) -> None:
    for number in range(states):
        change(store, f"{number}")
    for attempt in itertools.count(1):
        old = store.existing(LB).record.etag
        before = {number: store.numbered(LB, number).record.etag for number in store.numbers(LB)}
        killed = killed_at(attempt, lambda: change(store, "new", certificates=certificates))
        now = require_whole(store.existing(LB))
        assert now in (old, "new")
        after = {number: require_whole(store.numbered(LB, number)) for number in store.numbers(LB)}
        assert after.items() - before.items() <= {(max(after), "new")}
        assert len(before.items() - after.items()) <= 1
        change(store, f"again {attempt}")
        generations = store.existing(LB).directory.parent
        assert not list(generations.glob(".stage-*"))
        if not killed:
            assert now == "new"
            assert attempt > 12
            return
