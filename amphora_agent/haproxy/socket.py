"""The only speaker to haproxy: the master socket of an instance.

Through it the master answers, and each worker (`@1 …`, `@!<pid> …`) at the level of an
administrator, whatever level the controller's text gives its own socket.
"""

import contextlib
import socket
import time
from collections.abc import Callable
from pathlib import Path

from amphora_agent.errors import OperationFailed

#: Bytes of a command with its payload. haproxy takes what fits into one of its buffers
#: (`tune.bufsize`, 16384) and drops more, 2.6 without a word.
LARGEST = 16000


class NotListening(OperationFailed):
    """Nobody listens at the socket: haproxy is down, or its master is just starting again."""


class NoAnswer(OperationFailed):
    """The answer did not come, or not whole, within the time allowed."""


class MasterSocket:
    """The master socket at `path`."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self._clock = clock

    def listening(self) -> bool:
        """Whether somebody listens. A hung haproxy does; it costs nothing to ask."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(0)
            try:
                connection.connect(str(self.path))
            except BlockingIOError:  # its queue is full: somebody owns it
                return True
            except OSError:
                return False
            return True

    def command(self, text: str, payload: str = "", *, timeout: float) -> str:
        """Send one command and return the whole reply, without the newlines around it.

        `payload` is lines that follow the command after `<<`. `timeout` in seconds is for all.

        Raises:
            NotListening, NoAnswer
            ValueError: this is not one command to haproxy, or it is too large for it.
        """
        request = _request(text, payload)
        deadline = self._clock() + timeout
        pieces: list[bytes] = []
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(timeout)
            try:
                connection.connect(str(self.path))
            except TimeoutError as error:
                raise self._no_answer(text, timeout) from error
            except OSError as error:
                raise NotListening("haproxy is not running", f"{self.path}: {error}") from error
            try:
                connection.sendall(request)
                # Half-closed: the master ends the connection after its reply. A master that is
                # executing itself anew may have hung up already.
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_WR)
                while True:
                    connection.settimeout(max(0.001, deadline - self._clock()))
                    piece = connection.recv(1 << 18)
                    if not piece:
                        break
                    pieces.append(piece)
                    if self._clock() > deadline:
                        raise TimeoutError
            except TimeoutError as error:
                raise self._no_answer(text, timeout) from error
            except OSError as error:
                raise NoAnswer(f"haproxy hung up on {text!r}", str(error)) from error
        return b"".join(pieces).decode(errors="replace").strip("\n")

    def _no_answer(self, text: str, timeout: float) -> NoAnswer:
        return NoAnswer("haproxy does not answer", f"{text!r}: nothing within {timeout:.1f} s")


class Conversation:
    """Questions to the one process that accepts the connection, whoever listens there later. It
    does not leave before this is closed.

    Raises, as `ask` does:
        NotListening, NoAnswer
    """

    _PROMPT = b"\n> "

    def __init__(self, path: Path, *, timeout: float) -> None:
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.settimeout(timeout)
        try:
            self._connection.connect(str(path))
            self.ask("prompt")
        except OSError as error:
            self.close()
            raise NotListening("haproxy is not running", f"{path}: {error}") from error
        except NoAnswer:
            self.close()
            raise

    def __enter__(self) -> "Conversation":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def ask(self, text: str) -> str:
        """The reply to one command, without the newlines around it."""
        reply = b""
        try:
            self._connection.sendall(_request(text, ""))
            while not reply.endswith(self._PROMPT):
                piece = self._connection.recv(1 << 18)
                if not piece:
                    raise NoAnswer(f"haproxy hung up on {text!r}")
                reply += piece
        except OSError as error:
            raise NoAnswer(f"no answer to {text!r}", str(error)) from error
        return reply.removesuffix(self._PROMPT).decode(errors="replace").strip("\n")

    def close(self) -> None:
        self._connection.close()


def _request(text: str, payload: str) -> bytes:
    if any(separator in text for separator in "\n\r;\0") or not text:
        raise ValueError(f"not one command: {text!r}")
    if payload:
        # After a blank line haproxy takes the next one for a command. What is wrong is not shown:
        # it may be a key.
        if "\0" in payload or not all(line.strip() for line in payload[:-1].split("\n")):
            raise ValueError(f"the payload of {text!r} has a blank line")
        if not payload.endswith("\n"):
            raise ValueError(f"the last line of the payload of {text!r} does not end")
        text = f"{text} <<\n{payload}"
    request = f"{text}\n".encode(errors="surrogateescape")
    if len(request) > LARGEST:
        raise ValueError(f"too large for haproxy: {len(request)} bytes")
    return request
