"""Send commands to haproxy through its sockets. No other module does.

The master socket of an instance reaches the master, and each worker (`@1 …`, `@!<pid> …`) at the
level of an administrator, whatever level the controller's text gives the stats socket.
"""

import contextlib
import select
import socket
import threading
import time
from pathlib import Path

from amphora_agent.errors import OperationFailed
from amphora_agent.paths import InstanceLayout

#: Bytes of a command with its payload. haproxy reads what fits into one of its buffers
#: (`tune.bufsize`, 16384) and drops the rest, 2.6 without an error.
LARGEST = 16000

#: Seconds between two tries while haproxy's queue is full.
_BUSY_PAUSE = 0.01


class NotListening(OperationFailed):
    """Nobody listens at the socket: haproxy is down, or its master is just starting again."""


class NoAnswer(OperationFailed):
    """The answer did not come, or not whole, within the time allowed."""


class HungUp(NoAnswer):
    """The connection broke before there was an answer: the command may have been heard."""


class Question:
    """Commands sent to a socket of haproxy without waiting, open until `advance` returns True.

    `half_close` tells the master that no more commands follow; a worker hangs up by itself. `busy`
    is True if haproxy's queue was full, so that it got nothing.

    Raises NoAnswer: this process can have no more sockets.
    """

    def __init__(self, path: Path, *commands: str, payload: str = "", half_close: bool) -> None:
        self.text = ";".join(commands)
        self.asked = time.time()
        self.busy = False
        self._pieces: list[bytes] = []
        self._failure: OperationFailed | None = None
        self._connection = _new_socket(socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        request = b";".join(_request(command, payload)[:-1] for command in commands) + b"\n"
        try:
            self._connection.connect(str(path))
        except BlockingIOError:
            self.busy = True
            self._failure = NoAnswer("haproxy does not answer", f"{path}: its queue is full")
        except OSError as error:
            self._failure = NotListening("haproxy is not running", f"{path}: {error}")
        else:
            self._send(request, half_close=half_close)

    def _send(self, request: bytes, *, half_close: bool) -> None:
        try:
            self._connection.send(request)  # the kernel takes that much at once
        except OSError as error:
            self._failure = HungUp(f"haproxy hung up on {self.text!r}", str(error))
        if half_close:
            # A master that is executing itself anew may have hung up already.
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_WR)

    def fileno(self) -> int:
        return self._connection.fileno()

    def advance(self) -> bool:
        """Read what has come. Return whether the question is closed: answered or refused."""
        while self._failure is None:
            try:
                piece = self._connection.recv(1 << 18)
            except BlockingIOError:
                return False
            except OSError as error:
                self._failure = HungUp(f"haproxy hung up on {self.text!r}", str(error))
                break
            if not piece:
                break
            self._pieces.append(piece)
        self.close()
        return True

    def reply(self) -> str:
        """Return the whole reply, without the newlines around it.

        Raises:
            NotListening, NoAnswer
        """
        if self._failure is not None:
            raise self._failure
        return b"".join(self._pieces).decode(errors="replace").strip("\n")

    def close(self) -> None:
        self._connection.close()

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # it got no socket
            self.close()


class _OpenQuestions:
    """Questions of this process without an answer in time, by socket and process asked.

    Each of them takes one of the ten connections that a master has. So a process that does not
    answer is not asked again before the question is closed.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[tuple[str, str], Question] = {}

    def keep(self, asked: tuple[str, str], question: Question) -> None:
        with self._lock:
            self._forget_closed()
            if asked in self._open:  # two have asked at the same time
                question.close()
            else:
                self._open[asked] = question

    def is_open(self, asked: tuple[str, str]) -> bool:
        with self._lock:
            self._forget_closed()
            return asked in self._open

    def _forget_closed(self) -> None:
        for asked in [asked for asked, question in self._open.items() if question.advance()]:
            del self._open[asked]


_open_questions = _OpenQuestions()


class MasterSocket:
    """The master socket at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def listening(self) -> bool:
        """Whether a process listens, also one that hangs. Nothing is sent to it.

        Raises:
            NoAnswer: this process can have no more sockets, so it is unknown.
        """
        with _new_socket() as connection:
            connection.settimeout(0)
            try:
                connection.connect(str(self.path))
            except BlockingIOError:  # its queue is full, so it listens
                return True
            except OSError:
                return False
            return True

    def is_silent(self, target: str) -> bool:
        """Whether a process (`@!<pid>`, or "" for the master) has not answered a question yet."""
        return _open_questions.is_open((str(self.path), target))

    def command(self, text: str, payload: str = "", *, timeout: float) -> str:
        """Send one command and return the whole reply, without the newlines around it.

        `payload` are lines that follow the command after `<<`. `timeout` is in seconds, for all. A
        process that has not answered a question yet is not asked again: NoAnswer comes at once.

        Raises:
            NotListening, NoAnswer
            ValueError: this is not one command, or it is too large for haproxy.
        """
        deadline = time.monotonic() + timeout
        asked = (str(self.path), text.partition(" ")[0] if text.startswith("@") else "")
        if _open_questions.is_open(asked):
            raise NoAnswer("haproxy does not answer", f"an earlier question is open: {text!r}")
        question = Question(self.path, text, payload=payload, half_close=True)
        while question.busy and time.monotonic() < deadline:
            time.sleep(_BUSY_PAUSE)
            question.close()
            question = Question(self.path, text, payload=payload, half_close=True)
        poll = select.poll()
        poll.register(question, select.POLLIN)
        while not question.advance():
            left = deadline - time.monotonic()
            if left <= 0:
                _open_questions.keep(asked, question)
                words = f"{text!r}: nothing within {timeout:.1f} s"
                raise NoAnswer("haproxy does not answer", words)
            poll.poll(left * 1000)
        return question.reply()


def master_of(instance: InstanceLayout) -> MasterSocket:
    return MasterSocket(instance.master_socket)


class InteractiveSession:
    """A connection to the process that accepts it, whichever listens there later. That process does
    not end before the session is closed.

    Raises:
        NotListening, NoAnswer
    """

    _PROMPT = b"\n> "

    def __init__(self, path: Path, *, timeout: float) -> None:
        self._connection = _new_socket()
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

    def __enter__(self) -> "InteractiveSession":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def ask(self, text: str) -> str:
        """Send a command and return the reply, without the newlines around it. Raises NoAnswer."""
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


def _new_socket(kind: int = socket.SOCK_STREAM) -> socket.socket:
    try:
        return socket.socket(socket.AF_UNIX, kind)
    except OSError as error:
        raise NoAnswer("haproxy cannot be asked", str(error)) from error


def _request(text: str, payload: str) -> bytes:
    if any(separator in text for separator in "\n\r;\0") or not text:
        raise ValueError(f"not one command: {text!r}")
    if payload:
        # haproxy takes the line after a blank one for a command. The error does not show the line,
        # which may be of a key.
        if "\0" in payload or not all(line.strip() for line in payload[:-1].split("\n")):
            raise ValueError(f"the payload of {text!r} has a blank line")
        if not payload.endswith("\n"):
            raise ValueError(f"the last line of the payload of {text!r} does not end")
        text = f"{text} <<\n{payload}"
    request = f"{text}\n".encode(errors="surrogateescape")
    if len(request) > LARGEST:
        raise ValueError(f"too large for haproxy: {len(request)} bytes")
    return request
