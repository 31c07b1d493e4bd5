"""How long it takes from a change that adds a member with a health monitor to its first request.

The agent's side is what the controller does: it uploads the text and asks for the reload, over one
TLS session. "runtime": the member is all that changes; "reload": a timeout as well, which takes a
new worker. The plain way, as Octavia's own agent has it, is the controller's text written to disk,
`haproxy -c` and a reload through the master socket. Both take turns, while somebody asks again and
again, so the first request comes at most a few milliseconds after the member serves. In the plain
way the member serves before its first check, and whether or not it is well.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmarks.baseline_haproxy import BareHaproxy
from benchmarks.report import Column, Section, median, milliseconds
from benchmarks.scale import Scale
from benchmarks.testbed import VIP, Testbed, make_testbed
from lab.backend import Backend
from lab.http import Client
from lab.listeners import HealthMonitor, http_listener, loadbalancer
from lab.network import Namespace

_COLUMNS = (
    Column("monitor", "monitor"),
    Column("delay", "delay, s"),
    Column("by", "the agent's way"),
    Column("runs", "runs"),
    Column("plain_ms", "plain way, ms", 1),
    Column("first_ms", "first request, ms", 1),
    Column("slowest_ms", "slowest, ms", 1),
    Column("ratio", "to the plain way", 2),
)

_PORT = 80
_MEMBERS = {"old": "127.0.3.1", "new": "127.0.3.2"}
_MEMBER_PORT = 9080
_KINDS: tuple[Literal["HTTP", "TCP"], ...] = ("HTTP", "TCP")
#: Seconds until it is given up.
_PATIENCE = 300.0


def measure(haproxy: Path, scale: Scale) -> Section:
    rows: list[dict[str, Any]] = []
    with make_testbed(haproxy) as bed, _members(bed.namespace), _members(bed.bare):
        for kind, delay, by in itertools.product(_KINDS, scale.first_delays, ("runtime", "reload")):
            wanted = _Wanted(HealthMonitor(kind, delay=delay, timeout=2, fall=3, rise=3))
            with bed.bare_haproxy() as plain:
                rows.append(_row(bed, plain, wanted, by, scale.first_runs))
    return Section(
        "first_request",
        "From a change that adds a member to its first request (medians of wall time)",
        _COLUMNS,
        tuple(rows),
        notes=(
            "the plain way: haproxy -c and a reload; the member serves before its first check",
            "with the agent it serves when its first check has passed",
        ),
    )


@contextlib.contextmanager
def _members(namespace: Namespace) -> Iterator[None]:
    with contextlib.ExitStack() as ending:
        for name, address in _MEMBERS.items():
            ending.enter_context(Backend(namespace, name, [f"{address}:{_MEMBER_PORT}"]))
        yield


@dataclass
class _Wanted:
    """A load balancer; `timeout` is what takes a reload to change."""

    monitor: HealthMonitor
    timeout: int = 50000
    members: tuple[str, ...] = ("old",)
    id: str = field(default_factory=lambda: str(uuid.uuid4()))

    def text(self, base_path: Path) -> str:
        listener = http_listener(
            f"{self.id} listener",
            port=_PORT,
            members=[(_MEMBERS[name], _MEMBER_PORT) for name in self.members],
            monitor=self.monitor,
        )
        return loadbalancer(
            self.id,
            vip=VIP,
            listeners=[listener],
            base_path=str(base_path),
            timeout_client=self.timeout,
        )


def _row(bed: Testbed, plain: BareHaproxy, wanted: _Wanted, by: str, runs: int) -> dict[str, Any]:
    base_path = bed.agent.base_path

    def deploy() -> None:
        bed.controller.upload_haproxy(wanted.id, wanted.text(base_path))
        bed.controller.reload(wanted.id)

    def reload() -> None:
        plain.configuration.write_text(wanted.text(base_path))
        plain.check()
        plain.reload()

    plain.start(wanted.text(base_path))
    ours, theirs = [], []
    for _ in range(runs):
        wanted.members = ("old",)
        deploy()
        reload()
        for namespace in (bed.namespace, bed.bare):
            _first_answer(namespace, "old", lambda: None)
        wanted.members = ("old", "new")
        wanted.timeout += by == "reload"
        theirs.append(milliseconds(_first_answer(bed.bare, "new", reload)))
        ours.append(milliseconds(_first_answer(bed.namespace, "new", deploy)))
    bed.controller.delete(wanted.id)
    return {
        "monitor": wanted.monitor.type,
        "delay": wanted.monitor.delay,
        "by": by,
        "runs": runs,
        "plain_ms": median(theirs),
        "first_ms": median(ours),
        "slowest_ms": max(ours),
        "ratio": median(ours) / median(theirs),
        "samples_ms": {"plain": theirs, "agent": ours},
    }


def _first_answer(namespace: Namespace, name: str, change: Callable[[], None]) -> float:
    """Seconds from the beginning of a change to the first answer of a member."""
    served: list[float] = []
    gave_up = threading.Event()

    def ask() -> None:
        with Client(namespace, VIP, _PORT, keep_alive=False) as client:
            while not gave_up.is_set():
                answer = client.get("/")
                if answer.status == 200 and answer.json()["name"] == name:
                    served.append(time.perf_counter())
                    return

    asking = threading.Thread(target=ask)
    begun = time.perf_counter()
    asking.start()
    change()
    asking.join(_PATIENCE)
    gave_up.set()
    if not served:
        raise RuntimeError(f"the member {name} does not serve within {_PATIENCE:g} s")
    return served[0] - begun
