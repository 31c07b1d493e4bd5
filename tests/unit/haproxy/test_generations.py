"""Numbered states of an instance: which there are, what they hold, what a kill leaves of them."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from amphora_agent import files
from amphora_agent.errors import NotFound
from amphora_agent.haproxy import generations
from amphora_agent.haproxy.generations import Content, Generations
from amphora_agent.layout import InstanceLayout
from tests.unit.haproxy.instances import layout

#: What the certificates of the tests hold.
KEY = b"a key"


@pytest.fixture
def instance(tmp_path: Path) -> InstanceLayout:
    return layout(tmp_path)


def commit(instance: InstanceLayout, text: str, **certificates: bytes) -> Content:
    content = Content(text.encode(), b"addition of " + text.encode(), b"peer", certificates)
    generations.bring_certificates(instance, content)
    generations.commit(instance, content)
    return content


def inode(path: Path) -> int:
    return path.stat().st_ino


def test_what_came_up_is_numbered_from_1_on(instance: InstanceLayout) -> None:
    made = Generations()
    assert made.numbers(instance) == []
    for number in (1, 2, 3):
        commit(instance, f"text {number}")
        assert made.remember(instance) == number
    assert made.numbers(instance) == [1, 2, 3]


def test_the_numbers_go_on_after_a_restart(instance: InstanceLayout) -> None:
    commit(instance, "one")
    Generations().remember(instance)
    commit(instance, "two")
    assert Generations().remember(instance) == 2


def test_what_came_up_again_unchanged_keeps_its_number(instance: InstanceLayout) -> None:
    made = Generations()
    commit(instance, "one", a=KEY)
    assert made.remember(instance) == made.remember(instance) == 1
    # Other files with the same content, as an upload of the same makes them.
    for path in (instance.configuration, instance.certificates / "a"):
        files.write(path, path.read_bytes())
    assert made.remember(instance) == 1


def test_a_generation_is_what_was_committed_then(instance: InstanceLayout) -> None:
    made = Generations()
    first = commit(instance, "one", kept=b"k", replaced=b"old", removed=b"r")
    made.remember(instance)
    second = commit(instance, "two", kept=b"k", replaced=b"new", added=b"a")
    made.remember(instance)
    assert made.content(instance, 1) == first
    assert made.content(instance, 2) == second == generations.committed(instance)


def test_going_back_and_forth_makes_what_is_committed_exactly_that(
    instance: InstanceLayout,
) -> None:
    first = commit(instance, "one", kept=b"k", replaced=b"old", removed=b"r")
    second = commit(instance, "two", kept=b"k", replaced=b"new", added=b"a")
    for wanted in (first, second, Content(b"three", b"", b"other", {})):
        generations.bring_certificates(instance, wanted)
        generations.commit(instance, wanted)
        assert generations.committed(instance) == wanted


def test_certificates_come_before_the_text_and_go_after_it(instance: InstanceLayout) -> None:
    """So whichever text a kill leaves, what it names is there."""
    commit(instance, "one", old=b"o")
    generations.bring_certificates(instance, Content(b"two", b"", b"", {"new": b"n"}))
    between = generations.committed(instance)
    assert between.configuration == b"one"
    assert set(between.certificates) == {"old", "new"}


@pytest.mark.parametrize("what", ["configuration", "addition", "certificate", "new", "gone"])
def test_whatever_differs_from_the_newest_waits(instance: InstanceLayout, what: str) -> None:
    made = Generations()
    commit(instance, "one", a=b"1", b=b"2")
    assert made.pending(instance)
    made.remember(instance)
    assert not made.pending(instance)
    match what:
        case "configuration":
            files.write(instance.configuration, b"two")
        case "addition":
            files.write(instance.addition, b"two")
        case "certificate":
            files.write(instance.certificates / "a", b"3")
        case "new":
            files.write(instance.certificates / "c", b"3")
        case "gone":
            files.remove(instance.certificates / "b")
    assert made.pending(instance)
    assert made.remember(instance) == 2
    assert not made.pending(instance)


def test_nothing_is_copied(instance: InstanceLayout) -> None:
    commit(instance, "one", a=KEY)
    Generations().remember(instance)
    kept = instance.generations / "1"
    assert inode(kept / "haproxy.cfg") == inode(instance.configuration)
    assert inode(kept / "agent.cfg") == inode(instance.addition)
    assert inode(kept / "certificates/a") == inode(instance.certificates / "a")


def test_the_same_certificates_are_linked_once(instance: InstanceLayout) -> None:
    made = Generations()
    for text in ("one", "two", "three"):
        commit(instance, text, a=KEY)
        made.remember(instance)
    commit(instance, "four", a=KEY, b=KEY)
    made.remember(instance)
    # The file itself, and two directories.
    assert (instance.certificates / "a").stat().st_nlink == 3
    assert set(made.content(instance, 3).certificates) == {"a"}
    assert set(made.content(instance, 4).certificates) == {"a", "b"}


def test_keys_are_for_the_agent_alone(instance: InstanceLayout) -> None:
    old = os.umask(0)
    try:
        commit(instance, "one", a=KEY)
        Generations().remember(instance)
    finally:
        os.umask(old)
    for path in [instance.generations, *instance.generations.rglob("*")]:
        if not path.is_symlink():
            mode = stat.S_IMODE(path.stat().st_mode)
            assert mode == (0o700 if path.is_dir() else 0o600), path


def test_the_oldest_are_forgotten_with_their_certificates(instance: InstanceLayout) -> None:
    made = Generations(most=3)
    for number in range(1, 8):
        commit(instance, f"text {number}", **{f"of{number}": KEY})
        made.remember(instance)
    assert made.numbers(instance) == [5, 6, 7]
    assert set(made.content(instance, 5).certificates) == {"of5"}
    names = {path.name for path in instance.generations.iterdir()}
    assert names == {"5", "6", "7", "certificates-5", "certificates-6", "certificates-7"}


def test_certificates_stay_as_long_as_a_generation_has_them(instance: InstanceLayout) -> None:
    made = Generations(most=2)
    for number in range(5):
        commit(instance, f"text {number}", a=KEY)
        made.remember(instance)
    assert {path.name for path in instance.generations.iterdir()} == {"4", "5", "certificates-1"}
    assert made.content(instance, 4).certificates == {"a": KEY}


def test_they_hold_no_more_bytes_than_they_may(instance: InstanceLayout) -> None:
    made = Generations(most_bytes=2200)
    for number in range(5):
        # What all of them have counts once, however large it is.
        commit(instance, f"{number}" * 400, shared=b"x" * 5000)
        made.remember(instance)
    assert made.numbers(instance) == [3, 4, 5]
    for number in range(5, 8):
        commit(instance, "text", large=f"{number}".encode() * 2000)
        made.remember(instance)
    assert made.numbers(instance) == [7, 8]


def test_the_newest_is_kept_however_large_it_is(instance: InstanceLayout) -> None:
    made = Generations(most_bytes=1)
    for text in ("one", "two"):
        commit(instance, text)
        made.remember(instance)
    assert made.numbers(instance) == [2]


def test_one_that_is_not_there_is_said_to_be_so(instance: InstanceLayout) -> None:
    made = Generations(most=2)
    with pytest.raises(NotFound, match="no generation 1: there is none yet"):
        made.content(instance, 1)
    for number in range(3):
        commit(instance, f"text {number}")
        made.remember(instance)
    for number in (0, -1, 1, 4):
        with pytest.raises(NotFound, match=f"no generation {number}: there are 2 to 3"):
            made.content(instance, number)


# Kills

#: Remembers text after text for a directory, and is killed before a system call of a given number.
_MORTAL = """
import os, sys
from pathlib import Path
from tests.unit.haproxy.test_generations import commit
from tests.unit.haproxy.instances import layout
from amphora_agent.haproxy.generations import Generations

instance, fatal = layout(Path(sys.argv[1])), int(sys.argv[2])
made = Generations(most=2)
for number in range(3):
    commit(instance, f"text {number}", **{f"of{number}": b"key"})
    made.remember(instance)
commit(instance, "the last", last=b"key")
calls = 0
def mortal(real):
    def call(*args, **kwargs):
        global calls
        calls += 1
        if calls == fatal:
            os.kill(os.getpid(), 9)
        return real(*args, **kwargs)
    return call
for name in ("mkdir", "link", "symlink", "rename", "rmdir", "unlink"):
    setattr(os, name, mortal(getattr(os, name)))
made.remember(instance)
"""


def test_a_kill_at_any_step_leaves_whole_generations_and_the_next_number(tmp_path: Path) -> None:
    outcomes = []
    for fatal in range(1, 100):
        top = tmp_path / str(fatal)
        ended = subprocess.run([sys.executable, "-c", _MORTAL, str(top), str(fatal)], check=False)
        if ended.returncode == 0:
            break
        assert ended.returncode == -signal.SIGKILL
        instance, made = layout(top), Generations(most=2)
        numbers = made.numbers(instance)
        for number in numbers:
            content = made.content(instance, number)
            name = "last" if number == 4 else f"of{number - 1}"
            assert set(content.certificates) == {name}, (fatal, number)
        outcomes.append(numbers)
        # Whoever comes next brings it to an end, and leaves nothing lying about.
        assert made.remember(instance) == 4
        commit(instance, "after", after=b"key")
        assert made.remember(instance) == 5
        assert {path.name for path in instance.generations.iterdir()} == {
            *("4", "5", "certificates-4", "certificates-5")
        }
    assert ended.returncode == 0
    assert [2, 3] in outcomes
    assert [3, 4] in outcomes
