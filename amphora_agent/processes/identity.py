"""Which process a pid means."""

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
