"""Texts of declared instances: what was read once is not read again."""

from pathlib import Path

import pytest

from amphora_agent.haproxy.config import diff
from amphora_agent.haproxy.runtime import loaded_state
from amphora_agent.revisions.contents import Manifest, Revisions


@pytest.fixture
def revisions(tmp_path: Path) -> Revisions:
    return Revisions(tmp_path / "revisions")


def made(revisions: Revisions, **texts: str) -> Manifest:
    return revisions.keep({f"{name}.cfg": text.encode() for name, text in texts.items()})


def test_haproxys_texts_are_read_in_its_order_and_nothing_else(revisions: Revisions) -> None:
    texts = made(revisions, pool="backend b\n", haproxy="global\n")
    others = revisions.keep({"model.json": b"", "a.cidrs": b"", "layer4/x.cfg": b""})
    found = loaded_state.read_directory(revisions, {**texts, **others})
    assert list(found.texts.items()) == [("haproxy.cfg", "global\n"), ("pool.cfg", "backend b\n")]
    assert found.size == 17


def test_words_are_counted(revisions: Revisions) -> None:
    found = loaded_state.read_directory(
        revisions, made(revisions, a="bind check check", b="bind bind")
    )
    for text in found.texts.values():
        assert text.counts == diff.count_words(str(text)).counts


def test_files_that_are_the_same_are_taken_from_another_state(revisions: Revisions) -> None:
    one = made(revisions, same="s", changed="old")
    before = loaded_state.read_directory(revisions, one)
    revisions.path(one["same.cfg"].digest).unlink()  # reading it would fail
    now = loaded_state.read_directory(
        revisions, {**one, **made(revisions, changed="new", added="a")}, before
    )
    assert dict(now.texts) == {"added.cfg": "a", "changed.cfg": "new", "same.cfg": "s"}
    assert now.texts["same.cfg"] is before.texts["same.cfg"]


def test_a_state_is_known_by_its_texts(revisions: Revisions) -> None:
    found = loaded_state.read_directory(revisions, made(revisions, a="a"))
    others = [loaded_state.read_directory(revisions, made(revisions, a="b")), found]
    again = {**made(revisions, a="a"), **revisions.keep({"model.json": b"1"})}
    assert loaded_state.find_directory(loaded_state.digest_directory(again), others) is found
    assert (
        loaded_state.find_directory(loaded_state.digest_directory(made(revisions, a="c")), others)
        is None
    )
