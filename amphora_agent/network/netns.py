"""The amphora's network namespace itself: made when missing, with `lo` up.

Without netlink, so that an agent that has nothing plugged needs no netlink library.
"""

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

from amphora_agent.errors import OperationFailed
from amphora_agent.namespace import Namespace

_CLONE_NEWNET = 0x40000000
_MS_BIND, _MS_REC, _MS_SHARED = 0x1000, 0x4000, 0x100000
_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_IFF_UP = 1
_OWN_NAMESPACE = Path("/proc/thread-self/ns/net")

_libc = ctypes.CDLL(None, use_errno=True)


def ensure(namespace: Namespace) -> bool:
    """Make the namespace as `ip netns add` does, unless it is there; True when it was made.

    A half-made one, left by a kill, is completed. Others, also other programs, may do the same at
    the same time.

    Raises:
        OperationFailed: the kernel refuses.
    """
    try:
        made = _make(namespace.path)
    except OSError as error:
        raise OperationFailed("Cannot make the network namespace", str(error)) from error
    namespace.run(_set_loopback_up)
    return made


def _make(path: Path) -> bool:
    if _is_namespace(path):
        return False
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    with _locked(path.parent):
        if _is_namespace(path):
            return False
        _share(path.parent)
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o444))
        _bind_new_namespace(path)
    return True


def _is_namespace(path: Path) -> bool:
    # The file that awaits its namespace, or was left without one, is on another file system.
    try:
        return path.stat().st_dev == _OWN_NAMESPACE.stat().st_dev
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


def _share(directory: Path) -> None:
    """Let what is mounted below `directory` be seen in other mount namespaces."""
    try:
        _mount("none", directory, _MS_SHARED | _MS_REC)
    except OSError:  # not a mount point yet
        _mount(str(directory), directory, _MS_BIND | _MS_REC)
        _mount("none", directory, _MS_SHARED | _MS_REC)


def _bind_new_namespace(path: Path) -> None:
    failures: list[OSError] = []

    def body() -> None:
        try:
            # os.unshare exists only from Python 3.12. Only this thread changes its namespace.
            if _libc.unshare(_CLONE_NEWNET) != 0:
                raise _last_error("unshare")
            _mount(str(_OWN_NAMESPACE), path, _MS_BIND)
        except OSError as error:
            failures.append(error)

    thread = threading.Thread(target=body, name="new-namespace")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


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
