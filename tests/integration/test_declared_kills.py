"""A kill of the agent at any moment of a PUT leaves the load balancer as it was or as it is wanted,
and the next PUT makes it so; traffic does not notice."""

import contextlib
import threading

import pytest

from lab.backend import Backend
from lab.http import FAILURES
from lab.waiting import until
from tests.integration.amphora import Amphora
from tests.integration.declared import DeclaredBalancer, listener
from tests.integration.history import run


@pytest.mark.parametrize("change", ["member", "listener", "model"])
def test_a_kill_leaves_the_old_or_the_new(
    own_amphora: Amphora, webs: dict[str, Backend], change: str
) -> None:
    balancer = DeclaredBalancer(own_amphora)
    balancer.push()
    with balancer.load(clients=1) as load:
        for milliseconds in (2, 8, 15, 25, 40, 70, 120):
            load.wait_for(5)
            before = balancer.get().json()
            query = ""
            if change == "member":
                balancer.body["pools"][0]["members"][0]["weight"] = milliseconds
            elif change == "listener":
                name = f"{balancer.id}-{milliseconds}"
                balancer.body["listeners"].append(listener(name, balancer.port + milliseconds))
            else:
                balancer.body["name"] = f"{milliseconds}"
                query = f"?process_model={'listener' if milliseconds % 2 else 'loadbalancer'}"
            putting = threading.Thread(target=_put, args=(balancer, query))
            putting.start()
            threading.Event().wait(milliseconds / 1000)  # which moment it is does not matter
            own_amphora.agent.kill()
            putting.join()
            own_amphora.agent.start()
            found = balancer.get().json()
            assert found in (before, balancer.body)
            balancer.push(query)
            assert balancer.get().json() == balancer.body
            assert balancer.push()["step"] == "nothing"
            with balancer.client(balancer.body["listeners"][-1]["protocol_port"]) as client:
                assert client.get("/").status == 200
    assert load.result.failed == 0, load.result
    own_amphora.agent.restart()  # it tidies up when it begins
    directory = own_amphora.agent.base_path / balancer.id
    assert not list(directory.rglob(".stage-*"))
    assert not list(directory.glob("*.edited"))
    balancer.delete()
    until(lambda: not balancer.processes(), "its processes have ended")


def _put(balancer: DeclaredBalancer, query: str) -> None:
    with contextlib.suppress(*FAILURES):
        balancer.put(query)


def test_a_rollback_by_an_operator(own_amphora: Amphora, webs: dict[str, Backend]) -> None:
    balancer = DeclaredBalancer(own_amphora)
    balancer.push()
    first = balancer.get()
    balancer.body["pools"][0]["members"].pop()
    balancer.push()
    assert balancer.served_by() == {"web1"}
    done = run(own_amphora, "rollback", balancer.id)
    assert "now generation 3" in done.stdout, done
    assert balancer.get().body == first.body
    assert balancer.get().headers["etag"] == first.headers["etag"]
    assert balancer.served_by() == {"web1", "web2"}
    assert own_amphora.api.changes(balancer.id)[0]["operation"] == "rollback"
    balancer.delete()
