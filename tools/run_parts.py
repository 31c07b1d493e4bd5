#!/usr/bin/env python3
"""Run targets of make, go on when one fails, and tell at the end how each ended.

tools/run_parts.py TARGET... [--beside TARGET...]... [--then TARGET... [--beside TARGET...]...]...

The targets of a list run one after another. Lists that are joined by `--beside` run side by side;
what these print is shown when each target ends. What follows a `--then` begins when all before it
has ended. The exit status is 1 when a target failed.
"""

import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

#: Where `tools/run_tests.py` notes tests that passed only the second time, by target.
_UNSTEADY = Path(".cache/unsteady")


class Outcome(NamedTuple):
    target: str
    status: int
    seconds: float


class Parts:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.outcomes: list[Outcome] = []

    def run(self, targets: Sequence[str], *, beside: bool) -> None:
        """Run targets one after another; what they print is kept back while others run."""
        for target in targets:
            begin = time.monotonic()
            done = subprocess.run(
                ["make", "--no-print-directory", target],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if beside else None,
                stderr=subprocess.STDOUT if beside else None,
                check=False,
            )
            with self._lock:
                self.outcomes.append(Outcome(target, done.returncode, time.monotonic() - begin))
                if beside:
                    sys.stdout.buffer.write(f"== {target}\n".encode() + done.stdout)
                    sys.stdout.buffer.flush()


def summarize(outcomes: Sequence[Outcome]) -> str:
    lines = ["", "part                    result   minutes"]
    lines += [
        f"{target:<22}  {'failed' if status else 'passed'}  {seconds / 60:8.1f}"
        for target, status, seconds in outcomes
    ]
    lines += ["", *read_unsteady(outcomes)]
    failed = sum(bool(outcome.status) for outcome in outcomes)
    return "\n".join([*lines, f"parts: {len(outcomes) - failed} passed, {failed} failed"])


def read_unsteady(outcomes: Sequence[Outcome]) -> list[str]:
    """Return a line for each test that passed only when `tools/run_tests.py` ran it again."""
    notes = [(target, _UNSTEADY / target) for target, _, _ in outcomes]
    return [
        f"unsteady: {target}: {test}"
        for target, note in notes
        if note.exists()
        for test in note.read_text().splitlines()
    ]


def read_stages(arguments: Sequence[str]) -> list[list[list[str]]]:
    """Return the lists of targets that run side by side, for each stage."""
    stages: list[list[list[str]]] = [[[]]]
    for argument in arguments:
        match argument:
            case "--then":
                stages.append([[]])
            case "--beside":
                stages[-1].append([])
            case target:
                stages[-1][-1].append(target)
    return [[targets for targets in lists if targets] for lists in stages]


def main(arguments: Sequence[str]) -> int:
    parts = Parts()
    for lists in read_stages(arguments):
        threads = [
            threading.Thread(target=parts.run, args=[targets], kwargs={"beside": len(lists) > 1})
            for targets in lists
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    print(summarize(parts.outcomes), flush=True)
    return int(any(outcome.status for outcome in parts.outcomes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
