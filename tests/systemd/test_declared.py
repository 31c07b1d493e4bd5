"""Load balancers of API 2.0 as systemd's units: put, changed under the eyes of clients, deleted."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from functools import partial

import pytest

from amphora_agent.client.v2 import AmphoraClient, DeclarativeClient
from lab.backend import Backend
from lab.heartbeats import HeartbeatReceiver
from lab.http import Client, get
from lab.listeners import loadbalancer
from lab.load import Load
from lab.network import Namespace
from lab.nspawn import Machine
from lab.waiting import until
from tests.systemd.conftest import HTTP, VIP, DeclaredBalancer


@pytest.fixture
def declared(
    machine: Machine, driver: DeclarativeClient, client: Namespace, webs: dict[str, Backend]
) -> Iterator[DeclaredBalancer]:
    """Put, with one haproxy for each listener, and serving."""
    made = DeclaredBalancer(machine, driver)
    made.put("listener")
    yield made
    if made.id in {row["loadbalancer_id"] for row in driver.loadbalancers()}:
        driver.delete(made.id)


def test_each_instance_is_a_unit_in_the_amphoras_namespace(
    declared: DeclaredBalancer,
    machine: Machine,
    client: Namespace,
    heartbeats: HeartbeatReceiver,
) -> None:
    for instance in declared.instances("listener"):
        unit = declared.properties(instance)
        assert (unit["ActiveState"], unit["UnitFileState"]) == ("active", "enabled")
        assert machine.output("ip", "netns", "identify", unit["MainPID"]) == "amphora-haproxy"
    assert get(client, VIP, declared.http_port).status == 200
    assert get(client, VIP, declared.tcp_port).status == 200
    heartbeats.drain()
    heartbeats.wait_for(lambda beat: {declared.http, declared.tcp} <= beat.listeners.keys())


def test_a_change_that_needs_no_other_process_keeps_the_units(
    declared: DeclaredBalancer, client: Namespace
) -> None:
    before = [declared.properties(instance)["MainPID"] for instance in declared.units()]
    steps = {
        plan["id"]: plan["step"] for plan in declared.put(timeout_client_data=9000)["processes"]
    }
    assert steps == dict.fromkeys(declared.instances("listener"), "reload")
    assert [declared.properties(instance)["MainPID"] for instance in declared.units()] == before
    assert get(client, VIP, declared.http_port).status == 200


def test_a_change_of_the_process_model_and_back_loses_nobody(
    declared: DeclaredBalancer, client: Namespace, machine: Machine, webs: dict[str, Backend]
) -> None:
    """A process that has connections serves them to their end, also when another takes its name."""
    served = sum(web.requests for web in webs.values())
    model, asked = "listener", 0
    with ExitStack() as held:
        old: dict[str, Client] = {}
        for other in ("loadbalancer", "listener"):
            visitor = held.enter_context(Client(client, VIP, declared.tcp_port))
            assert visitor.get().status == 200
            (instance,) = declared.instances(model) & {declared.id, declared.tcp}
            old[declared.properties(instance)["MainPID"]] = visitor
            asked += _loaded_change(declared, client, other)
            states = {name: declared.units().get(name) for name in declared.instances(other)}
            assert set(states.values()) == {"active"}
            model = other
        for process, visitor in old.items():
            assert _alive(machine, [process])
            assert visitor.get().status == 200
            assert visitor.reconnects == 0
            asked += 2
    until(lambda: not _alive(machine, old), "they have ended by themselves")
    until(lambda: declared.units().keys() == declared.instances(model), "its unit is gone")
    assert machine.output("systemctl", "list-units", "--failed", "--no-legend") == ""
    assert sum(web.requests for web in webs.values()) - served == asked
    assert declared.put()["step"] == "nothing"


def test_nothing_is_left_of_what_was_deleted(
    declared: DeclaredBalancer, client: Namespace, machine: Machine
) -> None:
    processes = [declared.properties(instance)["MainPID"] for instance in declared.units()]

    declared.driver.delete(declared.id)

    assert declared.units() == {}
    assert _alive(machine, processes) == []
    assert declared.left() == []
    with pytest.raises(ConnectionRefusedError):
        get(client, VIP, declared.http_port)


def test_d8_a_text_takes_its_place_and_it_that_of_the_text(
    declared: DeclaredBalancer, client: Namespace, machine: Machine, api: AmphoraClient
) -> None:
    """Units of other names, so that both run for a moment."""
    declared.put("loadbalancer")
    text = loadbalancer(declared.id, vip=VIP, listeners=[HTTP])
    with Load(partial(Client, client, VIP, declared.http_port, keep_alive=False)) as load:
        for unit in (f"haproxy-{declared.id}.2.service", f"haproxy-{declared.id}.service"):
            load.wait_for(20)
            if unit.endswith(".2.service"):
                api.upload_haproxy(declared.id, text)
                api.reload(declared.id)
            else:
                assert declared.put("loadbalancer")["step"] == "replace"
            load.wait_for(20)
            listed = machine.output(
                "systemctl", "list-units", "--plain", "--no-legend", f"haproxy-{declared.id}*"
            )
            assert [row.split()[0] for row in listed.splitlines()] == [unit]
    assert (load.result.failed, load.result.total.answered >= 80) == (0, True), load.result
    assert machine.output("systemctl", "list-units", "--failed", "--no-legend") == ""


def _alive(machine: Machine, processes: Iterable[str]) -> list[str]:
    return [process for process in processes if machine.path(f"/proc/{process}").exists()]


def _loaded_change(declared: DeclaredBalancer, client: Namespace, process_model: str) -> int:
    """Change it while there are requests, on new connections and on kept ones, and see that none
    fails. How many there were."""
    with ExitStack() as ending:
        loads = [
            ending.enter_context(Load(partial(Client, client, VIP, port, keep_alive=kept)))
            for port in (declared.http_port, declared.tcp_port)
            for kept in (False, True)
        ]
        for load in loads:
            load.wait_for(10)
        declared.put(process_model)
        for load in loads:
            load.wait_for(10)
    assert [load.result.failed for load in loads] == [0] * len(loads), [*map(str, loads)]
    return sum(load.result.total.answered for load in loads)
