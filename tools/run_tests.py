#!/usr/bin/env python3
"""Run tests with pytest, and those that fail once more, alone.

tools/run_tests.py NAME PYTHON [pytest argument...]

Thousands of tests with real processes share a few cores, and now and then one loses a race. If
only a few fail, they run again, one after another. Those that pass then are *unsteady*: this
prints them, and notes them in `.cache/unsteady/NAME`, which `tools/run_parts.py` shows at the end.
The exit status is pytest's: it is not 0 when a test fails twice, or when more than MOST fail.

With ONCE=1 nothing is run again.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

#: More failures are no accident.
MOST = 5
#: pytest's status when tests ran, and some failed.
_FAILED = 1

UNSTEADY = Path(".cache/unsteady")


def run_pytest(name: str, python: str, arguments: Sequence[str]) -> int:
    command = [python, "-m", "pytest", "-o", f"cache_dir={_cache(name)}", *arguments]
    return subprocess.run(command, check=False).returncode


def read_failed(name: str) -> list[str]:
    """Return the ids of the tests that failed in the last run."""
    try:
        return sorted(json.loads((_cache(name) / "v/cache/lastfailed").read_text()))
    except FileNotFoundError:
        return []


def note_unsteady(name: str, tests: Sequence[str]) -> None:
    UNSTEADY.mkdir(parents=True, exist_ok=True)
    (UNSTEADY / name).write_text("".join(f"{test}\n" for test in tests))
    for test in tests:
        print(f"unsteady: {test} failed, and passed when it ran again alone", flush=True)


def _cache(name: str) -> Path:
    return Path(".cache/pytest", name).absolute()


def main(arguments: Sequence[str]) -> int:
    name, python, *options = arguments
    shutil.rmtree(_cache(name), ignore_errors=True)
    (UNSTEADY / name).unlink(missing_ok=True)
    status = run_pytest(name, python, options)
    failed = read_failed(name)
    if status != _FAILED or not 0 < len(failed) <= MOST or os.environ.get("ONCE"):
        return status
    print(f"\n== {name}: {len(failed)} failed; they run again, alone", flush=True)
    alone = ["-n", "0"] if "-n" in options else []
    again = ["--last-failed", "--last-failed-no-failures=none", "-q"]
    status = run_pytest(name, python, [*options, *alone, *again])
    if status == 0:
        note_unsteady(name, failed)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
