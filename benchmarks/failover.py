"""How long a client of an ACTIVE_STANDBY load balancer is without answers when something dies.

From the last answer before to the first one after it; the client asks anew every 10 ms, and waits
250 ms for an answer. What VRRP allows at best without a word of the dead: three intervals of one
second and a part of a fourth. What the check adds is the controller's to set (`vrrp_check_interval`
and `vrrp_fail_count`): its defaults are 5 s and 2.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.report import Column, Section, median
from benchmarks.scale import Scale
from lab.http import Client
from lab.load import Load
from lab.network import Lab
from lab.pair import PORT, VIP, Checks, Half, Pair, make_pair

_COLUMNS = (
    Column("what", "of the master"),
    Column("checks", "checks"),
    Column("runs", "runs"),
    Column("failovers", "failovers"),
    Column("median_s", "median, s", 2),
    Column("slowest_s", "slowest, s", 2),
    Column("failed", "requests failed"),
)

_RELOADS = 20
_DEFAULT, _QUICK = Checks(), Checks(interval=1)


@dataclass(frozen=True)
class _Case:
    """`moves`: the VIP goes to the other amphora."""

    what: str
    happen: Callable[[Half], object]
    moves: bool
    checks: Checks = _DEFAULT


def _kill_haproxy(half: Half) -> None:
    _kill(half, "haproxy")


def _kill_keepalived(half: Half) -> None:
    _kill(half, "keepalived")


def _kill_parent(half: Half) -> None:
    parent, *_ = half.of("keepalived")
    parent.send(signal.SIGKILL)


def _hang(half: Half) -> None:
    for process in half.of("haproxy"):
        process.send(signal.SIGSTOP)


def _kill(half: Half, program: str) -> None:
    for process in half.of(program):
        process.send(signal.SIGKILL)


_CASES = (
    _Case("haproxy killed", _kill_haproxy, moves=False),
    _Case("agent killed", lambda half: half.agent.kill(), moves=False),
    _Case("keepalived stopped by the controller", lambda half: half.api.stop_vrrp(), moves=True),
    _Case("keepalived killed, its child not", _kill_parent, moves=True),
    _Case("keepalived killed", _kill_keepalived, moves=True),
    _Case("everything, from one moment to the next", Half.die, moves=True),
    _Case("haproxy hangs", _hang, moves=True, checks=_QUICK),
    _Case("haproxy hangs", _hang, moves=True),
)


def measure(haproxy: Path, scale: Scale) -> Section:
    rows = []
    with Lab(f"pair-{os.getpid()}") as lab, make_pair(lab) as pair:
        in_force = None
        for case in _CASES[: scale.failover_cases]:
            if case.checks != in_force:
                in_force = case.checks
                pair.deploy(in_force)
            outages, failovers = [], 0
            for _ in range(scale.failover_runs):
                with _restored(pair) as (master, other):
                    over = other.has_vip if case.moves else lambda: True
                    outages.append(pair.outage(lambda: case.happen(master), over))  # noqa: B023
                    failovers += other.has_vip()
            rows.append(
                {
                    "what": case.what,
                    "checks": f"{case.checks.fall} x {case.checks.interval} s",
                    "runs": scale.failover_runs,
                    "failovers": failovers,
                    "median_s": median([outage.seconds for outage in outages]),
                    "slowest_s": max(outage.seconds for outage in outages),
                    "failed": sum(outage.failed for outage in outages),
                }
            )
        rows.append(_reloads(pair))
    notes = (f"haproxy: {haproxy.name} of the PATH; an answer is one request on a new connection",)
    return Section("failover", "Without answers, ACTIVE_STANDBY", _COLUMNS, tuple(rows), notes)


def _reloads(pair: Pair) -> dict[str, object]:
    with _restored(pair) as (master, other):
        load = Load(lambda: Client(pair.client, VIP, PORT, keep_alive=False), clients=2)
        with load:
            load.wait_for(10)
            for _ in range(_RELOADS):
                pair.push(master)
            load.wait_for(10)
        result = load.result
        return {
            "what": f"{_RELOADS} reloads, under load",
            "checks": f"{_DEFAULT.fall} x {_DEFAULT.interval} s",
            "runs": 1,
            "failovers": int(other.has_vip()),
            "median_s": result.total.slowest,
            "slowest_s": result.total.slowest,
            "failed": result.failed,
        }


@contextmanager
def _restored(pair: Pair) -> Iterator[tuple[Half, Half]]:
    """The master and the other, all well; and all is well again behind it."""
    master, other = pair.master, pair.standby
    yield master, other
    pair.restore(master)
