"""Changes that need no new process, beside the plain way to make them.

A member is added, gets another weight, and is removed; a certificate is replaced. The agent's side
is what the controller does: it uploads the configuration (or the certificate) and asks for the
reload, over one TLS session. The plain way is the same text or certificate written to disk,
`haproxy -c`, and a reload through the master socket, waited for until the new worker answers. Both
take turns. All times are wall time in milliseconds, as the one who waits sees them; the client's
own work is in the agent's. After each change haproxy is asked whether it has taken it up.

New processes are counted, not inferred: the kernel reports every execution of the haproxy program,
and each reload that the master counts is a new worker.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from amphora_agent.haproxy import replies
from benchmarks.baseline_haproxy import BareHaproxy, ask, private_copy
from benchmarks.execs import Executions
from benchmarks.report import Column, Section, median, milliseconds, seconds
from benchmarks.scale import Scale
from benchmarks.testbed import MEMBER_PORT, VIP, Balancer, Testbed, make_testbed
from lab.http import Tls, get
from lab.listeners import Listener, Member, crt_list, loadbalancer, stable_id
from lab.network import Lab, Namespace
from lab.pki import Authority, Credentials

_COLUMNS = (
    Column("what", "what"),
    Column("listeners", "listeners"),
    Column("runs", "runs"),
    Column("check_ms", "haproxy -c, ms", 1),
    Column("bare_reload_ms", "bare reload, ms", 1),
    Column("plain_ms", "plain way, ms", 1),
    Column("plain_processes", "new processes", 1),
    Column("upload_ms", "PUT, ms", 1),
    Column("reload_ms", "PUT reload, ms", 1),
    Column("change_ms", "PUT + PUT, ms", 1),
    Column("slowest_ms", "slowest, ms", 1),
    Column("processes", "new processes", 1),
    Column("ratio", "PUT + PUT / plain", 3),
    Column("growth", "/ at the smallest", 2),
)

#: How a weight is told apart from the one before; haproxy knows 0 to 256.
_WEIGHTS = 200

_SITE = "site.pem"


@dataclass(frozen=True)
class _State:
    """What a load balancer is to be."""

    balancer: Balancer
    added: int | None
    """The number of the run whose member is there, beside those that always are."""
    weight: int
    site: Credentials

    @property
    def encrypted(self) -> Listener:
        """The listener that has the certificate: the first."""
        return self.balancer.listeners[0]

    @property
    def backend(self) -> str:
        """Where members change: of the last listener."""
        pool = self.balancer.listeners[-1].pool
        assert pool is not None
        return f"{pool.id}:{self.balancer.listeners[-1].id}"

    def member(self, run: int) -> Member:
        """The one that comes and goes."""
        address = f"127.0.2.{run % 250 + 1}"
        return Member(stable_id(f"member of run {run}"), address, MEMBER_PORT)

    def text(self, base_path: Path, certificates: Path) -> str:
        *others, last = self.balancer.listeners
        pool = last.pool
        assert pool is not None
        first, *neighbours = pool.members
        members = [replace(first, weight=self.weight), *neighbours]
        if self.added is not None:
            members.append(self.member(self.added))
        listeners = [*others, replace(last, pool=replace(pool, members=tuple(members)))]
        listeners[0] = replace(
            listeners[0], kind="TERMINATED_HTTPS", crt_list=str(certificates / self.list_name)
        )
        return loadbalancer(
            self.balancer.id, vip=VIP, listeners=listeners, base_path=str(base_path)
        )

    @property
    def list_name(self) -> str:
        return f"{self.encrypted.id}.pem"


class _Side(Protocol):
    namespace: Namespace

    def begin(self, state: _State) -> None:
        """Run this load balancer."""

    def change_text(self, state: _State) -> Mapping[str, float]:
        """The seconds that it takes, by name."""

    def change_certificate(self, state: _State) -> Mapping[str, float]: ...

    def ask(self, command: str) -> str: ...


class _Plain:
    def __init__(self, bed: Testbed, haproxy: BareHaproxy) -> None:
        self.namespace = bed.bare
        self._haproxy = haproxy
        self._certificates = haproxy.directory / "certificates"

    def begin(self, state: _State) -> None:
        self._certificates.mkdir(exist_ok=True)
        self._write_certificate(state)
        listed = crt_list([str(self._certificates / _SITE)])
        (self._certificates / state.list_name).write_text(listed)
        self._haproxy.start(self._text(state))

    def change_text(self, state: _State) -> Mapping[str, float]:
        self._haproxy.configuration.write_text(self._text(state))
        return self._check_and_reload()

    def change_certificate(self, state: _State) -> Mapping[str, float]:
        self._write_certificate(state)
        return self._check_and_reload()

    def ask(self, command: str) -> str:
        return self._haproxy.ask(command)

    def _check_and_reload(self) -> Mapping[str, float]:
        check = seconds(self._haproxy.check)
        reload = seconds(self._haproxy.reload)
        return {"check": check, "bare_reload": reload, "plain": check + reload}

    def _text(self, state: _State) -> str:
        return state.text(self._haproxy.directory, self._certificates)

    def _write_certificate(self, state: _State) -> None:
        (self._certificates / _SITE).write_bytes(state.site.pem)


class _Agent:
    def __init__(self, bed: Testbed, balancer_id: str) -> None:
        self.namespace = bed.namespace
        self._controller = bed.controller
        self._id = balancer_id
        self._base_path = bed.agent.base_path
        self._certificates = bed.agent.cert_path / balancer_id
        self._master = bed.agent.run_path / f"{balancer_id}.master"

    def begin(self, state: _State) -> None:
        listed = crt_list([str(self._certificates / _SITE)]).encode()
        self._controller.upload_certificate(self._id, _SITE, state.site.pem)
        self._controller.upload_certificate(self._id, state.list_name, listed)
        self.change_text(state)

    def change_text(self, state: _State) -> Mapping[str, float]:
        text = state.text(self._base_path, self._certificates).encode()
        return self._put(lambda: self._controller.upload_haproxy(self._id, text))

    def change_certificate(self, state: _State) -> Mapping[str, float]:
        pem = state.site.pem
        return self._put(lambda: self._controller.upload_certificate(self._id, _SITE, pem))

    def ask(self, command: str) -> str:
        return ask(self._master, command)

    def _put(self, upload: Callable[[], object]) -> Mapping[str, float]:
        uploading = seconds(upload)
        reload = seconds(lambda: self._controller.reload(self._id))
        return {"upload": uploading, "reload": reload, "change": uploading + reload}


@dataclass(frozen=True)
class _Kind:
    """A kind of change: what it makes of a state in a run, how it is told to a side, and whether
    haproxy then has it."""

    what: str
    become: Callable[[_State, int, Credentials], _State]
    tell: Callable[[_Side, _State], Mapping[str, float]]
    holds: Callable[[_Side, _State, int], bool]


def measure(haproxy: Path, scale: Scale) -> Section:
    rows: list[dict[str, Any]] = []
    # A copy, so that no haproxy of somebody else is counted.
    with Lab(f"copy-{os.getpid()}") as lab:
        program = private_copy(haproxy, lab.directory())
        with Executions(program) as executions, make_testbed(program) as bed:
            for listeners, runs in scale.runtime_runs.items():
                balancer = Balancer.of(listeners, scale.runtime_members, monitored=True)
                rows += _compare(bed, executions, balancer, runs)
    smallest = {row["what"]: row["change_ms"] for row in reversed(rows)}
    for row in rows:
        row["growth"] = row["change_ms"] / smallest[row["what"]]
    rows.sort(key=lambda row: [kind.what for kind in _KINDS].index(row["what"]))
    return Section(
        "runtime",
        "Change of members and certificates (medians of wall time)",
        _COLUMNS,
        tuple(rows),
        notes=(
            "plain way: haproxy -c + a bare reload by the master socket; same run, by turns",
            "PUT: of the configuration or the certificate; PUT + PUT: with the reload",
            "new processes: haproxy's, workers and checks, of one change (mean)",
            f"{scale.runtime_members} members with health checks each; the first listener is"
            " TERMINATED_HTTPS",
        ),
    )


def _compare(
    bed: Testbed, executions: Executions, balancer: Balancer, runs: int
) -> list[dict[str, Any]]:
    sites = _sites()
    samples: dict[str, dict[str, list[float]]] = {kind.what: {} for kind in _KINDS}
    state = _State(balancer, None, 1, sites[0])
    with bed.bare_haproxy() as bare:
        sides: list[_Side] = [_Plain(bed, bare), _Agent(bed, balancer.id)]
        for side in sides:
            side.begin(state)
        for run in range(runs):
            for kind in _KINDS:
                state = kind.become(state, run, sites[1 - run % 2])
                sides.reverse()  # neither always comes after the other
                for side in sides:
                    before = _reloads(side)
                    executions.since()
                    found: dict[str, float] = dict(kind.tell(side, state))
                    name = "processes" if isinstance(side, _Agent) else "plain_processes"
                    found[name] = _new_processes(side, before, executions)
                    if not kind.holds(side, state, run):
                        raise RuntimeError(f"{kind.what}: haproxy has not taken it up")
                    for key, value in found.items():
                        samples[kind.what].setdefault(key, []).append(value)
    bed.controller.delete(balancer.id)
    return [_row(kind.what, balancer, runs, samples[kind.what]) for kind in _KINDS]


def _row(
    what: str, balancer: Balancer, runs: int, samples: dict[str, list[float]]
) -> dict[str, Any]:
    counted = {
        name: sum(values) / len(values)
        for name, values in samples.items()
        if name.endswith("processes")
    }
    in_ms = {
        name: [milliseconds(seconds) for seconds in values]
        for name, values in samples.items()
        if name not in counted
    }
    return {
        "what": what,
        "listeners": len(balancer.listeners),
        "runs": runs,
        **counted,
        **{f"{name}_ms": median(values) for name, values in in_ms.items()},
        "slowest_ms": max(in_ms["change"]),
        "ratio": median(in_ms["change"]) / median(in_ms["plain"]),
        "samples_ms": in_ms,
    }


def _reloads(side: _Side) -> int:
    return replies.read_workers(side.ask("show proc")).reloads


def _new_processes(side: _Side, reloads_before: int, executions: Executions) -> int:
    """Since `executions` was last asked. A master that executes itself anew is no new process."""
    shown = side.ask("show proc")
    master = next(int(line.split()[0]) for line in shown.splitlines() if " master " in line)
    executed = sum(pid != master for pid in executions.since())
    return executed + replies.read_workers(shown).reloads - reloads_before


def _servers(side: _Side, state: _State) -> dict[str, tuple[int, int]]:
    """Administrative state and weight, by name."""
    rows = [row.split() for row in side.ask(f"@1 show servers state {state.backend}").splitlines()]
    return {row[3]: (int(row[6]), int(row[7])) for row in rows if len(row) > 7 and row[0].isdigit()}


def _is_added(side: _Side, state: _State, run: int) -> bool:
    return state.member(run).id in _servers(side, state)


def _has_weight(side: _Side, state: _State, run: int) -> bool:
    pool = state.balancer.listeners[-1].pool
    assert pool is not None
    return _servers(side, state)[pool.members[0].id][1] == state.weight


def _is_removed(side: _Side, state: _State, run: int) -> bool:
    """It is not there any more, or only in maintenance until it can go."""
    found = _servers(side, state).get(state.member(run).id)
    return found is None or found[0] & 0x01 != 0


def _is_served(side: _Side, state: _State, run: int) -> bool:
    answer = get(side.namespace, VIP, state.encrypted.port, tls=Tls())
    return answer.peer is not None and answer.peer.serial == state.site.serial


_KINDS = (
    _Kind(
        "member added",
        lambda state, run, site: replace(state, added=run),
        lambda side, state: side.change_text(state),
        _is_added,
    ),
    _Kind(
        "member re-weighted",
        lambda state, run, site: replace(state, weight=2 + run % _WEIGHTS),
        lambda side, state: side.change_text(state),
        _has_weight,
    ),
    _Kind(
        "member removed",
        lambda state, run, site: replace(state, added=None),
        lambda side, state: side.change_text(state),
        _is_removed,
    ),
    _Kind(
        "certificate replaced",
        lambda state, run, site: replace(state, site=site),
        lambda side, state: side.change_certificate(state),
        _is_served,
    ),
)


def _sites() -> tuple[Credentials, Credentials]:
    authority = Authority.create("authority of the site", key="ec")
    return authority.issue("site", key="ec"), authority.issue("site", key="ec")
