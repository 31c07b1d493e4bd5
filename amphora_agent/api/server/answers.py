"""Keep answers until their clients have received them.

Equal large answers are kept once. An answer without room in memory is kept on disk; one without
room there becomes a 503.
"""

import threading
from collections import deque
from collections.abc import Iterable
from typing import BinaryIO

from amphora_agent import files
from amphora_agent.api.server.bodies import Room
from amphora_agent.errors import Unavailable

#: Bytes from which on a piece is large.
LARGE = 256 << 10
#: Bytes of large pieces in memory, each counted once.
_MEMORY = 32 << 20
#: Bytes that the connection sends at once.
_BLOCK = 64 << 10


class Sink:
    """Takes the place of a socket when an application writes its answer."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def sendall(self, data: bytes) -> None:
        if self.pieces and len(self.pieces[-1]) + len(data) <= _BLOCK:
            self.pieces[-1] += data
        else:
            self.pieces.append(data)

    send = sendall


class AnswerPart:
    """A part of an answer that is still to be sent."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._sent = 0
        self.size = len(data)

    def peek(self) -> memoryview | bytes:
        """Return the next bytes; none at the end."""
        return self._data[self._sent : self._sent + _BLOCK]

    def skip(self, count: int) -> None:
        self._sent += count

    def close(self) -> None:
        """Release its memory or file."""
        self._data.release()


class _SharedPart(AnswerPart):
    def __init__(self, answers: "Answers", data: bytes) -> None:
        super().__init__(data)
        self._answers = answers
        self._whole = data

    def close(self) -> None:
        super().close()
        self._answers.release(self._whole)


class _FilePart(AnswerPart):
    def __init__(self, room: Room, file: BinaryIO, size: int) -> None:
        super().__init__(b"")
        self._room = room
        self._file = file
        self.size = size

    def peek(self) -> memoryview | bytes:
        self._file.seek(self._sent)
        return self._file.read(_BLOCK)

    def close(self) -> None:
        super().close()
        self._file.close()
        self._room.return_disk(self.size)


class Answers:
    """The large pieces of answers of all connections."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._lock = threading.Lock()
        #: Pieces by their identity, each with the number of connections that wait for it.
        self._shared: dict[int, tuple[bytes, int]] = {}
        self._memory = 0

    def keep(self, pieces: Iterable[bytes]) -> deque[AnswerPart]:
        """Return the parts of an answer. Called by the thread that has made it, which may wait.

        Raises:
            Unavailable: there is no room for it.
        """
        parts: deque[AnswerPart] = deque()
        try:
            for piece in pieces:
                parts.append(self._keep_large(piece) if len(piece) >= LARGE else AnswerPart(piece))
        except OSError as error:
            for part in parts:
                part.close()
            reason = f"the answer cannot be kept: {error.strerror or error}; try again later"
            raise Unavailable("The agent has no room for this answer", reason) from None
        return parts

    def release(self, piece: bytes) -> None:
        """Note that one connection less waits for a piece."""
        with self._lock:
            data, users = self._shared[id(piece)]
            if users > 1:
                self._shared[id(piece)] = data, users - 1
            else:
                del self._shared[id(piece)]
                self._memory -= len(data)

    def _keep_large(self, piece: bytes) -> AnswerPart:
        with self._lock:
            for key, (data, users) in self._shared.items():
                if len(data) == len(piece) and data == piece:
                    self._shared[key] = data, users + 1
                    return _SharedPart(self, data)
            if self._memory + len(piece) <= _MEMORY:
                self._shared[id(piece)] = piece, 1
                self._memory += len(piece)
                return _SharedPart(self, piece)
        return self._spool(piece)

    def _spool(self, piece: bytes) -> AnswerPart:
        file = self._room.open_file()
        try:
            self._room.take_disk(file, len(piece))
            try:
                files.write_all(file, piece)
            except BaseException:  # also an end by force: the room must be returned
                self._room.return_disk(len(piece))
                raise
        except BaseException:  # also an end by force: no descriptor may stay open
            file.close()
            raise
        return _FilePart(self._room, file, len(piece))
