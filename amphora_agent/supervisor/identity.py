"""The process that a pid means, and signals to processes that no supervisor has started."""

import functools
import os
import signal
from collections.abc import Sequence
from pathlib import Path

#: What the kernel says of a process without a login.
_NO_LOGIN = (1 << 32) - 1


@functools.cache
def boot_id() -> str:
    """What tells this boot of the machine from every other."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_time(pid: int) -> str | None:
    """What tells a process from every other that had or will have its pid: the boot it was
    started in, and the clock ticks since then. None when there is no such process."""
    try:
        boot = boot_id()
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return f"{boot}:{after_name[19]}"  # field 22 of proc(5); two come before the split


def session_leader(argv: Sequence[str]) -> int | None:
    """The pid of a process that was started with exactly this command line, as the leader of a
    session: so the embedded supervisor starts its own. None when there is none."""
    wanted = b"".join(word.encode() + b"\0" for word in argv)
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes() == wanted and os.getsid(pid := int(path.parent.name)) == pid:
                return pid
        except OSError:  # it has ended meanwhile
            continue
    return None


def pid_in(file: Path) -> int | None:
    """The pid in a pid file. It may be of a life before this boot, and another process's now."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def has_word(pid: int, word: str) -> bool:
    """Whether there is such a process, and its command line has the word."""
    try:
        return word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def login_user() -> int:
    """The user id that logged in, which the kernel remembers whoever the user became since. Without
    a login (a container, a service) that of sudo's caller, or of this process."""
    try:
        uid = int(Path("/proc/self/loginuid").read_text())
    except (OSError, ValueError):
        uid = _NO_LOGIN
    if uid != _NO_LOGIN:
        return uid
    sudo = os.environ.get("SUDO_UID", "")
    return int(sudo) if sudo.isascii() and sudo.isdigit() else os.getuid()


#: What a worker of the agent that hangs is sent: first this one, then that.
ABORT, KILL = signal.SIGABRT, signal.SIGKILL


def kill(pid: int, started: str) -> bool:
    """End a process by force if it is the one that was `started` then (identity.start_time), and
    not another with its id; return whether it was."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        # The handle is bound to whoever has the id now; so is this look, which comes after it.
        if start_time(pid) != started:
            return False
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True
