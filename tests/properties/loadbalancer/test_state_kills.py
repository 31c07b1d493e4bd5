"""A kill before any single call to the file system leaves the old or the new state, and every other
one as it was."""

import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from amphora_agent.events.alarms import Alarms
from amphora_agent.loadbalancer.states import Record, State, States
from amphora_agent.model.responses import ProcessModel
from amphora_agent.paths import InstanceLayout, Layout, object_id
from amphora_agent.revisions.live import LiveFiles
from amphora_agent.revisions.store import RevisionStore
from amphora_agent.settings.reader import Settings

LB = object_id("lb")
SAME = {f"{number}.cfg": b"same" for number in range(3)} | {"certificates/a.pem": b"key"}
#: What Python says before it changes something.
CALLS = {"os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "shutil.rmtree"}
WRITES = os.O_WRONLY | os.O_RDWR


@pytest.fixture
def store(tmp_path: Path) -> States:
    settings = Settings(amphora_id="amphora", base_path=str(tmp_path / "base"))
    layout = Layout.of(settings, run=tmp_path / "run", namespace="none")
    return States(layout, RevisionStore(LiveFiles(Alarms(layout.alarms))))


@pytest.fixture
def instance(tmp_path: Path) -> InstanceLayout:
    settings = Settings(amphora_id="amphora", base_path=str(tmp_path / "base"))
    return Layout.of(settings, run=tmp_path / "run", namespace="none").rendered(LB)


def live_files(instance: InstanceLayout) -> LiveFiles:
    """Those that another agent would begin with."""
    return LiveFiles(Alarms(instance.directory.parent / "alarms"))


def change(store: States, etag: str, *, certificates: bool = True) -> None:
    """Commit a state whose one file says what its record does."""
    kept = [name for name in SAME if certificates or "/" not in name]
    before = store.state(LB)
    record = Record(
        etag=etag,
        process_model=ProcessModel.LOADBALANCER,
        chosen=None,
        maker="test",
        processes=(LB,),
    )
    made = {"changed.cfg": etag.encode()}
    if before is None or not {*kept} <= before.files.keys():
        made, kept = made | SAME, []
    store.commit(LB, store.stage(LB, made, kept, before, record, b"{}"))
    store.revisions(LB).forget_generations(10, 1 << 30)
    store.revisions(LB).forget_contents()


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
    assert state.content("changed.cfg") == etag.encode()
    for name, content in SAME.items():
        if "/" not in name or name in state.files:
            assert state.content(name) == content
    assert state.model() == b"{}"
    return etag


@pytest.mark.parametrize("certificates", [True, False])
@pytest.mark.parametrize("states", [1, 10, 14])
def test_kill_leaves_the_old_or_the_new_state(
    store: States, instance: InstanceLayout, states: int, certificates: bool
) -> None:
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
        # Nobody has edited anything: what a kill has left is finished without a word.
        live_files(instance).check(instance)
        assert (instance.live / "changed.cfg").read_bytes() == now.encode()
        assert not list(instance.directory.glob("*.edited"))
        change(store, f"again {attempt}")
        assert not list(store.revisions(LB).directory.glob(".stage-*"))
        if not killed:
            assert now == "new"
            assert attempt > 12
            return
