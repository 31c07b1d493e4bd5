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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType

from benchmarks import (
    boot,
    capacity,
    changes,
    crowd,
    declared,
    failover,
    first_request,
    heartbeats,
    latency,
    machine,
    memory,
    metrics,
    process_model,
    runtime,
    startup,
)
from benchmarks.report import Section
from benchmarks.scale import FULL, QUICK, Scale
from lab.cleanup_registry import remove_leftovers

_SECTIONS: dict[str, Callable[[Path, Scale], Section]] = {
    "startup": startup.measure,
    "boot": boot.measure,
    "memory": memory.measure,
    "latency": latency.measure,
    "heartbeats": heartbeats.measure,
    "capacity": capacity.measure,
    "metrics": metrics.measure,
    "changes": changes.measure,
    "crowd": crowd.measure,
    "runtime": runtime.measure,
    "first_request": first_request.measure,
    "declared": declared.measure,
    "failover": failover.measure,
    "process_model": process_model.measure,
}
#: What is drawn of a section: SVG by file name.
_PLOTS: dict[str, Callable[[Section], Mapping[str, str]]] = {
    "process_model": process_model.plots,
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
    parser.add_argument("--plots", type=Path, metavar="DIRECTORY", help="write plots here as well")
    parser.add_argument(
        "names",
        nargs="*",
        type=_section,
        metavar="NAME",
        help=f"only these: {', '.join(_SECTIONS)}",
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
        if not given.names or name in given.names:
            section = measure(haproxy, QUICK if given.quick else FULL)
            sections.append(section)
            print(f"\n{section.text()}", flush=True)
            if given.plots is not None and name in _PLOTS:
                given.plots.mkdir(parents=True, exist_ok=True)
                for file, text in _PLOTS[name](section).items():
                    (given.plots / file).write_text(text)
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


def _section(name: str) -> str:
    if name not in _SECTIONS:
        raise argparse.ArgumentTypeError(f"there is no {name}")
    return name


def _end(number: int, frame: FrameType | None) -> None:
    """What was made is removed on the way out."""
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
