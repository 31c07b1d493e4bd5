"""Receive bodies of requests: a bounded part of them in memory, the rest on disk.

The poller feeds a body; a thread writes to the disk when memory is short. The application reads the
body when it is complete, or cannot become complete.
"""

import io
import os
import re
import threading
from collections.abc import Callable
from typing import BinaryIO

from amphora_agent import files
from amphora_agent.errors import Unavailable

#: Bytes in memory: of all bodies, and up to which large ones are accepted.
_MEMORY, _MEMORY_OF_LARGE = 20 << 20, 16 << 20
#: Bytes up to which a body is small.
SMALL = 64 << 10
#: Bytes of all bodies and answers on disk, and bytes that stay free there.
_DISK, _DISK_FREE = 512 << 20, 64 << 20
#: Bytes of a body that may wait for the disk before receiving stops.
_WAITING = 16 << 10
#: Bytes of the line before a chunk, and of all lines after the last one.
_CHUNK_LINE, _TRAILERS = 256, 16 << 10

_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\t -~\x80-\xff]*)?")


class Room:
    """The room for bodies and answers, in memory and in files without a name, which `open_file`
    opens."""

    def __init__(self, open_file: Callable[[], BinaryIO]) -> None:
        #: Opens a file without a name. Raises OSError.
        self.open_file = open_file
        self._lock = threading.Lock()
        self._memory = 0
        self._disk = 0

    def take_memory(self, size: int, *, small: bool) -> bool:
        with self._lock:
            if self._memory + size > (_MEMORY if small else _MEMORY_OF_LARGE):
                return False
            self._memory += size
            return True

    def return_memory(self, size: int) -> None:
        with self._lock:
            self._memory -= size

    def take_disk(self, file: BinaryIO, size: int) -> None:
        """Take room for so many bytes of a file. Raises OSError when there is none."""
        free = os.fstatvfs(file.fileno())
        with self._lock:
            if self._disk + size > _DISK or free.f_bavail * free.f_frsize < _DISK_FREE:
                raise OSError("there is no room for it on the disk")
            self._disk += size

    def return_disk(self, size: int) -> None:
        with self._lock:
            self._disk -= size


class Body:
    """The body of one request. `announced` is its length in bytes, None if it comes in chunks;
    beyond `most` bytes nothing is received.

    It is received until it is `complete`: all of it is there, or its problem is known.
    """

    def __init__(self, room: Room, announced: int | None, most: int) -> None:
        self._room = room
        self._most = most
        self._left = announced
        self._chunks = _Chunks() if announced is None else None
        self._memory = io.BytesIO()
        self._in_memory = 0
        self.file: BinaryIO | None = None
        self._on_disk = 0
        self._waiting = b""
        self._rewound = False
        self.problem: Exception | None = None
        self.size = 0
        #: Whether the connection has more of this request than was received.
        self.cut = announced is not None and announced > most
        self.complete = announced == 0 or self.cut

    @property
    def must_wait(self) -> bool:
        """Whether a thread must call `write_waiting` before more is received."""
        return len(self._waiting) >= _WAITING or (self.complete and bool(self._waiting))

    def feed(self, data: bytes) -> bytes:
        """Take received bytes; return those after this body."""
        try:
            if self._chunks is None:
                assert self._left is not None
                part, rest = data[: self._left], data[self._left :]
                self._left -= len(part)
                self._store(part)
                self.complete = self._left == 0
                return rest
            pieces, rest = self._chunks.decode(data)
            for piece in pieces:
                self._store(piece)
            self.complete = self._chunks.ended
        except ValueError as error:
            self.fail(str(error))
            return b""
        if self.size > self._most and not self.complete:
            self.complete = self.cut = True  # its reader finds it too large
            return b""
        return rest

    def fail(self, reason: str) -> None:
        """Note that nothing more comes. Reading the body raises the reason."""
        self.problem = OSError(reason)
        self.complete = self.cut = True

    def write_waiting(self) -> None:
        """Write to the disk what has no room in memory."""
        data, self._waiting = self._waiting, b""
        try:
            if self.file is None:
                self.file = self._room.open_file()
                data = self._memory.getvalue() + data
                self._memory = io.BytesIO()
                self._room.return_memory(self._in_memory)
                self._in_memory = 0
            self._room.take_disk(self.file, len(data))
            self._on_disk += len(data)
            files.write_all(self.file, data)
        except OSError as error:
            reason = f"the body cannot be kept: {error.strerror or error}; try again later"
            self.problem = Unavailable("The agent has no room for this request", reason)
            self.complete = self.cut = True

    def read(self, size: int = -1) -> bytes:
        """Read the complete body, as the application does.

        Raises:
            OSError: a part of it did not come.
            Unavailable: there was no room for it.
        """
        if self.problem is not None:
            raise self.problem
        source = self._memory if self.file is None else self.file
        if not self._rewound:
            self._rewound = True
            self._memory.getvalue()  # frees what was allocated in advance
            source.seek(0)
        return source.read(size)

    def close(self) -> None:
        """Release its memory and file. May be called twice."""
        self._room.return_memory(self._in_memory)
        self._room.return_disk(self._on_disk)
        self._in_memory = self._on_disk = 0
        self._memory = io.BytesIO()
        self._waiting = b""
        if self.file is not None:
            self.file.close()
            self.file = None

    def _store(self, data: bytes) -> None:
        self.size += len(data)
        in_memory = self.file is None and not self._waiting
        if in_memory and self._room.take_memory(len(data), small=self.size <= SMALL):
            self._in_memory += len(data)
            self._memory.write(data)
        else:
            self._waiting += data


class _Chunks:
    """The chunked coding (RFC 9112, 7.1), piece by piece. Extensions and trailers are dropped."""

    def __init__(self) -> None:
        self._pending = b""
        self._left = 0
        self._expect_end = False
        self._in_trailers = False
        self._trailers = 0
        self.ended = False

    def decode(self, data: bytes) -> tuple[list[bytes], bytes]:
        """Return the data of the chunks in received bytes, and the bytes after the last one.

        Raises:
            ValueError: this is no chunked coding.
        """
        pieces: list[bytes] = []
        data, self._pending = self._pending + data, b""
        while data and not self.ended:
            if self._left:
                pieces.append(data[: self._left])
                data = data[self._left :]
                self._left -= len(pieces[-1])
                self._expect_end = not self._left
                continue
            line, found, rest = data.partition(b"\r\n")
            if not found:
                if self._expect_end and not b"\r\n".startswith(data):
                    raise ValueError("broken body: a chunk is longer than it says")
                if len(data) > (_TRAILERS if self._in_trailers else _CHUNK_LINE):
                    raise ValueError("broken body: a line is too long")
                if b"\n" in data:
                    raise ValueError("broken body: a line ends without a carriage return")
                self._pending = data
                return pieces, b""
            data = rest
            self._take_line(line)
        return pieces, data

    def _take_line(self, line: bytes) -> None:
        if self._in_trailers:
            self._trailers += len(line) + 2
            if self._trailers > _TRAILERS:
                raise ValueError("broken body: too much follows the last chunk")
            self.ended = not line
        elif self._expect_end:
            if line:
                raise ValueError("broken body: a chunk is longer than it says")
            self._expect_end = False
        else:
            size = _CHUNK_SIZE.fullmatch(line)
            if size is None:
                raise ValueError("broken body: the size of a chunk is no number")
            self._left = int(size[1], 16)
            self._in_trailers = self._left == 0
