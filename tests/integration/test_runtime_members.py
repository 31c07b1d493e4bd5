"""Members change while haproxy runs, with every version of it: no other process serves then, and
what haproxy says, what is on disk and where requests go agree.
"""

import json
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace

import pytest

from amphora_agent.client.v2 import AmphoraClient
from amphora_agent.errors import OperationFailed
from lab.backend import Backend
from lab.http import spread
from lab.network import Namespace
from lab.waiting import until
from tests.integration.amphora import VIP, Amphora, differences
from tests.integration.runtime import WATCHED, Changing, amphora, member

__all__ = ["amphora"]  # of each version of haproxy


@pytest.fixture
def web3(namespace: Namespace) -> Iterator[Backend]:
    """A server that is not a member yet."""
    with Backend(namespace, "web3", [f"{VIP}:8003"]) as backend:
        yield backend


@pytest.fixture
def balancer(amphora: Amphora, webs: dict[str, Backend]) -> Iterator[Changing]:
    """One that serves, its members watched and up."""
    made = Changing(amphora, 10901, monitor=WATCHED)
    made.push()
    yield made
    made.delete()


@pytest.fixture
def unwatched(amphora: Amphora, webs: dict[str, Backend]) -> Iterator[Changing]:
    made = Changing(amphora, 10900)
    made.push()
    yield made
    made.delete()


def served_by(balancer: Changing, count: int = 12) -> set[str]:
    with balancer.client(keep_alive=False) as client:
        return set(spread(client, count))


def changed_at_runtime(balancer: Changing, worker: int) -> None:
    """The last push was carried out by commands, and nothing else."""
    assert balancer.done() == "runtime"
    assert balancer.current() == worker
    assert balancer.workers().leaving == ()


# Nothing


def test_a_push_that_changes_nothing_does_nothing(balancer: Changing) -> None:
    before, processes = balancer.amphora.files(), balancer.processes()
    balancer.push()
    assert balancer.done() == "nothing"
    assert balancer.processes() == processes
    changed = differences(before, balancer.amphora.files())
    assert changed == set()


def test_a_difference_without_effect_is_kept_for_going_back(balancer: Changing) -> None:
    worker = balancer.current()
    api = balancer.amphora.api
    api.upload_haproxy(balancer.id, text := f"# said anew\n{balancer.text()}")
    balancer.reload()
    assert balancer.done() == "nothing"
    assert balancer.current() == worker
    revisions = balancer.configuration.parent / "revisions"
    assert (revisions / f"loaded-{balancer.id}").readlink() == (revisions / "committed").readlink()
    assert balancer.configuration.read_text() == text


# Members come


def test_a_new_member_serves_once_its_check_has_passed(balancer: Changing, web3: Backend) -> None:
    worker = balancer.current()
    balancer.members.append(member(3))
    balancer.push()
    changed_at_runtime(balancer, worker)
    until(lambda: balancer.status()[member(3).id] == "UP", "it is found well")
    assert served_by(balancer) == {"web1", "web2", "web3"}
    assert member(3).id in balancer.amphora.api.haproxy(balancer.id).decode()


def test_a_new_member_of_a_pool_without_monitor_serves_at_once(
    unwatched: Changing, web3: Backend
) -> None:
    worker = unwatched.current()
    unwatched.members.append(member(3))
    unwatched.push()
    changed_at_runtime(unwatched, worker)
    assert served_by(unwatched) == {"web1", "web2", "web3"}


@pytest.mark.parametrize("by", ["runtime", "reload"])
def test_a_new_member_that_is_not_well_gets_no_request_ever(
    balancer: Changing, web3: Backend, by: str
) -> None:
    web3.set_health(503)
    balancer.members.append(member(3))
    balancer.timeout += by == "reload"
    with balancer.load(clients=4) as load:
        load.wait_for(20)
        balancer.push()
        assert balancer.done() == by
        until(lambda: web3.counts.health >= 3, "it is checked")
        load.wait_for(200)
    assert load.result.failed == 0, load.result
    assert web3.requests == 0
    assert balancer.status()[member(3).id].startswith(("DOWN", "MAINT"))
    web3.set_health(200)
    until(lambda: served_by(balancer) == {"web1", "web2", "web3"}, "it is found well and serves")


def test_by_a_reload_one_passed_check_is_enough(balancer: Changing, web3: Backend) -> None:
    """It is new, not ill: `rise` is for those that were."""
    balancer.members.append(member(3))
    balancer.timeout += 1
    with balancer.load(clients=2) as load:
        balancer.push()
        until(lambda: web3.requests > 0, "it serves")
        assert 1 <= web3.counts.health < WATCHED.rise + 1
    assert load.result.failed == 0, load.result


def test_the_first_member_of_an_empty_pool_waits_for_its_check_by_reload(
    amphora: Amphora, web3: Backend
) -> None:
    made = Changing(amphora, 10902, monitor=WATCHED, members=[])
    made.push()
    web3.set_health(503)
    made.members.append(member(3))
    made.timeout += 1
    made.push()
    with made.client() as client:
        assert {client.get("/").status for _ in range(20)} == {503}
    assert web3.requests == 0
    made.delete()


# Members go


@pytest.mark.parametrize("by", ["runtime", "reload"])
def test_a_member_that_is_removed_ends_what_it_has_begun_and_gets_no_more(
    balancer: Changing, web3: Backend, by: str
) -> None:
    with _long_answer_from_the_third(balancer) as slow:
        worker = balancer.current()
        balancer.members.pop()
        balancer.timeout += by == "reload"
        balancer.push()
        assert balancer.done() == by
        assert (balancer.current() == worker) is (by == "runtime")
        requests = web3.requests
        assert served_by(balancer) == {"web1", "web2"}
        answer = b""
        while not answer.endswith(b"0\r\n\r\n"):
            piece = slow.recv(4096)
            assert piece, f"cut off after {answer!r}"
            answer += piece
    assert web3.requests == requests


def test_a_member_that_is_left_over_is_told_to_nobody(balancer: Changing, web3: Backend) -> None:
    """haproxy cannot delete one that is in use, and an old one does not delete at all."""
    with _long_answer_from_the_third(balancer, 3):
        balancer.members.pop()
        balancer.push()
        assert balancer.status()[member(3).id] == "MAINT"
        # A beat may still tell of a reading from before.
        told = {member(1).id, member(2).id}
        balancer.amphora.heartbeats.wait_for(
            lambda beat: set(beat.pools[balancer.backend]["members"]) == told
        )
        assert balancer.status()[member(3).id] == "MAINT"


@contextmanager
def _long_answer_from_the_third(balancer: Changing, seconds: float = 1) -> Iterator[socket.socket]:
    """It has begun to come; the third member serves like the others again."""
    balancer.members[:] = [member(1, weight=0), member(2, weight=0), member(3)]
    balancer.push()
    until(lambda: balancer.status()[member(3).id] == "UP", "it is found well")
    with balancer.amphora.namespace.connect(VIP, balancer.port) as slow:
        request = f"GET /stream?seconds={seconds} HTTP/1.1\r\nHost: site\r\n\r\n"
        slow.sendall(request.encode())
        assert b"web3" in slow.recv(65536)
        balancer.members[:] = [member(1), member(2), member(3)]
        balancer.push()
        assert balancer.done() == "runtime"
        yield slow


def test_a_member_that_was_left_over_is_deleted_by_a_later_change(
    balancer: Changing, web3: Backend
) -> None:
    with _long_answer_from_the_third(balancer):
        worker = balancer.current()
        balancer.members.pop()
        balancer.push()
    until(lambda: f" {balancer.backend} " not in _streams(balancer), "its last answer is over")
    balancer.members[0] = member(1, weight=2)
    balancer.push()
    changed_at_runtime(balancer, worker)
    deletes = not balancer.amphora.api.info()["haproxy_version"].startswith("2.6")
    assert (member(3).id not in balancer.status()) is deletes


def _streams(balancer: Changing) -> str:
    """What goes on in haproxy now, with the names of backends between blanks."""
    return balancer.ask("@1 show sess").replace("be=", " ").replace("srv=", " ")


def test_a_member_that_was_left_over_may_come_back(balancer: Changing, web3: Backend) -> None:
    with _long_answer_from_the_third(balancer, 3):
        balancer.members.pop()
        balancer.push()
        assert served_by(balancer) == {"web1", "web2"}
        balancer.members.append(member(3))
        balancer.push()
        assert balancer.done() == "fell back"
    until(lambda: served_by(balancer) == {"web1", "web2", "web3"}, "it serves again")


def test_the_last_member_may_go(balancer: Changing) -> None:
    worker = balancer.current()
    balancer.members.clear()
    balancer.push()
    changed_at_runtime(balancer, worker)
    # As haproxy calls a pool that never had any.
    balancer.amphora.heartbeats.wait_for(
        lambda beat: beat.pools[balancer.backend] == {"status": "UP", "members": {}}
    )


# Members change


def test_a_weight_holds_now_and_after_a_reload_with_another(balancer: Changing) -> None:
    worker = balancer.current()
    balancer.members[0] = member(1, weight=5)
    balancer.push()
    changed_at_runtime(balancer, worker)
    assert balancer.weights() == {member(1).id: "5", member(2).id: "1"}
    # The state file would bring 5 back.
    balancer.members[0] = member(1, weight=1)
    balancer.timeout += 1
    balancer.push()
    assert balancer.done() == "reload"
    assert balancer.weights() == {member(1).id: "1", member(2).id: "1"}


def test_a_member_that_is_disabled_takes_nothing_and_serves_again_when_enabled(
    balancer: Changing, webs: dict[str, Backend]
) -> None:
    worker = balancer.current()
    balancer.members[0] = member(1, enabled=False)
    balancer.push()
    changed_at_runtime(balancer, worker)
    assert balancer.status()[member(1).id] == "MAINT"
    assert served_by(balancer) == {"web2"}
    webs["web1"].set_health(503)
    try:
        checked = webs["web1"].counts.health
        balancer.members[0] = member(1)
        balancer.push()
        changed_at_runtime(balancer, worker)
        until(lambda: webs["web1"].counts.health >= checked + 2, "it is checked")
        assert served_by(balancer) == {"web2"}
    finally:
        webs["web1"].set_health(200)
    until(lambda: served_by(balancer) == {"web1", "web2"}, "it serves again")


def test_a_member_that_was_disabled_at_run_time_is_enabled_by_a_reload(
    balancer: Changing,
) -> None:
    """The state file would keep it in maintenance."""
    balancer.members[0] = member(1, enabled=False)
    balancer.push()
    assert balancer.done() == "runtime"
    balancer.members[0] = member(1)
    balancer.timeout += 1
    balancer.push()
    assert balancer.done() == "reload"
    until(lambda: served_by(balancer) == {"web1", "web2"}, "it serves again")


def test_what_an_operator_has_drained_stays_so_over_changes_of_others(
    balancer: Changing,
) -> None:
    balancer.ask(f"@1 set server {balancer.backend}/{member(2).id} state drain")
    balancer.members[0] = member(1, weight=3)
    balancer.push()
    balancer.timeout += 1
    balancer.push()
    assert balancer.done() == "reload"
    assert balancer.status()[member(2).id] == "DRAIN"


def test_what_several_uploads_change_is_carried_out_together(balancer: Changing) -> None:
    worker, before = balancer.current(), list(balancer.members)
    balancer.members[0] = member(1, weight=9)
    balancer.upload()
    balancer.members[1] = member(2, weight=7)
    balancer.push()
    changed_at_runtime(balancer, worker)
    weights = balancer.weights()
    assert (weights[member(1).id], weights[member(2).id]) == ("9", "7")
    # What is uploaded and taken back before it runs is no change.
    now, balancer.members = balancer.members, before
    balancer.upload()
    balancer.members = now
    balancer.push()
    assert balancer.done() == "nothing"
    assert balancer.weights() == weights


def test_a_member_moves_at_run_time_and_stays_there(balancer: Changing, web3: Backend) -> None:
    worker = balancer.current()
    moved = replace(member(1), port=8003)
    balancer.members[0] = moved
    with balancer.load() as load:
        balancer.push()
        changed_at_runtime(balancer, worker)
        until(lambda: served_by(balancer) == {"web2", "web3"}, "it serves there")
    assert load.result.failed == 0, load.result
    balancer.timeout += 1
    balancer.push()
    assert served_by(balancer) == {"web2", "web3"}


def test_a_limit_of_connections_changes(balancer: Changing) -> None:
    worker = balancer.current()
    balancer.limit = 100
    balancer.push()
    changed_at_runtime(balancer, worker)
    shown = balancer.ask(f"@1 show stat {balancer.listener.id} 1 -1").splitlines()
    place = shown[0].removeprefix("# ").split(",").index("slim")
    assert shown[1].split(",")[place] == "100"


# When it does not go that way


def test_what_haproxy_refuses_is_done_by_a_reload(balancer: Changing, web3: Backend) -> None:
    worker = balancer.current()
    # By hand: nobody has told the agent.
    added = balancer.ask(f"@1 add server {balancer.backend}/{member(3).id} {VIP}:8009 weight 1")
    assert "New server" in added
    balancer.members.append(member(3))
    balancer.members[0] = member(1, enabled=False)
    # In use it cannot be deleted; enabled, neither.
    balancer.ask(f"@1 enable server {balancer.backend}/{member(3).id}")
    balancer.push()
    assert balancer.done() == "fell back"
    assert balancer.current() != worker
    until(lambda: balancer.status()[member(3).id] == "UP", "it is found well")
    assert served_by(balancer) == {"web2", "web3"}
    # Nothing is left half done.
    worker = balancer.current()
    balancer.members[0] = member(1)
    balancer.push()
    changed_at_runtime(balancer, worker)
    until(lambda: served_by(balancer) == {"web1", "web2", "web3"}, "all serve")


def test_a_haproxy_that_dies_comes_back_with_what_was_changed(
    balancer: Changing, web3: Backend
) -> None:
    balancer.members.append(member(3))
    balancer.push()
    assert balancer.done() == "runtime"
    old = {process.pid for process in balancer.processes()}
    balancer.master.send(signal.SIGKILL)
    until(lambda: _other_processes_than(balancer, old), "it has come back")
    assert served_by(balancer) == {"web1", "web2", "web3"}
    # What it has loaded is known by reasoning alone: a reload makes sure, and is over at once.
    balancer.members.pop()
    balancer.push()
    assert balancer.done() == "reload"
    assert served_by(balancer) == {"web1", "web2"}
    balancer.members[0] = member(1, weight=7)
    balancer.push()
    assert balancer.done() == "runtime"


def _other_processes_than(balancer: Changing, old: set[int]) -> bool:
    new = {process.pid for process in balancer.processes()}
    return len(new) == 2 and not old & new and balancer.accepts()


def test_after_a_reload_by_hand_the_next_change_is_one_too(balancer: Changing) -> None:
    worker = balancer.current()
    balancer.master.send(signal.SIGUSR2)
    until(lambda: _worker_after(balancer, worker), "it has reloaded")
    balancer.push()
    assert balancer.done() == "reload"
    balancer.push()
    assert balancer.done() == "nothing"


def _worker_after(balancer: Changing, worker: int) -> bool:
    try:
        return balancer.current() != worker
    except OperationFailed:  # a master of 2.6 executes itself anew
        return False


def test_an_agent_that_was_killed_goes_on_where_it_was(balancer: Changing) -> None:
    worker = balancer.current()
    balancer.amphora.agent.kill()
    balancer.amphora.agent.start()
    balancer.push()
    assert balancer.done() == "nothing"
    balancer.members[0] = member(1, weight=9)
    balancer.push()
    changed_at_runtime(balancer, worker)


def test_a_change_that_a_kill_has_cut_in_two_is_completed_by_a_reload(
    balancer: Changing, web3: Backend
) -> None:
    record = balancer.configuration.parent / "last-good" / "activation.json"
    balancer.members.append(member(3))
    balancer.upload()
    # As far as the agent had come: it has written down what it was about to do, and begun.
    begun = json.loads(record.read_bytes())
    begun["pending"] = [f"{balancer.backend}/{member(n).id}" for n in (1, 3)]
    record.write_text(json.dumps(begun))
    balancer.ask(f"@1 add server {balancer.backend}/{member(3).id} {VIP}:8003 weight 0 check")
    balancer.ask(f"@1 set server {balancer.backend}/{member(1).id} state maint")
    balancer.reload()
    assert balancer.done() == "reload"
    until(lambda: served_by(balancer) == {"web1", "web2", "web3"}, "all serve")
    assert json.loads(record.read_bytes())["pending"] is None


def test_many_pushes_at_once_take_no_more_reloads_than_differences(
    balancer: Changing,
) -> None:
    first = balancer.current()
    weights = list(range(1, 21))

    def push(weight: int) -> None:
        one = replace(balancer, members=[member(1, weight=weight), member(2)])
        agent = balancer.amphora.agent
        api = AmphoraClient(
            agent.url, agent.pki.amphora_id, agent.pki.controller_pem, agent.pki.server_ca
        )
        with closing(api):
            api.upload_haproxy(balancer.id, one.text())
            api.reload(balancer.id)

    with balancer.load() as load, ThreadPoolExecutor(len(weights)) as pool:
        for done in [pool.submit(push, weight) for weight in weights]:
            done.result()
    assert load.result.failed == 0, load.result
    assert balancer.current() == first
    committed = balancer.amphora.api.haproxy(balancer.id).decode()
    assert f"weight {balancer.weights()[member(1).id]} " in committed
