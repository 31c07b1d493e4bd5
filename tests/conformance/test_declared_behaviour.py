"""A load balancer does the same whether it came as the controller's text or as a model by API 2.0.

Both are made of the same objects of the controller's database: one by the controller's templates,
one by the controller's own conversion for provider drivers. Every feature of docs/features.md has a
row of requests with the answers that are expected of both.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from controller import loadbalancers, settings, texts
from controller.amphora import (
    SECOND_VIP,
    SECOND_VIP_SUBNET,
    VIP,
    VIP_SUBNET,
    VIP_SUBNET_V6,
    VIP_V6,
    Amphora,
)
from controller.database import Database
from controller.features import PLAIN, ROWS, Cases, Differs, Site, row_id
from controller.health_manager import HealthManager
from controller.release import HAS_ADDITIONAL_VIPS
from controller.visits import Eventually, Visit
from controller.worker import Worker
from octavia.common import constants

from lab.agent import AgentProcess
from lab.http import Client
from lab.network import Bridge, Lab, Namespace
from lab.pki import AmphoraPki, Authority
from lab.waiting import until

utils = pytest.importorskip("octavia.api.drivers.utils", exc_type=ImportError)
pytestmark = pytest.mark.api_1_0("has no load balancers")

WAYS = ("text", "model")
#: Seconds for what happens sooner or later: some checks are a second apart.
PATIENCE = 15
FEATURES = Path(__file__).parents[2] / "docs/features.md"
#: Features that need a kernel with IP_VS; tests/vm and test_lvs_text.py are about them.
OF_KEEPALIVED = {
    "listener-udp",
    "listener-sctp",
    "monitor-udp",
    "monitor-sctp",
    "monitor-layer4-http",
}


@dataclass
class Table:
    """A load balancer with everything in it, and what is expected of each row."""

    amphora: Amphora
    health: HealthManager
    site: Site
    client: Namespace
    cases: dict[str, list[tuple[Visit, str | Differs]]] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)
    """Rows that this release of the controller cannot have, and why."""
    statuses: dict[str, dict[str, str]] = field(default_factory=dict)
    """What the controller has concluded of each object, by the way it came."""

    def add(self, row: Callable[[Site], Cases]) -> None:
        balancer = self.site.balancer
        listeners, pools = len(balancer.listeners), len(balancer.pools)
        try:
            self.cases[row_id(row)] = list(row(self.site))
        except pytest.skip.Exception as reason:
            self.unknown[row_id(row)] = str(reason)
            del balancer.listeners[listeners:], balancer.pools[pools:]

    def push(self, way: str) -> None:
        self.site.begin_again()
        if way == "text":
            self.amphora.worker.deploy(self.site.balancer)
        else:
            self.request("PUT", json.dumps(as_a_driver_has_it(self.site.balancer)).encode())

    def remove(self, way: str) -> None:
        balancer = self.site.balancer
        if way == "text":
            self.amphora.worker.client_of(self.amphora.model).delete_listener(
                self.amphora.model, balancer.id
            )
        else:
            self.request("DELETE")

    def told(self) -> dict[str, str]:
        """The status that API 2.0 tells of each object, by its id."""
        told = self.request("GET", path="/status")
        parts = [(told, "loadbalancer_id")]
        parts += [(each, "listener_id") for each in told["listeners"]]
        parts += [(each, "pool_id") for each in told["pools"]]
        parts += [(each, "member_id") for pool in told["pools"] for each in pool["members"]]
        return {each[name]: each["operating_status"] for each, name in parts}

    def request(self, method: str, body: bytes | None = None, path: str = "") -> Any:
        """One to API 2.0 about the load balancer."""
        agent = self.amphora.agent
        here = Namespace(None)
        target = f"/2.0/loadbalancers/{self.site.balancer.id}{path}"
        with Client(here, agent.address, agent.port, tls=agent.tls, timeout=60) as client:
            answer = client.request(
                method, target, body=body, headers={"Content-Type": "application/json"}
            )
        assert answer.status in (200, 201, 204), answer.text
        return answer.json() if answer.body else None


def as_a_driver_has_it(balancer: Any) -> dict[str, Any]:
    """The controller's own conversion, of one listener after the other: it takes time by the square
    of how many there are."""
    every_listener, every_pool = balancer.listeners, balancer.pools
    listeners, pools = [], {}
    try:
        for listener in every_listener:
            balancer.listeners, balancer.pools = [listener], listener.pools
            provided = utils.db_loadbalancer_to_provider_loadbalancer(balancer)
            body = json.loads(json.dumps(provided.to_dict(recurse=True), default=bytes.decode))
            listeners += body["listeners"]
            pools |= {pool["pool_id"]: pool for pool in body.get("pools") or ()}
    finally:
        balancer.listeners, balancer.pools = every_listener, every_pool
    return {**body, "listeners": listeners, "pools": list(pools.values())}


@pytest.fixture(scope="module")
def table(
    lab: Lab,
    authorities: tuple[Authority, Authority],
    client: Namespace,
    servers: Namespace,
    vip_segment: Bridge,
    member_segment: Bridge,
    request: pytest.FixtureRequest,
) -> Iterator[Table]:
    with ExitStack() as ending:
        directory = lab.directory()
        ending.callback(shutil.rmtree, directory)
        server, controller = authorities
        pki = AmphoraPki.create(
            directory / "pki",
            loadbalancers.new_id(),
            server_authority=server,
            client_authority=controller,
        )
        agent = AgentProcess(directory, pki, namespace=f"{lab.prefix}-amphora", record=lab.record)
        ending.callback(agent.close)
        patch = ending.enter_context(pytest.MonkeyPatch.context())
        database = Database()
        database.install(patch)
        ending.enter_context(settings.in_force(agent))
        health = HealthManager(database)
        ending.callback(health.close)
        worker = Worker(database)
        ending.callback(worker.close)
        agent.config_file.write_text(
            settings.agent_configuration(agent.amphora_id, heartbeats_to=[health.address])
        )
        agent.start()
        for outer in (directory, *directory.parents):
            # haproxy's user must get at the program for PING monitors.
            outer.chmod(outer.stat().st_mode | 0o011)
        model = loadbalancers.amphora(agent.amphora_id)
        _put_ping_wrapper_where_it_is(worker, agent, patch)
        amphora = Amphora(lab, agent, worker, model, vip_segment, member_segment)
        # The next amphora has the same addresses and other network cards.
        ending.callback(client.ip, "neigh", "flush", "all")
        ending.callback(amphora.unplug)
        also = [(SECOND_VIP, SECOND_VIP_SUBNET), (VIP_V6, VIP_SUBNET_V6)]
        balancer = amphora.serve(
            VIP, VIP_SUBNET, also=also if HAS_ADDITIONAL_VIPS else (), ipv6_members=True
        )
        made = Table(amphora, health, Site(balancer, servers, directory, ending), client)
        for row in ROWS:
            made.add(row)
        failed_before = request.session.testsfailed
        yield made
        if request.session.testsfailed > failed_before:
            print(f"--- the agent's log ---\n{agent.log[-20000:]}")


def _put_ping_wrapper_where_it_is(
    worker: Worker, agent: AgentProcess, patch: pytest.MonkeyPatch
) -> None:
    """The controller's templates know where it is in an amphora, and no other place."""

    def changed(upload: Callable[..., Any]) -> Callable[..., Any]:
        def here(amp: Any, loadbalancer_id: str, config: str, *more: Any, **options: Any) -> Any:
            config = config.replace(f"{texts.BASE_PATH}/ping-", f"{agent.base_path}/ping-")
            return upload(amp, loadbalancer_id, config, *more, **options)

        return here

    for client in (each for each in worker.clients() if hasattr(each, "upload_config")):
        patch.setattr(client, "upload_config", changed(client.upload_config))


@pytest.fixture(scope="module", params=WAYS)
def way(request: pytest.FixtureRequest, table: Table) -> Iterator[str]:
    """By which the load balancer came to the amphora; it serves meanwhile."""
    table.push(request.param)
    yield request.param
    table.remove(request.param)


@pytest.mark.parametrize("row", [row_id(row) for row in ROWS])
def test_requests_are_answered_as_expected(way: str, row: str, table: Table) -> None:
    if row in table.unknown:
        pytest.skip(table.unknown[row])
    wrong = []
    for visit, expected in table.cases[row]:
        if isinstance(expected, Differs):
            expected = getattr(expected, way)
        answer = _answer(visit, expected, table.client)
        if answer != expected:
            wrong.append(f"{visit}: {answer!r}, not {expected!r}")
    assert not wrong, "\n".join(wrong)


def _answer(visit: Visit, expected: str, client: Namespace) -> str:
    answer = visit(client)
    if isinstance(visit, Eventually):
        deadline = time.monotonic() + PATIENCE
        while answer != expected and time.monotonic() < deadline:
            time.sleep(0.05)
            answer = visit(client)
    return answer


def test_the_controller_concludes_the_same(way: str, table: Table) -> None:
    balancer = table.site.balancer
    pools = balancer.pools
    things = {
        **{f"{each.name} {each.protocol_port}": each for each in balancer.listeners},
        **{f"pool {number}": each for number, each in enumerate(pools)},
        **{
            f"member {place} of pool {number}": member
            for number, each in enumerate(pools)
            for place, member in enumerate(each.members)
        },
    }
    for thing in things.values():
        thing.operating_status = constants.OFFLINE
    table.health.complaints.clear()
    table.health.fresh()
    found = {name: thing.operating_status for name, thing in things.items()}
    table.statuses[way] = found
    if way == "text":
        # Of many members some are up, some are down, and of many nobody asked.
        assert {constants.ONLINE, constants.ERROR, constants.NO_MONITOR} <= set(found.values())
    elif "text" in table.statuses:
        before = table.statuses["text"]
        # A member that does not speak TLS, where TLS-HELLO asks for it.
        plain = {name for name, thing in things.items() if getattr(thing, "name", "") == PLAIN}
        assert {name for name, status in found.items() if status != before[name]} == plain
    if way == "model":
        concluded = {thing.id: thing.operating_status for thing in (balancer, *things.values())}
        assert table.told() == concluded


def test_a_load_balancer_that_is_down_accepts_nothing(way: str, table: Table) -> None:
    balancer = table.site.balancer
    balancer.enabled = False
    try:
        table.push(way)
        for listener in balancer.listeners:
            # What has served before ends by and by.
            until(partial(_refuses, table.client, listener.protocol_port), "nobody listens")
    finally:
        balancer.enabled = True


def _refuses(client: Namespace, port: int) -> bool:
    try:
        client.connect(VIP, port).close()
    except ConnectionRefusedError:
        return True
    return False


def test_every_feature_has_a_row() -> None:
    ids = {
        each
        for line in FEATURES.read_text().splitlines()
        if line.startswith("| `")
        for each in re.findall("`([a-z0-9-]+)`", line.split("|")[1])
    }
    assert ids - OF_KEEPALIVED == {row_id(row) for row in ROWS}
