"""Tries everything that a unit is denied, inside its confinement; standard library only.

Copied into the machine and run there: `confined.py PATH...`; the PATHs are those in which the unit
may write. It prints JSON: for each directive what was found.
"""

import contextlib
import ctypes
import errno
import json
import mmap
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

libc = ctypes.CDLL(None, use_errno=True)

NAMESPACES = {
    "cgroup": 0x02000000,
    "ipc": 0x08000000,
    "mnt": 0x00020000,
    "net": 0x40000000,
    "pid": 0x20000000,
    "user": 0x10000000,
    "uts": 0x04000000,
}
FAMILIES = {
    "AF_INET": socket.AF_INET,
    "AF_INET6": socket.AF_INET6,
    "AF_NETLINK": socket.AF_NETLINK,
    "AF_PACKET": socket.AF_PACKET,
    "AF_UNIX": socket.AF_UNIX,
    "AF_VSOCK": socket.AF_VSOCK,
}
NO_CLOCK = 99
NOBODY = 65534
ADDR_NO_RANDOMIZE = 0x0040000
#: Debuggers' call, which needs no capability, and is not among those that services make.
PTRACE_TRACEME = (0, 0, 0, 0)


def refusal(action: Callable[[], object]) -> str:
    """The name of the error, or nothing."""
    try:
        action()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "?")
    return ""


def call(name: str, *arguments: object) -> None:
    ctypes.set_errno(0)
    if getattr(libc, name)(*arguments) == -1:
        raise OSError(ctypes.get_errno(), name)


def in_child(action: Callable[[], object]) -> str:
    """The same of what a process could not take back."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, refusal(action).encode() or b"-")
        os._exit(0)
    os.close(writing)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return os.read(reading, 100).decode().strip("-")


def status(field: str) -> str:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(f"{field}:"))


def writes(path: str) -> str:
    """Whether there could be a new file in a directory, or another byte in a file."""
    place = Path(path)

    def write() -> None:
        if place.is_dir():
            (place / ".tried").touch()
            (place / ".tried").unlink()
        else:
            os.close(os.open(place, os.O_WRONLY))

    return refusal(write)


def make_control_group() -> None:
    made = Path("/sys/fs/cgroup/tried")
    made.mkdir()
    made.rmdir()


def see_first_process() -> None:
    """Look at it as another user, where that can be: some values bind only those."""
    with contextlib.suppress(OSError):
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    os.stat("/proc/1")


def suid() -> None:
    made = Path(WRITABLE[0]) / ".suid"
    try:
        made.touch()
        made.chmod(0o4755)
    finally:
        made.unlink(missing_ok=True)


def has_family(name: str) -> bool:
    def make() -> None:
        kind = socket.SOCK_STREAM if name == "AF_VSOCK" else socket.SOCK_DGRAM
        socket.socket(FAMILIES[name], kind).close()

    return refusal(make) != "EAFNOSUPPORT"


def may_make(name: str) -> bool:
    return in_child(lambda: call("unshare", NAMESPACES[name])) == ""


WRITABLE = sys.argv[1:]
TRIED: dict[str, Callable[[], object]] = {
    "CapabilityBoundingSet": lambda: status("CapBnd"),
    "LimitCORE": lambda: list(resource.getrlimit(resource.RLIMIT_CORE)),
    "LockPersonality": lambda: in_child(lambda: call("personality", ADDR_NO_RANDOMIZE)),
    "MemoryDenyWriteExecute": lambda: refusal(
        lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    ),
    "NetworkNamespacePath": lambda: os.readlink("/proc/self/ns/net"),
    "NoNewPrivileges": lambda: status("NoNewPrivs"),
    "PrivateDevices": lambda: os.path.exists("/dev/console"),
    "PrivateNetwork": lambda: [
        line.split(":")[0].strip()
        for line in Path("/proc/self/net/dev").read_text().splitlines()[2:]
    ],
    "PrivateTmp": lambda: os.path.exists("/tmp/of-the-machine"),
    "ProcSubset": lambda: os.path.exists("/proc/meminfo"),
    "ProtectClock": lambda: refusal(lambda: call("clock_settime", NO_CLOCK, (ctypes.c_long * 2)())),
    "ProtectControlGroups": lambda: refusal(make_control_group),
    "ProtectHome": lambda: refusal(lambda: os.listdir("/root")),
    "ProtectHostname": lambda: os.readlink("/proc/self/ns/uts"),
    "ProtectKernelLogs": lambda: refusal(
        lambda: os.close(os.open("/proc/kmsg", os.O_RDONLY | os.O_NONBLOCK))
    ),
    "ProtectKernelModules": lambda: refusal(lambda: os.listdir("/usr/lib/modules")),
    "ProtectKernelTunables": lambda: writes("/proc/sys/net/core/somaxconn"),
    "ProtectProc": lambda: in_child(see_first_process) != "ENOENT",
    "ProtectSystem": lambda: [writes(path) for path in ("/usr", "/etc", "/var/lib", "/opt")],
    "ReadOnlyPaths": lambda: writes("/run"),
    "ReadWritePaths": lambda: [writes(path) for path in WRITABLE],
    "RestrictAddressFamilies": lambda: [name for name in FAMILIES if has_family(name)],
    "RestrictNamespaces": lambda: [name for name in NAMESPACES if may_make(name)],
    "RestrictRealtime": lambda: in_child(
        lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    ),
    "RestrictSUIDSGID": lambda: refusal(suid),
    "SystemCallArchitectures": lambda: os.spawnv(
        os.P_WAIT, "/opt/other-architecture", ["/opt/other-architecture"]
    ),
    "SystemCallErrorNumber": lambda: in_child(lambda: call("ptrace", *PTRACE_TRACEME)),
    "SystemCallFilter": lambda: in_child(lambda: call("ptrace", *PTRACE_TRACEME)),
    "UMask": lambda: oct(os.umask(0)),
}


def main() -> None:
    found: dict[str, object] = {}
    for directive, tried in TRIED.items():
        with contextlib.suppress(OSError):
            found[directive] = tried()
    print(json.dumps(found))


main()
