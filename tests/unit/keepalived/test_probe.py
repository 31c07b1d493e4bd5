"""The check that decides mastership: what it asks, what is an answer, when that is believed."""

import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
import pytest

from amphora_agent.keepalived import probe
from amphora_agent.keepalived.probe import (
    Judge,
    check_once,
    find_silent,
    is_configured,
    list_wanted,
)
from lab.waiting import until


@pytest.fixture
def directory() -> Iterator[Path]:
    """With a path that is short enough for sockets."""
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


@contextmanager
def listening(path: Path, answer: bytes | None = b"2.6.12\n\n") -> Iterator[None]:
    """Something at a socket that gives one answer to each; None: that accepts nobody."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    if connection.recv(100) and answer:
                        connection.sendall(answer)

        thread = threading.Thread(target=serve)
        if answer is not None:
            thread.start()
        yield
        if answer is not None:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_all_are_asked_within_one_deadline(directory: Path) -> None:
    names = ["answers", "hangs", "hangs too", "hangs up", "gone", "nobody listens"]
    answers, hangs, hangs_too, hangs_up, gone, nobody = (str(directory / name) for name in names)
    with ExitStack() as stack:
        stack.enter_context(listening(Path(answers)))
        stack.enter_context(listening(Path(hangs), None))
        stack.enter_context(listening(Path(hangs_too), None))
        stack.enter_context(listening(Path(hangs_up), b""))
        with socket.socket(socket.AF_UNIX) as left_behind:
            left_behind.bind(nobody)
        asked = [hangs, hangs_too, gone, answers, hangs_up, nobody]
        assert find_silent(asked, timeout=0.2) == {hangs, hangs_too, hangs_up, gone, nobody}
        # One deadline for all, which the one that answers does not wait for.
        assert find_silent([answers], timeout=60) == set()


def test_a_full_queue_is_no_answer(directory: Path) -> None:
    path = directory / "full"
    with socket.socket(socket.AF_UNIX) as listener, ExitStack() as stack:
        listener.bind(str(path))
        listener.listen(0)
        while True:
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
            waiting.setblocking(False)
            try:
                waiting.connect(str(path))
            except BlockingIOError:
                break
        assert find_silent([str(path)], timeout=60) == {str(path)}


def test_a_keepalived_answers_by_living(directory: Path) -> None:
    named = directory / "keepalived"
    named.symlink_to("/bin/sleep")
    pid_file = directory / "a.pid"
    with subprocess.Popen([named, "60"]) as process:
        pid_file.write_text(f"{process.pid}\n")
        try:
            # It has its name a moment after its start.
            until(lambda: find_silent([str(pid_file)]) == set(), "it is known")
        finally:
            process.kill()
    assert find_silent([str(pid_file)]) == {str(pid_file)}
    # The number is another process's after a reboot.
    pid_file.write_text(str(os.getpid()))
    assert find_silent([str(pid_file)]) == {str(pid_file)}
    for nonsense in ("", "-1", "x"):
        pid_file.write_text(nonsense)
        assert find_silent([str(pid_file)]) == {str(pid_file)}


@pytest.mark.parametrize("kind", ["units", "records"])
def test_lists_the_processes_that_should_run(kind: str, directory: Path) -> None:
    place = directory / kind

    def want(name: str, yes: bool = True) -> None:
        if kind == "units" and yes:
            (place / f"{name}.service").symlink_to("/nowhere")
        if kind == "records":
            record = {"spec": {"name": name}, "wanted": yes, "pid": 1}
            (place / f"{name}.json").write_bytes(msgspec.json.encode(record))

    assert list_wanted("/b", str(place)) == []
    place.mkdir()
    want("haproxy-a")
    want("haproxy-b", False)
    want("octavia-keepalivedlvs-c")
    want("octavia-keepalived")
    want("amphora-agent")
    (place / ".stage-1-haproxy-d.json").write_text('"wanted":true')
    (place / "haproxy-e").mkdir()
    want("haproxy-a.2")  # one of the two takes the place of the other
    assert list_wanted("/b", str(place)) == ["/b/a.sock", "/b/lvs/octavia-keepalivedlvs-c.pid"]


def test_nothing_configured_is_no_reason_to_have_the_vips(directory: Path) -> None:
    place = str(directory / "processes")
    assert not check_once(str(directory), place)
    assert not check_once(str(directory / "not there"), place)
    (directory / "lvs").mkdir()
    (directory / "id").mkdir()
    assert not check_once(str(directory), place)
    (directory / "id" / "haproxy.cfg").write_text("global\n")
    assert is_configured(str(directory))
    assert check_once(str(directory), place)  # it was stopped
    (directory / "id" / "haproxy.cfg").unlink()
    (directory / "lvs" / "octavia-keepalivedlvs-c.conf").write_text("")
    assert check_once(str(directory), place)


def rounds(judge: Judge, *heard: str) -> list[bool]:
    """Whether "a" is lost after each round; "." it answered, "x" it did not."""
    return [
        judge.add_round(["a"], {"a"} if each == "x" else set()) == ["a"] for each in "".join(heard)
    ]


def lost(text: str) -> list[bool]:
    return [each == "x" for each in text]


@pytest.mark.parametrize(
    ("heard", "believed"),
    [
        ("......", "......"),
        (".x.x.x", "......"),
        (".xx.xx.", "......."),
        (".xxx", "...x"),
        (".xxx.x.x", "...xxxxx"),
        (".xxx..", "...xx."),
        ("xx.xx.", "......"),
        ("xxx.x..", "..xxxx."),
        ("xxx..xx.xxx", "..xx......x"),
    ],
)
def test_hysteresis(heard: str, believed: str) -> None:
    assert rounds(Judge(fall=3, rise=2), heard) == lost(believed)


def test_gives_a_new_process_time_to_start() -> None:
    judge = Judge(fall=3, rise=2)
    assert judge.add_round([], set()) == []
    assert rounds(judge, "xx.") == lost("...")
    assert judge.add_round(["a", "b"], {"b"}) == []
    assert judge.add_round(["a", "b"], {"b"}) == []
    assert judge.add_round(["a", "b"], {"b"}) == ["b"]


def test_forgets_a_process_that_was_stopped() -> None:
    judge = Judge(fall=2, rise=1)
    judge.add_round(["a", "b"], {"a", "b"})
    assert judge.add_round(["a", "b"], {"a", "b"}) == ["a", "b"]
    assert judge.add_round(["b"], {"b"}) == ["b"]
    # Started again, it begins anew.
    assert judge.add_round(["a", "b"], {"a", "b"}) == ["b"]


def test_waits_for_a_process_that_comes_up(directory: Path) -> None:
    """At a boot keepalived's first check must not come too early."""
    (directory / "w").mkdir()
    (directory / "w" / "haproxy-a.service").touch()
    assert not check_once(str(directory), str(directory / "w"), timeout=0)
    with ExitStack() as stack:
        late = threading.Timer(0.1, lambda: stack.enter_context(listening(directory / "a.sock")))
        late.start()
        assert check_once(str(directory), str(directory / "w"), timeout=60)
        late.join()


def test_the_command_asks_the_sockets_it_is_given(directory: Path) -> None:
    alive, dead = directory / "alive", directory / "dead"
    with listening(alive):
        for sockets, status in (([alive], 0), ([alive, alive], 0), ([alive, dead], 1), ([], 0)):
            assert probe.main([str(each) for each in sockets]) == status


def test_the_program_needs_nothing_but_python(directory: Path) -> None:
    """It is started by its path, without site-packages; a mistake in its words is an error."""
    command = [sys.executable, "-I", "-S", probe.__file__]
    (directory / "id").mkdir()
    (directory / "id" / "haproxy.cfg").touch()
    for words, status in (
        (["once", str(directory), str(directory / "w")], 0),
        (["once", str(directory / "id"), str(directory / "w")], 1),
        (["once"], 1),
        ([], 1),
    ):
        done = subprocess.run([*command, *words], capture_output=True, check=False)
        assert done.returncode == status, words
