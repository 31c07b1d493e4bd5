"""A load balancer moves between an uploaded text (API 1.0) and a declared one (2.0) under its id,
in both directions: traffic, members and heartbeats do not notice, and a dry run says how."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lab.backend import Backend
from lab.http import FAILURES
from lab.listeners import TIMEOUT_CLIENT, HealthMonitor, Listener, Member, Pool, loadbalancer
from lab.load import Load
from lab.processes import Process
from lab.waiting import until
from tests.builders.bodies import Body
from tests.integration.amphora import VIP as WEB
from tests.integration.amphora import WEB_PORTS, Amphora
from tests.integration.declared import VIP, DeclaredBalancer, listener, member, monitor, pool
from tests.integration.history import run

#: Where no member listens.
DEAD_PORT = 8099
#: Requests between two moves.
BETWEEN = 60


@pytest.fixture(scope="module")
def amphora(boot: Callable[..., Amphora], program: Path) -> Iterator[Amphora]:
    """With haproxy of each version."""
    with ExitStack() as ending:
        yield boot(ending, settings={"haproxy_amphora": {"haproxy_cmd": str(program)}})


@dataclass
class Movable:
    """A load balancer whose text and whose model have the same listener, pool and members, one of
    whom is dead."""

    declared: DeclaredBalancer
    more: list[int] = field(default_factory=list)
    version: int = 0

    @property
    def id(self) -> str:
        return self.declared.id

    @property
    def amphora(self) -> Amphora:
        return self.declared.amphora

    def __post_init__(self) -> None:
        body = self.declared.body
        body["pools"] = [
            pool("pool", *map(member, (*WEB_PORTS, DEAD_PORT)), healthmonitor=monitor())
        ]

    def text(self) -> str:
        """Each one differs from the one before in a way that takes a reload."""
        self.version += 1
        members = [Member(f"member-{port}", WEB, port) for port in (*WEB_PORTS, DEAD_PORT)]
        shared = Pool("pool", tuple(members), HealthMonitor(fall=1, rise=1))
        ports = {f"{self.id}-a": self.declared.port, **{f"{self.id}-{p}": p for p in self.more}}
        return loadbalancer(
            self.id,
            vip=VIP,
            listeners=[Listener(name, port, shared) for name, port in ports.items()],
            base_path=str(self.amphora.agent.base_path),
            timeout_client=TIMEOUT_CLIENT + self.version,
        )

    def to_text(self) -> None:
        """As the controller does it."""
        self.amphora.api.upload_haproxy(self.id, self.text())
        self.amphora.api.reload(self.id)

    def to_declared(self, query: str = "") -> Body:
        """What was done, which is what a dry run has said."""
        mark = "&" if query else "?"
        foreseen = self.declared.push(f"{query}{mark}dry_run=1")
        done = self.declared.push(query)
        assert foreseen["processes"] == done["processes"]
        return done

    def load(self, *, keep_alive: bool = False) -> Load:
        client = self.declared.client
        return Load(lambda: client(keep_alive=keep_alive), clients=4)

    def masters(self) -> list[Process]:
        """Those of this load balancer, also of its listeners, that do not end by and by."""
        found = self.amphora.haproxies()
        ours = [each for each in found if any(self.id in word for word in each.arguments)]
        pids = {process.pid for process in ours}
        return [process for process in ours if process.parent not in pids]

    def await_checks(self) -> None:
        """Members of load balancers before this one have the same names."""
        listener = f"{self.id}-a"
        self.amphora.heartbeats.wait_for(
            lambda beat: listener in beat.listeners and beat.members == STATES
        )


STATES = {
    **{f"member-{port}": "UP" for port in WEB_PORTS},
    f"member-{DEAD_PORT}": "DOWN",
}


@pytest.fixture
def movable(amphora: Amphora, webs: dict[str, Backend]) -> Iterator[Movable]:
    yield from made(amphora)


def made(amphora: Amphora) -> Iterator[Movable]:
    movable = Movable(DeclaredBalancer(amphora))
    movable.to_text()
    movable.await_checks()
    yield movable
    amphora.api.delete(movable.id)
    assert not list(amphora.agent.base_path.glob(f"*{movable.id}*"))
    assert not list(amphora.agent.run_path.glob(f"*{movable.id}*.master"))
    until(lambda: not movable.masters(), "all haproxies have ended")


@pytest.mark.parametrize("keep_alive", [False, True])
@pytest.mark.parametrize("model", ["loadbalancer", "listener"])
def test_d8_moving_loses_no_request(movable: Movable, keep_alive: bool, model: str) -> None:
    query = f"?process_model={model}"
    with movable.load(keep_alive=keep_alive) as load:
        for _ in range(3):
            load.wait_for(BETWEEN)
            movable.to_declared(query)
            load.wait_for(BETWEEN)
            assert movable.declared.get().status == 200
            movable.to_text()
        load.wait_for(BETWEEN)
    assert (load.result.failed, load.result.total.answered >= 7 * BETWEEN) == (0, True), load.result
    assert movable.declared.get().status == 404
    until(lambda: len(movable.masters()) == 1, "the haproxies from before have ended")


def test_d8_the_dry_run_says_what_will_happen(movable: Movable) -> None:
    foreseen = movable.declared.push("?dry_run=1")
    assert foreseen["step"] == "replace"
    (plan,) = foreseen["processes"]
    assert plan["id"] == movable.id
    assert plan["reasons"] == [
        "haproxy runs with an uploaded text: this one starts beside it and takes its place, and no"
        " request is lost"
    ]
    each = movable.declared.push("?dry_run=1&process_model=listener")
    assert {(plan["id"], plan["step"]) for plan in each["processes"]} == {
        (f"{movable.id}-a", "start"),
        (movable.id, "stop"),
    }
    assert movable.declared.get().status == 404  # nothing has happened
    assert movable.to_declared()["step"] == "replace"
    assert movable.declared.push("?dry_run=1")["step"] == "nothing"


def test_d8_members_keep_their_states(movable: Movable) -> None:
    """What serves just now is what served before: no request goes to a member that is down, and
    none that is up has to pass a check first."""
    for _ in range(2):
        movable.to_declared()
        assert statuses(movable.declared) == STATES
        movable.to_text()
        assert statuses(movable.declared) == STATES


def statuses(balancer: DeclaredBalancer) -> dict[str, str]:
    """The states of members, as the haproxy that serves tells them, of whichever kind it is."""
    path = balancer.amphora.agent.base_path / f"{balancer.id}.sock"
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(b"show stat -1 4 -1\n")
        header, *rows = b"".join(iter(lambda: connection.recv(65536), b"")).decode().split("\n")
    names = header.removeprefix("# ").split(",")
    found = [dict(zip(names, row.split(","), strict=False)) for row in rows if row]
    return {row["svname"]: row["status"].partition(" ")[0] for row in found}


def test_d8_heartbeats_tell_every_connection_once(movable: Movable) -> None:
    name, told = f"{movable.id}-a", 0
    movable.amphora.heartbeats.drain()

    def count(connections: int) -> bool:
        nonlocal told
        beat = movable.amphora.heartbeats.next()
        assert beat.listeners[name]["status"] == "OPEN"
        assert beat.members == STATES
        told += int(beat.listeners[name]["stats"]["totconns"])
        return told >= connections

    with movable.declared.client(keep_alive=False) as client:
        for number in itertools.count(1):
            # Not told yet when it moves.
            for _ in range(7):
                assert client.get("/").status == 200
            (movable.to_declared if number % 2 else movable.to_text)()
            if number == 4:
                break
    until(lambda: count(28), "all connections are told")
    for _ in range(3):
        count(28)
    assert told == 28


def test_d8_what_was_uploaded_waits_for_its_reload(movable: Movable) -> None:
    """Until then what was declared is there, and serves."""
    movable.to_declared()
    text = movable.text()
    movable.amphora.api.upload_haproxy(movable.id, text)
    assert movable.amphora.api.haproxy(movable.id) == text.encode()
    assert movable.declared.get().status == 200
    movable.amphora.agent.restart()
    movable.await_checks()
    assert movable.declared.get().status == 200
    # Whoever speaks last counts.
    assert movable.declared.push()["step"] == "nothing"
    movable.amphora.api.reload(movable.id)
    assert movable.declared.get().status == 200
    movable.to_text()
    assert movable.amphora.api.haproxy(movable.id) != text.encode()


@pytest.mark.parametrize("direction", ["to declared", "to text"])
def test_d8_a_move_that_fails_changes_nothing(movable: Movable, direction: str) -> None:
    port = movable.declared.port + 700
    if direction == "to text":
        old = {*movable.masters()}
        movable.to_declared()
        until(lambda: not old & {*movable.masters()}, "what served before has ended")
    movable.more.append(port)
    movable.declared.body["listeners"].append(listener(f"{movable.id}-{port}", port))
    masters = movable.masters()
    with Backend(movable.amphora.namespace, "somebody", [f"{VIP}:{port}"]), movable.load() as load:
        load.wait_for(BETWEEN)
        if direction == "to text":
            movable.amphora.api.upload_haproxy(movable.id, movable.text())
            assert (
                movable.amphora.request("PUT", f"/1.0/loadbalancer/{movable.id}/reload").status
                == 500
            )
        else:
            assert movable.declared.put().status == 500
        load.wait_for(BETWEEN)
    assert load.result.failed == 0, load.result
    assert movable.declared.get().status == (200 if direction == "to text" else 404)
    assert movable.masters() == masters
    assert statuses(movable.declared) == STATES
    movable.await_checks()


@pytest.mark.parametrize("model", ["loadbalancer", "listener"])
def test_d8_a_kill_leaves_the_old_or_the_new(
    own_amphora: Amphora, webs: dict[str, Backend], model: str
) -> None:
    (movable,) = itertools.islice(making := made(own_amphora), 1)
    moves = itertools.cycle(
        [lambda: movable.to_declared(f"?process_model={model}"), movable.to_text]
    )
    with movable.load() as load:
        for milliseconds in (10, 10, 80, 80, 200, 200):
            load.wait_for(10)
            move = next(moves)

            def interrupted(move: Callable[[], Any] = move) -> None:
                with contextlib.suppress(*FAILURES, Exception):
                    move()

            moving = threading.Thread(target=interrupted)
            moving.start()
            threading.Event().wait(milliseconds / 1000)  # which moment it is does not matter
            own_amphora.agent.kill()
            moving.join()
            own_amphora.agent.start()
            load.wait_for(10)
            move()
    assert load.result.failed == 0, load.result
    until(lambda: len(movable.masters()) == 1, "the haproxies from before have ended")
    movable.await_checks()
    next(making, None)


def test_d8_what_an_older_agent_left_is_taken_over(
    own_amphora: Amphora, webs: dict[str, Backend]
) -> None:
    """Its last good files and generations were directories, with no revisions."""
    (movable,) = itertools.islice(making := made(own_amphora), 1)
    directory = own_amphora.agent.base_path / movable.id
    own_amphora.agent.stop()
    shutil.rmtree(directory / "revisions")
    for kept in (directory / "last-good", directory / "generations" / "1"):
        kept.mkdir(parents=True, exist_ok=True)
        for name in ("haproxy.cfg", "agent.cfg"):
            (kept / name).hardlink_to(directory / name)
    with movable.load() as load:
        own_amphora.agent.start()
        load.wait_for(BETWEEN)
        assert movable.to_declared()["step"] == "replace"
        assert statuses(movable.declared) == STATES
        load.wait_for(BETWEEN)
        movable.to_text()
        load.wait_for(BETWEEN)
    assert (load.result.failed, load.result.total.answered >= 3 * BETWEEN) == (0, True), load.result
    next(making, None)


def test_d8_an_operator_sees_it(movable: Movable) -> None:
    movable.to_declared()
    assert "replace" in run(movable.amphora, "history", movable.id).stdout
    found = [each for each in movable.amphora.api.instances() if each["id"] == movable.id]
    assert [each["state"] for each in found] == ["ACTIVE"]
