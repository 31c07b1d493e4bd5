"""Which request gets a thread next."""

from collections import OrderedDict, deque

from amphora_agent.api.server.answers import LARGE
from amphora_agent.api.server.connection import Connection
from amphora_agent.api.server.uploads import SMALL

#: Methods that change nothing.
READING = ("GET", "HEAD")

#: Bytes of large bodies that are worked on at the same time, unless one alone has more: the work
#: takes several times as much memory.
_AT_ONCE = 16 << 20

#: Paths that are remembered for their large answers.
_MOST_PATHS = 1000


class Lanes:
    """Requests that wait for a thread, and those that have one.

    At most one of those that read makes a large answer at a time, as far as that is known from the
    last answer: small ones do not wait for them, and memory holds one of them in the making. For
    the same reasons few large bodies are worked on at a time.
    """

    def __init__(self, *, readers: int, changers: int) -> None:
        self._free_readers = readers
        self._free_changers = changers
        self._reads: deque[Connection] = deque()
        self._changes: deque[Connection] = deque()
        self._large_paths: OrderedDict[str, None] = OrderedDict()
        #: Paths whose large answers are in the making.
        self._making: dict[Connection, str] = {}
        self._bytes = 0

    @staticmethod
    def only_reads(connection: Connection) -> bool:
        return connection.request.method in READING

    def add(self, connection: Connection) -> None:
        (self._reads if self.only_reads(connection) else self._changes).append(connection)

    def next(self) -> Connection | None:
        """The request that gets a thread now; None when each must wait."""
        if self._free_readers:
            for connection in self._reads:
                path = connection.request.path
                if path in self._large_paths:
                    if self._making:
                        continue
                    self._making[connection] = path
                self._reads.remove(connection)
                self._free_readers -= 1
                return connection
        if self._free_changers:
            for connection in self._changes:
                size = _weight(connection)
                if size and self._bytes and self._bytes + size > _AT_ONCE:
                    continue
                self._changes.remove(connection)
                self._free_changers -= 1
                self._bytes += size
                return connection
        return None

    def done(self, connection: Connection, answered: int) -> None:
        """A request has been answered, with so many bytes."""
        if not self.only_reads(connection):
            self._free_changers += 1
            self._bytes -= _weight(connection)
            return
        self._free_readers += 1
        self._making.pop(connection, None)
        path = connection.request.path
        self._large_paths.pop(path, None)
        if answered >= LARGE:
            self._large_paths[path] = None
            if len(self._large_paths) > _MOST_PATHS:
                self._large_paths.popitem(last=False)


def _weight(connection: Connection) -> int:
    """Bytes of a body that matter."""
    size = connection.body.size
    return size if size > SMALL else 0
