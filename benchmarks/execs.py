"""Every execution of one program, as the kernel reports them (fanotify(7))."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

from lab.lifecycle import Closing

_libc = ctypes.CDLL(None, use_errno=True)

_CLOEXEC, _NONBLOCK = 0x1, 0x2
_MARK_ADD = 0x1
_OPEN_EXEC = 0x1000
_AT_FDCWD = -100

#: length, version, reserved, length of this head, mask, descriptor of the file, process id
_EVENT = struct.Struct("=IBBHQii")


class Executions(Closing):
    """Of the program file at `path`, by whomever, from now on. Needs root."""

    def __init__(self, path: Path) -> None:
        self._queue = _libc.fanotify_init(_CLOEXEC | _NONBLOCK, os.O_RDONLY | os.O_CLOEXEC)
        if self._queue < 0:
            raise _error("fanotify_init")
        mask = ctypes.c_uint64(_OPEN_EXEC)
        if _libc.fanotify_mark(self._queue, _MARK_ADD, mask, _AT_FDCWD, os.fsencode(path)) != 0:
            self.close()
            raise _error("fanotify_mark")

    def since(self) -> list[int]:
        """The process ids of those that were executed since this was last asked."""
        found: list[int] = []
        while True:
            try:
                data = os.read(self._queue, 64 * 1024)
            except BlockingIOError:
                return found
            offset = 0
            while offset < len(data):
                length, _, _, _, _, descriptor, pid = _EVENT.unpack_from(data, offset)
                os.close(descriptor)
                found.append(pid)
                offset += length

    def close(self) -> None:
        os.close(self._queue)


def _error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")
