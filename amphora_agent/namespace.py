"""The amphora's network namespace: make it, and run code inside it.

A network namespace belongs to a thread, not to a process: `Namespace.run` gives a function a
thread of its own which enters the namespace first and ends afterwards, so no other request ever
sees it. Sockets that the function makes, and processes that it starts, stay in the namespace.

All without netlink: an agent that has nothing plugged needs no netlink library.
"""

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from amphora_agent.errors import OperationFailed

T = TypeVar("T")

_OWN = Path("/proc/thread-self/ns/net")
_CLONE_NEWNET = 0x40000000
_MS_BIND, _MS_REC, _MS_SHARED = 0x1000, 0x4000, 0x100000
_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_IFF_UP = 1

_CANNOT_ENTER = "Cannot enter the network namespace"
_CANNOT_MAKE = "Cannot make the network namespace"

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
        """Return whether the calling thread is inside, as all of a process started there are."""
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

        def enter_and_call() -> T:
            _enter(self.path)
            return function()

        return _run_in_thread(enter_and_call, f"in-{self.name}", _CANNOT_ENTER)

    def ensure(self) -> bool:
        """Make the namespace as `ip netns add` does, with `lo` up, unless it exists; return whether
        it was made.

        One that a kill left half made is completed. Other threads and programs may do the same at
        the same time.

        Raises:
            OperationFailed: the kernel refuses.
        """
        try:
            made = _make(self.path)
        except OSError as error:
            raise OperationFailed(_CANNOT_MAKE, str(error)) from error
        self.run(_set_loopback_up)
        return made


def _run_in_thread(function: Callable[[], T], name: str, message: str) -> T:
    """Call `function` in a thread of its own; return what it returns, raise what it raises.

    Raises:
        OperationFailed: with `message`; the system gives no thread.
    """
    results: list[T] = []
    failures: list[BaseException] = []

    def body() -> None:
        try:
            results.append(function())
        except BaseException as error:  # the caller gets it, in another thread
            failures.append(error)

    thread = threading.Thread(target=body, name=name)
    try:
        thread.start()
    except RuntimeError as error:
        raise OperationFailed(message, str(error)) from error
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def _enter(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise OperationFailed(_CANNOT_ENTER, str(error)) from error
    try:
        # A thread that is inside already needs no capability.
        if os.path.samestat(os.fstat(descriptor), _OWN.stat()):
            return
        # os.setns exists only from Python 3.12.
        if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
            raise OperationFailed(_CANNOT_ENTER, str(_last_error(str(path)).strerror))
    finally:
        os.close(descriptor)


def _make(path: Path) -> bool:
    if _is_namespace(path):
        return False
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    with _locked(path.parent):
        if _is_namespace(path):
            return False
        _propagate_mounts(path.parent)
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o444))
        _run_in_thread(lambda: _bind_new_namespace(path), "new-namespace", _CANNOT_MAKE)
    return True


def _is_namespace(path: Path) -> bool:
    # A file without a namespace is on another file system.
    try:
        return path.stat().st_dev == _OWN.stat().st_dev
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    # iproute2 takes the same lock.
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _propagate_mounts(directory: Path) -> None:
    """Make mounts below `directory` visible in other mount namespaces."""
    try:
        _mount("none", directory, _MS_SHARED | _MS_REC)
    except OSError:  # not a mount point yet
        _mount(str(directory), directory, _MS_BIND | _MS_REC)
        _mount("none", directory, _MS_SHARED | _MS_REC)


def _bind_new_namespace(path: Path) -> None:
    """Give this thread a new namespace, and bind it to `path`."""
    # os.unshare exists only from Python 3.12.
    if _libc.unshare(_CLONE_NEWNET) != 0:
        raise _last_error("unshare")
    _mount(str(_OWN), path, _MS_BIND)


def _mount(source: str, target: Path, flags: int) -> None:
    if _libc.mount(os.fsencode(source), os.fsencode(target), b"none", flags, None) != 0:
        raise _last_error(f"mount on {target}")


def _last_error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")


def _set_loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sH14x", b"lo", 0)
        answer = fcntl.ioctl(control, _SIOCGIFFLAGS, request)
        flags: int = struct.unpack("16sH14x", answer)[1]
        if not flags & _IFF_UP:
            request = struct.pack("16sH14x", b"lo", flags | _IFF_UP)
            fcntl.ioctl(control, _SIOCSIFFLAGS, request)
