"""What is said to haproxy is one command, whole, or nothing; the reply is whole within its time."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from amphora_agent.haproxy.runtime.socket import LARGEST, MasterSocket, NoAnswer


class Master:
    """Somebody at a socket who notes what comes, and answers with `reply`; with None not at all."""

    def __init__(self, path: Path) -> None:
        self.reply: bytes | None = b"\ndone\n\n"
        self.received: list[bytes] = []
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)  # which wakes who accepts
        self._thread.join()
        self._listening.close()

    def _serve(self) -> None:
        unanswered = []
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:  # it is closed
                break
            data = b""
            while piece := connection.recv(65536):
                data += piece
            self.received.append(data)
            if self.reply is None:
                unanswered.append(connection)
                continue
            connection.sendall(self.reply)
            connection.close()
        for connection in unanswered:
            connection.close()


@pytest.fixture
def master(tmp_path: Path) -> Iterator[tuple[Master, MasterSocket]]:
    path = tmp_path / "m"
    there = Master(path)
    yield there, MasterSocket(path)
    there.close()


def test_a_payload_follows_its_command_and_ends_with_a_blank_line(
    master: tuple[Master, MasterSocket],
) -> None:
    there, here = master
    assert here.command("set ssl cert /x", "one\ntwo\n", timeout=5) == "done"
    assert there.received == [b"set ssl cert /x <<\none\ntwo\n\n"]


@pytest.mark.parametrize(
    ("text", "payload"),
    [
        ("", ""),
        ("show info\nshow stat", ""),
        ("show info\rshow stat", ""),
        ("show info;show stat", ""),
        ("show\0info", ""),
        ("set ssl cert /x", "one\n\nshow stat\n"),
        ("set ssl cert /x", "one\n \t\ntwo\n"),
        ("set ssl cert /x", "one\n\r\ntwo\n"),
        ("set ssl cert /x", "\none\n"),
        ("set ssl cert /x", "one"),
        ("set ssl cert /x", "o\0ne\n"),
        ("set ssl cert /x", "x" * LARGEST + "\n"),
        ("x" * LARGEST, ""),
    ],
)
def test_sends_nothing_that_is_not_one_command(
    master: tuple[Master, MasterSocket], text: str, payload: str
) -> None:
    there, here = master
    with pytest.raises(ValueError, match=r"."):
        here.command(text, payload, timeout=5)
    assert here.command("show info", timeout=5) == "done"
    assert there.received == [b"show info\n"]


def test_a_key_is_not_told_when_its_payload_is_refused(
    master: tuple[Master, MasterSocket],
) -> None:
    with pytest.raises(ValueError, match="blank line") as refusal:
        master[1].command("set ssl cert /x", "secret\n\nsecret\n", timeout=5)
    assert "secret" not in str(refusal.value)


def test_an_answer_that_does_not_come_is_given_up(master: tuple[Master, MasterSocket]) -> None:
    there, here = master
    there.reply = None
    with pytest.raises(NoAnswer):
        here.command("show info", timeout=0.1)
