"""What is made when it is first asked for is made once, whoever asks."""

import threading
from types import TracebackType

import pytest

from amphora_agent.api.services import MadeOnce


class WatchedLock:
    """A lock that says when a second thread wants it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._first = True
        self.wanted_twice = threading.Event()

    def __enter__(self) -> None:
        if not self._first:
            self.wanted_twice.set()
        self._first = False
        self._lock.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.release()


def test_concurrent_first_calls_get_the_same() -> None:
    lock, second = WatchedLock(), []

    def make() -> object:
        # Another thread asks while this is being made.
        other.start()
        assert lock.wanted_twice.wait(30)
        return object()

    once = MadeOnce(make, lock)
    other = threading.Thread(target=lambda: second.append(once()))
    first = once()
    other.join(30)
    assert second == [first]
    assert once() is first


def test_failed_making_is_tried_again() -> None:
    outcomes = [OSError("no"), None]

    def make() -> str:
        if error := outcomes.pop(0):
            raise error
        return "made"

    once = MadeOnce(make)
    with pytest.raises(OSError, match="no"):
        once()
    assert once() == once() == "made"
