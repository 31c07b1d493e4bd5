"""The threads of the API's worker, and which request gets one next."""

import contextlib
import os
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from amphora_agent.api.server.answers import LARGE
from amphora_agent.api.server.bodies import SMALL
from amphora_agent.api.server.connection import Connection

#: Threads for requests that read, for requests that change, and for the disk.
_READERS, _CHANGERS, _WRITERS = 4, 12, 2

#: Bytes of large bodies that are processed at the same time, unless one alone has more: processing
#: takes several times as much memory.
_AT_ONCE = 16 << 20

#: Paths that are remembered for their large answers.
_MOST_PATHS = 1000


class Threads:
    """Does work in threads, and gives the results back to the poller.

    Requests that only read have threads of their own: they never wait for a change. At most one of
    them makes a large answer at a time, as far as its path's last answer tells: small ones do not
    wait for it, and memory holds one of them in the making. For the same reasons few large bodies
    are processed at a time.
    """

    def __init__(self, pipe: Callable[[], int]) -> None:
        """`pipe` returns the descriptor that wakes the poller when something is written to it."""
        self._pipe = pipe
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="read")
        self._changers = ThreadPoolExecutor(_CHANGERS, thread_name_prefix="change")
        self._writers = ThreadPoolExecutor(_WRITERS, thread_name_prefix="spool")
        self._free_readers, self._free_changers = _READERS, _CHANGERS
        self._reads: deque[Connection] = deque()
        self._changes: deque[Connection] = deque()
        self._finished: deque[Callable[[], None]] = deque()
        self._large_paths: OrderedDict[str, None] = OrderedDict()
        #: Connections whose large answers are in the making.
        self._making: set[Connection] = set()
        #: Bytes of large bodies that are being processed.
        self._bytes = 0

    def add(self, connection: Connection) -> None:
        """Let a connection's request wait for a thread."""
        (self._reads if _only_reads(connection) else self._changes).append(connection)

    def start_waiting(
        self, serve: Callable[[Connection], Any], then: Callable[[Connection, Any], None]
    ) -> None:
        """Give threads to waiting requests, as far as there are any. `serve` runs in the thread,
        `then` in the poller, which must call `done`."""
        while (connection := self._choose_read()) is not None:
            self._submit(self._readers, partial(serve, connection), partial(then, connection))
        while (connection := self._choose_change()) is not None:
            self._submit(self._changers, partial(serve, connection), partial(then, connection))

    def write(self, work: Callable[[], None], then: Callable[[Any], None]) -> None:
        """Write to the disk in a thread; `then` runs in the poller."""
        self._submit(self._writers, work, then)

    def run_finished(self) -> None:
        """Go on, in the poller, with everything that threads have finished."""
        while self._finished:
            self._finished.popleft()()

    def done(self, connection: Connection, answered: int) -> None:
        """Note that a request has been answered, with so many bytes: its thread is free."""
        if not _only_reads(connection):
            self._free_changers += 1
            self._bytes -= _weigh(connection)
            return
        self._free_readers += 1
        self._making.discard(connection)
        path = connection.request.path
        self._large_paths.pop(path, None)
        if answered >= LARGE:
            self._large_paths[path] = None
            if len(self._large_paths) > _MOST_PATHS:
                self._large_paths.popitem(last=False)

    def shut_down(self) -> None:
        """Start no more work. What runs is not waited for."""
        for pool in (self._readers, self._changers, self._writers):
            pool.shutdown(wait=False, cancel_futures=True)

    def _choose_read(self) -> Connection | None:
        for connection in self._reads if self._free_readers else ():
            if connection.request.path in self._large_paths:
                if self._making:
                    continue
                self._making.add(connection)
            self._reads.remove(connection)
            self._free_readers -= 1
            return connection
        return None

    def _choose_change(self) -> Connection | None:
        for connection in self._changes if self._free_changers else ():
            size = _weigh(connection)
            if size and self._bytes and self._bytes + size > _AT_ONCE:
                continue
            self._changes.remove(connection)
            self._free_changers -= 1
            self._bytes += size
            return connection
        return None

    def _submit(
        self, pool: ThreadPoolExecutor, work: Callable[[], Any], then: Callable[[Any], None]
    ) -> None:
        """Do some work in a thread; the poller goes on with its result, None if it failed."""

        def finish(future: "Future[Any]") -> None:
            failed = future.cancelled() or future.exception() is not None
            self._finished.append(partial(then, None if failed else future.result()))
            with contextlib.suppress(BlockingIOError):  # full: the poller is about to wake anyway
                os.write(self._pipe(), b"\0")

        pool.submit(work).add_done_callback(finish)


def _only_reads(connection: Connection) -> bool:
    return connection.request.method in ("GET", "HEAD")


def _weigh(connection: Connection) -> int:
    """Return the bytes of a body that matter to memory."""
    size = connection.body.size
    return size if size > SMALL else 0
