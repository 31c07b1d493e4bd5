"""Builds of the agent beside each other, in one run:
`python -m benchmarks.compare before=PROGRAM after=PROGRAM`.

The first one is the measure of the others. All are there at once, each in namespaces of its own and
with a client in a process of its own, and take turns: what else the machine does meets all of them.
Times are wall time in milliseconds, as the client sees them. CPU is that of the agent's processes.

A change is what the controller sends: the text, then the reload. It gives one member another
weight, which haproxy is told at its socket, or another timeout besides, which takes a reload.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.fleet import cpu_seconds, pss
from benchmarks.report import Column, Section, median, milliseconds, percentile, seconds
from benchmarks.testbed import Balancer, deploy, make_testbed
from benchmarks.warm_up import do_everything

_MEMBERS = 10
#: How a weight is told apart from the one before; haproxy knows 0 to 256.
_WEIGHTS = 200
#: Seconds for the threads of the last request to come to rest before memory is looked at.
_REST = 2.0

_TIMES = (
    Column("what", "what"),
    Column("program", "program"),
    Column("runs", "runs"),
    Column("p50_ms", "p50, ms", 2),
    Column("p95_ms", "p95, ms", 2),
    Column("ratio", "p50 / first", 3),
    Column("more_ms", "more than first, ms", 2),
    Column("cpu_ms", "CPU, ms", 2),
)
_MEMORY = (
    Column("when", "when"),
    Column("program", "program"),
    Column("pss", "PSS, MiB", 1),
    Column("more", "more than first, MiB", 1),
    Column("each", "of each process"),
)
#: The method of a side, and its arguments.
_ACTIONS: dict[str, tuple[Any, ...]] = {
    "weight": ("change", False),
    "reload": ("change", True),
    "GET info": ("get", "/1.0/info"),
    "GET details": ("get", "/1.0/details"),
}


class Sample(NamedTuple):
    """Seconds that the client waited, and seconds of CPU that the agent took meanwhile."""

    wall: float
    cpu: float | None = None


class _Side:
    """One program with all that it needs."""

    def __init__(self, haproxy: Path, program: str) -> None:
        os.environ["AMPHORA_AGENT"] = program
        self._ending = ExitStack()
        self._testbed = self._ending.enter_context(
            make_testbed(haproxy, started=False, heartbeat_interval=1)
        )
        self._pids: list[int] = []
        self._weight = 1
        self._balancer = Balancer.of(1, _MEMBERS, monitored=True)

    def close(self) -> None:
        self._ending.close()

    def start(self) -> Sample:
        """Start it; return what it takes to the first answer."""
        return Sample(seconds(self._testbed.agent.start))

    def stop(self) -> None:
        self._testbed.agent.stop()

    def do_everything(self) -> None:
        do_everything(self._testbed)

    def weigh(self) -> list[float]:
        """Return MiB of each process when it has nothing to do."""
        self._testbed.health_manager.drain()
        self._testbed.health_manager.next(timeout=30)
        time.sleep(_REST)
        self._pids = self._testbed.agent.pids()
        return [pss(pid) for pid in self._pids]

    def deploy(self, listeners: int) -> None:
        self._balancer = Balancer.of(listeners, _MEMBERS, monitored=True)
        deploy(self._testbed, self._balancer)

    def delete(self) -> None:
        self._testbed.controller.delete(self._balancer.id)

    def change(self, reloads: bool) -> Sample:
        self._weight = 2 + self._weight % _WEIGHTS
        text = self._balancer.text(self._testbed.agent.base_path, weight=self._weight)
        if reloads:
            timeout = f"timeout client {50000 + self._weight}"
            text = text.replace("timeout client 50000", timeout, 1)

        def put() -> None:
            self._testbed.controller.upload_haproxy(self._balancer.id, text)
            self._testbed.controller.reload(self._balancer.id)

        return self._take(put)

    def get(self, path: str) -> Sample:
        return self._take(lambda: self._testbed.controller.request("GET", path))

    def _take(self, action: Callable[[], object]) -> Sample:
        before = self._cpu()
        taken = seconds(action)
        after = self._cpu()
        return Sample(taken, None if before is None or after is None else after - before)

    def _cpu(self) -> float | None:
        try:
            return cpu_seconds(self._pids)
        except FileNotFoundError:  # a thread has ended while it was looked at
            return None


class _Program:
    """A side in a process of its own."""

    def __init__(self, name: str, haproxy: Path, program: str) -> None:
        self.name = name
        self._pipe, other = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(target=_serve, args=(other, haproxy, program))
        self._process.start()
        other.close()

    def do(self, method: str, *arguments: object) -> Any:
        self._pipe.send((method, arguments))
        result, error = self._pipe.recv()
        if error:
            raise RuntimeError(f"{self.name}: {method}: {error}")
        return result

    def close(self) -> None:
        self._pipe.close()
        self._process.join()


def _serve(pipe: Connection, haproxy: Path, program: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends with the pipe
    with contextlib.closing(_Side(haproxy, program)) as side, contextlib.suppress(EOFError):
        while True:
            method, arguments = pipe.recv()
            try:
                pipe.send((getattr(side, method)(*arguments), None))
            except Exception as error:  # whoever waits is told
                pipe.send((None, f"{type(error).__name__}: {error}"))


def measure(
    programs: Sequence[_Program], *, starts: int, runs: int, sizes: Sequence[int]
) -> list[Section]:
    """Measure start, memory, and changes and answers of load balancers of these sizes."""

    def turn(method: str, *arguments: object) -> list[Any]:
        return [program.do(method, *arguments) for program in programs]

    def repeat(count: int, method: str, *arguments: object) -> list[list[Sample]]:
        samples: list[list[Sample]] = [[] for _ in programs]
        for run in range(count):
            for number in range(len(programs)):  # none always comes after the same other
                which = (run + number) % len(programs)
                samples[which].append(programs[which].do(method, *arguments))
                if method == "start":
                    programs[which].do("stop")
        return samples

    names = [program.name for program in programs]
    times = _times("start", names, repeat(starts, "start"))
    turn("start")
    memory = _memory("just started", names, turn("weigh"))
    turn("do_everything")
    memory += _memory("everything done once", names, turn("weigh"))
    for size in sizes:
        turn("deploy", size)
        for what, action in _ACTIONS.items():
            turn(*action)  # what is read only once
            times += _times(f"{what}, {size} listeners", names, repeat(runs, *action))
        memory += _memory(f"{size} listeners changed {2 * runs} times", names, turn("weigh"))
        turn("delete")
    return [
        Section("times", "Times", _TIMES, tuple(times), ("more: median of each run's difference",)),
        Section("memory", "Memory at rest", _MEMORY, tuple(memory)),
    ]


def _times(what: str, names: Sequence[str], samples: list[list[Sample]]) -> list[dict[str, Any]]:
    walls = [[milliseconds(sample.wall) for sample in each] for each in samples]
    cpus = [[milliseconds(s.cpu) for s in each if s.cpu is not None] for each in samples]
    return [
        {
            "what": what,
            "program": name,
            "runs": len(wall),
            "p50_ms": median(wall),
            "p95_ms": percentile(wall, 95),
            "ratio": median(wall) / median(walls[0]),
            "more_ms": median([b - a for a, b in zip(walls[0], wall, strict=True)]),
            "cpu_ms": median(cpu) if cpu else None,
            "samples_ms": wall,
        }
        for name, wall, cpu in zip(names, walls, cpus, strict=True)
    ]


def _memory(when: str, names: Sequence[str], weights: list[list[float]]) -> list[dict[str, Any]]:
    return [
        {
            "when": when,
            "program": name,
            "pss": sum(each),
            "more": sum(each) - sum(weights[0]),
            "each": " + ".join(f"{pss:.1f}" for pss in each),
        }
        for name, each in zip(names, weights, strict=True)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare")
    parser.add_argument("programs", nargs="+", metavar="NAME=PROGRAM")
    parser.add_argument("--haproxy", default="haproxy", metavar="PROGRAM")
    parser.add_argument("--starts", type=int, default=9, metavar="N")
    parser.add_argument("--runs", type=int, default=41, metavar="N")
    parser.add_argument("--listeners", type=int, nargs="*", default=[1, 500], metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here as well")
    given = parser.parse_args()
    haproxy = shutil.which(given.haproxy)
    if os.geteuid() != 0 or haproxy is None:
        print("the benchmarks need root, and haproxy", file=sys.stderr)
        return 2
    with ExitStack() as ending:
        programs = []
        for words in given.programs:
            name, _, program = words.partition("=")
            programs.append(_Program(name, Path(haproxy), program))
            ending.callback(programs[-1].close)
        sections = measure(programs, starts=given.starts, runs=given.runs, sizes=given.listeners)
    for section in sections:
        print(section.text())
    if given.json is not None:
        data = {section.name: section.data() for section in sections}
        given.json.write_text(json.dumps(data, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
