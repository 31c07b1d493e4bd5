"""Run commands that end by themselves, such as a check, a version, a control tool; identify the
process of a pid, and kill processes that no supervisor has started.
"""

import functools
import logging
import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from amphora_agent.errors import OperationFailed

logger = logging.getLogger(__name__)

#: Characters kept of the output, and of its last line.
_MOST_OUTPUT = 64 * 1024
_LONGEST_WORDS = 200

#: The login user of a process without a login.
_NO_LOGIN = (1 << 32) - 1

#: Signals for a worker of the agent that hangs: ABORT first.
ABORT, KILL = signal.SIGABRT, signal.SIGKILL


@dataclass(frozen=True)
class Completed:
    """How a command ended. `output` is stdout and stderr in one, as on a terminal."""

    status: int
    output: str

    @property
    def succeeded(self) -> bool:
        return self.status == 0

    @property
    def last_words(self) -> str:
        """The beginning of the last line of the output: why a command has failed."""
        lines = self.output.strip().splitlines()[-1:] or ["it said nothing"]
        return lines[0][:_LONGEST_WORDS]


def run(
    argv: Sequence[str],
    *,
    timeout: float,
    input: bytes = b"",
    most_output: int = _MOST_OUTPUT,
) -> Completed:
    """Run a command to its end. `timeout` is in seconds, `most_output` in characters.

    Raises:
        OperationFailed: it cannot be started, or it did not end in time and was killed.
    """
    try:
        finished = subprocess.run(
            argv,
            input=input,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            check=False,
        )
    except OSError as error:
        raise OperationFailed(f"Cannot run {argv[0]}", str(error)) from error
    except subprocess.TimeoutExpired:
        raise OperationFailed(f"Cannot run {argv[0]}", f"no end after {timeout:g} s") from None
    output = finished.stdout.decode(errors="replace")[:most_output]
    return Completed(finished.returncode, output)


@functools.cache
def boot_id() -> str:
    """Return the id of this boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_time(pid: int) -> str | None:
    """Return the boot in which a process was started, and the clock ticks from then: unique among
    all processes of that pid. None if there is no such process."""
    try:
        boot = boot_id()
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return f"{boot}:{after_name[19]}"  # field 22 of proc(5); two come before the split


def find_session_leader(argv: Sequence[str]) -> int | None:
    """Return the pid of a session leader with exactly this command line, as the embedded supervisor
    starts processes; None if there is none."""
    wanted = b"".join(word.encode() + b"\0" for word in argv)
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes() == wanted and os.getsid(pid := int(path.parent.name)) == pid:
                return pid
        except OSError:  # it has ended meanwhile
            continue
    return None


def pid_in(file: Path) -> int | None:
    """Return the pid in a pid file. The file may be from before this boot, and the pid another
    process's now."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def has_word(pid: int, word: str) -> bool:
    """Return whether there is such a process with the word in its command line."""
    try:
        return word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def login_user() -> int:
    """Return the id of the user that logged in, whichever user it became later. Without a login (a
    container, a service) that of sudo's caller, or of this process."""
    try:
        uid = int(Path("/proc/self/loginuid").read_text())
    except (OSError, ValueError):
        uid = _NO_LOGIN
    if uid != _NO_LOGIN:
        return uid
    sudo = os.environ.get("SUDO_UID", "")
    return int(sudo) if sudo.isascii() and sudo.isdigit() else os.getuid()


def kill(pid: int, started: str) -> bool:
    """Kill a process if its `start_time` is `started`; return whether it was."""
    pidfd = open_process(pid, started)
    if pidfd is None:
        return False
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)
    return True


def open_process(pid: int, started: str | None) -> int | None:
    """Return a pidfd of a process if its `start_time` is `started`; None if there is none.

    Raises:
        OSError: the kernel gives no pidfd.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    # Compared after the pidfd is held: from here on the pid cannot change its meaning.
    if start_time(pid) == started:
        return pidfd
    os.close(pidfd)
    return None
