"""Figures in memory that the agent's processes share: what the others tell the API's process.

The memory is made before the two are forked, and outlives either: no file, no message.
"""

import mmap
import struct
import threading

import msgspec

from amphora_agent.model.status import NO_HEARTBEATS, HeartbeatFigures

#: Bytes of a copy. Pages that nobody has written cost nothing.
_ROOM = 1 << 20
_LENGTH = struct.Struct("=I")


class HeartbeatBoard:
    """One process writes; each that was forked from where it was made reads.

    Two copies, and which of them counts: a reader never sees one half written. (A reader that
    sleeps through two heartbeats in the middle of its look would; its next look is right.)
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 1 + 2 * _ROOM)
        self._lock = threading.Lock()
        self.write(NO_HEARTBEATS)

    def write(self, figures: HeartbeatFigures) -> None:
        """Replace the figures. Where more instances are silent than there is room for, none is
        told."""
        encoded = msgspec.msgpack.encode(figures)
        if len(encoded) > _ROOM - _LENGTH.size:
            encoded = msgspec.msgpack.encode(msgspec.structs.replace(figures, silences={}))
        with self._lock:
            other = 1 - self._memory[0]
            start = 1 + other * _ROOM
            _LENGTH.pack_into(self._memory, start, len(encoded))
            self._memory[start + _LENGTH.size : start + _LENGTH.size + len(encoded)] = encoded
            self._memory[0] = other

    def close(self) -> None:
        """Give it up in this process."""
        self._memory.close()

    def read(self) -> HeartbeatFigures:
        start = 1 + self._memory[0] * _ROOM
        (length,) = _LENGTH.unpack_from(self._memory, start)
        encoded = self._memory[start + _LENGTH.size : start + _LENGTH.size + length]
        return msgspec.msgpack.decode(encoded, type=HeartbeatFigures)


#: The agent's workers, as people and metrics call them.
API_WORKER, HEARTBEAT_WORKER = "api-worker", "heartbeat-worker"
#: That which has the services, where the API's worker is an unprivileged user's.
SERVICES_WORKER = "services-worker"


class WorkerDeaths:
    """How often each worker of the agent has died; counted by their parent, whom they outlive
    never."""

    _CELL = struct.Struct("=Q")
    _CELLS = tuple(
        (name, hung)
        for name in (API_WORKER, HEARTBEAT_WORKER, SERVICES_WORKER)
        for hung in (False, True)
    )

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, self._CELL.size * len(self._CELLS))

    def count(self, name: str, *, hung: bool) -> None:
        start = self._CELLS.index((name, hung)) * self._CELL.size
        (before,) = self._CELL.unpack_from(self._memory, start)
        self._CELL.pack_into(self._memory, start, before + 1)

    def close(self) -> None:
        """Give it up in this process."""
        self._memory.close()

    def read(self) -> dict[tuple[str, bool], int]:
        """Return the counts by the worker's name, and whether it hung."""
        return {
            cell: self._CELL.unpack_from(self._memory, number * self._CELL.size)[0]
            for number, cell in enumerate(self._CELLS)
        }
