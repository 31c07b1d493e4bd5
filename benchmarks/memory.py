"""The memory of the agent when it has nothing to do, and that of its haproxy beside it.

PSS is the kernel's figure: what a process has for itself, and its share of what it shares with
any other process of the machine (proc(5), smaps_rollup). In MiB.

The share is smaller where other programs use the same libraries, and this benchmark is one. So
"alone" counts each page that any of the agent's processes has in memory once, whoever else has
it: what the agent would take on a machine where nobody shares with it.
"""

from __future__ import annotations

import re
import time
from array import array
from collections.abc import Iterable
from mmap import PAGESIZE
from pathlib import Path
from typing import Any

from benchmarks.report import Column, Section
from benchmarks.scale import Scale
from benchmarks.testbed import Balancer, Testbed, deploy, make_testbed
from benchmarks.warm_up import do_everything
from lab.processes import PROC, Process, mentioning

_COLUMNS = (
    Column("when", "when"),
    Column("agent_processes", "agent's processes"),
    Column("agent_pss", "PSS, MiB", 1),
    Column("agent_each", "of each"),
    Column("agent_alone", "alone, MiB", 1),
    Column("haproxy_processes", "haproxy's processes"),
    Column("haproxy_pss", "PSS, MiB", 1),
    Column("haproxy_alone", "alone, MiB", 1),
)

MIB = 1024 * 1024

#: Of an entry of proc(5) pagemap: the page is in memory; the number of its page frame.
_PRESENT, _FRAME = 1 << 63, (1 << 55) - 1


def measure(haproxy: Path, scale: Scale) -> Section:
    largest = max(scale.change_runs)
    rows = []
    with make_testbed(haproxy, heartbeat_interval=1) as bed:

        def look(when: str) -> None:
            bed.health_manager.drain()
            bed.health_manager.next(timeout=30)  # a heartbeat of what there is now
            time.sleep(scale.rest)
            rows.append(_row(bed, when))

        look("just started")
        do_everything(bed)
        look("everything done once")
        balancer = Balancer.of(largest, scale.change_members, monitored=True)
        for _ in range(3):
            deploy(bed, balancer)
        look(f"{largest} more listeners, loaded 3 times")
    return Section(
        "memory",
        "Memory at rest",
        _COLUMNS,
        tuple(rows),
        notes=(
            "of each: the arbiter, the API, the heartbeat",
            "PSS: what each has for itself, and its share of what it shares with any process here",
            "alone: every page in use counted once, also what others here share: no other Python",
        ),
    )


def _row(bed: Testbed, when: str) -> dict[str, Any]:
    row: dict[str, Any] = {"when": when}
    # The members are served by a haproxy as well, which is not the agent's.
    haproxies = [p for p in mentioning(bed.agent.base_path) if p.program == "haproxy"]
    for name, found in (("agent", bed.agent.processes()), ("haproxy", haproxies)):
        each = [pss(process) for process in found]
        row |= {
            f"{name}_processes": len(found),
            f"{name}_pss": sum(each),
            f"{name}_each": " + ".join(f"{pss:.1f}" for pss in each),
            f"{name}_alone": _alone(found),
        }
    return row


def pss(process: Process) -> float:
    """MiB."""
    rollup = (PROC / str(process.pid) / "smaps_rollup").read_text()
    found = re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)
    assert found is not None, rollup
    return int(found[1]) * 1024 / MIB


def _alone(found: Iterable[Process]) -> float | None:
    """MiB of the pages that these processes have in memory, each counted once; None where the
    kernel does not show page frames."""
    frames: set[int] = set()
    for process in found:
        frames |= _frames(process)
    frames.discard(0)
    return len(frames) * PAGESIZE / MIB if frames else None


def _frames(process: Process) -> set[int]:
    frames: set[int] = set()
    directory = PROC / str(process.pid)
    with (directory / "pagemap").open("rb") as pagemap:
        for line in (directory / "maps").read_text().splitlines():
            span = line.partition(" ")[0]
            begin, end = (int(address, 16) // PAGESIZE for address in span.split("-"))
            if "[vsyscall]" in line:
                continue  # outside of what pagemap shows, and nobody's memory
            pagemap.seek(begin * 8)
            entries = array("Q", pagemap.read((end - begin) * 8))
            frames |= {entry & _FRAME for entry in entries if entry & _PRESENT}
    return frames
