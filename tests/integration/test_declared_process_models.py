"""One haproxy for all listeners, or one for each: chosen for the amphora or for a load balancer,
and changed while traffic flows."""

import os
import pwd
from collections.abc import Iterator

import pytest

from lab.backend import Backend
from lab.load import Load
from lab.waiting import until
from tests.integration.amphora import Amphora
from tests.integration.declared import VIP, DeclaredBalancer, listener


@pytest.fixture
def balancer(amphora: Amphora, webs: dict[str, Backend]) -> Iterator[DeclaredBalancer]:
    """With two listeners that share a pool."""
    made = DeclaredBalancer(amphora)
    made.body["listeners"].append(listener(f"{made.id}-b", made.port + 500))
    made.push()
    yield made
    made.delete()
    assert not list(amphora.agent.base_path.glob(f"{made.id}*"))


def names(balancer: DeclaredBalancer) -> set[str]:
    """The instances of haproxy."""
    listed = balancer.amphora.api.instances()
    return {each["id"] for each in listed if each["state"] == "ACTIVE"}


def models(balancer: DeclaredBalancer) -> tuple[set[str], set[str]]:
    """The instances in both models."""
    return {balancer.id}, {f"{balancer.id}-a", f"{balancer.id}-b"}


def test_each_listener_has_a_process_and_files_of_its_own(balancer: DeclaredBalancer) -> None:
    one, each = models(balancer)
    assert names(balancer) == one
    done = balancer.push("?process_model=listener")
    assert done["process_model"] == "listener"
    assert {(plan["id"], plan["step"]) for plan in done["processes"]} == {
        *((name, "start") for name in each),
        (balancer.id, "stop"),
    }
    assert names(balancer) == each
    for name in each:
        current = balancer.amphora.agent.base_path / name / "current"
        assert {path.name for path in current.glob("*.cfg")} == {
            "haproxy.cfg",
            f"listener-{name}.cfg",
            "pool-pool.cfg",
        }
        assert balancer.worker(name)
    assert balancer.served_by() == {"web1", "web2"}


@pytest.mark.parametrize("process_model", ["loadbalancer", "listener"])
def test_b3_no_worker_is_root(balancer: DeclaredBalancer, process_model: str) -> None:
    balancer.push(f"?process_model={process_model}")
    for name in names(balancer):
        user = os.stat(f"/proc/{balancer.worker(name)}").st_uid
        assert pwd.getpwuid(user).pw_name == "nobody"


def test_what_was_chosen_is_remembered(balancer: DeclaredBalancer) -> None:
    balancer.push("?process_model=listener")
    assert balancer.push()["step"] == "nothing"
    balancer.body["pools"][0]["members"].pop()
    done = balancer.push()
    assert (done["process_model"], done["step"]) == ("listener", "runtime")
    assert len(done["processes"]) == 2


def test_a_listener_comes_and_goes_and_its_neighbours_do_not_notice(
    balancer: DeclaredBalancer,
) -> None:
    balancer.push("?process_model=listener")
    workers = [balancer.worker(name) for name in sorted(models(balancer)[1])]
    balancer.body["listeners"].append(listener(f"{balancer.id}-c", balancer.port + 600))
    done = balancer.push()
    steps = {plan["id"]: plan["step"] for plan in done["processes"]}
    assert steps[f"{balancer.id}-c"] == "start"
    assert {steps[name] for name in models(balancer)[1]} == {"nothing"}
    balancer.body["listeners"].pop()
    balancer.push()
    assert names(balancer) == models(balancer)[1]
    assert [balancer.worker(name) for name in sorted(models(balancer)[1])] == workers


@pytest.mark.parametrize("keep_alive", [False, True])
def test_a_change_of_model_loses_no_request(balancer: DeclaredBalancer, keep_alive: bool) -> None:
    def load(port: int) -> Load:
        return Load(lambda: balancer.client(port, keep_alive=keep_alive), clients=4)

    with load(balancer.port) as first, load(balancer.port + 500) as second:
        for model in ("listener", "loadbalancer", "listener", "loadbalancer"):
            for each in (first, second):
                each.wait_for(50)
            balancer.push(f"?process_model={model}")
        for each in (first, second):
            each.wait_for(50)
    assert (first.result.failed, second.result.failed) == (0, 0), (first.result, second.result)
    one, _ = models(balancer)
    assert names(balancer) == one
    until(lambda: len(balancer.processes()) == 2, "the processes from before are gone")


def test_one_that_cannot_change_stays_as_it_is(balancer: DeclaredBalancer) -> None:
    taken = listener(f"{balancer.id}-c", 8902)

    with Backend(balancer.amphora.namespace, "somebody", [f"{VIP}:8902"]):
        balancer.body["listeners"].append(taken)
        assert balancer.put("?process_model=listener").status == 500
    assert names(balancer) == models(balancer)[0]
    assert balancer.served_by() == {"web1", "web2"}
    assert balancer.get().json()["listeners"] == balancer.body["listeners"][:-1]


def test_heartbeats_tell_a_pool_of_several_processes_once(balancer: DeclaredBalancer) -> None:
    balancer.push("?process_model=listener")
    both = models(balancer)[1]
    beat = balancer.amphora.heartbeats.wait_for(lambda beat: set(beat.listeners) == both)
    assert len(beat.pools) == 1


def test_statuses_are_of_all_processes(balancer: DeclaredBalancer) -> None:
    balancer.push("?process_model=listener")
    status = balancer.get("/status").json()
    assert [each["operating_status"] for each in status["listeners"]] == ["ONLINE", "ONLINE"]
    members = status["pools"][0]["members"]
    assert {each["operating_status"] for each in members} == {"NO_MONITOR"}
