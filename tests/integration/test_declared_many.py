"""A load balancer with more listeners than haproxy could name files: what is put serves, is
changed, reloaded and gone back from. `make scale` does the same with LISTENERS=5000."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import psutil
import pytest

from amphora_agent.paths import PARTS
from lab.backend import Backend
from lab.http import Client
from lab.load import Load
from tests.builders.bodies import Body
from tests.integration.amphora import WEB_PORTS, Amphora
from tests.integration.declared import VIP, DeclaredBalancer, have_vip, listener, member, pool
from tests.integration.history import run

LISTENERS = int(os.environ.get("LISTENERS", "700"))
MEMBERS = 10
FIRST = 20000
#: What one word in the environment of a process may have.
MOST_BYTES = 1 << 17


def web_pool(number: int) -> Body:
    """Half of its members are of each web server."""
    members = [
        member(WEB_PORTS[each % 2], member_id=f"member-{number}-{each}") for each in range(MEMBERS)
    ]
    return pool(f"pool-{number:04}-0123456789abcdef0123456789abcdef", *members)


@dataclass
class Many:
    balancer: DeclaredBalancer
    figures: list[str] = field(default_factory=list)

    def timed(self, what: str, do: Callable[[], Any]) -> Any:
        """Do something, and write down how long it took and what memory there was in the end."""
        begun = time.monotonic()
        done = do()
        took = time.monotonic() - begun
        workers = self.balancer.processes()
        memory = [psutil.Process(each.pid).memory_info().rss >> 20 for each in workers]
        agents = self.balancer.amphora.agents()["api"]
        agent = psutil.Process(agents.pid).memory_info().rss >> 20
        self.figures.append(f"{what}: {took:.1f} s; haproxy {memory} MiB, API {agent} MiB")
        return done

    def serves(self, number: int) -> bool:
        with Client(self.balancer.amphora.namespace, VIP, FIRST + number) as client:
            return client.get("/").status == 200


@pytest.fixture(scope="module")
def amphora(boot: Callable[..., Amphora]) -> Iterator[Amphora]:
    """Without a controller: there is no heartbeat whose size would limit the listeners."""
    with ExitStack() as ending:
        yield boot(ending, controllers=[])


@pytest.fixture(scope="module")
def many(amphora: Amphora, webs: dict[str, Backend]) -> Iterator[Many]:
    amphora.patience = 600
    have_vip(amphora.namespace)
    balancer = DeclaredBalancer(amphora)
    balancer.body["pools"] = [web_pool(number) for number in range(LISTENERS)]
    balancer.body["listeners"] = [
        listener(
            f"listener-{number:04}-0123456789abcdef0123456789ab",
            FIRST + number,
            default_pool_id=balancer.body["pools"][number]["pool_id"],
        )
        for number in range(LISTENERS)
    ]
    made = Many(balancer)
    dry = made.timed("dry run", lambda: balancer.put("?dry_run=1"))
    assert (dry.status, dry.json()["step"]) == (200, "start")
    assert made.timed("declared", balancer.put).status == 201
    yield made
    balancer.delete()


def test_d2_every_listener_serves(many: Many) -> None:
    for number in range(0, LISTENERS, 97):
        assert many.serves(number)
    current = many.balancer.amphora.agent.base_path / many.balancer.id / "current"
    assert len(list(current.glob("listener-*.cfg"))) == LISTENERS
    assert len(list(current.glob("pool-*.cfg"))) == LISTENERS
    given = list((current / PARTS).iterdir())
    assert len(given) <= 257
    assert sum(len(f"{path};") for path in given) < MOST_BYTES


def test_d2_a_member_is_changed_while_it_runs(many: Many) -> None:
    balancer, before = many.balancer, many.balancer.worker()
    current = balancer.amphora.agent.base_path / balancer.id / "current"
    inodes = {path.name: path.stat().st_ino for path in (current / PARTS).iterdir()}
    its_pool = balancer.body["pools"][3]
    path = f"/pools/{its_pool['pool_id']}/members/{its_pool['members'][0]['member_id']}"
    done = many.timed("a weight", lambda: balancer.patch(path, {"weight": 7}))
    assert done.json()["step"] == "runtime"
    assert balancer.worker() == before
    now = {path.name: path.stat().st_ino for path in (current / PARTS).iterdir()}
    assert len([name for name in now if now[name] != inodes[name]]) == 1
    its_pool["members"][0]["weight"] = 7


def test_d2_a_reload_loses_no_request_and_can_be_gone_back_from(many: Many) -> None:
    balancer, before = many.balancer, many.balancer.worker()
    with Load(lambda: balancer.client(FIRST, keep_alive=False), clients=2) as load:
        balancer.body["listeners"][5]["timeout_client_data"] = 51_000
        dry = many.timed("dry run of a reload", lambda: balancer.put("?dry_run=1"))
        assert dry.json()["step"] == "reload"
        done = many.timed("a reload", balancer.put)
        assert (done.status, done.json()["step"]) == (200, "reload")
        after = balancer.worker()
        assert after != before
        back = many.timed("gone back", lambda: run(balancer.amphora, "rollback", balancer.id))
        assert back.returncode == 0, back.stderr
        load.wait_for(20)
    assert load.result.failed == 0, load.result
    assert balancer.worker() != after
    assert many.serves(LISTENERS - 1)


def test_d2_what_haproxy_refuses_names_the_object(many: Many) -> None:
    balancer = many.balancer
    taken = FIRST + LISTENERS + 1
    with Backend(balancer.amphora.namespace, "somebody", [f"{VIP}:{taken}"]):
        changed = [dict(each) for each in balancer.body["listeners"]]
        changed[7]["protocol_port"] = taken
        answer = balancer.put(body=balancer.body | {"listeners": changed})
    assert answer.status == 500
    assert PARTS not in answer.body.decode()
    assert many.serves(7)


def test_d2_figures(many: Many, tell: Callable[[str], None]) -> None:
    tell(f"{LISTENERS} listeners with {MEMBERS} members each")
    for figure in many.figures:
        tell(figure)
    assert many.figures
