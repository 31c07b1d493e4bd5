"""Which process a pid means."""

import os
from collections.abc import Sequence
from pathlib import Path


def start_time(pid: int) -> str | None:
    """What tells a process from every other that had or will have its pid: the boot it was
    started in, and the clock ticks since then. None when there is no such process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
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
