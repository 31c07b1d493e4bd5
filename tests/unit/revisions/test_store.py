"""Numbered revisions of an instance: which there are, what they hold, what a kill leaves."""

import os
import stat
from pathlib import Path

import pytest

from amphora_agent.errors import NotFound
from amphora_agent.paths import InstanceLayout
from amphora_agent.revisions.contents import CERTIFICATES, Manifest, Revisions
from amphora_agent.revisions.store import RevisionStore
from tests.builders.instances import commit, layout, live_files

#: What the certificates of the tests hold.
KEY = b"a key"


@pytest.fixture
def instance(tmp_path: Path) -> InstanceLayout:
    return layout(tmp_path)


def store(instance: InstanceLayout, **limits: int) -> RevisionStore:
    return RevisionStore(live_files(instance), **limits)


def certificates(manifest: Manifest) -> set[str]:
    return {name.removeprefix(CERTIFICATES) for name in manifest if name.startswith(CERTIFICATES)}


def kept_contents(instance: InstanceLayout) -> set[bytes]:
    """The contents that are no manifests."""
    found = (path.read_bytes() for path in instance.revisions.iterdir() if not path.is_symlink())
    return {data for data in found if not data.startswith(b"{")}


def test_numbers_generations_from_1_on(instance: InstanceLayout) -> None:
    made = store(instance)
    assert made.numbers(instance) == []
    for number in (1, 2, 3):
        commit(instance, f"text {number}")
        assert made.number(instance) == number
    assert made.numbers(instance) == [1, 2, 3]


def test_the_numbers_go_on_after_a_restart(instance: InstanceLayout) -> None:
    commit(instance, "one")
    store(instance).number(instance)
    commit(instance, "two")
    assert store(instance).number(instance) == 2


def test_keeps_the_number_of_an_unchanged_generation(instance: InstanceLayout) -> None:
    made = store(instance)
    commit(instance, "one", a=KEY)
    assert made.number(instance) == made.number(instance) == 1
    commit(instance, "one", a=KEY)
    assert made.number(instance) == 1


def test_a_generation_is_what_was_committed_then(instance: InstanceLayout) -> None:
    made = store(instance)
    first = commit(instance, "one", kept=b"k", replaced=b"old", removed=b"r")
    made.number(instance)
    second = commit(instance, "two", kept=b"k", replaced=b"new", added=b"a")
    made.number(instance)
    assert made.manifest(instance, 1) == first
    assert made.manifest(instance, 2) == second


@pytest.mark.parametrize("what", ["configuration", "certificate", "new", "gone"])
def test_whatever_differs_from_the_newest_is_another(instance: InstanceLayout, what: str) -> None:
    made = store(instance)
    commit(instance, "one", a=b"1", b=b"2")
    made.number(instance)
    match what:
        case "configuration":
            commit(instance, "two", a=b"1", b=b"2")
        case "certificate":
            commit(instance, "one", a=b"3", b=b"2")
        case "new":
            commit(instance, "one", a=b"1", b=b"2", c=b"3")
        case "gone":
            commit(instance, "one", a=b"1")
    assert made.number(instance) == 2


def test_keys_are_for_the_agent_alone_and_nobody_writes_contents(instance: InstanceLayout) -> None:
    old = os.umask(0)
    try:
        commit(instance, "one", a=KEY)
        store(instance).number(instance)
    finally:
        os.umask(old)
    assert stat.S_IMODE(instance.revisions.stat().st_mode) == 0o700
    contents = [path for path in instance.revisions.iterdir() if not path.is_symlink()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in contents} == {0o400}
    for path in (instance.configuration, instance.certificates / "a"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_op2_ten_generations_keep_each_content_once(instance: InstanceLayout) -> None:
    made = store(instance)
    for number in range(10):
        commit(instance, f"text {number}", **{f"c{each}": b"%d" % each for each in range(50)})
        made.number(instance)
    assert len(made.numbers(instance)) == 10
    contents = [path for path in instance.revisions.iterdir() if not path.is_symlink()]
    # Of each generation its text, its addition and its manifest; the peer and certificates once.
    assert len(contents) == 10 * 3 + 1 + 50
    assert {path.stat().st_nlink for path in contents} == {1}
    assert (instance.certificates / "c7").stat().st_nlink == 1


def test_the_oldest_are_forgotten_with_their_certificates(instance: InstanceLayout) -> None:
    made = store(instance, most=3)
    for number in range(1, 8):
        commit(instance, f"text {number}", **{f"of{number}": b"key %d" % number})
        made.number(instance)
    assert made.numbers(instance) == [5, 6, 7]
    made.tidy(instance)
    assert Revisions.of(instance).numbers() == [5, 6, 7]
    assert certificates(made.manifest(instance, 5)) == {"of5"}
    keys = {data for data in kept_contents(instance) if data.startswith(b"key")}
    assert keys == {b"key 5", b"key 6", b"key 7"}


def test_forgets_contents_that_were_only_uploaded(instance: InstanceLayout) -> None:
    made = store(instance)
    commit(instance, "one", a=KEY)
    made.number(instance)
    commit(instance, "never loaded", a=b"another")
    commit(instance, "two")
    made.number(instance)
    made.tidy(instance)
    assert b"never loaded" not in kept_contents(instance)
    assert b"another" not in kept_contents(instance)
    assert {b"one", b"two", KEY} <= kept_contents(instance)


def test_they_hold_no_more_bytes_than_they_may(instance: InstanceLayout) -> None:
    made = store(instance, most_bytes=2200)
    for number in range(5):
        # What all of them have counts once, however large it is.
        commit(instance, f"{number}" * 400, shared=b"x" * 5000)
        made.number(instance)
        made.tidy(instance)
    assert made.numbers(instance) == [3, 4, 5]
    for number in range(5, 8):
        commit(instance, "text", large=f"{number}".encode() * 2000)
        made.number(instance)
        made.tidy(instance)
    assert made.numbers(instance) == [7, 8]


def test_the_newest_is_kept_however_large_it_is(instance: InstanceLayout) -> None:
    made = store(instance, most_bytes=1)
    for text in ("one", "two"):
        commit(instance, text)
        made.number(instance)
        made.tidy(instance)
    assert made.numbers(instance) == [2]


def test_refuses_the_number_of_a_generation_that_is_not_there(instance: InstanceLayout) -> None:
    made = store(instance, most=2)
    with pytest.raises(NotFound, match="no generation 1: there is none yet"):
        made.manifest(instance, 1)
    for number in range(3):
        commit(instance, f"text {number}")
        made.number(instance)
    for number in (0, -1, 1, 4):
        with pytest.raises(NotFound, match=f"no generation {number}: there are 2 to 3"):
            made.manifest(instance, number)
