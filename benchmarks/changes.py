"""A change that only a reload can make, beside what haproxy alone needs for it.

Those that need none are in benchmarks.runtime.

The agent's side is what the controller does: over one TLS session it asks for `/`, `/1.0/info` and
`/1.0/details`, uploads the configuration and asks for the reload. The floor is `haproxy -c` and a
reload through the master socket, of the same text, waited for until the new worker answers. All
take turns. Each change is another timeout of one listener and another weight of one member. All
times are wall time in milliseconds, as the one who waits sees them; the client's own work is in the
agent's.

Members with health checks keep their states in the agent's reload, not in the floor's: what a bare
reload with `show servers state` before it takes stands beside.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from benchmarks.baseline_haproxy import BareHaproxy, ask
from benchmarks.report import Column, Section, median, milliseconds, seconds
from benchmarks.scale import Scale
from benchmarks.testbed import Balancer, Testbed, deploy, make_testbed

_COLUMNS = (
    Column("listeners", "listeners"),
    Column("members", "members each"),
    Column("monitored", "health checks"),
    Column("runs", "runs"),
    Column("check_ms", "haproxy -c, ms", 1),
    Column("bare_reload_ms", "bare reload, ms", 1),
    Column("keeping_ms", "keeping states, ms", 1),
    Column("floor_ms", "floor, ms", 1),
    Column("upload_ms", "PUT haproxy, ms", 1),
    Column("reload_ms", "PUT reload, ms", 1),
    Column("change_ms", "PUT + PUT, ms", 1),
    Column("ratio", "PUT + PUT / floor", 2),
    Column("fastest_ratio", "of the fastest", 2),
    Column("gets_ms", "3 GETs before, ms", 1),
)

#: How a weight of the change is told apart from the one before; haproxy knows 0 to 256.
_WEIGHTS = 200


def measure(haproxy: Path, scale: Scale) -> Section:
    rows = []
    with make_testbed(haproxy) as bed:
        for monitored in (False, True):
            for listeners, runs in scale.change_runs.items():
                balancer = Balancer.of(listeners, scale.change_members, monitored=monitored)
                rows.append(_compare(bed, balancer, runs) | {"monitored": _yes(monitored)})
    return Section(
        "changes",
        "Change that needs a reload (medians of wall time)",
        _COLUMNS,
        tuple(rows),
        notes=(
            "floor: haproxy -c + a bare reload by the master socket; same text and run, by turns",
            "keeping states: a bare reload that carries over the members' states, as the agent's",
            "does; not in the floor",
            "PUTs: over one TLS session; the GETs that the controller sends first stand apart",
            "of the fastest: the same ratio of the shortest times, which other work disturbs least",
            "each run changes a timeout and the weight of one member",
            "members answer their health checks",
        ),
    )


def _compare(bed: Testbed, balancer: Balancer, runs: int) -> dict[str, Any]:
    pool = balancer.listeners[0].pool
    assert pool is not None
    sides = [_floor, _agent, *([_keeping] if pool.monitor else [])]
    samples: dict[str, list[float]] = {}
    weight = 1
    deploy(bed, balancer)
    with bed.bare_haproxy() as bare:
        bare.start(balancer.text(bare.directory))
        for run in range(runs):
            weight = 2 + run % _WEIGHTS
            sides.append(sides.pop(0))  # none always comes after the same other
            for side in sides:
                for name, seconds in side(bed, bare, balancer, weight).items():
                    samples.setdefault(name, []).append(seconds)
    _assert_taken_up(bed, balancer, weight)
    bed.controller.delete(balancer.id)
    in_ms = {
        name: [milliseconds(seconds) for seconds in values] for name, values in samples.items()
    }
    return {
        "listeners": len(balancer.listeners),
        "members": len(pool.members),
        "runs": runs,
        **{f"{name}_ms": median(values) for name, values in in_ms.items()},
        "ratio": median(in_ms["change"]) / median(in_ms["floor"]),
        "fastest_ratio": min(in_ms["change"]) / min(in_ms["floor"]),
        "samples_ms": in_ms,
    }


def _text(balancer: Balancer, base_path: Path, weight: int) -> str:
    text = balancer.text(base_path, weight=weight)
    return text.replace("timeout client 50000", f"timeout client {50000 + weight}", 1)


def _floor(bed: Testbed, bare: BareHaproxy, balancer: Balancer, weight: int) -> dict[str, float]:
    bare.configuration.write_text(_text(balancer, bare.directory, weight))
    check = seconds(bare.check)
    reload = seconds(bare.reload)
    return {"check": check, "bare_reload": reload, "floor": check + reload}


def _keeping(bed: Testbed, bare: BareHaproxy, balancer: Balancer, weight: int) -> dict[str, float]:
    bare.configuration.write_text(_text(balancer, bare.directory, weight))
    state = bare.directory / balancer.id / "servers-state"
    state.parent.mkdir(exist_ok=True)

    def save_and_reload() -> None:
        state.write_text(bare.ask(f"@!{bare.worker()} show servers state").rstrip("\n") + "\n")
        bare.reload()

    keeping = seconds(save_and_reload)
    state.unlink()
    return {"keeping": keeping}


def _agent(bed: Testbed, bare: BareHaproxy, balancer: Balancer, weight: int) -> dict[str, float]:
    controller = bed.controller
    text = _text(balancer, bed.agent.base_path, weight)

    def ask_first() -> None:
        controller.api_version()
        controller.info()
        controller.details()

    gets = seconds(ask_first)
    upload = seconds(lambda: controller.upload_haproxy(balancer.id, text))
    reload = seconds(lambda: controller.reload(balancer.id))
    return {"gets": gets, "upload": upload, "reload": reload, "change": upload + reload}


def _assert_taken_up(bed: Testbed, balancer: Balancer, weight: int) -> None:
    """What was measured was a change: haproxy has the last weight."""
    pool = balancer.listeners[0].pool
    assert pool is not None
    shown = ask(bed.agent.base_path / f"{balancer.id}.sock", "show stat")
    for row in csv.DictReader(shown.splitlines()):
        if row["svname"] == pool.members[0].id and row["weight"] == str(weight):
            return
    raise RuntimeError(f"haproxy has not taken up weight {weight}")


def _yes(value: bool) -> str:
    return "yes" if value else "no"
