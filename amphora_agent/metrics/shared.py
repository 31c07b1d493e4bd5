"""What the heartbeat's process tells the API's: figures in memory that both have.

The memory is made before the two are forked, and outlives either: no file, no message.
"""

import mmap
import struct
import threading
from typing import NamedTuple


class HeartbeatFigures(NamedTuple):
    """`sent` and `failed` count heartbeats: those that a controller was sent, and those that none
    took. The others are of the last one: when (CLOCK_MONOTONIC, 0.0 for never), its bytes, its
    listeners, and of what was to be in it the members, pools and statistics that did not fit."""

    sent: int
    failed: int
    at: float
    size: int
    listeners: int
    members_left_out: int
    pools_left_out: int
    statistics_left_out: int


NO_HEARTBEATS = HeartbeatFigures(0, 0, 0.0, 0, 0, 0, 0, 0)

_LAYOUT = struct.Struct("=QQdQQQQQ")


class HeartbeatBoard:
    """One process writes; each that was forked from where it was made reads.

    Two copies, and which of them counts: a reader never sees one half written. (A reader that
    sleeps through two heartbeats in the middle of its look would; its next look is right.)
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 1 + 2 * _LAYOUT.size)
        self._lock = threading.Lock()
        self.write(NO_HEARTBEATS)

    def write(self, figures: HeartbeatFigures) -> None:
        with self._lock:
            other = 1 - self._memory[0]
            _LAYOUT.pack_into(self._memory, 1 + other * _LAYOUT.size, *figures)
            self._memory[0] = other

    def note(
        self,
        *,
        sent: bool,
        at: float,
        size: int,
        listeners: int,
        members_left_out: int,
        pools_left_out: int,
        statistics_left_out: int,
    ) -> None:
        """One more heartbeat, with the figures of `HeartbeatFigures`."""
        before = self.read()
        self.write(
            HeartbeatFigures(
                before.sent + sent,
                before.failed + (not sent),
                at,
                size,
                listeners,
                members_left_out,
                pools_left_out,
                statistics_left_out,
            )
        )

    def read(self) -> HeartbeatFigures:
        place = 1 + self._memory[0] * _LAYOUT.size
        return HeartbeatFigures(*_LAYOUT.unpack_from(self._memory, place))
