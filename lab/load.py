"""Traffic in the background that counts everything that happens to its requests.

    with Load(lambda: Client(namespace, "10.0.0.5", 80), clients=4) as load:
        load.wait_for(100)
        ...the thing that must not disturb traffic...
        load.wait_for(100)
    assert load.result.failed == 0, load.result

`Load` sends HTTP/1.1 requests to any server. `Traffic` mixes protocols: its visitors are in
lab.traffic_clients. Two kinds of trouble are counted apart. After a failure a client has no answer.
An ending is a close that the protocol allows: the client has its answer by another connection.
"""

from __future__ import annotations

import enum
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self

from lab.http import FAILURES as REQUEST_FAILURES
from lab.http import Client, LostRequestError


class Trouble(enum.Enum):
    """What can happen to a request."""

    # Endings
    ANNOUNCED = "answered, and told that the connection closes"
    IDLE_CLOSED = "closed between two requests"
    SENT_AGAIN = "closed before an answer on a kept connection, sent again"  # RFC 9112, 9.3.1
    GOAWAY = "told to go away"  # RFC 9113, 6.8
    UNPROCESSED = "told that the request was not processed, sent again"  # RFC 9113, 8.7
    # Failures
    REFUSED = "connection refused"
    RESET = "reset or closed before an answer on a new connection"
    CUT_OFF = "reset or closed in the middle of an answer"
    LATE = "no answer in time"
    SERVER_ERROR = "status 500 or more"
    WRONG = "another answer than was asked for"
    BROKEN = "anything else"


FAILURES = frozenset(
    {
        *(Trouble.REFUSED, Trouble.RESET, Trouble.CUT_OFF, Trouble.LATE),
        *(Trouble.SERVER_ERROR, Trouble.WRONG, Trouble.BROKEN),
    }
)

#: So many failures are kept with their words; all are counted.
_KEPT = 50


class FailedError(Exception):
    """A request has no answer, or the wrong one."""

    def __init__(self, trouble: Trouble, words: object = "") -> None:
        super().__init__(f"{trouble.value}: {words}")
        self.trouble = trouble


@dataclass
class Tally:
    """Counts of one visitor, or of all visitors of a kind."""

    connections: int = 0
    answered: int = 0
    slowest: float = 0.0
    """Seconds."""
    troubles: Counter[Trouble] = field(default_factory=Counter)
    words: list[str] = field(default_factory=list)
    """Of the first failures."""

    @property
    def failed(self) -> int:
        return sum(self.troubles[trouble] for trouble in FAILURES)

    @property
    def finished(self) -> int:
        return self.answered + self.failed

    def answer(self, seconds: float) -> None:
        self.answered += 1
        self.slowest = max(self.slowest, seconds)

    def fail(self, error: FailedError) -> None:
        self.troubles[error.trouble] += 1
        if len(self.words) < _KEPT:
            self.words.append(str(error))

    def add(self, other: Tally) -> None:
        self.connections += other.connections
        self.answered += other.answered
        self.slowest = max(self.slowest, other.slowest)
        self.troubles += other.troubles
        self.words += other.words

    def __str__(self) -> str:
        text = f"{self.answered} answered, {self.failed} failed, {self.connections} connections"
        text += f", slowest {self.slowest * 1000:.0f} ms"
        for trouble, count in sorted(self.troubles.items(), key=lambda item: item[0].name):
            text += f"\n    {count} {trouble.value}"
        return "\n    ".join([text, *self.words[:5]])


class Visitor(Protocol):
    """A client that has one connection at a time. Used by one thread."""

    kind: str
    tally: Tally

    def visit(self) -> None:
        """Send one request, or some at once, and count what becomes of them in the tally."""

    def leave(self) -> None:
        """Take leave as the protocol has it; that, too, may fail."""


@dataclass(frozen=True)
class TrafficResult:
    kinds: Mapping[str, Tally]
    seconds: float
    exhausted: bool
    """A bound was reached before the traffic was stopped."""

    @property
    def total(self) -> Tally:
        total = Tally()
        for tally in self.kinds.values():
            total.add(tally)
        return total

    @property
    def failed(self) -> int:
        return self.total.failed

    def __str__(self) -> str:
        return "\n".join(
            [
                f"traffic of {self.seconds:.1f} s{', to its bound' if self.exhausted else ''}",
                *(f"  {kind}: {tally}" for kind, tally in self.kinds.items()),
            ]
        )


class Traffic:
    """Runs visitors, each in a thread, until it is stopped or reaches a bound.

    `pause`: seconds between two visits of one visitor. Without a pause, the load starves everything
    else on a small machine.
    """

    def __init__(
        self,
        visitors: Sequence[Visitor],
        *,
        pause: float = 0.005,
        most_visits: int = 50_000,
        most_seconds: float = 300,
    ) -> None:
        self._visitors = visitors
        self._pause = pause
        self._most_visits = most_visits
        self._most_seconds = most_seconds
        self._stopped = threading.Event()
        self._changed = threading.Condition()
        self._exhausted = False
        self._begun = 0.0
        self._result: TrafficResult | None = None
        self._threads = [
            threading.Thread(target=self._work, args=(visitor,), name=visitor.kind, daemon=True)
            for visitor in visitors
        ]

    def __enter__(self) -> Self:
        self._begun = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def wait_for(self, requests: int, *, timeout: float = 30) -> None:
        """Wait until *every* visitor has finished so many more. Raises TimeoutError."""
        goals = [visitor.tally.finished + requests for visitor in self._visitors]

        def reached() -> bool:
            pairs = zip(self._visitors, goals, strict=True)
            return all(visitor.tally.finished >= goal for visitor, goal in pairs)

        self._await(reached, f"{requests} more of every visitor's", timeout)

    def finish(self) -> TrafficResult:
        """Let it run to its bounds, and sum up."""
        for thread in self._threads:
            thread.join()
        return self.stop()

    def stop(self) -> TrafficResult:
        """Let every visitor finish its visit, and sum up."""
        if self._result is None:
            self._stopped.set()
            for thread in self._threads:
                thread.join()
            kinds: dict[str, Tally] = {}
            for visitor in self._visitors:
                kinds.setdefault(visitor.kind, Tally()).add(visitor.tally)
            seconds = time.monotonic() - self._begun
            self._result = TrafficResult(kinds, seconds, self._exhausted)
        return self._result

    @property
    def result(self) -> TrafficResult:
        """The sum; only after stop()."""
        if self._result is None:
            raise RuntimeError("the traffic still runs")
        return self._result

    def _await(self, is_reached: Callable[[], bool], what: str, timeout: float) -> None:
        with self._changed:
            if not self._changed.wait_for(is_reached, timeout):
                raise TimeoutError(f"{what} requests were not finished in {timeout} s")

    def _work(self, visitor: Visitor) -> None:
        visits = 0
        while not self._stopped.is_set():
            if visits == self._most_visits or time.monotonic() - self._begun > self._most_seconds:
                self._exhausted = True
                break
            visits += 1
            attempt(visitor, visitor.visit)
            with self._changed:
                self._changed.notify_all()
            self._stopped.wait(self._pause)
        attempt(visitor, visitor.leave)


def attempt(visitor: Visitor, action: Callable[[], None]) -> None:
    """Visit or leave; a failure is counted."""
    try:
        action()
    except FailedError as error:
        visitor.tally.fail(error)
    except Exception as error:  # whatever it is must be counted, or the traffic would lie
        visitor.tally.fail(FailedError(Trouble.BROKEN, f"{type(error).__name__}: {error}"))


class ClientVisitor:
    """Sends one GET request at a time with a client, and accepts status 200 alone."""

    def __init__(self, client: Client, path: str) -> None:
        self.kind = "HTTP"
        self.tally = Tally()
        self._client = client
        self._path = path
        self._number = 0

    def visit(self) -> None:
        self._number += 1
        connection = "kept" if self._client.connected else "new"
        reconnects = self._client.reconnects
        try:
            try:
                response = self._client.get(self._path)
            except LostRequestError:
                self.tally.troubles[Trouble.SENT_AGAIN] += 1
                connection = "new"
                response = self._client.get(self._path)
        except REQUEST_FAILURES as error:
            what = f"{type(error).__name__}: {error}"
            raise self._failure(Trouble.BROKEN, connection, what) from error
        finally:
            self.tally.troubles[Trouble.IDLE_CLOSED] += self._client.reconnects - reconnects
        if response.status != 200:
            what = f"{response.status} {response.reason}: {response.text[:200]}"
            raise self._failure(Trouble.WRONG, connection, what)
        self.tally.answer(response.seconds)

    def _failure(self, trouble: Trouble, connection: str, what: str) -> FailedError:
        return FailedError(trouble, f"request {self._number} on a {connection} connection: {what}")

    def leave(self) -> None:
        self._client.close()


class Load(Traffic):
    """Equal clients, each of which sends one request after the other.

    A server may close a kept connection between two requests: that is counted, and no failure. With
    ``keep_alive=False`` in the client it cannot happen.
    """

    def __init__(self, client: Callable[[], Client], *, clients: int = 4, path: str = "/") -> None:
        visitors = [ClientVisitor(client(), path) for _ in range(clients)]
        super().__init__(visitors, pause=0.002, most_seconds=120)

    def wait_for(self, requests: int, *, timeout: float = 30) -> None:
        """Wait until all clients together have finished so many more. Raises TimeoutError."""

        def count_finished() -> int:
            return sum(visitor.tally.finished for visitor in self._visitors)

        goal = count_finished() + requests
        self._await(lambda: count_finished() >= goal, f"{requests} more", timeout)
