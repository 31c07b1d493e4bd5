"""The command `python -m benchmarks`."""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from benchmarks import (
    answers,
    boot,
    capacity,
    changes,
    failover,
    heartbeats,
    machine,
    memory,
    metrics,
    starting,
)
from benchmarks.report import Section
from benchmarks.scale import FULL, QUICK, Scale
from lab.leftovers import remove_leftovers

_SECTIONS: dict[str, Callable[[Path, Scale], Section]] = {
    "starting": starting.measure,
    "boot": boot.measure,
    "memory": memory.measure,
    "answers": answers.measure,
    "heartbeats": heartbeats.measure,
    "capacity": capacity.measure,
    "metrics": metrics.measure,
    "changes": changes.measure,
    "failover": failover.measure,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="What the agent costs, beside what cannot cost less. Needs root and haproxy.",
    )
    parser.add_argument(
        "--quick", action="store_true", help="see that everything runs; the figures mean nothing"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here as well")
    parser.add_argument(
        "--only", nargs="+", choices=tuple(_SECTIONS), metavar="NAME", help="only these sections"
    )
    parser.add_argument(
        "--haproxy", default="haproxy", metavar="PROGRAM", help="another than that on the PATH"
    )
    given = parser.parse_args(arguments)
    program = shutil.which(given.haproxy)
    if os.geteuid() != 0 or program is None:
        print("the benchmarks need root, and haproxy", file=sys.stderr)
        return 2
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    remove_leftovers()
    # What the agent's code logs in this process is in the tables, as far as it matters.
    logging.getLogger("amphora_agent").addHandler(logging.NullHandler())

    begun = time.monotonic()
    haproxy = Path(program)
    conditions = machine.description(haproxy)
    for name, value in conditions.items():
        print(f"{name}: {value}")
    sections = []
    for name, measure in _SECTIONS.items():
        if given.only is None or name in given.only:
            section = measure(haproxy, QUICK if given.quick else FULL)
            sections.append(section)
            print(f"\n{section.text()}", flush=True)
    seconds = time.monotonic() - begun
    print(f"{seconds:.0f} s in all")
    if given.json is not None:
        result = {
            "machine": conditions,
            "quick": given.quick,
            "seconds": seconds,
            "sections": {section.name: section.data() for section in sections},
        }
        given.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def _end(number: int, frame: FrameType | None) -> None:
    """What was made is removed on the way out."""
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
