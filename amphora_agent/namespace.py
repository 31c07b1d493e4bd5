"""Code that runs inside the amphora's network namespace.

A network namespace belongs to a thread, not to a process: `Namespace.run` gives a function a
thread of its own which enters the namespace first and ends afterwards, so no other request ever
sees it. Sockets that the function makes, and processes that it starts, stay in the namespace.
"""

import ctypes
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from amphora_agent.errors import OperationFailed

T = TypeVar("T")

_OWN = Path("/proc/thread-self/ns/net")
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class Namespace:
    """The network namespace whose file is `path` (`/run/netns/<name>`)."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        return self.path.name

    def exists(self) -> bool:
        return self.path.exists()

    def is_entered(self) -> bool:
        """Whether the calling thread is inside already, as a process that was started there is."""
        try:
            return os.path.samefile(self.path, _OWN)
        except OSError:
            return False

    def run(self, function: Callable[[], T]) -> T:
        """Call `function` inside the namespace and return what it returns.

        Raises:
            OperationFailed: the namespace cannot be entered.
            Whatever `function` raises.
        """
        results: list[T] = []
        failures: list[BaseException] = []

        def body() -> None:
            try:
                _enter(self.path)
                results.append(function())
            except BaseException as error:  # handed to the caller, who runs in another thread
                failures.append(error)

        thread = threading.Thread(target=body, name=f"in-{self.name}")
        try:
            thread.start()
        except RuntimeError as error:
            raise OperationFailed("Cannot enter the network namespace", str(error)) from error
        thread.join()
        if failures:
            raise failures[0]
        return results[0]


def _enter(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise OperationFailed("Cannot enter the network namespace", str(error)) from error
    try:
        # Who is inside already needs no capability.
        if os.path.samestat(os.fstat(descriptor), _OWN.stat()):
            return
        # os.setns exists only from Python 3.12.
        if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OperationFailed(
                "Cannot enter the network namespace", f"{path}: {os.strerror(number)}"
            )
    finally:
        os.close(descriptor)
