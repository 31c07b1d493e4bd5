"""The channel between the worker that receives, an unprivileged user's, and the one that has the
routes, root's.

A message is two lengths, a struct in MessagePack, and the body beside it, which nobody has to copy
into the struct. A body on disk goes as a descriptor. Each connection has one call at a time. Root
listens at an abstract socket that the arbiter holds: connections that come while there is no such
worker wait for the next one.

A call is sent only after the other side has greeted, and never twice. Whoever is told 503 because
the other process has ended may have had its change made, once.
"""

import contextlib
import io
import logging
import os
import socket
import stat
import struct
import threading
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, BinaryIO, TypeVar

import msgspec

from amphora_agent.api.server.bodies import Room
from amphora_agent.api.server.requests import (
    Answer,
    InvalidMessage,
    KeptBody,
    LocalBackend,
    Refused,
    Request,
)
from amphora_agent.api.server.tls import WorkerSettings, make_context_of
from amphora_agent.errors import Unavailable

logger = logging.getLogger(__name__)

_LENGTHS = struct.Struct("=II")
_GREETING = b"\x01"
#: Bytes of a struct, which has the header and the client's certificates.
_LARGEST_HEAD = 512 << 10
#: Seconds that a call waits to be taken, longer than a worker takes to start again, and between
#: requests for new settings.
_GREETING_TIMEOUT, _REFRESH = 10.0, 1.0
#: Connections at a time: one for each thread of the worker that receives, and some.
_MOST_CONNECTIONS = 24
#: Kinds of failed handshakes in one message.
_MOST_REASONS = 64

_PEER_CREDENTIALS = struct.Struct("=iii")


class Refresh(msgspec.Struct, frozen=True, tag="refresh"):
    """Asks for the worker's settings, and tells of failed handshakes, by their reason."""

    failed: dict[str, int]


class OpenFile(msgspec.Struct, frozen=True, tag="open-file"):
    """Asks for a file without a name."""


class Opened(msgspec.Struct, frozen=True, tag="opened"):
    """The file comes as a descriptor; with a `problem` there is none."""

    problem: str = ""


Call = Request | Refresh | OpenFile
Reply = Answer | Refused | WorkerSettings | Opened
_calls: "msgspec.msgpack.Decoder[Call]" = msgspec.msgpack.Decoder(Call)
_replies: "msgspec.msgpack.Decoder[Reply]" = msgspec.msgpack.Decoder(Reply)
_Message = TypeVar("_Message")


def listen() -> socket.socket:
    """Return a socket with a name that the kernel chooses, in no file system."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind("")
    listener.listen(_MOST_CONNECTIONS)
    return listener


def send(
    sock: socket.socket, message: Call | Reply, body: bytes = b"", descriptor: int | None = None
) -> None:
    """Send a message. Raises OSError."""
    head = msgspec.msgpack.encode(message)
    data = _LENGTHS.pack(len(head), len(body)) + head
    if descriptor is not None:
        data = data[socket.send_fds(sock, [data], [descriptor]) :]
    for piece in (data, body):
        if piece:  # to send nothing fails, too, when the other side has closed
            sock.sendall(piece)


def receive(
    sock: socket.socket,
    decoder: "msgspec.msgpack.Decoder[_Message]",
    require_size: Callable[[_Message, int], None],
) -> tuple[_Message, bytes, int | None]:
    """Return a message, its body and its descriptor. `require_size` sees the message and the length
    of its body, before anything is allocated for that, and may raise.

    Raises:
        OSError: the connection has ended (ConnectionError), or failed.
        InvalidMessage
    """
    data, descriptors, _, _ = socket.recv_fds(
        sock, _LENGTHS.size, 1, socket.MSG_CMSG_CLOEXEC | socket.MSG_WAITALL
    )
    try:
        head_size, body_size = _LENGTHS.unpack(data + _receive(sock, _LENGTHS.size - len(data)))
        if head_size > _LARGEST_HEAD:
            raise InvalidMessage(f"a head of {head_size} bytes")
        try:
            message = decoder.decode(_receive(sock, head_size))
        except msgspec.MsgspecError as error:
            raise InvalidMessage(str(error)) from None
        require_size(message, body_size)
        return message, _receive(sock, body_size), descriptors.pop() if descriptors else None
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _receive(sock: socket.socket, size: int) -> bytes:
    """Return exactly `size` bytes. Raises OSError."""
    data = sock.recv(size, socket.MSG_WAITALL) if size else b""
    while len(data) < size:
        more = sock.recv(size - len(data), socket.MSG_WAITALL)
        if not more:
            raise ConnectionResetError("the other process has ended")
        data += more
    return data


# In the worker that receives


class Channel:
    """Calls the worker that has the routes. Each thread that calls has a connection meanwhile."""

    def __init__(self, address: bytes | str, alive: Callable[[], bool]) -> None:
        """`alive` returns whether this worker goes on."""
        self._address = address
        self._alive = alive
        self._lock = threading.Lock()
        self._idle: deque[socket.socket] = deque()
        self._failed: Counter[str] = Counter()
        self._settings: Any = None
        self._context: Any = None
        self._ended = threading.Event()

    def begin(self) -> None:
        """Wait for the settings, then have them renewed by a thread."""
        while self._settings is None and self._alive():
            with contextlib.suppress(Unavailable):
                self.refresh()
        threading.Thread(target=self._keep_fresh, name="settings", daemon=True).start()

    def tick(self) -> None:
        """Log as much as the settings want."""
        level = logging.DEBUG if self._settings.debug else logging.INFO
        logging.getLogger().setLevel(level)

    def context(self) -> Any:
        return self._context

    def patience(self) -> float:
        patience: float = self._settings.patience
        return patience

    def note_failed_handshake(self, reason: str) -> None:
        with self._lock:
            self._failed[reason] += 1

    def refresh(self) -> None:
        """Get the settings, if there are others.

        Raises:
            Unavailable
        """
        with self._lock:
            failed, self._failed = self._failed, Counter()
        try:
            settings, _, _ = self._call(Refresh(dict(failed.most_common(_MOST_REASONS))))
        except Unavailable:
            with self._lock:
                self._failed += failed
            raise
        assert isinstance(settings, WorkerSettings)
        with self._lock:
            if self._settings is None or settings.version > self._settings.version:
                self._context = make_context_of(settings)
                self._settings = settings

    def open_file(self) -> BinaryIO:
        opened, _, descriptor = self._call(OpenFile())
        if descriptor is None:
            raise OSError(opened.problem)
        return os.fdopen(descriptor, "r+b", buffering=0)

    def answer(self, request: Request, body: Any) -> tuple[Answer, bytes] | Refused:
        if body.problem is not None:
            no_room = isinstance(body.problem, Unavailable)
            problem = body.problem.details if no_room else str(body.problem)
            request = msgspec.structs.replace(request, problem=problem, no_room=no_room)
            reply, content, _ = self._call(request)
        elif body.file is not None:
            reply, content, _ = self._call(request, descriptor=body.file.fileno())
        else:
            reply, content, _ = self._call(request, body.read())
        if isinstance(reply, Refused):
            return reply
        assert isinstance(reply, Answer)
        if reply.settings > self._settings.version:
            # A client that has sent a certificate finds it at its next connection.
            self.refresh()
        return reply, content

    def close(self) -> None:
        """Let the other worker know that nothing more comes."""
        self._ended.set()
        with self._lock:
            while self._idle:
                self._idle.pop().close()

    def _keep_fresh(self) -> None:
        while not self._ended.wait(_REFRESH):
            try:
                self.refresh()
            except Unavailable as error:
                logger.warning("%s", error)

    def _call(
        self, call: Call, body: bytes = b"", descriptor: int | None = None
    ) -> tuple[Any, bytes, int | None]:
        """Raises Unavailable."""
        try:
            sock = self._take_connection()
        except OSError as error:
            raise Unavailable(
                "The agent is starting", f"its services do not answer: {error}; try again later"
            ) from None
        try:
            send(sock, call, body, descriptor)
            result = receive(sock, _replies, lambda message, size: None)
        except (OSError, InvalidMessage) as error:
            sock.close()
            raise Unavailable(
                "The agent is starting again",
                f"a process of it has ended during the request: {error}; try again later",
            ) from None
        with self._lock:
            if self._ended.is_set():
                sock.close()
            else:
                self._idle.append(sock)
        return result

    def _take_connection(self) -> socket.socket:
        """Return a connection to a process that lives. Raises OSError."""
        while True:
            with self._lock:
                sock = self._idle.pop() if self._idle else None
            if sock is None:
                break
            try:
                sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            except BlockingIOError:
                return sock
            except OSError:
                pass
            sock.close()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(_GREETING_TIMEOUT)
            sock.connect(self._address)
            _receive(sock, len(_GREETING))
            sock.settimeout(None)
        except BaseException:  # also an end by force: no descriptor may stay open
            sock.close()
            raise
        return sock


# In the worker that has the routes


class ChannelServer:
    """Takes calls of processes of the user `uid`, each connection in a thread of its own."""

    def __init__(self, backend: LocalBackend, uid: int, room: Room) -> None:
        self._backend = backend
        self._uid = uid
        self._room = room
        self._lock = threading.Lock()
        self._connections = 0

    @property
    def connections(self) -> int:
        return self._connections

    def accept(self, listener: socket.socket) -> None:
        """Accept a connection. Raises OSError."""
        sock, _ = listener.accept()
        sock.setblocking(True)
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
        uid = _PEER_CREDENTIALS.unpack(credentials)[1]
        if uid != self._uid or self._connections >= _MOST_CONNECTIONS:
            logger.error("a connection of user %d to the services is closed", uid)
            sock.close()
            return
        with self._lock:
            self._connections += 1
        threading.Thread(target=self._attend, args=(sock,), name="call", daemon=True).start()

    def _attend(self, sock: socket.socket) -> None:
        try:
            with sock:
                sock.sendall(_GREETING)
                while True:
                    self._take_call(sock)
        except InvalidMessage as error:
            logger.error("the worker that receives has sent what it may not: %s", error)
        except OSError:
            pass  # the other process has ended, or is about to
        except Exception:  # the last resort of a thread: one call must not end the service
            logger.exception("a call was not answered")
        finally:
            with self._lock:
                self._connections -= 1

    def _take_call(self, sock: socket.socket) -> None:
        taken = 0

        def require_size(call: Call, size: int) -> None:
            nonlocal taken
            most = call.find_largest_body() if isinstance(call, Request) else 0
            if size > most:
                raise InvalidMessage(f"a body of {size} bytes")
            # The other worker keeps within the same limits.
            if not self._room.take_memory(size, small=True):
                raise InvalidMessage("more bodies than memory is there for")
            taken = size

        try:
            call, body, descriptor = receive(sock, _calls, require_size)
            file = os.fdopen(descriptor, "rb", buffering=0) if descriptor is not None else None
            with file or contextlib.nullcontext():
                reply, content, made = self._carry_out(call, body, file)
        finally:
            self._room.return_memory(taken)
        with made or contextlib.nullcontext():
            send(sock, reply, content, None if made is None else made.fileno())

    def _carry_out(
        self, call: Call, body: bytes, file: BinaryIO | None
    ) -> tuple[Reply, bytes, BinaryIO | None]:
        match call:
            case Request():
                call.require_valid()
                if file is not None:
                    _require_nameless(file)
                    file.seek(0)
                answer = self._backend.answer(call, KeptBody(call, file or io.BytesIO(body)))
                return (answer, b"", None) if isinstance(answer, Refused) else (*answer, None)
            case Refresh():
                for reason, count in list(call.failed.items())[:_MOST_REASONS]:
                    for _ in range(min(count, 10_000)):
                        self._backend.note_failed_handshake(reason)
                return self._backend.worker_settings(), b"", None
            case OpenFile():
                try:
                    return Opened(), b"", self._backend.open_file()
                except OSError as error:
                    return Opened(error.strerror or str(error)), b"", None


def _require_nameless(file: BinaryIO) -> None:
    """See that a descriptor is of a file that this worker has opened for the other one."""
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode) or status.st_uid != 0 or status.st_nlink:
        raise InvalidMessage("a file that was not opened for it")
