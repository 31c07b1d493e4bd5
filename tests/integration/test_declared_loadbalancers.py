"""`PUT /2.0/loadbalancers/{id}` makes it so, and only what differs is touched."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.backend import Backend
from lab.waiting import until
from tests.integration.amphora import Amphora, differences
from tests.integration.declared import (
    VIP,
    DeclaredBalancer,
    have_vip,
    listener,
    member,
    monitor,
    new_id,
    pool,
)

#: Somebody else listens there.
TAKEN = 8900


@pytest.fixture
def taken(amphora: Amphora) -> Iterator[None]:
    have_vip(amphora.namespace)
    with Backend(amphora.namespace, "somebody", [f"{VIP}:{TAKEN}"]):
        yield


@pytest.fixture
def balancer(amphora: Amphora, webs: dict[str, Backend]) -> Iterator[DeclaredBalancer]:
    made = DeclaredBalancer(amphora)
    made.push()
    yield made
    made.delete()


def test_what_is_put_serves(amphora: Amphora, webs: dict[str, Backend]) -> None:
    balancer = DeclaredBalancer(amphora)
    answer = balancer.put()
    assert answer.status == 201, answer.json()
    assert answer.json()["step"] == "start"
    assert balancer.served_by() == {"web1", "web2"}
    assert balancer.delete().status == 204
    assert balancer.get().status == 404
    assert balancer.processes() == []
    assert not (amphora.agent.base_path / balancer.id).exists()


def test_what_is_so_already_is_not_touched(balancer: DeclaredBalancer) -> None:
    before, processes = balancer.amphora.files(), balancer.processes()
    done = balancer.push()
    assert (done["step"], done["processes"], done["created"]) == ("nothing", [], False)
    assert balancer.processes() == processes
    assert differences(before, balancer.amphora.files()) == set()


def test_a_file_for_each_listener_and_pool(balancer: DeclaredBalancer) -> None:
    balancer.body["listeners"].append(listener("second", balancer.port + 500))
    balancer.push()
    current = balancer.amphora.agent.base_path / balancer.id / "current"
    assert {path.name for path in current.glob("*.cfg")} == {
        "haproxy.cfg",
        f"listener-{balancer.id}-a.cfg",
        "listener-second.cfg",
        "pool-pool.cfg",
    }
    words = next(process.arguments for process in balancer.processes())
    assert words[words.index("-f") + 1] == f"{current}/haproxy.d/"


def test_a_member_changes_while_it_runs(balancer: DeclaredBalancer) -> None:
    worker = balancer.worker()
    balancer.body["pools"][0]["members"].pop()
    done = balancer.push()
    assert done["step"] == "runtime", done
    assert balancer.worker() == worker
    assert balancer.served_by() == {"web1"}


def test_a_listener_that_comes_takes_a_reload_and_no_request(balancer: DeclaredBalancer) -> None:
    worker = balancer.worker()
    balancer.body["listeners"].append(listener("second", balancer.port + 500))
    with balancer.load() as load:
        load.wait_for(20)
        done = balancer.push()
        load.wait_for(20)
    assert load.result.failed == 0, load.result
    assert done["step"] == "reload"
    assert done["processes"][0]["reasons"] == ["listener second added"]
    assert balancer.worker() != worker
    with balancer.client(balancer.port + 500) as client:
        assert client.get("/").status == 200


def test_files_that_are_as_before_are_links(balancer: DeclaredBalancer) -> None:
    current = balancer.amphora.agent.base_path / balancer.id / "current"
    before = (current / "pool-pool.cfg").stat().st_ino
    balancer.body["listeners"].append(listener("second", balancer.port + 500))
    balancer.push()
    assert (current / "pool-pool.cfg").stat().st_ino == before


def test_a_dry_run_tells_and_does_nothing(balancer: DeclaredBalancer) -> None:
    before, processes = balancer.amphora.files(), balancer.processes()
    balancer.body["pools"][0]["members"][0]["weight"] = 7
    done = balancer.push("?dry_run=1")
    assert (done["step"], done["dry_run"]) == ("runtime", True)
    assert any("weight" in word for word in done["processes"][0]["words"]), done
    balancer.body["listeners"][0]["timeout_client_data"] = 1234
    assert balancer.push("?dry_run=1")["step"] == "reload"
    assert balancer.processes() == processes
    assert differences(before, balancer.amphora.files()) == set()


def test_a_dry_run_of_a_new_one_leaves_nothing(amphora: Amphora) -> None:
    before = amphora.files()
    balancer = DeclaredBalancer(amphora)
    answer = balancer.put("?dry_run=1")
    assert (answer.status, answer.json()["step"]) == (200, "start")
    assert differences(before, amphora.files()) == set()
    assert balancer.get().status == 404


def test_it_is_given_back_as_it_was_put(balancer: DeclaredBalancer) -> None:
    answer = balancer.get()
    assert answer.status == 200
    assert answer.json() == balancer.body
    assert answer.headers["etag"] == balancer.put().headers["etag"]


def test_lists_have_it(balancer: DeclaredBalancer) -> None:
    listed = balancer.amphora.request("GET", "/2.0/loadbalancers").json()["loadbalancers"]
    (found,) = [each for each in listed if each["loadbalancer_id"] == balancer.id]
    assert (found["listeners"], found["pools"], found["process_model"]) == (1, 1, "loadbalancer")


def test_conditions(balancer: DeclaredBalancer) -> None:
    etag = balancer.get().headers["etag"]
    assert balancer.put(headers={"If-None-Match": "*"}).status == 412
    assert balancer.put(headers={"If-Match": '"other"'}).status == 412
    assert balancer.put(headers={"If-Match": etag}).status == 200
    assert balancer.put(headers={"If-Match": f'"other", {etag}'}).status == 200
    absent = DeclaredBalancer(balancer.amphora)
    assert absent.put(headers={"If-Match": "*"}).status == 412
    assert absent.put(headers={"If-Match": "abc"}).status == 400


def test_everything_that_is_wrong_is_said_with_its_place(balancer: DeclaredBalancer) -> None:
    before = balancer.amphora.files()
    wrong = copy.deepcopy(balancer.body)
    wrong["listeners"][0]["default_pool_id"] = "nowhere"
    wrong["pools"][0]["session_persistence"] = {"type": "APP_COOKIE"}
    answer = balancer.put(body=wrong)
    assert (answer.status, answer.headers["content-type"]) == (400, "application/problem+json")
    assert {error["path"] for error in answer.json()["errors"]} == {
        "listeners[0].default_pool_id",
        "pools[0].session_persistence.cookie_name",
    }
    wrong["listeners"][0]["protocol"] = "HTPP"
    (error,) = balancer.put(body=wrong).json()["errors"]
    assert error["path"] == "listeners[0].protocol"
    assert "'HTPP' is not one of HTTP" in error["message"]
    assert differences(before, balancer.amphora.files()) == set()


def test_what_is_refused_is_in_the_history_of_what_is_there(balancer: DeclaredBalancer) -> None:
    wrong = {**balancer.body, "vip_address": "0.0.0.0"}
    assert balancer.put(body=wrong).status == 400
    assert balancer.put(headers={"If-None-Match": "*"}).status == 412
    entries = balancer.amphora.api.changes(balancer.id)[:2]
    assert [entry["result"] for entry in entries] == ["refused", "refused"]
    assert "vip_address: 0.0.0.0 is not the address of a host" in entries[1]["because"]
    absent = DeclaredBalancer(balancer.amphora)
    assert absent.put(body={**wrong, "loadbalancer_id": absent.id}).status == 400
    assert absent.put(headers={"If-Match": "*"}).status == 412
    assert not (balancer.amphora.agent.base_path / absent.id).exists()


def test_a_port_that_is_taken_leaves_all_as_it_was(balancer: DeclaredBalancer, taken: None) -> None:
    before = balancer.get().json()
    balancer.body["listeners"].append(listener("second", TAKEN))
    answer = balancer.put()
    assert answer.status == 500
    assert "cannot bind" in answer.json()["detail"]
    assert balancer.get().json() == before
    assert balancer.served_by() == {"web1", "web2"}
    balancer.body["listeners"].pop()
    assert balancer.push()["step"] == "nothing"


def test_one_that_cannot_start_is_not_there(amphora: Amphora, taken: None) -> None:
    balancer = DeclaredBalancer(amphora, port=TAKEN)
    answer = balancer.put()
    assert answer.status == 500
    assert "cannot bind" in answer.json()["detail"]
    assert balancer.get().status == 404
    assert balancer.processes() == []


def test_a_pool_is_patched(balancer: DeclaredBalancer) -> None:
    worker = balancer.worker()
    answer = balancer.patch("/pools/pool", {"members": [member()], "name": "renamed"})
    assert (answer.status, answer.json()["step"]) == (200, "runtime")
    assert balancer.get().json()["pools"][0]["name"] == "renamed"
    assert balancer.served_by() == {"web1"}
    assert balancer.worker() == worker
    assert balancer.patch("/pools/pool", {"lb_algorithm": None}).status == 400
    assert balancer.patch("/pools/other", {}).status == 404


def test_a_member_is_patched(balancer: DeclaredBalancer) -> None:
    path = f"/pools/pool/members/{member()['member_id']}"
    etag = balancer.get().headers["etag"]
    assert balancer.patch(path, {"admin_state_up": False}).json()["step"] == "runtime"
    assert balancer.served_by() == {"web2"}
    assert balancer.patch(path, {"admin_state_up": None}, {"If-Match": etag}).status == 412
    assert balancer.patch(path, {"admin_state_up": None}).status == 200
    assert balancer.served_by() == {"web1", "web2"}
    assert balancer.patch(path, {"member_id": "other"}).status == 400
    assert balancer.patch("/pools/pool/members/other", {}).status == 404


def test_statuses_have_reasons(balancer: DeclaredBalancer, webs: dict[str, Backend]) -> None:
    balancer.body["pools"] = [
        pool("pool", healthmonitor=monitor()),
        pool("unused"),
    ]
    balancer.push()

    def status() -> Any:
        return balancer.get("/status").json()

    until(lambda: status()["operating_status"] == "ONLINE", "all is well")
    webs["web2"].set_health(503)
    try:
        until(lambda: status()["operating_status"] == "DEGRADED", "one member is down")
        found = status()
        shown, unused = found["pools"]
        down = shown["members"][1]
        assert down["operating_status"] == "ERROR"
        assert down["reason"].startswith("a wrong status: 503"), down
        assert shown["members"][0]["reason"].startswith("answered: 200")
        assert (unused["operating_status"], unused["reason"]) == ("OFFLINE", "no listener uses it")
    finally:
        webs["web2"].set_health(200)


def test_it_is_kept_over_an_agent_that_is_killed(
    own_amphora: Amphora, webs: dict[str, Backend]
) -> None:
    balancer = DeclaredBalancer(own_amphora)
    balancer.push()
    processes = balancer.processes()
    own_amphora.agent.kill()
    own_amphora.agent.start()
    assert balancer.push()["step"] == "nothing"
    assert balancer.processes() == processes
    balancer.processes()[0].wait(0)


def test_an_uploaded_one_is_replaced_and_replaces(
    amphora: Amphora, webs: dict[str, Backend]
) -> None:
    uploaded = amphora.new_balancer()
    uploaded.push()
    declared = DeclaredBalancer(amphora, id=uploaded.id)
    assert declared.push()["step"] == "replace"
    assert declared.served_by() == {"web1", "web2"}
    assert not uploaded.configuration.exists()
    uploaded.push()
    assert uploaded.get() in ("web1", "web2")
    assert declared.get().status == 404
    assert not (uploaded.directory / "current").is_symlink()
    uploaded.delete()
    assert not uploaded.directory.exists()


def test_heartbeats_tell_of_it(balancer: DeclaredBalancer) -> None:
    name = f"{balancer.id}-a"
    beat = balancer.amphora.heartbeats.wait_for(
        # One that was made before haproxy served may have been on its way.
        lambda beat: name in beat.listeners and beat.listeners[name]["status"] == "OPEN"
    )
    assert set(beat.members) == {"member-8001", "member-8002"}
    assert len(beat.pools) == len(beat.listeners)


def test_the_pages_of_instances_have_it(balancer: DeclaredBalancer) -> None:
    balancer.body["name"] = "renamed"
    balancer.push()
    details = balancer.amphora.api.instance(balancer.id)
    assert (details["state"], details["generation"], details["pending"]) == ("ACTIVE", 2, False)
    newest = balancer.amphora.api.changes(balancer.id)[0]
    assert (newest["operation"], newest["generation"]) == ("put", 2)


def test_an_id_of_somebody_else_is_refused(balancer: DeclaredBalancer) -> None:
    other = DeclaredBalancer(balancer.amphora)
    other.body["listeners"][0]["listener_id"] = balancer.id
    assert other.put("?process_model=listener").status == 409
    assert other.put(body={**other.body, "loadbalancer_id": new_id()}).status == 400
    assert Path(balancer.amphora.agent.base_path, balancer.id, "current").is_symlink()
