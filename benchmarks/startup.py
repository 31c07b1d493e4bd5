"""From the start of the command to the first answer of its API, in seconds of wall time.

The API is asked every 20 ms, over a new TLS connection each time, so a figure may be that much
too large. Beside it: the interpreter alone, and the interpreter with everything imported that the
agent imports, other than its own modules. They take turns.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from benchmarks.report import Column, Section, median, milliseconds
from benchmarks.scale import Scale
from benchmarks.testbed import Testbed, make_testbed

_COLUMNS = (
    Column("what", "what"),
    Column("runs", "runs"),
    Column("median_ms", "median, ms"),
    Column("fastest_ms", "fastest, ms"),
    Column("slowest_ms", "slowest, ms"),
)

#: Prints the modules that the agent loads and did not write itself, in the order of loading.
_LIST_MODULES = """\
import sys
before = set(sys.modules)
import amphora_agent.daemon.run
for name in list(sys.modules):
    root = name.partition(".")[0]
    if name not in before and root not in sys.stdlib_module_names | {"amphora_agent"}:
        print(name)
"""

#: Imports the modules named by its arguments. Some are parts of compiled ones, and come with them.
_IMPORT_MODULES = """\
import importlib, sys
for name in sys.argv[1:]:
    if name not in sys.modules:
        try:
            importlib.import_module(name)
        except ImportError:
            pass
"""


def measure(haproxy: Path, scale: Scale) -> Section:
    libraries = _run(_LIST_MODULES).split()
    samples: dict[str, list[float]] = {
        "agent, to its first answer": [],
        "python, importing the same libraries": [],
        "python -c pass": [],
    }
    agent, imports, nothing = samples.values()
    with make_testbed(haproxy, started=False) as bed:
        _start(bed)  # the first reads its files from the disk
        for _ in range(scale.starts):
            agent.append(_start(bed))
            imports.append(_seconds(_IMPORT_MODULES, *libraries))
            nothing.append(_seconds("pass"))
    rows = tuple(
        {
            "what": what,
            "runs": scale.starts,
            "median_ms": milliseconds(median(seconds)),
            "fastest_ms": milliseconds(min(seconds)),
            "slowest_ms": milliseconds(max(seconds)),
            "samples_ms": [milliseconds(each) for each in seconds],
        }
        for what, seconds in samples.items()
    )
    return Section("startup", "Start, with nothing configured (wall time)", _COLUMNS, rows)


def _start(bed: Testbed) -> float:
    begun = time.perf_counter()
    bed.agent.start()
    seconds = time.perf_counter() - begun
    bed.agent.stop()
    return seconds


def _seconds(program: str, *arguments: str) -> float:
    begun = time.perf_counter()
    _run(program, *arguments)
    return time.perf_counter() - begun


def _run(program: str, *arguments: str) -> str:
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
