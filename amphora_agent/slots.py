"""A small file that is written again and again, and needs no room on the disk for that.

Two slots take turns. Each holds a number, a length, a checksum of all and the bytes, and has its
blocks on the disk from the beginning: a full disk cannot refuse a write, and a write that a power
cut tears leaves the other slot.
"""

import contextlib
import os
import zlib
from pathlib import Path
from typing import NamedTuple

from amphora_agent import files


class Slot(NamedTuple):
    """A write: of two, the one with the higher number is the later."""

    number: int
    payload: bytes


#: The number and the length; a checksum of both and of the payload follows.
_HEAD = "{:016x} {:08x} "
_HEAD_SIZE = len(_HEAD.format(0, 0))
_HEADER_SIZE = _HEAD_SIZE + len("00000000\n")
#: Bytes of a slot at first; a file that becomes too small is made anew with larger ones.
_SMALLEST = 1 << 15


class SlotFile:
    """The file at `path`, which one process writes. With `sync` a write that is done survives a
    power cut."""

    def __init__(self, path: Path, *, sync: bool) -> None:
        self.path = path
        self._sync = sync
        self._next_slot = 0

    def read(self) -> Slot | None:
        """Return the last write; None when there is no file.

        Raises:
            OSError: it cannot be read, or no slot is whole.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return None
        half = len(content) // 2
        first, second = _parse_slot(content[:half]), _parse_slot(content[half:])
        newest = max((slot for slot in (first, second) if slot), default=None)
        if newest is None:
            raise OSError(f"{self.path}: damaged")
        self._next_slot = 1 if newest is first else 0
        return newest

    def write(self, number: int, payload: bytes) -> None:
        """Write a payload in place of the one before the last.

        Raises:
            OSError
        """
        head = _HEAD.format(number, len(payload)).encode()
        content = head + b"%08x\n" % _compute_checksum(head, payload) + payload
        with contextlib.suppress(FileNotFoundError), self.path.open("r+b", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size // 2
            if len(content) <= size:
                file.seek(self._next_slot * size)
                if file.write(content) != len(content):
                    raise OSError(f"{self.path}: written in part")
                if self._sync:
                    os.fdatasync(file.fileno())
                self._next_slot = 1 - self._next_slot
                return
        size = max(_SMALLEST, 2 * len(content))
        files.write(self.path, content.ljust(2 * size, b"\0"))
        self._next_slot = 1


def _compute_checksum(head: bytes, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(head))


def _parse_slot(content: bytes) -> Slot | None:
    """Return a slot; None when it is not whole."""
    try:
        number, length, checksum = (int(word, 16) for word in content[:_HEADER_SIZE].split())
    except ValueError:
        return None
    payload = content[_HEADER_SIZE : _HEADER_SIZE + length]
    whole = len(payload) == length and _compute_checksum(content[:_HEAD_SIZE], payload) == checksum
    return Slot(number, payload) if whole else None
